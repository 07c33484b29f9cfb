"""Layers of column and occupancy files; the panels pick the result up from the movie's layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.showing import PALETTE
from napari_emdl.base.signals import Movie
from napari_emdl.gui.kit.session import tag
from napari_emdl.workflow.source import source_of

#: More points than this stall a Points layer.
MOST_POINTS = 200_000


def result_layers(result: Any, path: str) -> list[tuple[Any, dict[str, Any], str]]:
    """Layers of a column or occupancy file: the movie it was made from with the result tied to it, or points without it.

    Raises
    ------
    EmdlError
        When the movie is gone and there are too many columns to show as points.
    """
    from napari_emdl.gui.kit.signals import movie_layer
    from napari_emdl.gui.kit.styles import space

    name = "columns" if isinstance(result, PeakTable) else "occupancy"
    try:
        movie = source_of(result, path)
    except OpenError:  # its points are shown instead
        movie = None
    if isinstance(movie, Movie):
        data, look, kind = movie_layer(movie)
        look["metadata"] = tag(movie.kind, movie, **{name: result})
        return [(data, look, kind)]
    pixel_A = result.attrs.get("pixel_A")
    pixel_nm = (pixel_A / 10, pixel_A / 10) if pixel_A else None
    title = f"{name} of {Path(path).name} (movie not found)"
    if isinstance(result, PeakTable):
        if result.n_peaks > MOST_POINTS:
            raise EmdlError(f"{path} holds {result.n_peaks} columns but its movie was not found; open the movie first")
        points = np.column_stack([result.flat_index(), result.positions_px()])
        features = {field: result.column(field) for field in result.fields if field not in ("row", "col")}
        look = {"features": features, "face_color": "transparent", "border_color": PALETTE[0]}
        return [(points, {"name": title, **look, **space(pixel_nm, leading=(("time", 1.0, "pixel"),))}, "points")]
    features = {"occupancy_pct": 100 * result.mean_occupancy(), "group": result.group_names}
    look = {"features": features, "face_color": "occupancy_pct", "face_colormap": "viridis", "face_contrast_limits": (0, 100)}
    return [(result.sites_px, {"name": title, **look, **space(pixel_nm)}, "points")]
