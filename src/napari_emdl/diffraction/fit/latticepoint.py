"""Which lattice point of a pattern is the direct beam, told by the disks of many positions at once.

The brightest disk of a position is a lattice point, not always the right one: the beam may lie behind a stop in a part of the
scan, jump by about a lattice vector, or be outshone. Its place within the unit cell is known well from all disks of the
position. Positions beside each other whose places agree make a segment, whose disks add up in the frame of the lattice; there
they lie in pairs about the direct beam (Friedel), which is brightest where it is seen and a hole where it is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.basis import find_basis
from napari_emdl.diffraction.fit.origin import brightest_of, brightness

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Disks of a position, orders of them, and how well they agree on the place within the cell (1: all the same).
_FEW, _ORDERS, _AGREE = 5, 6, 0.6
#: Neighbours belong together up to this distance within the cell, in units of the shorter lattice vector.
_BESIDE = 0.3
#: Positions that are asked together at least: those of a segment in one row of the scan, or in some rows of a narrow one.
_TOGETHER = 6
#: Lattice points looked at around the middle of the pattern, those that may be the beam, and how near a disk must lie to one.
_REACH, _WITHIN, _ON = 12, 6, 0.25
#: A point is a hole where a disk is seen in less than the first share of positions, and in more than the second around it. A
#: disk seen in more than the third is the beam only from this brightness on; it is the brightest without doubt if so many
#: times brighter than the next.
_HOLE, _AROUND, _SEEN, _BRIGHT, _CLEARLY_BRIGHT = 0.2, 0.5, 0.5, 0.3, 1.5
_AROUND_IT = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
#: What a hole, and being the brightest disk, is worth beside the share of disks in pairs; twice as much again without doubt.
_SPEAKS = 0.1
#: Share of the positions asked that were wrong, from which on all take their own place and the user is told.
_TOLD = 0.02


@dataclass(frozen=True)
class _Segments:
    """Places modulo the lattice `g`: a lattice point of every position (n, 2) px, NaN where none is known, the same one within
    a segment; `number` (n,) of the segment, -1 outside."""

    g: Floats
    point_px: Floats
    number: Ints


def on_the_right_point(
    disks: PeakTable, raw_px: Floats, smooth_px: Floats, inliers: NDArray[np.bool_]
) -> tuple[Floats, Floats, NDArray[np.bool_], list[str]]:
    """Origin with the positions put right where it lies a lattice vector off the direct beam.

    Parameters
    ----------
    raw_px, smooth_px, inliers
        (R, C, 2), (R, C, 2) and (R, C) of the origin so far.

    Returns
    -------
    raw_px, smooth_px, inliers, warnings
        As given, where most disks agree with them; otherwise with the beam's own place at all positions that were asked.
    """
    unchanged = raw_px, smooth_px, inliers, list[str]()
    if disks.n_positions < _TOGETHER:
        return unchanged
    try:
        segments = _segments(disks)
    except EmdlError:
        return unchanged
    beam, seen = _beams(disks, segments)
    known = np.isfinite(beam[:, 0])
    smooth, raw = smooth_px.reshape(-1, 2).copy(), raw_px.reshape(-1, 2).copy()
    away = np.nan_to_num((beam - smooth) @ np.linalg.inv(segments.g))
    changed = (np.rint(away) != 0).any(axis=1)
    if not changed.any():
        return unchanged
    far = float(np.linalg.norm(beam[changed] - smooth[changed], axis=1).max())
    told = changed.sum() >= max(_TOGETHER, _TOLD * known.sum())
    moved = known if told else changed  # a model that was wrong in so many places is wrong beside them as well
    raw[moved] = smooth[moved] = beam[moved]
    right = inliers.copy()
    right.ravel()[moved] = True
    if not told:
        return raw.reshape(raw_px.shape), smooth.reshape(smooth_px.shape), right, []
    gaps = ~known & ~np.isfinite(raw[:, 0])
    smooth[gaps] = smooth[_nearest(known, inliers.shape)][gaps]
    hidden = f", hidden in {np.sum(known & ~seen):,} of them" if (known & ~seen).any() else ""
    said = (
        f"the direct beam is not the brightest disk or jumps over the scan: at {changed.sum():,} of {known.sum():,} positions "
        f"the origin was moved by up to {far:.1f} px onto the lattice point that the disks lie around{hidden}; give `origin` "
        "if it is another"
    )
    return raw.reshape(raw_px.shape), smooth.reshape(smooth_px.shape), right, [said]


def _nearest(known: NDArray[np.bool_], scan: tuple[int, ...]) -> Ints:
    """(n,) the nearest position that is known."""
    from scipy import ndimage

    at = ndimage.distance_transform_edt(~known.reshape(scan), return_distances=False, return_indices=True)
    return np.asarray(np.ravel_multi_index(tuple(at), scan).ravel())


def _segments(disks: PeakTable) -> _Segments:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n, place, of = disks.n_positions, disks.positions_px(), disks.flat_index()
    point = np.full((n, 2), np.nan)
    rows = brightest_of(of, brightness(disks), np.ones(len(of), bool))
    point[of[rows]] = place[rows]
    g = find_basis(disks, np.nan_to_num(point)).g
    inverse = np.linalg.inv(g)
    index = (place - point[of]) @ inverse
    low = np.abs(index).max(axis=1) < _ORDERS
    turns = np.exp(2j * np.pi * index[low])
    total = np.stack([np.bincount(of[low], t.real, n) + 1j * np.bincount(of[low], t.imag, n) for t in turns.T], axis=1)
    agree = np.abs(total).min(axis=1) / np.maximum(np.bincount(of[low], minlength=n), 1)
    good = (agree > _AGREE) & (disks.counts().ravel() >= _FEW)
    point = np.where(good[:, None], point + np.angle(total) / (2 * np.pi) @ g, np.nan)
    one, other = _neighbours((1, *disks.shape)[-2:])
    step = (point[other] - point[one]) @ inverse
    near = np.linalg.norm((step - np.rint(step)) @ g, axis=1) < _BESIDE * np.linalg.norm(g, axis=1).min()  # NaN is not
    one, other = one[near], other[near]
    graph = coo_matrix((np.ones(len(one)), (one, other)), shape=(n, n)).tocsr()
    graph = graph + graph.T
    number = connected_components(graph, directed=False)[1].astype(np.int64)
    number[~good] = -1
    return _Segments(g, _same_point(point, number, graph, g), number)


def _neighbours(scan: tuple[int, ...]) -> tuple[Ints, Ints]:
    flat = np.arange(scan[0] * scan[1]).reshape(scan)
    return np.r_[flat[:, :-1].ravel(), flat[:-1].ravel()], np.r_[flat[:, 1:].ravel(), flat[1:].ravel()]


def _same_point(point: Floats, number: Ints, graph: object, g: Floats) -> Floats:
    """Points moved by lattice vectors so that each lies near that of the neighbour it is reached from."""
    from scipy.sparse.csgraph import breadth_first_order

    out, inverse = point.copy(), np.linalg.inv(g)
    starts = np.unique(number, return_index=True)
    for segment, start in zip(*starts, strict=True):
        if segment < 0:
            continue
        order, before = breadth_first_order(graph, start, directed=False)
        # the step of every position from the one before it, then their sums along the tree, in the order of the tree
        for i in order[1:]:
            step = (point[i] - out[before[i]]) @ inverse
            out[i] = out[before[i]] + (step - np.rint(step)) @ g
    return out


def _beams(disks: PeakTable, segments: _Segments) -> tuple[Floats, NDArray[np.bool_]]:
    """(n, 2) place of the direct beam, NaN where it cannot be told, and (n,) whether a disk is seen there."""
    scan = (1, *disks.shape)[-2:]
    band = np.arange(disks.n_positions) // scan[1] // -(-_TOGETHER // scan[1])
    group = np.where(segments.number >= 0, segments.number * (band.max() + 1) + band, -1)
    told, sees = np.full((disks.n_positions, 2), np.nan), np.zeros(disks.n_positions, bool)
    numbers, counts = np.unique(group[group >= 0], return_counts=True)
    for number in numbers[counts >= _TOGETHER]:
        at = np.flatnonzero(group == number)
        found = _of_group(disks.select_positions(at), segments.point_px[at], segments.g)
        if found is not None:
            told[at], sees[at] = found[0], found[1]
    segment = segments.number
    for number in np.unique(segment[np.isfinite(told[:, 0])]):  # what could not be asked goes with the rest of its segment
        inside = segment == number
        points, most = np.unique(told[inside & np.isfinite(told[:, 0])], axis=0, return_counts=True)
        rest = inside & ~np.isfinite(told[:, 0])
        told[rest] = points[most.argmax()]
        sees[rest] = np.mean(sees[inside & ~rest]) > 0.5
    return segments.point_px + told @ segments.g, sees


def _of_group(disks: PeakTable, point_px: Floats, g: Floats) -> tuple[Ints, bool] | None:
    """Indices (2,) of the direct beam from the points of some positions, and whether it is seen; None where disks are few."""
    from scipy import ndimage

    of, bright, n = disks.flat_index(), brightness(disks), disks.n_positions
    index = (disks.positions_px() - point_px[of]) @ np.linalg.inv(g)
    middle = np.rint(np.median(index, axis=0))
    nearest = np.rint(index - middle)
    on = (np.abs(index - middle - nearest) < _ON).all(axis=1) & (np.abs(nearest) <= _REACH).all(axis=1)
    top = np.full(n, 1e-9)
    np.maximum.at(top, of, np.nan_to_num(bright))
    cells = tuple((nearest[on].astype(np.int64) + _REACH).T)
    span = 2 * _REACH + 1
    share, light = np.zeros((span, span)), np.zeros((span, span))
    np.add.at(share, cells, 1 / n)
    np.add.at(light, cells, np.nan_to_num(bright / top[of])[on] / n)
    share = np.minimum(share, 1.0)
    first, second = int(light.argmax()), float(np.partition(light.ravel(), -2)[-2])
    hole = (share < _HOLE) & (ndimage.median_filter(share, footprint=_AROUND_IT) > _AROUND)
    score = _paired_shares(share) + _SPEAKS * hole
    score.ravel()[first] += _SPEAKS + (2 * _SPEAKS if light.ravel()[first] > _CLEARLY_BRIGHT * second else 0.0)
    score[(share > _SEEN) & (light < _BRIGHT * light.max())] = 0.0  # a beam that is seen is bright
    if not score.max() > _SPEAKS:
        return None
    best = np.unravel_index(int(score.argmax()), score.shape)
    return np.array(best) - _REACH + middle.astype(np.int64), bool(share[best] >= _HOLE)


def _paired_shares(share: Floats) -> Floats:
    """Share of the disks, seen at lattice points in some share of positions, that have a partner opposite each point."""
    out, total = np.zeros_like(share), max(float(share.sum()), 1e-9)
    for i in range(_REACH - _WITHIN, _REACH + _WITHIN + 1):
        for j in range(_REACH - _WITHIN, _REACH + _WITHIN + 1):
            reach = _REACH - max(abs(i - _REACH), abs(j - _REACH))
            window = share[i - reach : i + reach + 1, j - reach : j + reach + 1]
            out[i, j] = np.minimum(window, window[::-1, ::-1]).sum() / total
    return out
