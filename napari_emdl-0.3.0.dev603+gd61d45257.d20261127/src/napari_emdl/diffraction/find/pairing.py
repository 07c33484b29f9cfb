"""Pairs of disks in two finds of the same patterns: each other's nearest within a distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control

Floats = NDArray[np.float64]

#: Positions paired between two looks at Cancel.
_CHUNK = 4096


@dataclass(frozen=True)
class Pairing:
    """Pairs of two tables; indices are rows of the flat tables as they are shown.

    Attributes
    ----------
    first, second
        (n,) rows of the disks that are pairs.
    distance_px
        (n,) distance within each pair.
    only_first, only_second
        Rows of the disks without a partner.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distance_px: Floats
    only_first: NDArray[np.int64]
    only_second: NDArray[np.int64]

    @property
    def share(self) -> float:
        """Pairs over all different disks, 0 to 1; NaN where neither table has a disk."""
        return share_of(len(self.first), len(self.only_first), len(self.only_second))


def agreement_distance_px(radius_px: float) -> float:
    """Disks nearer than this are taken as the same: a fifth of the probe's radius, at least a pixel."""
    return max(1.0, 0.2 * radius_px)


def pair_disks(first: PeakTable, second: PeakTable, max_distance_px: float, control: Control | None = None) -> Pairing:
    """Pair the disks of two tables that are each other's nearest within a distance.

    A disk has one partner at most. The nearest of both sides is the best pairing as long as `max_distance_px` is below half
    the spacing of the disks.

    Parameters
    ----------
    first, second
        Tables over the same positions with row and col.
    max_distance_px
        Farthest a partner may lie.

    Raises
    ------
    EmdlError
        When the tables lie over different scans or the distance is not positive.
    """
    if first.shape != second.shape:
        raise EmdlError(f"disks over {first.shape} and over {second.shape} cannot be compared; they must be of the same scan")
    if not max_distance_px > 0:
        raise EmdlError(f"the distance within which disks agree must be positive, got {max_distance_px:g}")
    parts = []
    place_a, place_b = first.positions_px(), second.positions_px()
    for start in range(0, first.n_positions, _CHUNK):
        if control is not None:
            control.check()
        stop = min(start + _CHUNK, first.n_positions)
        rows_a, rows_b, squared = _pair_block(place_a, place_b, first.offset[start : stop + 1], second.offset[start : stop + 1])
        near = squared <= max_distance_px**2
        parts.append((rows_a[near], rows_b[near], squared[near]))
    none = np.zeros(0, np.int64)
    a, b = (np.concatenate([none, *(part[i] for part in parts)]) for i in (0, 1))
    distance = np.sqrt(np.concatenate([np.zeros(0), *(part[2] for part in parts)]))
    alone_a, alone_b = np.ones(first.n_peaks, bool), np.ones(second.n_peaks, bool)
    alone_a[a], alone_b[b] = False, False
    return Pairing(a, b, distance, np.flatnonzero(alone_a), np.flatnonzero(alone_b))


def _pair_block(
    place_a: Floats, place_b: Floats, offset_a: NDArray[np.int64], offset_b: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Mutually nearest (rows of a, rows of b, squared distance) of some positions, by all pairs within a position."""
    count_a, count_b = np.diff(offset_a), np.diff(offset_b)
    rows_a = np.arange(offset_a[0], offset_a[-1])
    per_row = np.repeat(count_b, count_a)  # partners every row of a is tried with
    rows_a, starts = rows_a[per_row > 0], np.repeat(offset_b[:-1], count_a)[per_row > 0]
    per_row = per_row[per_row > 0]
    if not len(rows_a):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    begin = np.r_[0, np.cumsum(per_row)]
    a = np.repeat(rows_a, per_row)
    b = np.arange(begin[-1]) - np.repeat(begin[:-1] - starts, per_row)
    squared = np.square(place_a[a] - place_b[b]).sum(axis=1)
    best_of_a = np.repeat(np.minimum.reduceat(squared, begin[:-1]), per_row)
    best_of_b = np.full(int(offset_b[-1] - offset_b[0]), np.inf)
    np.minimum.at(best_of_b, b - offset_b[0], squared)
    mutual = (squared == best_of_a) & (squared == best_of_b[b - offset_b[0]])
    a, b, squared = a[mutual], b[mutual], squared[mutual]
    # two at exactly the same distance: the first of them is the partner
    _, one = np.unique(a, return_index=True)
    a, b, squared = a[one], b[one], squared[one]
    _, one = np.unique(b, return_index=True)
    return a[one], b[one], squared[one]


def share_of(agreed: int, only_first: int, only_second: int) -> float:
    total = agreed + only_first + only_second
    return agreed / total if total else float("nan")
