"""From opened files to the napari layers that stand for them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from napari_emdl.base.signals import Datacube, Movie
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.session import tag

PANEL_MODULES = {"datacube": ("diffraction.workspace",), "movie": ("atoms.columns", "atoms.diffusion")}

LayerTuple = tuple[Any, dict[str, Any], str]


def signal_layers(signal: Datacube | Movie) -> list[LayerTuple]:
    """Layers that stand for an opened file; a datacube is shown by a navigation image that its workspace fills."""
    if isinstance(signal, Datacube):
        empty = np.full(signal.scan_shape, np.nan, np.float32)
        look = {"contrast_limits": (0.0, 1.0), "colormap": "gray"}
        space = styles.space(signal.calibration.pixel_nm, "nm", ("scan row", "scan col"))
        return [(empty, {"name": signal.name, "metadata": tag("navigation", signal), **look, **space}, "image")]
    return [movie_layer(signal)]


def with_project(signal: Datacube | Movie, opened: Any) -> list[LayerTuple]:
    """Layers of an opened project's data, which bring the project to the panels."""
    layers = signal_layers(signal)
    layers[0][1]["metadata"][styles.METADATA_KEY]["project"] = opened
    return layers


def for_panels(layers: list[LayerTuple]) -> list[LayerTuple]:
    """The same layers, with all imported that their panel needs: in a worker, so that the window need not wait for it."""
    signals = [look.get("metadata", {}).get(styles.METADATA_KEY, {}).get("signal") for _, look, _ in layers]
    for kind in {signal.kind for signal in signals if signal is not None}:
        for module in PANEL_MODULES["datacube" if kind == "datacube" else "movie"]:
            import_module(f"napari_emdl.gui.{module}")
    return layers


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
