"""The two readings of an image whose contrast is not sure: columns bright, or columns dark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.columns import find_one
from napari_emdl.atoms.find.making import make_finder
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.control import Control

#: side of the part of a frame that is shown
SIDE_A = 45.0


@dataclass(frozen=True)
class Reading:
    """One reading of a frame.

    Attributes
    ----------
    contrast
        "bright" or "dark".
    columns
        Columns of the whole frame above the threshold of this reading.
    picture
        (rows, cols) uint8, the part of the frame that holds most columns.
    points_px
        (n, 2) columns there, in pixels of the picture.
    """

    contrast: str
    columns: int
    picture: NDArray[np.uint8]
    points_px: NDArray[np.float64]


def readings_of(
    movie: Movie, params: ColumnParams, run: RunParams, frame: int, control: Control | None = None
) -> tuple[Reading, Reading]:
    """One frame read as bright and as dark, over the same part of it."""
    found = []
    for sign in ("bright", "dark"):
        settings = params.model_copy(update={"contrast": sign})
        finder = make_finder(movie, settings, run, control)
        table = find_one(movie, finder, settings, frame, control).filter(min_score=finder.default_min_score)
        found.append((sign, table.positions_px()))
    image = np.asarray(movie.frame(frame), np.float32)
    image = image if image.ndim == 2 else image[len(image) // 2]
    side = max(32, round(SIDE_A / float(params.pixel_size_A or movie.pixel_A or 0.1)))
    points = max((p for _, p in found), key=len)
    middle = np.median(points, axis=0) if len(points) else np.array(image.shape) / 2
    size = np.minimum(side, image.shape)
    start = np.clip((middle - size / 2).astype(int), 0, np.array(image.shape) - size)
    part = image[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
    low, high = np.nanpercentile(part, (1, 99))
    picture = np.nan_to_num(np.clip((part - low) / max(float(high - low), 1e-9), 0, 1) * 255).astype(np.uint8)
    bright, dark = (
        Reading(sign, len(p), picture, (p - start)[np.all((p >= start) & (p <= start + size - 1), axis=1)]) for sign, p in found
    )
    return bright, dark
