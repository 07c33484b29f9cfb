"""From opened files and results to napari layer data; used by the reader, the sample data and the panels."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import ref

import h5py

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.gui.kit import session
from napari_emdl.gui.kit.signals import LayerTuple, signal_layers


def read_path(path: str) -> list[LayerTuple]:
    """Layers of one file or folder: saved layers, a project, a result, or data."""
    from napari_emdl.gui.kit.layerfile import is_layer_file, read_layers
    from napari_emdl.gui.kit.open_dialog import open_asking
    from napari_emdl.io import load
    from napari_emdl.workflow.project import is_project

    if is_layer_file(path):
        return read_layers(path)
    if is_project(path):
        from napari_emdl.gui.diffraction.project import project_layers

        return project_layers(path)
    if is_result(path):
        return result_layers(load(path), path)
    try:
        return signal_layers(open_asking(path))
    except OpenError as error:
        if not (Path(path).is_file() and h5py.is_hdf5(path)):
            raise
        try:  # peak lists of py4DSTEM carry no mark of ours
            return result_layers(load(path), path)
        except EmdlError:
            raise error from None


def is_result(path: str) -> bool:
    """True for a result file of this package."""
    if not (Path(path).is_file() and h5py.is_hdf5(path)):
        return False
    try:
        with h5py.File(path, "r") as file:
            return "emdl_result" in file.attrs
    except OSError:
        return False


def result_layers(result: Any, path: str) -> list[LayerTuple]:
    """Layers of a result file."""
    from napari_emdl.base.peaks import PeakTable
    from napari_emdl.diffraction.fit.strain import StrainMap
    from napari_emdl.gui.diffraction.layers import disk_layers, strain_layers

    if isinstance(result, StrainMap):
        return strain_layers(result, path)
    if isinstance(result, PeakTable) and len(result.shape) == 2:
        return disk_layers(result, path)
    from napari_emdl.gui.atoms.results import result_layers as atoms_layers

    return atoms_layers(result, path)


def open_panels_soon() -> None:
    """Once the layers are in, open the workspace in the current viewer if it shows a datacube nobody looks after."""
    import napari

    try:
        from qtpy.QtWidgets import QApplication
    except ImportError:  # reading without a Qt binding (a bare ViewerModel): there is no window to open a panel in
        return
    if QApplication.instance() is None:
        return
    viewer = napari.current_viewer()
    if viewer is not None and session.has_window(viewer):
        known = ref(session.bare(viewer))  # a timer must not keep a closed viewer alive
        session.when_idle(lambda: open_panels(known()))


def open_panels(viewer: Any) -> None:
    """Open the 4D-STEM workspace if `viewer` shows a datacube."""
    if viewer is not None and session.has_window(viewer) and any(True for _ in session.layers_with_signal(viewer, "datacube")):
        session.open_panel(viewer, session.WORKSPACE)
