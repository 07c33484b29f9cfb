"""What a screenshot keeps of its window: title bar and rim about a picture, bright or dark lines along a camera's edges.

They run along a whole side, set in between two lines, and stand out along all their length: no pattern does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

#: Deepest frame as part of the picture, and lines inside it that tell what a pattern is there.
_DEEPEST, _INNER = 0.1, 3
#: A frame stands out by so many times the scatter between lines, in whole numbers by so much, along this part of its length.
_STEP, _LEAST_STEP, _ALONG = 3.0, 3.0, 0.8
#: Every line of it differs by half of that, along this part of its length, from the pattern beside it and so many lines
#: inside, or is of one value along this part, more than twice as much as a line of the pattern.
_DIFFERS, _BEYOND, _FLAT = 0.7, (10, 17), 0.4


def window_frame(image: NDArray[Any], bad: Mask | None = None) -> Mask:
    """Title bars, rims and edge lines at the sides of a picture.

    Parameters
    ----------
    image
        (rows, cols) of a pattern, or a mean of several.
    bad
        (rows, cols) True where nothing was measured; whole lines of it at the border count as gone.

    Returns
    -------
    (rows, cols) True on the frame.
    """
    values = np.asarray(image, np.float64)
    known = np.isfinite(values) if bad is None else np.isfinite(values) & ~bad
    out = np.zeros(values.shape, bool)
    whole = bool(np.all(values[known] == np.rint(values[known])))
    for turn in (*range(4), *range(4)):  # a side is short of what the frame of the next one covers
        left = np.rot90(known & ~out, turn)
        some = np.flatnonzero(left.any(axis=1))
        if not len(some):
            break
        first = int(some[0])
        depth = _depth(np.rot90(values, turn)[first:], left[first:], whole)
        if depth:
            np.rot90(out, turn)[: first + depth + 1] = True  # with its soft edge
    return out


def _depth(values: NDArray[np.float64], known: Mask, whole: bool) -> int:
    """Lines of a frame at the top of a picture; 0 where there is none."""
    deepest = int(_DEEPEST * len(values))
    if deepest < 1 or len(values) < deepest + _BEYOND[1]:
        return 0
    part = np.where(known, values, np.nan)[: deepest + _BEYOND[1]]
    floor = _LEAST_STEP if whole else 0.0
    steps = np.abs(np.diff(part[: deepest + 1], axis=0))
    for depth in 1 + np.flatnonzero((steps > floor).sum(axis=1) > _ALONG * np.isfinite(steps).sum(axis=1))[::-1]:
        step, inner = steps[depth - 1], part[depth : depth + _INNER]
        if np.isfinite(inner).mean() < 0.5:
            continue
        deeper = part[depth + _BEYOND[0] : depth + _BEYOND[1]]
        scatter = max(float(np.nanmedian(np.abs(lines[0] - lines[-1]))) for lines in (inner, deeper))
        least = max(_STEP * 1.4826 * scatter, floor)
        if not np.nanquantile(step, 1 - _ALONG) > least:
            continue
        # behind a gap between modules the detector goes on as it was before
        flat = _of_one_value(part[:depth]) > max(_FLAT, 2 * float(_of_one_value(deeper).max()))
        behind = [np.median(lines, axis=0) for lines in (inner, deeper)]
        apart = [np.abs(part[:depth] - line) for line in behind]
        if all(np.all(flat | (np.nanquantile(away, 1 - _DIFFERS, axis=1) > 0.5 * least)) for away in apart):
            return int(depth)
    return 0


def _of_one_value(lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part of each line's pixels that has the line's median."""
    same = (lines == np.nanmedian(lines, axis=1, keepdims=True)).sum(axis=1)
    return np.asarray(same / np.isfinite(lines).sum(axis=1).clip(1), np.float64)
