"""From opened files and results to napari layer data; used by the reader, the sample data and the panels."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import ref

import h5py
import numpy as np

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.signals import Datacube, Movie
from napari_emdl.gui.kit import session, styles
from napari_emdl.gui.kit.session import tag

LayerTuple = tuple[Any, dict[str, Any], str]


def read_path(path: str) -> list[LayerTuple]:
    """Layers of one file or folder: saved layers, a project, a result, or data."""
    from napari_emdl.gui.kit.open_dialog import open_asking
    from napari_emdl.io import load
    from napari_emdl.plugin.writer import is_layer_file, read_layers
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


def signal_layers(signal: Datacube | Movie) -> list[LayerTuple]:
    """Layers that stand for an opened file; a datacube is shown by a navigation image that its workspace fills."""
    if isinstance(signal, Datacube):
        empty = np.full(signal.scan_shape, np.nan, np.float32)
        look = {"contrast_limits": (0.0, 1.0), "colormap": "gray"}
        space = styles.space(signal.calibration.pixel_nm, "nm", ("scan row", "scan col"))
        return [(empty, {"name": signal.name, "metadata": tag("navigation", signal), **look, **space}, "image")]
    return [movie_layer(signal)]


def movie_layer(movie: Movie) -> LayerTuple:
    """Lazy image layer of a movie, focal series or image."""
    import dask.array as da

    known = movie.calibration
    leading: list[tuple[str, float, str]] = []
    if movie.kind in ("movie", "focal_series"):
        interval = known.frame_interval_s if movie.kind == "movie" else None
        leading.append(("time" if movie.kind == "movie" else "field", interval or 1.0, "s" if interval else "pixel"))
    if movie.kind == "focal_series":
        step = known.defocus_step_A
        leading.append(("focus", step or 1.0, "angstrom" if step else "pixel"))
    chunks = (1,) * len(leading) + movie.frame_shape
    data = da.from_array(movie.data, chunks=chunks, asarray=False, fancy=False, name=False, meta=np.empty(0, movie.dtype))
    middle = np.asarray(movie.frame(movie.n_frames // 2))
    finite = middle[np.isfinite(middle)]
    low, high = (float(v) for v in np.quantile(finite, (0.001, 0.999))) if finite.size else (0.0, 1.0)
    space = styles.space(known.pixel_nm, "nm", ("row", "col"), tuple(leading))
    look = {"contrast_limits": (low, high if high > low else low + 1.0), "colormap": "gray"}
    return data, {"name": movie.name, "metadata": tag(movie.kind, movie), **look, **space}, "image"


def result_layers(result: Any, path: str) -> list[LayerTuple]:
    """Layers of a result file."""
    from napari_emdl.base.peaks import PeakTable
    from napari_emdl.diffraction.fit.strain import StrainMap

    if isinstance(result, StrainMap):
        return strain_layers(result, path)
    if isinstance(result, PeakTable) and len(result.shape) == 2:
        return disk_layers(result, path)
    from napari_emdl.gui.atoms.results import result_layers as atoms_layers

    return atoms_layers(result, path)


def _scan_space(calibration: Any) -> dict[str, Any]:
    pixel = getattr(getattr(calibration, "calibration", calibration), "pixel_nm", None)
    return styles.space(pixel, "nm", ("scan row", "scan col"))


def strain_layers(strain: Any, path: str = "") -> list[LayerTuple]:
    """Strain maps with units, diverging colours and shared contrast."""
    space = _scan_space(strain.calibration)
    maps = {name: np.asarray(getattr(strain, name)) * factor for name, _, factor, _ in styles.STRAIN_MAPS}
    together = [maps[name] for name in ("exx", "eyy", "exy")]
    layers = []
    for name, title, _, unit in reversed(styles.STRAIN_MAPS):
        limits = styles.symmetric_limits(*([maps[name]] if name == "theta_rad" else together), least=1e-3)
        look = {"colormap": styles.diverging(), "contrast_limits": limits, "visible": name == "exx"}
        values = maps[name].astype(np.float32)
        layers.append((values, {"name": f"{title} [{unit}]", "metadata": tag(name, None, path=path), **look, **space}, "image"))
    return layers


def disk_layers(disks: Any, path: str = "") -> list[LayerTuple]:
    """Number of disks at every position; with the datacube they were found in, when that is where it was."""
    default = disks.attrs.get("default_min_score")
    kept = disks.filter(min_score=default) if default is not None else disks
    layers: list[LayerTuple] = []
    source = source_cube(disks)
    if source is not None:
        layers = signal_layers(source)
        layers[0][1]["metadata"][styles.METADATA_KEY] |= {"disks": disks, "disks_file": Path(path) if path else None}
    space = _scan_space(disks.attrs.get("calibration") if source is None else source.calibration)
    counts = kept.counts().astype(np.float32)
    look = {"colormap": "viridis", "contrast_limits": (0.0, max(1.0, float(counts.max(initial=1)))), "visible": source is None}
    layers.append(
        (counts, {"name": "disks per pattern", "metadata": tag("counts", source, path=path), **look, **space}, "image")
    )
    return layers


def source_cube(disks: Any) -> Datacube | None:
    """Datacube a table of disks was found in, when its file is still there."""
    from napari_emdl.io import open_datacube

    record = disks.attrs.get("provenance") or {}
    source = record.get("input", {}) if isinstance(record, dict) else {}
    name = source.get("path") if isinstance(source, dict) else source
    if not name or not Path(str(name).split("::")[0]).exists():
        return None
    try:
        cube = open_datacube(name)
    except (EmdlError, OSError):
        return None
    return cube if cube.scan_shape == tuple(disks.shape) else None


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
