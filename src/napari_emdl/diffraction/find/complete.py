"""What a lattice tells about the disks of one pattern: where further ones should lie, and which do not belong to it.

Works on each pattern for itself, so that grains, rotations and strains may differ from pattern to pattern; a pattern without a
convincing lattice (amorphous, several grains, too few disks) is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.basis import find_basis, reduce_basis
from napari_emdl.diffraction.lattice import Segments, distance_from_lattice, fit_lattices

#: A lattice is believed when at least so many disks and this fraction of all confident ones lie on it.
MIN_INDEXED = 6
MIN_FRACTION = 0.75
#: Confident disks lie this near a lattice point, in units of the shorter vector.
_ON_LATTICE = 0.12
#: So many disks on one lattice speak for themselves, even where a single place told their radius.
MIN_WITNESSES = 12
_MAX_ORDER = 30
#: Counts of a disk above its surroundings, in sigma, under which a place is not worth measuring; noise alone stands 1.5 above
#: the emptier half of the sectors. Chosen on held-out crystals: it spares three quarters of the empty places and loses one to
#: two in a hundred of the disks that are found by the lattice alone.
_LEAST_SIGMA = 1.5
_SECTORS = 8
_PIXELS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class PatternLattices:
    """Lattices of n patterns.

    Attributes
    ----------
    origin, g
        (n, 2) a lattice point and (n, 2, 2) the basis in px; NaN where `good` is False.
    good
        (n,) patterns with a convincing lattice.
    """

    origin: NDArray[np.float64]
    g: NDArray[np.float64]
    good: NDArray[np.bool_]

    def witnessed(self, confident: PeakTable) -> NDArray[np.bool_]:
        """(n,) patterns whose lattice is that of so many of these disks that it is no accident."""
        return self.good & (np.diff(confident.offset) >= MIN_WITNESSES)

    def distance_px(self, pattern: NDArray[np.intp], position_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) distance of positions from the nearest lattice point of their pattern; NaN without a lattice."""
        out = np.full(len(pattern), np.nan)
        use = self.good[pattern]
        which = pattern[use]
        out[use] = distance_from_lattice(position_px[use] - self.origin[which], self.g[which])
        return out


def lattices_of(confident: PeakTable, radius_px: float, centre_px: NDArray[np.float64]) -> PatternLattices:
    """Lattice of every pattern from its confident disks (fields row, col, score, sigma_px).

    The basis that explains all patterns together is tried first; patterns that it does not fit are searched for their own.
    """
    n = confident.n_positions
    lattices = PatternLattices(np.full((n, 2), np.nan), np.full((n, 2, 2), np.nan), np.zeros(n, bool))
    rich = np.flatnonzero(np.diff(confident.offset) >= MIN_INDEXED)
    _fit_into(lattices, confident, rich, radius_px, centre_px)
    for i in rich[~lattices.good[rich]]:
        _fit_into(lattices, confident, np.array([i]), radius_px, centre_px)
    return lattices


def _fit_into(
    lattices: PatternLattices, confident: PeakTable, which: NDArray[np.intp], radius_px: float, centre_px: NDArray[np.float64]
) -> None:
    """Find a basis for the patterns `which`, fit each of them, and keep the lattices that convince."""
    if not len(which):
        return
    table = confident.select_positions(which)
    origin = _central_disks(table, centre_px)
    try:
        basis = find_basis(table, origin, min_length_px=max(3.0, 0.8 * radius_px))
    except EmdlError:
        return
    g = reduce_basis(basis.g)
    position = table.positions_px()
    weight = 1 / np.square(np.maximum(table.column("sigma_px").astype(float), 0.02))
    fit = fit_lattices(position, weight, table.offset, origin, g, max_index_error=_ON_LATTICE)
    counts = np.diff(table.offset)
    indexed = Segments(table.offset).sum(fit.used.astype(float))
    residual_ok = fit.residual_px < np.maximum(0.12 * radius_px, 0.4)
    good = np.isfinite(fit.origin[:, 0]) & fit.rank_ok & (indexed >= MIN_INDEXED) & (indexed >= MIN_FRACTION * counts)
    good &= residual_ok
    lattices.origin[which[good]], lattices.g[which[good]], lattices.good[which[good]] = fit.origin[good], fit.g[good], True


def _central_disks(table: PeakTable, centre_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) the disk nearest the middle of each pattern: any disk is a lattice point, and near ones keep indices low."""
    position, of = table.positions_px(), table.flat_index()
    order = np.lexsort((np.linalg.norm(position - centre_px, axis=1), of))
    return position[order[table.offset[:-1]]]


def missing_sites(
    lattices: PatternLattices,
    known: PeakTable,
    radius_px: float,
    detector_shape: tuple[int, int],
    edge_px: float,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Lattice points on the detector where nothing was measured yet.

    Parameters
    ----------
    known
        All candidates already measured, whatever their score.
    edge_px
        Points nearer to the detector's edge are left out.

    Returns
    -------
    pattern, position_px
        (m,) and (m, 2).
    """
    patterns, places = [], []
    corner = np.array(detector_shape, float) - 1
    for i in np.flatnonzero(lattices.good):
        g, origin = lattices.g[i], lattices.origin[i]
        corners = np.array([[0, 0], [0, corner[1]], [corner[0], 0], corner]) - origin
        hk = corners @ np.linalg.inv(g)
        low = np.maximum(np.floor(hk.min(axis=0)).astype(int), -_MAX_ORDER)
        high = np.minimum(np.ceil(hk.max(axis=0)).astype(int), _MAX_ORDER)
        orders = (np.arange(a, b + 1) for a, b in zip(low, high, strict=True))
        index = np.stack(np.meshgrid(*orders, indexing="ij"), axis=-1).reshape(-1, 2)
        site = origin + index @ g
        site = site[np.all((site >= edge_px) & (site <= corner - edge_px), axis=1)]
        peaks = known.at(int(i))
        if len(peaks) and len(site):
            taken = np.hypot(site[:, :1] - peaks["row"], site[:, 1:] - peaks["col"]).min(axis=1) < 0.5 * radius_px
            site = site[~taken]
        patterns.append(np.full(len(site), i))
        places.append(site)
    if not patterns:
        return np.zeros(0, np.intp), np.zeros((0, 2))
    return np.concatenate(patterns).astype(np.intp), np.concatenate(places)


def worth_measuring(
    patterns: NDArray[np.float32], which: NDArray[np.intp], position_px: NDArray[np.float64], radius_px: float
) -> NDArray[np.bool_]:
    """(m,) False where the counts show no trace of a disk, so that no network need look.

    The surroundings are a ring around the place; it is judged by the emptier half of its sectors, as neighbouring disks may
    reach into the others.

    Parameters
    ----------
    patterns
        (n, rows, cols) electrons.
    which, position_px
        (m,) pattern and (m, 2) place.
    """
    reach = int(np.ceil(1.6 * radius_px)) + 1
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(dy, dx)
    disk = distance <= max(0.8 * radius_px, 1.0)
    ring = (distance > 1.15 * radius_px) & (distance <= max(1.6 * radius_px, 1.15 * radius_px + 1.5))
    sector = np.floor((np.arctan2(dy[ring], dx[ring]) / (2 * np.pi) + 0.5) * _SECTORS).astype(int) % _SECTORS
    size = max(1, _PIXELS_AT_ONCE // int(ring.sum() + disk.sum()))
    middle = np.rint(position_px).astype(np.intp)
    corner = np.array(patterns.shape[1:]) - 1
    out = np.empty(len(which), bool)

    def counts(part: slice, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        row = np.clip(middle[part, :1] + dy[mask], 0, corner[0])
        col = np.clip(middle[part, 1:] + dx[mask], 0, corner[1])
        return patterns[which[part, None], row, col]

    for start in range(0, len(which), size):
        part = slice(start, start + size)
        around = counts(part, ring)
        means = np.sort([around[:, sector == k].mean(axis=1) for k in range(_SECTORS)], axis=0)
        background = means[: _SECTORS // 2].mean(axis=0) * disk.sum()
        inside = counts(part, disk).sum(axis=1)
        out[part] = inside - background > _LEAST_SIGMA * np.sqrt(np.maximum(background, 0.05 * disk.sum()))
    return out
