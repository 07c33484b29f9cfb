"""Reciprocal basis of a scan: found in the disks, or the user's, moved onto them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable

Floats = NDArray[np.float64]

#: Positions and disks per position looked at when the basis is searched.
_SAMPLED_POSITIONS = 300
_SAMPLED_DISKS = 30
_CANDIDATE_VECTORS = 14


@dataclass(frozen=True)
class Basis:
    """Reciprocal basis of the whole scan.

    Attributes
    ----------
    g
        (2, 2) rows g1, g2 in (row, col) px.
    indexed_fraction
        Fraction of the sampled disks that lie on the lattice.
    source
        "found" or "given".
    """

    g: Floats
    indexed_fraction: float
    source: str


def reduce_basis(g: ArrayLike) -> Floats:
    """Shortest basis of the same lattice (Lagrange and Gauss), right-handed, g1 the vector nearer the +row axis.

    Parameters
    ----------
    g
        (2, 2) rows g1, g2.
    """
    a, b = (np.array(v, dtype=float) for v in np.asarray(g, dtype=float))
    if abs(a[0] * b[1] - a[1] * b[0]) < 1e-6 * (a @ a + b @ b + 1e-12):
        raise EmdlError("g1 and g2 are parallel; choose two lattice vectors in different directions")
    for _ in range(200):
        if a @ a > b @ b:
            a, b = b, a
        n = np.rint(a @ b / (a @ a))
        if n == 0:
            break
        b = b - n * a

    def off_axis(v: Floats) -> float:
        return float(abs(np.arctan2(v[1], v[0]) / np.pi))

    a, b = (-v if v[0] < -1e-6 * np.abs(v).max() or (abs(v[0]) <= 1e-6 * np.abs(v).max() and v[1] < 0) else v for v in (a, b))
    first, second = (a, b) if off_axis(a) <= off_axis(b) else (b, a)
    if first[0] * second[1] - first[1] * second[0] < 0:
        second = -second
    return np.stack([first, second])


def find_basis(disks: PeakTable, origin_px: ArrayLike, min_length_px: float = 3.0) -> Basis:
    """Basis of the lattice that explains the disks of the whole scan.

    Vectors between disks of the same pattern are collected from positions spread over the scan (no origin needed, and an
    absent order does no harm), their clusters paired, and of all pairs the basis is taken that gives the disks the highest
    likelihood: on a lattice point with some spread, or anywhere on the detector. Too fine a lattice has needless points and
    is less likely; too coarse a one leaves disks unexplained.

    Parameters
    ----------
    disks
        The disks to go by; strong ones suffice.
    origin_px
        Origin of every position, broadcast to (positions, 2).
    min_length_px
        Vectors shorter than this are not lattice vectors (twice detected disks).

    Raises
    ------
    EmdlError
        When there are too few disks for a lattice.
    """
    sample, relative = _sample(disks, origin_px)
    vectors, spread = _clusters(sample, min_length_px)
    if len(vectors) < 2:
        raise EmdlError(
            "no lattice was found in the disks (too few per pattern); give g1 and g2, or lower the disks' threshold"
        )
    best: tuple[float, Floats] | None = None
    tried: list[Floats] = []
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            a, b = vectors[i], vectors[j]
            area = abs(a[0] * b[1] - a[1] * b[0])
            if area < 0.25 * np.linalg.norm(a) * np.linalg.norm(b) or area < min_length_px**2:
                continue
            g = reduce_basis([a, b])
            if any(np.abs(g - old).max() < 0.5 for old in tried):
                continue
            tried.append(g)
            value = _evidence(g, relative, spread)
            if best is None or value > best[0]:
                best = value, g
    if best is None:
        raise EmdlError("all disks lie on a line, so there is no second lattice vector; give g1 and g2")
    g = reduce_basis(refine_basis(best[1], relative))
    return Basis(g, on_lattice(g, relative), "found")


def given_basis(g: ArrayLike, disks: PeakTable, origin_px: ArrayLike, refine: bool = True) -> Basis:
    """Basis from the user's clicks, moved onto the lattice unless `refine` is False."""
    wanted = np.asarray(g, dtype=float)
    if wanted.shape != (2, 2) or not np.isfinite(wanted).all():
        raise EmdlError("g1 and g2 must be two numbers each: row, col in pixels from the origin")
    if (
        abs(np.linalg.det(wanted)) < 0.05 * np.linalg.norm(wanted[0]) * np.linalg.norm(wanted[1])
        or not wanted.any(axis=1).all()
    ):
        raise EmdlError("g1 and g2 are parallel; choose two lattice vectors in different directions")
    _, relative = _sample(disks, origin_px)
    if refine and len(relative):
        wanted = refine_basis(wanted, relative)
    return Basis(wanted, on_lattice(wanted, relative), "given")


def _sample(disks: PeakTable, origin_px: ArrayLike) -> tuple[list[Floats], Floats]:
    """Strongest disks of some positions: per position (k, 2) px, and all together relative to their origin (N, 2)."""
    origin = np.broadcast_to(np.asarray(origin_px, float).reshape(-1, 2), (disks.n_positions, 2))
    rich = np.flatnonzero(disks.counts().ravel() >= 3)
    if len(rich) > _SAMPLED_POSITIONS:
        rich = rich[np.linspace(0, len(rich) - 1, _SAMPLED_POSITIONS).astype(int)]
    some = disks.select_positions(rich)
    position = some.flat_index()
    order = np.lexsort((-some.column("score"), position))  # within a position, the strongest first
    rank = np.arange(len(order)) - np.repeat(some.offset[:-1], np.diff(some.offset))
    order = order[rank < _SAMPLED_DISKS]
    place = some.positions_px()[order]
    lists = np.split(place, np.flatnonzero(np.diff(position[order])) + 1) if len(place) else []
    return lists, place - origin[rich][position[order]]


def _clusters(sample: list[Floats], min_length_px: float) -> tuple[Floats, float]:
    """Centres of the most populated, shortest clusters of difference vectors, and the spread within one."""
    from scipy import ndimage  # results are opened without it

    differences = [(p[:, None] - p[None])[np.triu_indices(len(p), 1)] for p in sample]
    v = np.concatenate(differences) if differences else np.zeros((0, 2))
    length = np.linalg.norm(v, axis=1)
    v = v[length >= min_length_px]
    if not len(v):
        return np.zeros((0, 2)), 1.0
    v = np.where((v[:, :1] < 0) | ((v[:, :1] == 0) & (v[:, 1:] < 0)), -v, v)
    v = np.concatenate([v, -v])
    length = np.linalg.norm(v, axis=1)
    # strain and rotation spread a cluster in proportion to its length: short vectors are the ones to go by
    v = v[length < 4 * np.percentile(length, 5) + min_length_px]
    size = int(np.ceil(np.abs(v).max())) + 3
    place = np.rint(v).astype(int) + size
    hist = np.bincount(place[:, 0] * (2 * size + 1) + place[:, 1], minlength=(2 * size + 1) ** 2).reshape(2 * size + 1, -1)
    smooth = ndimage.gaussian_filter(hist.astype(float), 1.0)
    peak = (smooth == ndimage.maximum_filter(smooth, size=5)) & (smooth > 0.08 * smooth.max())
    rows, cols = np.nonzero(peak)
    centres = np.stack([rows, cols], axis=1).astype(float) - size
    half = (centres[:, 0] > 0) | ((centres[:, 0] == 0) & (centres[:, 1] > 0))
    centres, height = centres[half], smooth[rows, cols][half]
    refined, spreads = [], []
    for centre in centres:
        near = v[np.linalg.norm(v - centre, axis=1) < 2.5]
        middle = np.median(near, axis=0) if len(near) else centre
        refined.append(middle)
        spreads.append(np.median(np.linalg.norm(near - middle, axis=1)) if len(near) else 1.0)
    order = np.argsort(np.linalg.norm(centres, axis=1))[:_CANDIDATE_VECTORS]
    strong = np.argsort(-height)[:_CANDIDATE_VECTORS]
    chosen = np.unique(np.r_[order, strong])
    return np.array(refined)[chosen], float(np.clip(np.median(spreads), 0.3, 2.0)) if spreads else 1.0


def _evidence(g: Floats, relative: Floats, spread: float) -> float:
    """Mean log likelihood of the disks: on a point of lattice `g` with a spread, or anywhere; best mixture of the two."""
    distance = np.linalg.norm(relative, axis=1)
    reach = max(float(distance.max()), 1.0)
    area = np.pi * reach**2
    points = max(area / abs(np.linalg.det(g)), 1.0)
    miss = _misfit(g, relative)
    sigma2 = spread**2 + np.square(0.02 * distance)
    on = np.exp(-0.5 * np.square(miss) / sigma2) / (2 * np.pi * sigma2) / points
    return max(float(np.log(f * on + (1 - f) / area).mean()) for f in (0.5, 0.7, 0.85, 0.95))


def _misfit(g: Floats, relative: Floats) -> Floats:
    """(N,) distance in px from the nearest lattice point."""
    hk = relative @ np.linalg.inv(g)
    return np.linalg.norm((hk - np.rint(hk)) @ g, axis=1)


def on_lattice(g: Floats, relative: Floats, tolerance: float = 0.25) -> float:
    """Fraction of disks within `tolerance` (in units of the shorter vector) of a lattice point."""
    if not len(relative):
        return 0.0
    return float((_misfit(g, relative) < tolerance * np.linalg.norm(g, axis=1).min()).mean())


def refine_basis(g: Floats, relative: Floats) -> Floats:
    """Least squares fit of the basis to pooled disks, from low to high orders, Cauchy-reweighted."""
    g = np.array(g, dtype=float)
    for order in (1.5, 2.5, 4.5, 8.5, 8.5):
        hk = relative @ np.linalg.inv(g)
        index = np.rint(hk)
        miss = np.linalg.norm((hk - index) @ g, axis=1)
        use = (miss < 0.25 * np.linalg.norm(g, axis=1).min()) & (np.abs(index).max(axis=1) <= order)
        use &= np.abs(index).max(axis=1) > 0
        h = index[use]
        if len(h) < 2 or np.linalg.matrix_rank(h) < 2:
            continue
        w = 1 / (1 + np.square(miss[use] / (2 * np.median(miss[use]) + 1e-6)))
        new = np.linalg.lstsq(h * w[:, None], relative[use] * w[:, None], rcond=None)[0]
        if abs(np.linalg.det(new)) > 0.3 * abs(np.linalg.det(g)):
            g = new
    return g
