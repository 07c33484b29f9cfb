"""What exports draw into diffraction patterns and leave around them, for the mask of what was not measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.marks import burned_in
from napari_emdl.base.outerfield import outside_field

Mask = NDArray[np.bool_]


def areas(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Missing pixels that lie together, not single ones and lines."""
    from scipy import ndimage

    return np.asarray(
        ndimage.binary_dilation(ndimage.binary_erosion(bad, np.ones((3, 3), bool), border_value=1), np.ones((3, 3), bool))
    )


def exported(frames: NDArray[np.generic], bad: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.bool_]]]:
    """What an export drew into patterns and what it left around them, each with its name, without what is known."""
    changing = (frames != frames[0]).any(axis=0) & ~bad if len(frames) > 1 else None
    marks = burned_in(frames[0], changing, bad)
    image = np.where(bad, np.nan, frames.mean(axis=0, dtype=np.float64))
    outside = outside_field(image, changing, marks)
    return [
        ("pixels are burned in (scale bar, letters, arrow or frame) and are left out", marks & ~outside & ~bad),
        ("pixels of one value lie outside the detector's field (corners, rim or data bar) and are left out", outside & ~bad),
    ]
