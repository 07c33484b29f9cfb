"""The dark level that a camera adds to its counts, from their noise.

Counting noise grows with the counts, not with what is added to them. Where the darkest half of a pattern scatters much less
than its counts ask for, by the scale that brighter places have, the rest is a dark level (the photon transfer of Janesick,
2007, within one pattern). Left in, it hides faint disks: they are held against a noise that is not there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Every eighth pixel each way tells whether a pattern is dark anywhere; this share of its pixels may be dead.
_GLANCE, _DEAD_SHARE = 8, 0.02
#: Pixels in a row that are compared, and about how many rows are looked at.
_BLOCK, _ROWS = 4, 64
#: Brighter blocks that it takes, and by how many errors of the darkest half's mean they are brighter.
_LEAST_BRIGHTER, _BRIGHTER = 24, 8.0
#: Edges of disks raise the scatter of most brighter blocks, so that the least tenth tells; it and the median of a block's
#: scatter over its mean, for noise alone.
_TENTH, _OF_MEAN, _MEDIAN = 0.1, 0.18, 0.73
#: There is a dark level where the darkest half scatters less than this share of what its counts ask for.
_TOO_EVEN = 0.2
#: Scatter over mean of whole numbers that are counts of electrons: they need no level.
_COUNTED = (0.6, 1.6)


def dark_level(patterns: NDArray[Any]) -> NDArray[np.float32]:
    """Dark level of each pattern, in its own units.

    Parameters
    ----------
    patterns
        (n, rows, cols) counts in any unit, without missing values.

    Returns
    -------
    (n,) levels, 0 where there is none or where too little of the pattern is bright to tell. What is left of the darkest
    half is what makes its noise, electrons or readout.
    """
    level = np.zeros(len(patterns), np.float32)
    if not patterns.size or patterns.shape[-1] < 2 * _BLOCK:
        return level
    glance = patterns[:, ::_GLANCE, ::_GLANCE].reshape(len(patterns), -1)
    dead = int(_DEAD_SHARE * glance.shape[1])
    for i in np.flatnonzero(np.partition(glance, dead, axis=1)[:, dead] > 0):
        level[i] = _level(patterns[i])
    return level


def without_dark_level(patterns: NDArray[Any]) -> NDArray[Any]:
    """Patterns (n, rows, cols) with their dark levels taken off; they themselves where there are none."""
    level = dark_level(patterns)
    if not level.any():
        return patterns
    return np.maximum(patterns.astype(np.float32) - level[:, None, None], 0)


def _level(pattern: NDArray[Any]) -> float:
    lines = pattern[:: max(1, pattern.shape[0] // _ROWS)].astype(np.float32)
    length = (lines.shape[1] - 2) // _BLOCK * _BLOCK
    bend = np.square(lines[:, :-2] - 2 * lines[:, 1:-1] + lines[:, 2:]) / 6
    variance, mean = (x[:, :length].reshape(-1, _BLOCK).mean(axis=1) for x in (bend, lines[:, 1:-1]))
    dark = np.argsort(mean)[: len(mean) // 2]
    even, low = float(np.median(variance[dark])) / _MEDIAN, float(np.median(mean[dark]))
    brighter = mean - low > _BRIGHTER * np.sqrt(even / _BLOCK)
    if brighter.sum() < _LEAST_BRIGHTER:
        return 0.0
    if _COUNTED[0] * low < even < _COUNTED[1] * low and np.array_equal(lines, np.rint(lines)):
        return 0.0
    steeper = (variance[brighter] - _OF_MEAN * even) / (mean[brighter] - low)
    gain = float(np.quantile(steeper, _TENTH)) / _OF_MEAN
    return low - even / gain if gain > 0 and even < _TOO_EVEN * gain * low else 0.0
