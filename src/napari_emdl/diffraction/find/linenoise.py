"""Rows or columns of a detector that have an offset of their own in every pattern.

The lower half of a line's pixels tells its level, whatever disks it crosses. Levels that jump from line to line
by far more than the noise of the pixels allows are the readout's; what varies slowly is the pattern's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Part of a line's pixels, from the darkest on, that tell its level; the darkest are left out.
_FROM, _TO = 0.1, 0.5
#: Jumps of the level that are line noise, in standard deviations that the noise of the pixels gives them, and the part of the
#: patterns that must show them.
_JUMPS, _OFTEN = 6.0, 0.5
#: They are along one axis only, by this factor; a texture has both alike. Lines of one level that patterns of few counts have.
_ONE_WAY, _ALIKE = 2.0, 0.1
#: Lines over which a pattern's own level varies.
_SMOOTH = 25.0
#: Fewest lines and pixels of a line that tell.
_LEAST = 48


def line_axis(patterns: NDArray[Any]) -> int | None:
    """Axis along which levels jump from line to line: 0 for rows, 1 for columns, None where they do not.

    Parameters
    ----------
    patterns
        (n, rows, cols) some patterns of a scan, finite.
    """
    if min(patterns.shape[1:]) < _LEAST:
        return None
    if max(_jumps(np.asarray(patterns[0], np.float32), axis) for axis in (0, 1)) < 0.5 * _JUMPS:
        return None
    jumps = np.array([[_jumps(image, axis) for axis in (0, 1)] for image in np.asarray(patterns, np.float32)])
    axis = int(np.median(jumps, axis=0).argmax())
    often = np.mean(jumps[:, axis] > np.maximum(_JUMPS, _ONE_WAY * jumps[:, 1 - axis]))
    return axis if often > _OFTEN else None


def without_line_noise(patterns: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Patterns (n, rows, cols) with the offsets of their lines taken off; none falls below the least value that there was."""
    out = np.empty_like(patterns)
    for image, even in zip(patterns, out, strict=True):
        level = _levels(image, axis)
        offset = level - ndimage.gaussian_filter1d(level, _SMOOTH)
        even[:] = np.maximum(image - np.expand_dims(offset, 1 - axis), min(0.0, float(image.min())))
    return out


def _levels(image: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    lines = np.sort(image if axis == 0 else image.T, axis=1)
    return np.asarray(lines[:, int(_FROM * lines.shape[1]) : int(_TO * lines.shape[1])].mean(axis=1), np.float32)


def _jumps(image: NDArray[np.float32], axis: int) -> float:
    """Robust jump of the levels from line to line that both halves of a line's pixels show, over that by which they differ."""
    lines = image if axis == 0 else image.T
    level = _levels(lines, 0)
    if np.mean(level <= level.min() + 1e-6 * np.ptp(lines)) > _ALIKE:
        return 0.0
    bends = [level[1:-1] - 0.5 * (level[:-2] + level[2:]) for level in (_levels(lines[:, k::2], 0) for k in (0, 1))]
    apart = _spread(bends[0] - bends[1])
    return _spread(bends[0] + bends[1]) / apart if apart > 0 else 0.0


def _spread(values: NDArray[np.float32]) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
