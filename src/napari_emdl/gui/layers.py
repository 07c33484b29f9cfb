"""From opened files and results to napari layer data; used by the reader, the sample data and the panels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from weakref import ref

from napari_emdl.gui.kit import pace, session
from napari_emdl.gui.kit.panels import open_panels
from napari_emdl.gui.kit.signals import LayerTuple, for_panels, signal_layers

_Made = TypeVar("_Made")


def read_path(path: str) -> list[LayerTuple]:
    """Layers of one file or folder: saved layers, a project, a result, or data."""
    found = _in_worker(lambda: _read(path), "opening")
    return project_layers(path) if found is None else found


def _read(path: str) -> list[LayerTuple] | None:
    """Layers of a file, None of a project, which shows its own progress; what it imports takes long on the first day."""
    from napari_emdl.gui.kit.layerfile import is_layer_file, read_layers
    from napari_emdl.io import is_result, load
    from napari_emdl.io import open as open_file
    from napari_emdl.workflow.project import is_project

    if is_layer_file(path):
        return read_layers(path)
    if is_project(path):
        return None
    return result_layers(load(path), path) if is_result(path) else for_panels(signal_layers(open_file(path)))


def project_layers(path: str) -> list[LayerTuple]:
    """Layers of a project: of its datacube, its movie, or both."""
    from napari_emdl.gui.atoms import project as atoms
    from napari_emdl.gui.diffraction import project as diffraction
    from napari_emdl.workflow.project import read_project

    project, _ = read_project(path, {})
    sciences = [(project.diffraction, diffraction), (project.atoms, atoms)]

    def read() -> list[LayerTuple]:
        parts = [science.opened_layers(science.read_opened(path)) for has, science in sciences if has is not None]
        return for_panels([layer for part in parts for layer in part])

    return _in_worker(read, "opening a project")


def _in_worker(make: Callable[[], _Made], title: str) -> _Made:
    """What `make` gives, made in a thread while the window lives."""
    from napari_emdl.gui.kit.worker import run_with_progress

    found: _Made = run_with_progress(lambda _control: make(), title)
    return found


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


def dialog_layers(opened: Any) -> list[LayerTuple]:
    """Layers of what the dialog of opening gave: a signal, or peak lists."""
    from napari_emdl.base.peaks import PeakTable

    return result_layers(opened, "") if isinstance(opened, PeakTable) else signal_layers(opened)


def open_panels_soon(coming: Sequence[LayerTuple] = ()) -> None:
    """Once the layers `coming` are in, open the workspace if the current viewer shows a datacube nobody looks after."""
    import napari

    try:
        from qtpy.QtWidgets import QApplication
    except ImportError:  # reading without a Qt binding (a bare ViewerModel): there is no window to open a panel in
        return
    if QApplication.instance() is None:
        return
    viewer = napari.current_viewer()
    if viewer is not None and session.has_window(viewer):
        from napari_emdl.gui.kit import units

        units.expect(viewer, coming)
        known = ref(session.bare(viewer))  # a timer must not keep a closed viewer alive
        session.when_idle(partial(_begin, known))


def _begin(known: ref[Any]) -> None:
    """Make the canvas of a workspace that is to be opened in a turn of its own: it takes as long as all the rest."""
    viewer = known()
    if viewer is None or not session.has_window(viewer):
        return
    coming = any(True for _ in session.layers_with_signal(viewer, "datacube"))
    if not coming or session.registered(viewer, session.WORKSPACE) is not None:
        open_panels(viewer)
        return
    from qtpy.QtCore import QTimer

    from napari_emdl.gui.diffraction import canvas

    spare = canvas.DiffractionCanvas()

    def go_on() -> None:
        viewer = known()
        if viewer is None or not session.has_window(viewer) or session.registered(viewer, session.WORKSPACE) is not None:
            spare.release()
            return
        canvas.keep_spare(viewer, spare)
        open_panels(viewer)

    QTimer.singleShot(pace.SLICE_MS, go_on)
