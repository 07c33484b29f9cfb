"""What exports draw into diffraction patterns and leave around them, for the mask of what was not measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.marks import burned_in
from napari_emdl.base.outerfield import outside_field
from napari_emdl.base.windowframe import window_frame

Mask = NDArray[np.bool_]


def areas(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Missing pixels that lie together, not single ones and lines."""
    from scipy import ndimage

    return np.asarray(
        ndimage.binary_dilation(ndimage.binary_erosion(bad, np.ones((3, 3), bool), border_value=1), np.ones((3, 3), bool))
    )


def exported(frames: NDArray[np.generic], bad: Mask) -> tuple[list[str], Mask]:
    """What an export drew into patterns and what it left around them: in words, and as a mask.

    Parameters
    ----------
    frames
        (n, rows, cols) patterns.
    bad
        (rows, cols) True where nothing was measured, as far as is known.
    """
    from scipy import ndimage

    found = []
    mean = frames.mean(axis=0, dtype=np.float64)
    frame = window_frame(mean, bad) & ~bad
    if frame.any():
        found.append(f"{int(frame.sum())} pixels are a window's frame or lines along the edge that are no part of the pattern")
        bad = bad | frame
    changing = (frames != frames[0]).any(axis=0) & ~bad if len(frames) > 1 else None
    marks = burned_in(frames[0], changing, bad)
    outside = outside_field(np.where(bad, np.nan, mean), changing, marks) & ~bad
    marks &= ~outside & ~bad
    if marks.any():
        found.append(f"{int(marks.sum())} pixels are burned in (scale bar, letters, arrow or frame)")
    if np.any(outside & ~ndimage.binary_dilation(bad, np.ones((5, 5), bool))):  # not the rim of what is known
        found.append(f"{int(outside.sum())} pixels of one value lie outside the detector's field (corners, rim or data bar)")
    return found, marks | outside | frame
