"""What neighbouring positions of a scan say for a disk in doubt.

Most of what a pattern shows its neighbours show as well. Where few electrons leave a disk in doubt, and the neighbours have
disks at the same place of the same lattice, that is evidence for it: the odds of its score are raised by a part of theirs. It
is support and never a veto: no score falls, so that a defect or a grain of one position keeps what was found in it; and it is
given only at places that vectors between sure disks of the neighbourhood lead to from other sure ones, time and again, as they
do on a lattice: what a camera shows at all positions alike has none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.maxima import thin

Floats = NDArray[np.float64]

#: The eight neighbours, and what each counts.
_NEIGHBOURS = {(a, b): 1.0 if a * b == 0 else 0.7 for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)}
#: Mean score of the neighbours at a place that says nothing for or against a disk there, and the part of their odds that
#: counts: not all, as neighbours are alike but need not be the same.
_USUAL, _PART = 0.3, 0.75
#: Most that the neighbours add to the logarithm of the odds.
_MOST = 3.0
#: Disks this near each other, in radii (and px), are at the same place.
_SAME, _SAME_PX = 0.3, 1.5
#: Sure disks around a place that vectors are taken from, how many vectors must lead from it to a sure disk, and how many times
#: as many as chance makes.
_AROUND, _LEAST_VECTORS, _OVER_CHANCE = 10, 5, 4.0
#: Scan rows taken at once.
_ROWS = 16


def with_support(table: PeakTable, radius_px: float, min_score: float) -> PeakTable:
    """The table with higher scores where neighbours support a disk; its attribute ``n_supported`` counts disks that now pass.

    Parameters
    ----------
    table
        Disks over (scan rows, scan cols) with row, col and score, a probability.
    radius_px
        Of the disks.
    min_score
        Disks from here on count; those below are in doubt.
    """
    rows, cols = (int(n) for n in table.shape)
    if min(rows, cols) < 2 or not table.n_peaks:
        return table
    score = np.clip(table.column("score").astype(float), 1e-6, 1 - 1e-6)
    changed = table.column("score").astype(float)
    same_px = max(_SAME_PX, _SAME * radius_px)
    n_supported = 0
    for first in range(0, rows, _ROWS):
        here = np.arange(first * cols, min(rows, first + _ROWS) * cols)
        flat = slice(int(table.offset[here[0]]), int(table.offset[here[-1] + 1]))
        doubtful = flat.start + np.flatnonzero(changed[flat] < min_score)
        if not len(doubtful):
            continue
        gain, together = _neighbourhood(table, here, doubtful, same_px, min_score)
        raised = 1 / (1 + (1 - score[doubtful]) / score[doubtful] * np.exp(-gain))
        passing = np.flatnonzero(raised >= min_score)
        of = np.searchsorted(table.offset, doubtful[passing], side="right") - 1 - here[0]
        on = _on_lattice(together, of, table.positions_px()[doubtful[passing]], same_px)
        changed[doubtful[passing[on]]] = raised[passing[on]]
        n_supported += int(on.sum())
    if not n_supported:
        return table
    made = table.with_columns(score=changed.astype(table.column("score").dtype))
    made.attrs = {**table.attrs, "n_supported": n_supported}
    return made


def _neighbourhood(
    table: PeakTable, here: NDArray[np.intp], doubtful: NDArray[np.intp], same_px: float, min_score: float
) -> tuple[Floats, PeakTable]:
    """What neighbours add to the log odds of the disks `doubtful` of positions `here`, and the sure disks around these."""
    rows, cols = (int(n) for n in table.shape)
    of = np.searchsorted(table.offset, doubtful, side="right") - 1 - here[0]
    place = table.positions_px()[doubtful]
    parts = [_picked(table, here, np.diff(table.offset)[here]).filter(min_score=min_score).compact()]
    total, weights = np.zeros(len(of)), np.zeros(len(of))
    row, col = np.divmod(here, cols)
    for (a, b), weight in _NEIGHBOURS.items():
        inside = (row + a >= 0) & (row + a < rows) & (col + b >= 0) & (col + b < cols)
        beside = np.where(inside, (row + a) * cols + col + b, 0)
        other = _picked(table, beside, np.where(inside, np.diff(table.offset)[beside], 0))
        total += weight * _best_near(other, of, place, same_px)
        weights += weight * inside[of]
        parts.append(other.filter(min_score=min_score).compact())
    mean = np.clip(total / np.maximum(weights, 1e-9), 1e-6, 1 - 1e-3)
    odds = np.log(mean / (1 - mean)) - np.log(_USUAL / (1 - _USUAL))
    return np.clip(_PART * odds, 0, _MOST), _together(parts, same_px)


def _on_lattice(sure: PeakTable, of: NDArray[np.intp], place: Floats, same_px: float) -> NDArray[np.bool_]:
    """Whether vectors between sure disks of the neighbourhood lead from places (m, 2) of positions `of` to sure disks."""
    out = np.zeros(len(of), bool)
    points = sure.positions_px()
    for k, (i, x) in enumerate(zip(of, place, strict=True)):
        known = points[sure.offset[i] : sure.offset[i + 1]]
        known = known[np.linalg.norm(known - x, axis=1) > same_px]
        if len(known) < 4:
            continue
        near = known[np.argsort(np.linalg.norm(known - x, axis=1))[:_AROUND]]
        first, second = np.nonzero(~np.eye(len(near), dtype=bool))
        ends = x + near[first] - near[second]
        hits = int((cKDTree(known).query(ends, distance_upper_bound=same_px)[0] < np.inf).sum())
        area = max(float(np.prod(np.ptp(known, axis=0))), (4 * same_px) ** 2)
        chance = len(ends) * min(1.0, len(known) * np.pi * same_px**2 / area)
        out[k] = hits >= max(_LEAST_VECTORS, _OVER_CHANCE * chance)
    return out


def _picked(table: PeakTable, positions: NDArray[np.intp], counts: NDArray[np.int64]) -> PeakTable:
    """Disks of some positions, none where the count is zero."""
    start = table.offset[positions]
    offset = np.r_[0, np.cumsum(counts)]
    index = np.repeat(start - offset[:-1], counts) + np.arange(offset[-1])
    return PeakTable((len(positions),), offset, {name: table.column(name)[index] for name in ("row", "col", "score")})


def _best_near(other: PeakTable, of: NDArray[np.intp], place: Floats, same_px: float) -> Floats:
    """Score of the disk of `other` at the same position index `of` and the same place; 0 where there is none."""
    if not other.n_peaks or not len(of):
        return np.zeros(len(of))
    points = other.positions_px()
    apart = 4 * (1 + max(float(np.abs(points).max()), float(np.abs(place).max())))
    tree = cKDTree(np.c_[points[:, 0] + apart * other.flat_index(), points[:, 1]])
    distance, nearest = tree.query(np.c_[place[:, 0] + apart * of, place[:, 1]])
    near = distance <= same_px
    score = other.column("score").astype(float)
    return np.where(near, np.clip(score[np.where(near, nearest, 0)], 0, 1), 0.0)


def _together(parts: list[PeakTable], same_px: float) -> PeakTable:
    """Disks of all parts of each position, one a place."""
    which = np.concatenate([part.flat_index() for part in parts])
    columns = {name: np.concatenate([part.column(name) for part in parts]) for name in ("row", "col", "score")}
    keep = thin(which, columns["row"].astype(float), columns["col"].astype(float), columns["score"].astype(float), same_px)
    order = np.lexsort((-columns["score"][keep], which[keep]))
    counts = np.bincount(which[keep], minlength=parts[0].n_positions)
    return PeakTable((len(counts),), np.r_[0, np.cumsum(counts)], {n: v[keep][order] for n, v in columns.items()})
