"""What a disk must pass to be used: score, intensity, sigma, distance from a stronger disk and from the detector's edge.

Limits only filter: disks are found once. The two distances are columns that follow from the table, computed once a table, so
that every limit is one comparison and a slider acts at once also on millions of disks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.params import DiskLimits
from napari_emdl.base.peaks import PeakTable

Check = Callable[[], None]

_POSITIONS_AT_ONCE = 1024  # small enough for the cache of a core
_known: WeakKeyDictionary[PeakTable, dict[str, NDArray[np.float32]]] = WeakKeyDictionary()


def within_limits(disks: PeakTable, limits: DiskLimits, check: Check | None = None) -> PeakTable:
    """View of the disks that pass.

    Parameters
    ----------
    disks
        Table over the scan; ``attrs["detector_shape"]`` is needed for a limit on the edge.
    limits
        None is not a limit; a disk whose value is NaN fails a limit.
    check
        Called now and then; raise in it to stop.
    """
    keep = np.ones(disks.n_peaks, bool)
    for name, least in (("score", limits.min_score), ("intensity", limits.min_intensity)):
        if least is not None:
            keep &= disks.column(name) >= least
    if limits.max_sigma_px is not None:
        keep &= disks.column("sigma_px") <= limits.max_sigma_px
    for name, least in (("spacing_px", limits.min_spacing_px), ("edge_px", limits.edge_px)):
        if least is not None:
            keep &= _column(disks, name, check) >= least
    return disks.where(keep)


def prepare(disks: PeakTable, check: Check | None = None) -> None:
    """Compute the distances of a table ahead of the first slider."""
    _column(disks, "spacing_px", check)
    if "detector_shape" in disks.attrs:
        _column(disks, "edge_px", check)


def _column(disks: PeakTable, name: str, check: Check | None) -> NDArray[np.float32]:
    columns = _known.setdefault(disks, {})
    if name not in columns:
        row, col = disks.column("row"), disks.column("col")
        if name == "edge_px":
            columns[name] = edge_distance_px(row, col, disks.attrs["detector_shape"])
        else:
            columns[name] = stronger_distance_px(row, col, disks.column("score"), disks.offset, check)
    return columns[name]


def edge_distance_px(row: ArrayLike, col: ArrayLike, detector_shape: Sequence[int]) -> NDArray[np.float32]:
    """(n,) distance of disks from the nearest edge pixel of the detector."""
    r, c = np.asarray(row, np.float32), np.asarray(col, np.float32)
    rows, cols = (int(n) for n in detector_shape)
    return np.minimum(np.minimum(r, rows - 1 - r), np.minimum(c, cols - 1 - c))


def stronger_distance_px(
    row: ArrayLike, col: ArrayLike, score: ArrayLike, offset: ArrayLike, check: Check | None = None
) -> NDArray[np.float32]:
    """(n,) distance from each disk to the nearest one of the same position with a higher score; infinite for the best.

    A limit on it keeps the best disk of every crowd, and is never undone by a limit on the score: whatever stands above a disk
    has the higher score.

    Parameters
    ----------
    row, col, score
        (n,) of all disks, flat in scan order; of equal scores the first counts as the higher.
    offset
        (positions + 1,) where each position begins.
    check
        Called now and then; raise in it to stop.
    """
    r, c, s = (np.asarray(values, np.float32) for values in (row, col, score))
    starts = np.asarray(offset, np.int64)
    counts = np.diff(starts)
    out = np.full(len(r), np.inf, np.float32)
    for first in range(0, len(counts), _POSITIONS_AT_ONCE):
        if check is not None:
            check()
        held = counts[first : first + _POSITIONS_AT_ONCE]
        low, high = int(starts[first]), int(starts[first + len(held)])
        if high == low:
            continue
        position = np.repeat(np.arange(len(held)), held)
        order = np.lexsort((-s[low:high], position))  # stable: of equal scores the first
        rank = np.arange(high - low) - (starts[first : first + len(held)] - low)[position]
        # rank runs along the first axis, so that every step below works on one piece of memory
        padded = np.full((2, int(held.max()), len(held)), np.nan, np.float32)
        padded[:, rank, position] = np.stack([r[low:high][order], c[low:high][order]])
        best = np.full(padded.shape[1:], np.inf, np.float32)
        for lag in range(1, padded.shape[1]):
            apart = padded[:, lag:] - padded[:, :-lag]
            np.square(apart, out=apart)
            np.fmin(best[lag:], apart[0] + apart[1], out=best[lag:])
        out[low + order] = np.sqrt(best[rank, position])
    return out
