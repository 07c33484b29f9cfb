"""The beam stop of a diffraction pattern: what hides the direct beam, told by its rim."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: a quarter of the rim has fewer counts than this where all of it is lit
_RIM_COUNTS = 10.0
#: A stop is solid: no narrower than this. At its end, within this part of the detector about the beam, lie so many pixels of
#: its rim, and what they have makes so many counts beneath it.
_SOLID_PX, _STOP_END, _STOP_RIM, _STOP_COUNTS = 5, 0.12, 24, 60
#: It hides this share of the pixels about the centre, and is less than this share of the detector.
_HIDDEN, _STOP_SHARE = 0.65, 0.12
#: patterns that show a stop by few counts
_SEVERAL = 8


def with_rim(stop: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The stop (rows, cols) and its rim, which is half lit."""
    from scipy import ndimage  # what a file holds is told without it

    return np.asarray(ndimage.binary_dilation(stop, iterations=2))


def beam_stop(total: NDArray[np.floating], empty: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Connected region without a count that holds the centre of the pattern and has a bright rim; (rows, cols) bool.

    Parameters
    ----------
    total, empty
        (rows, cols) sum of some patterns, and where none of them has a count.
    count
        How many patterns: in a few, dark counts taken off too much leave areas without a count as well, so that the rim must
        be bright.
    """
    from scipy import ndimage

    none = np.zeros_like(empty)
    if not empty.any() or not total.sum() > 0:
        return none
    reach = max(2.0, 0.04 * min(empty.shape))
    profiles = total.sum(axis=1, dtype=np.float64), total.sum(axis=0, dtype=np.float64)
    centre = [float(profile @ np.arange(len(profile)) / profile.sum()) for profile in profiles]
    spans = [slice(max(0, int(np.ceil(at - reach))), int(at + reach) + 1) for at in centre]
    rows, cols = (np.arange(span.start, min(span.stop, n)) for span, n in zip(spans, empty.shape, strict=True))
    near = np.hypot(rows[:, None] - centre[0], cols[None, :] - centre[1]) <= reach
    if not (empty[spans[0], spans[1]] & near).any():
        return none
    # single dark pixels of a weak background must not tie the stop to the rest of the detector
    solid = ndimage.binary_opening(empty, np.ones((_SOLID_PX, _SOLID_PX), bool))
    for mask in (empty, solid) if count >= _SEVERAL else (empty,):
        labels, _ = ndimage.label(mask)
        at_centre = labels[spans[0], spans[1]]
        areas = np.bincount(labels.ravel())
        for number in np.unique(at_centre[near & (at_centre > 0)]):
            if not 9 <= areas[number] <= 0.3 * empty.size:
                continue
            region = labels == number
            if not (region & solid).any():  # background that an export has rounded to nothing
                continue
            if mask is solid:
                region = ndimage.binary_dilation(region, np.ones((3, 3), bool), iterations=_SOLID_PX // 2, mask=empty)
            hides = (
                count >= _SEVERAL
                and region[spans[0], spans[1]][near].mean() > _HIDDEN
                and region.sum() < _STOP_SHARE * region.size
            )
            if _is_rimmed(total, region) or (hides and _is_rimmed_at(total, region, centre)):
                return region
    return none


def _box(region: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and cols of a region with two more on each side."""
    found = [np.flatnonzero(region.any(axis=1 - axis)) for axis in (0, 1)]
    rows, cols = (slice(max(0, int(at[0]) - 2), min(n, int(at[-1]) + 3)) for at, n in zip(found, region.shape, strict=True))
    return rows, cols


def _is_rimmed(total: NDArray[np.floating], region: NDArray[np.bool_]) -> bool:
    """Whether many counts set in at once all around a region without any."""
    from scipy import ndimage

    box = _box(region)
    inside = region[box]
    rim = total[box][ndimage.binary_dilation(inside, np.ones((3, 3), bool)) & ~inside]
    return bool(np.percentile(rim, 25) > _RIM_COUNTS and np.median(rim) > 0.5 * np.median(total[~region]))


def _is_rimmed_at(total: NDArray[np.floating], region: NDArray[np.bool_], centre: list[float]) -> bool:
    """Whether counts, few as they may be, set in at once around that end of a region without any that hides the beam."""
    from scipy import ndimage

    box = _box(region)
    inside, counts = region[box], total[box]
    rows, cols = np.ogrid[box]
    reach = _STOP_END * min(total.shape)
    end = np.hypot(rows - centre[0], cols - centre[1]) < reach
    around = ndimage.binary_dilation(inside, np.ones((5, 5), bool)) & ~inside & end
    values = counts[around]
    if len(values) < _STOP_RIM:
        return False
    expected = float(values.mean())
    # so many counts are missing beneath, and as many rim pixels have some as chance gives them
    lit = float(np.mean(values > 0)) > 0.7 * (1 - np.exp(-expected))
    return bool(expected * np.count_nonzero(inside & end) > _STOP_COUNTS and lit)
