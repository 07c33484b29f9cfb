"""Patterns before anything is looked for: missing pixels, detector gain, even noise, binning."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_emdl.diffraction.find.darklevel import dark_level, without_dark_level

#: Patterns with more than this share of their pixels at the detector's top count as saturated.
_SATURATED_SHARE = 1e-4
#: The largest number of 16 bits marks a masked pixel where no other count reaches this part of it.
_MARK_SHARE = 0.25
#: Negative values are noise where they make up more than this share of the pixels.
_NOISE_SHARE = 0.02


def complete(patterns: NDArray[Any]) -> bool:
    """Whether no value is missing, negative, or the largest of its type: one look at the extremes, which most data pass."""
    if not patterns.size or patterns.dtype.kind not in "uif":
        return False
    top = np.iinfo(patterns.dtype).max if patterns.dtype.kind in "ui" else np.inf
    return bool(patterns.min() >= 0 and patterns.max() < top)  # NaN is neither


def fill_missing(patterns: NDArray[Any]) -> NDArray[Any]:
    """Missing pixels replaced by what lies around them, so that they make no disk.

    Missing are NaN, inf, single negative values, and the largest number of an unsigned type where it marks a masked pixel.
    Where negative values are noise around a dark level that was subtracted (or too much of it), they are measured: all
    patterns are raised by the depth of that noise, and what is still negative is zero. A dark level that is still in the counts
    is taken off.
    """
    return filled_and_missing(patterns)[0]


def filled_and_missing(patterns: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """As :func:`fill_missing`, and (n, rows, cols) True where something was missing; None where nothing was."""
    if complete(patterns):
        return without_dark_level(patterns), None
    depth = noise_depth(patterns)
    if depth > 0:
        patterns = np.maximum(patterns.astype(np.float32) + np.float32(depth), 0)  # NaN stays
    bad = missing_pixels(patterns)
    filled = _filled(patterns, bad)
    return filled if depth > 0 else without_dark_level(filled), bad if bad.any() else None


def _filled(patterns: NDArray[Any], bad: NDArray[np.bool_]) -> NDArray[Any]:
    """Patterns with `bad` pixels filled; they themselves where there are none."""
    if not bad.any():
        return patterns
    out = patterns.astype(np.float32)
    for i in np.flatnonzero(bad.any(axis=(1, 2))):
        fill_from_around(out[i], bad[i])
    return out


def missing_pixels(patterns: NDArray[Any]) -> NDArray[np.bool_]:
    """(n, rows, cols) True where a value is not a count."""
    kind = patterns.dtype.kind
    if kind == "f":
        return ~np.isfinite(patterns) | (patterns < 0)
    if kind == "i":
        return patterns < 0
    if kind != "u" or patterns.dtype.itemsize < 2:
        return np.zeros(patterns.shape, bool)
    top = patterns == np.iinfo(patterns.dtype).max
    if not top.any() or patterns.dtype.itemsize > 2:  # nothing counts to 2^32 - 1
        return top
    # 2^16 - 1 is a mark where nothing else comes near it, else the end of the scale
    rest = np.where(top, 0, patterns).max(axis=(1, 2))
    mark = (rest < _MARK_SHARE * np.iinfo(patterns.dtype).max) & ~top.all(axis=(1, 2))  # all at the top is saturated
    return top & mark[:, None, None]


def fill_from_around(image: NDArray[np.float32], bad: NDArray[np.bool_]) -> None:
    """Replace pixels in place by the mean of the known ones nearest to them."""
    if bad.all():
        image[:] = 0
        return
    image[bad] = 0
    reach = 3.0
    share = ndimage.gaussian_filter((~bad).astype(np.float32), reach)
    known = ndimage.gaussian_filter(image, reach) / np.maximum(share, 1e-3)
    near = ndimage.distance_transform_edt(bad, return_distances=False, return_indices=True)
    image[bad] = known[near[0][bad], near[1][bad]]


def noise_depth(patterns: NDArray[Any]) -> float:
    """How far the noise of patterns (n, rows, cols) reaches below zero, in their unit; 0 where negative values are not a noise.

    Noise takes many values and is found in much of a pattern; a code for "no value" is one number, a defect a few pixels.
    """
    if patterns.dtype.kind in "ub":
        return 0.0
    sample = patterns[:: max(1, len(patterns) // 16)]
    with np.errstate(invalid="ignore"):
        below = sample[np.isfinite(sample) & (sample < 0)]
    if below.size < _NOISE_SHARE * sample.size:
        return 0.0
    values, counts = np.unique(below, return_counts=True)
    # counts of an integrating camera are whole numbers, so that there may be few values, but no single one
    if len(values) < 3 or counts.max() > 0.7 * below.size:
        return 0.0
    return float(-np.quantile(below, 0.001))


def count_defects(patterns: NDArray[Any]) -> dict[str, int]:
    """How many of the patterns (n, rows, cols) have missing values (NaN, inf, negative), saturated pixels, nothing at all.

    Returns
    -------
    dict
        n_cleaned, n_saturated, n_empty, n_raised: patterns whose negative values are noise around a subtracted dark
        level, and n_lowered: patterns with a dark level in their counts.
    """
    kind = patterns.dtype.kind
    axes = (1, 2)
    if complete(patterns):
        empty = int((patterns.max(axis=axes) == 0).sum())
        lowered = int(np.count_nonzero(dark_level(patterns)))
        return {"n_raised": 0, "n_cleaned": 0, "n_saturated": 0, "n_empty": empty, "n_lowered": lowered}
    negative_is_noise = noise_depth(patterns) > 0
    with np.errstate(invalid="ignore"):
        bad = missing_pixels(patterns)
        if negative_is_noise:
            bad &= ~(patterns < 0)
    missing = bad.any(axis=axes)
    saturated = np.zeros(len(patterns), bool)
    if kind == "u" and patterns.dtype.itemsize <= 2:
        top = np.iinfo(patterns.dtype).max
        saturated = ((patterns == top) & ~bad).mean(axis=axes) > _SATURATED_SHARE
    known = np.nan_to_num(patterns) if kind == "f" else patterns
    # a dark level taken too much may leave nothing above zero
    empty = ~np.any(known > known.min(axis=axes, keepdims=True) if negative_is_noise else known > 0, axis=axes)
    raised = len(patterns) if negative_is_noise else 0
    lowered = 0 if negative_is_noise else int(np.count_nonzero(dark_level(_filled(patterns, bad))))
    return {
        "n_raised": raised,
        "n_lowered": lowered,
        "n_cleaned": int(missing.sum()),
        "n_saturated": int(saturated.sum()),
        "n_empty": int(empty.sum()),
    }


def estimate_gain(patterns: NDArray[Any]) -> NDArray[np.float32]:
    """(n,) detector units per electron, from the noise between neighbouring pixels; 1 where the data are counts.

    For Poisson noise the squared difference of neighbours is on average gain times their sum; blocks of pixels are
    compared and the median taken, so that the edges of disks do not matter.
    """
    sample = patterns[:, ::4, :].astype(np.float32)
    width = sample.shape[2] // 16 * 16
    if width < 16:
        return np.ones(len(patterns), np.float32)
    left, right = sample[:, :, 0:width:2], sample[:, :, 1:width:2]
    square = np.square(left - right).reshape(len(sample), -1, 8).sum(axis=2)
    total = (left + right).reshape(len(sample), -1, 8).sum(axis=2)
    ratio = np.where(total > 0, square / np.where(total > 0, total, 1), np.inf)
    ratio.sort(axis=1)  # what is unknown comes last
    known = np.isfinite(ratio).sum(axis=1)
    pick = np.arange(len(ratio))
    median = 0.5 * (ratio[pick, np.maximum(known - 1, 0) // 2] + ratio[pick, known // 2])
    # the median of chi squared with 8 degrees of freedom over its mean
    gain = np.where(known >= 16, median / np.float32(0.92), 1).astype(np.float32)
    if patterns.dtype.kind in "ui":
        gain[(gain < 3) & (gain > 0.2)] = 1.0
    return np.where(gain > 0, gain, 1.0).astype(np.float32)


def anscombe(counts: NDArray[Any]) -> NDArray[np.float32]:
    """2 sqrt(counts + 3/8): Poisson counts with a standard deviation of about one."""
    out = np.asarray(counts, dtype=np.float32) + np.float32(0.375)
    np.sqrt(out, out=out)
    out *= 2
    return out


def even_noise(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, P) crops scaled so that their mean noise is one.

    The inner intensity of a dynamical disk is smooth in counts, where a fringe that goes to zero makes no cusp as it does in
    the square root; but the noise is uneven.
    """
    return counts / np.sqrt(counts.mean(axis=1, keepdims=True) + np.float32(0.375))


def bin_patterns(patterns: NDArray[Any], binning: int) -> NDArray[np.float32]:
    """Sum over binning x binning pixels; rows and columns left over at the end are dropped."""
    rows, cols = patterns.shape[1] // binning, patterns.shape[2] // binning
    if binning == 1:
        return patterns.astype(np.float32)
    cut = patterns[:, : rows * binning, : cols * binning]
    tall = cut[:, 0::binning].astype(np.float32)
    for k in range(1, binning):
        tall += cut[:, k::binning]
    out = tall[:, :, 0::binning].copy()
    for k in range(1, binning):
        out += tall[:, :, k::binning]
    return out
