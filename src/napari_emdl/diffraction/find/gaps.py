"""What of a detector saw nothing: beam stops, bars, gaps between its modules.

Disks that are cut by one are looked for in what is left of them: :func:`overlap` says how much that is, and the correlation of
:mod:`napari_emdl.diffraction.find.masked` is normalised by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_emdl.diffraction.find.darkareas import dark_areas
from napari_emdl.diffraction.find.patterns import estimate_gain, fill_from_around, fill_missing

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Most lines of a gap between modules; lines on each side that must be alike; counts of a dead line over theirs; how alike
#: their mean, the two next to the gap and each of them are, for between rows of disks counts set in slowly; and pixels with
#: counts that a line must have where it is not dead.
_WIDEST, _BESIDE, _DEAD_SHARE, _ABRUPT, _ALIKE, _LEAST_PIXELS = 8, 12, 0.1, 0.8, 0.6, 24
#: Points of a disk at which a mask is looked up.
_DISK_POINTS = 9


def fill_gaps(patterns: NDArray[Any], covered: Mask | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Fill what a beam stop, a bar or a gap of the detector hides with what lies around it, the same place in every pattern.

    Parameters
    ----------
    patterns
        (n, rows, cols) without missing values.
    covered
        (rows, cols) True where the detector is known to see nothing; filled already.

    Returns
    -------
    patterns, gap
        (n, rows, cols), and (rows, cols) True where nothing is known: gap and its rim.
    """
    gap = find_gaps(patterns.mean(axis=0, dtype=np.float64)) if len(patterns) else np.zeros(patterns.shape[1:], bool)
    if covered is not None:
        gap = gap | covered
    if not gap.any():
        return patterns, gap
    out = patterns.astype(np.float32)
    for image in out:
        fill_from_around(image, gap)
    return out, gap


def counts_and_gap(
    patterns: NDArray[Any], covered: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Patterns in electrons (n, rows, cols) without missing values, detector units per electron (n,), and what is hidden.

    Parameters
    ----------
    patterns, covered
        As for :func:`fill_gaps`; values may be missing.
    """
    filled, gap = fill_gaps(fill_missing(patterns), covered)
    gain = estimate_gain(filled)
    counts = filled.astype(np.float32)
    if np.any(gain != 1):
        counts /= gain[:, None, None]
    return counts, gain, gap


def find_gaps(image: Floats) -> Mask:
    """What of a detector saw nothing: dead lines, and dark areas with a sharp rim (a beam stop, a dead quadrant).

    Parameters
    ----------
    image
        (rows, cols) mean of some patterns without missing values.
    """
    lines = dead_lines(image)
    if not lines.any():
        return dark_areas(image)
    filled = image.astype(np.float32)
    fill_from_around(filled, lines)
    return lines | dark_areas(filled)


def dead_lines(image: Floats) -> Mask:
    """Rows and columns without counts, a few in a row, where the lines on both sides have about as many as each other.

    All pixels of a line tell, none of them much, so that a gap is seen in patterns of few electrons and a row of disks makes
    none.
    """
    above = image - float(image.min())
    some = above[above > 0]
    out = np.zeros(image.shape, bool)
    if not some.size:
        return out
    alike = np.minimum(above, np.median(some)) / np.median(some)
    for axis in (0, 1):
        for first, last in _dead_groups(alike.sum(axis=1 - axis)):
            out[(slice(first, last), slice(None))[:: 1 if axis == 0 else -1]] = True
    return out


def _dead_groups(sums: Floats) -> list[tuple[int, int]]:
    """(first, last + 1) of groups of dead lines, from how many pixels of every line have counts."""
    usual = ndimage.median_filter(sums, 2 * (_WIDEST + _BESIDE) + 1, mode="nearest")
    labels, _ = ndimage.label(sums < _DEAD_SHARE * usual)
    groups = []
    for (place,) in ndimage.find_objects(labels):
        first, last = int(place.start), int(place.stop)
        before, after = sums[max(0, first - _BESIDE) : first][::-1], sums[last : last + _BESIDE]
        if last - first > _WIDEST or len(before) < _BESIDE or len(after) < _BESIDE:
            continue
        near, least, beside = np.array([[side[:2].mean(), side.min(), side.mean()] for side in (before, after)]).T
        abrupt = np.all(near > _ABRUPT * beside) and np.all(least > _ALIKE * beside)
        if abrupt and near.min() > _LEAST_PIXELS:
            groups.append((first, last))
    return groups


def overlap(gap: Mask, position: Floats, radius_px: float) -> Floats:
    """(n,) part of disks about positions (n, 2) that no gap hides, 0 to 1."""
    if not gap.any():
        return np.ones(len(position))
    axis = np.linspace(-1, 1, _DISK_POINTS)
    row, col = (x.ravel() for x in np.meshgrid(axis, axis, indexing="ij"))
    inside = np.hypot(row, col) <= 1
    places = position[:, None] + radius_px * np.stack([row[inside], col[inside]], axis=1)
    at = [np.clip(np.rint(places[..., k]).astype(np.intp), 0, gap.shape[k] - 1) for k in (0, 1)]
    return np.asarray(1 - gap[at[0], at[1]].mean(axis=1), np.float64)
