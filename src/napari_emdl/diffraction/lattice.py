"""Reciprocal lattices: index the disks and fit every position at once, on the basis that `basis` finds.

Peaks lie flat with the scan position of each; sums over positions are segment sums, so that a fit of all positions is a few
passes over the flat arrays and one stack of closed-form 3 x 3 solutions. Large scans are cut into parts that stay in the cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.executor import available_cores

Floats = NDArray[np.float64]

#: Variance of the Cauchy-reweighted estimate over the inverse of its weights, for normal errors.
_ROBUST_INFLATION = 1.3
#: Reduced chi squared of the Cauchy-reweighted residuals where the sigmas are right: large ones count less.
_ROBUST_CHI2 = 0.62


@dataclass(frozen=True)
class LatticeFit:
    """Lattices of all positions; NaN where nothing was fitted.

    Attributes
    ----------
    origin, g
        (n, 2) and (n, 2, 2) in px.
    covariance
        (n, 6, 6) of the rows and cols of origin, g1, g2: o_row, o_col, g1_row, g1_col, g2_row, g2_col.
    residual_px
        (n,) weighted rms distance of the indexed disks from the lattice.
    n_indexed, n_disks
        (n,) disks used and disks there.
    rank_ok
        (n,) False where the indexed disks lie on a line.
    hk, used
        (N, 2) int indices and (N,) bool of every peak.
    """

    origin: Floats
    g: Floats
    covariance: Floats
    residual_px: Floats
    n_indexed: NDArray[np.int64]
    n_disks: NDArray[np.int64]
    rank_ok: NDArray[np.bool_]
    hk: NDArray[np.int64]
    used: NDArray[np.bool_]


class Segments:
    """Sums over the peaks of each position."""

    def __init__(self, offset: NDArray[np.int64]) -> None:
        self.offset = offset
        self.counts = np.diff(offset)
        self.n = len(self.counts)
        self.of = np.repeat(np.arange(self.n), self.counts)
        self._filled = np.flatnonzero(self.counts)

    def sum(self, values: Floats) -> Floats:
        """(n,) sums of (N,) values."""
        out = np.zeros(self.n)
        if len(self._filled):
            out[self._filled] = np.add.reduceat(values, self.offset[self._filled])
        return out

    def median(self, values: Floats, known: NDArray[np.bool_] | None = None) -> Floats:
        """(n,) medians of (N,) non-negative values that are `known`, or finite; NaN where there is none."""
        known = np.isfinite(values) if known is None else known
        counts = self.sum(known.astype(float)).astype(np.int64)
        # one sort of position + a monotonic map of the value into [0, 1) sorts all segments
        key = np.sort(self.of[known] + values[known] / (1 + values[known]) * (1 - 1e-12))
        start = np.r_[0, np.cumsum(counts)[:-1]]
        out = np.full(self.n, np.nan)
        some = counts > 0
        index = np.flatnonzero(some)
        middle = key[start[some] + (counts[some] - 1) // 2] - index
        out[some] = middle / np.maximum(1 - middle, 1e-9)
        return out


def bragg_vector_map(
    disks: PeakTable, origin_px: ArrayLike, shape: tuple[int, int], centre_px: ArrayLike | None = None, upsample: int = 1
) -> NDArray[np.float32]:
    """Histogram of all disks, weighted by intensity, shifted to a common origin; bilinear.

    Parameters
    ----------
    origin_px
        Origin of every position, broadcast to (positions, 2).
    shape
        (rows, cols) of the map before upsampling: the detector's.
    centre_px
        Where the common origin lies; the middle of the map when None.
    upsample
        Bins per pixel.
    """
    origin = np.broadcast_to(np.asarray(origin_px, float).reshape(-1, 2), (disks.n_positions, 2))
    centre = np.array(shape) // 2 if centre_px is None else np.asarray(centre_px, float)
    place = (disks.positions_px() - origin[disks.flat_index()] + centre) * upsample
    weight = np.clip(disks.column("intensity").astype(float), 0, None) if "intensity" in disks.fields else np.ones(len(place))
    rows, cols = shape[0] * upsample, shape[1] * upsample
    low = np.floor(place).astype(np.int64)
    part = place - low
    out = np.zeros(rows * cols)
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        r, c = low[:, 0] + a, low[:, 1] + b
        share = weight * (part[:, 0] if a else 1 - part[:, 0]) * (part[:, 1] if b else 1 - part[:, 1])
        ok = (r >= 0) & (r < rows) & (c >= 0) & (c < cols) & np.isfinite(share)
        out += np.bincount(r[ok] * cols + c[ok], weights=share[ok], minlength=rows * cols)
    return out.reshape(rows, cols).astype(np.float32)


def fit_lattices(
    position_px: Floats,
    weight: Floats,
    offset: NDArray[np.int64],
    origin_px: Floats,
    g: Floats,
    *,
    max_index_error: float = 0.3,
    iterations: int = 3,
    calibrated: bool = False,
    precision: Floats | None = None,
    independent: bool = False,
) -> LatticeFit:
    """Fit origin, g1 and g2 to the disks of every position at once.

    Disks are indexed from low orders outwards, each time with the lattice fitted so far to that position, so that a strain of
    some per cent does not misindex high orders. The fit is weighted least squares with Cauchy reweighting against outliers.

    Parameters
    ----------
    position_px
        (N, 2) all disks, flat in scan order.
    weight
        (N,) 1/sigma^2 of each disk, or any positive weight.
    offset
        (n + 1,) offsets of the positions.
    origin_px, g
        (n, 2) and (2, 2) start values.
    max_index_error
        Largest distance from a lattice point in units of the shorter vector.
    calibrated
        True where `weight` is 1/sigma^2 of sigmas that are right on average: residuals larger than these say enlarge the
        covariance, smaller ones do not lessen it. A network starts to measure a faint disk where the lattice says, and stays
        near; its residual is then small whatever the error of the lattice, so that the errors count in full.
    precision
        (N, 3) row-row, col-col and row-col element of each disk's inverse covariance, where its error has a direction: a disk
        lit on one side tells its place across the lit edge only. Then `weight` should be the mean of the first two.
    independent
        True where disks were measured from the counts alone, whatever lies near: residuals are then what the errors say.
    """
    offset = np.asarray(offset, np.int64)
    n, basis = len(offset) - 1, np.asarray(g, dtype=np.float64)
    start = np.broadcast_to(np.asarray(origin_px, float), (n, 2))
    short = float(np.linalg.norm(basis, axis=1).min())
    stages = [1.5, 2.5, 4.5] + [np.inf] * max(1, iterations)
    fit = _empty(n, len(position_px), np.diff(offset))
    chi2, fitted = np.zeros(n), np.zeros(n, bool)

    def part(first: int, last: int) -> None:
        flat, here = slice(offset[first], offset[last]), slice(first, last)
        disks = _Disks.of(position_px[flat], weight[flat], None if precision is None else precision[flat])
        segments = Segments(offset[first : last + 1] - offset[first])
        fitted[here], chi2[here] = _fit_part(
            segments, disks, start[here], basis, stages, max_index_error * short, short, _views(fit, here, flat)
        )

    _in_parts(part, offset)
    least = 0.0 if not calibrated else _ROBUST_CHI2 if independent else 1.0
    fit.covariance[:] *= _pooled_scale(chi2, fit.n_indexed, fitted, least)[:, None, None]
    return fit


def distance_from_lattice(relative_px: Floats, g: Floats) -> Floats:
    """(N,) distance in px of places (N, 2), relative to their origin, from the nearest point of their lattices (N, 2, 2)."""
    # Cramer's rule: numpy takes ten times as long for so many small inverses
    (a, b), (c, d) = np.moveaxis(g, 0, -1)
    row, col = relative_px.T
    h, k = row * d - col * c, col * a - row * b
    area = a * d - b * c
    h, k = h / area, k / area
    h, k = h - np.rint(h), k - np.rint(k)
    return np.asarray(np.hypot(h * a + k * c, h * b + k * d))


#: Disks fitted at once: some arrays of them stay in the cache of a core, which is what makes the fit fast.
_DISKS_AT_ONCE = 16384


def _in_parts(part: Callable[[int, int], None], offset: NDArray[np.int64]) -> None:
    """Call ``part(first, last)`` for runs of positions with about `_DISKS_AT_ONCE` disks each, on all cores."""
    n = len(offset) - 1
    cuts = np.searchsorted(offset, np.arange(_DISKS_AT_ONCE, offset[-1], _DISKS_AT_ONCE))
    edges = np.unique(np.r_[0, cuts, n])
    runs = list(itertools.pairwise(edges.tolist()))
    if len(runs) < 2 or available_cores() < 2:
        for first, last in runs:
            part(first, last)
        return
    with ThreadPoolExecutor(min(available_cores(), 8), thread_name_prefix="emdl-lattice") as pool:
        list(pool.map(lambda run: part(*run), runs))


def _empty(n: int, peaks: int, counts: NDArray[np.int64]) -> LatticeFit:
    """Arrays to fill; NaN where nothing is fitted."""
    return LatticeFit(
        np.full((n, 2), np.nan),
        np.full((n, 2, 2), np.nan),
        np.full((n, 6, 6), np.nan),
        np.full(n, np.nan),
        np.zeros(n, np.int64),
        counts,
        np.zeros(n, bool),
        np.zeros((peaks, 2), np.int64),
        np.zeros(peaks, bool),
    )


def _views(fit: LatticeFit, here: slice, flat: slice) -> LatticeFit:
    """The part of a fit that belongs to some positions and their peaks."""
    per_position = {f.name: getattr(fit, f.name)[here] for f in fields(fit) if f.name not in ("hk", "used")}
    return LatticeFit(**per_position, hk=fit.hk[flat], used=fit.used[flat])


@dataclass(frozen=True)
class _Disks:
    """Disks by component: zero weight where a value is missing."""

    row: Floats
    col: Floats
    weight: Floats
    precision: Floats | None
    finite: NDArray[np.bool_]

    @staticmethod
    def of(position: Floats, weight: Floats, precision: Floats | None) -> _Disks:
        row, col = (np.array(position[:, k], dtype=float) for k in (0, 1))
        finite = np.isfinite(row) & np.isfinite(col) & np.isfinite(weight) & (weight > 0)
        row[~finite], col[~finite] = 0.0, 0.0
        known = None if precision is None else np.where(finite, np.asarray(precision, float).T, 0.0)
        return _Disks(row, col, np.where(finite, weight, 0.0), known, finite)

    def in_sigmas(self, r: Floats, c: Floats) -> Floats:
        """(N,) squared distances in units of each disk's error."""
        if self.precision is None:
            return np.asarray(self.weight * (r * r + c * c), dtype=np.float64)
        rr, cc, rc = self.precision
        return np.asarray(np.maximum(rr * r * r + cc * c * c + 2 * rc * r * c, 0), dtype=np.float64)


def _fit_part(
    segments: Segments,
    disks: _Disks,
    start: Floats,
    g: Floats,
    stages: list[float],
    limit_px: float,
    short: float,
    out: LatticeFit,
) -> tuple[NDArray[np.bool_], Floats]:
    """Fit some positions into `out`, covariances without their scale; where it is sane (n,), and chi squared (n,)."""
    of = segments.of
    origin, lattice = start.astype(float), np.array(np.broadcast_to(g, (segments.n, 2, 2)), dtype=float)
    for order in stages:
        h, k, row, col = _index(disks, origin, lattice, of)
        used = disks.finite & (row * row + col * col < limit_px**2) & (np.abs(h) <= order) & (np.abs(k) <= order)
        z = np.sqrt(disks.in_sigmas(row, col))
        scale = 2 * np.nan_to_num(segments.median(z, used), nan=1.0) + 1e-12
        trust = used / (1 + np.square(z / scale[of]))
        solution, covariance, sane = _solve(segments, h, k, disks, trust)
        sane &= np.abs(solution[:, 1:] - g).max(axis=(1, 2)) < 0.35 * short
        sane &= np.hypot(*(solution[:, 0] - start).T) < 0.5 * short
        lattice[sane], origin[sane] = solution[sane, 1:], solution[sane, 0]
    counts = segments.sum(used.astype(float)).astype(np.int64)
    row = disks.row - (origin[:, 0][of] + h * lattice[:, 0, 0][of] + k * lattice[:, 1, 0][of])
    col = disks.col - (origin[:, 1][of] + h * lattice[:, 0, 1][of] + k * lattice[:, 1, 1][of])
    robust = disks.weight * trust
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = np.sqrt(segments.sum(robust * (row * row + col * col)) / segments.sum(robust))
    # both coordinates: 2 m measurements, 6 parameters
    chi2 = segments.sum(trust * disks.in_sigmas(row, col)) / np.maximum(2 * counts - 6, 1)
    out.origin[sane], out.g[sane], out.covariance[sane] = origin[sane], lattice[sane], covariance[sane]
    out.residual_px[sane] = residual[sane]
    out.n_indexed[:], out.rank_ok[:] = counts, _spans(segments, h, k, used)
    out.hk[:, 0], out.hk[:, 1], out.used[:] = h, k, used & sane[of]
    return sane, chi2


def _index(disks: _Disks, origin: Floats, lattice: Floats, of: NDArray[np.int64]) -> tuple[Floats, Floats, Floats, Floats]:
    """Nearest indices h, k (N,) of every peak on its position's lattice, and where it lies from there: row, col in px (N,)."""
    (a, b), (c, d) = lattice[:, 0].T, lattice[:, 1].T
    determinant = a * d - b * c
    x, y = disks.row - origin[:, 0][of], disks.col - origin[:, 1][of]
    h = x * (d / determinant)[of] - y * (c / determinant)[of]
    k = y * (a / determinant)[of] - x * (b / determinant)[of]
    near_h, near_k = np.rint(h), np.rint(k)
    h -= near_h
    k -= near_k
    return near_h, near_k, h * a[of] + k * c[of], h * b[of] + k * d[of]


def _solve(segments: Segments, h: Floats, k: Floats, disks: _Disks, trust: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Weighted least squares of (origin, g1, g2): (n, 3, 2), their covariance (n, 6, 6), and where it is regular."""
    if disks.precision is not None:
        return _solve_directed(segments, h, k, disks, trust)
    weight = disks.weight * trust
    wh, wk = weight * h, weight * k
    one = segments.sum(weight)
    norm = np.where(one > 0, one, 1.0)
    normal = [segments.sum(values) / norm for values in (weight, wh, wk, wh * h, wh * k, wk * k)]
    inverse, determinant = _invert(*normal)
    right = np.empty((segments.n, 3, 2))
    for i, w in enumerate((weight, wh, wk)):
        right[:, i, 0], right[:, i, 1] = segments.sum(w * disks.row) / norm, segments.sum(w * disks.col) / norm
    each = inverse / norm[:, None, None]
    covariance = np.zeros((segments.n, 3, 2, 3, 2))
    covariance[:, :, 0, :, 0] = covariance[:, :, 1, :, 1] = each
    return inverse @ right, covariance.reshape(-1, 6, 6), (one > 0) & (determinant > 1e-9)


def _solve_directed(
    segments: Segments, h: Floats, k: Floats, disks: _Disks, trust: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """As :func:`_solve` with a 2 x 2 weight for each disk: row and col are no longer independent."""
    assert disks.precision is not None
    terms = (np.ones(len(h)), h, k)
    normal = np.zeros((segments.n, 3, 2, 3, 2))
    right = np.zeros((segments.n, 3, 2))
    rr, cc, rc = disks.precision * trust
    toward = (rr * disks.row + rc * disks.col, rc * disks.row + cc * disks.col)
    for i, first in enumerate(terms):
        for j, second in enumerate(terms[: i + 1]):
            product = first * second
            for (a, b), element in (((0, 0), rr), ((1, 1), cc), ((0, 1), rc)):
                total = segments.sum(product * element)
                normal[:, i, a, j, b] = normal[:, j, b, i, a] = normal[:, i, b, j, a] = normal[:, j, a, i, b] = total
        for a in (0, 1):
            right[:, i, a] = segments.sum(first * toward[a])
    scale = np.trace(normal[:, 0, :, 0, :], axis1=1, axis2=2) / 2
    safe = np.where(scale > 0, scale, 1.0)
    matrix = normal.reshape(-1, 6, 6) / safe[:, None, None]
    regular = (scale > 0) & (np.linalg.det(matrix) > 1e-12)
    matrix[~regular] = np.eye(6)
    inverse = np.linalg.inv(matrix)
    solution = (inverse @ (right.reshape(-1, 6, 1) / safe[:, None, None])).reshape(-1, 3, 2)
    return solution, inverse / safe[:, None, None], regular


def _invert(a: Floats, b: Floats, c: Floats, d: Floats, e: Floats, f: Floats) -> tuple[Floats, Floats]:
    """Inverse (n, 3, 3) of the symmetric matrices [[a, b, c], [b, d, e], [c, e, f]] by cofactors, and the determinant."""
    co = [d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b]
    determinant = a * co[0] + b * co[1] + c * co[2]
    safe = np.where(np.abs(determinant) > 1e-12, determinant, np.inf)
    inverse = np.stack([co[0], co[1], co[2], co[1], co[3], co[4], co[2], co[4], co[5]], axis=1) / safe[:, None]
    return inverse.reshape(-1, 3, 3), determinant


def _spans(segments: Segments, h: Floats, k: Floats, used: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True where the indices used span two directions."""
    w = used.astype(float)
    n = np.maximum(segments.sum(w), 1)
    wh, wk = w * h, w * k
    mean_h, mean_k = segments.sum(wh) / n, segments.sum(wk) / n
    hh, kk = segments.sum(wh * h) / n - mean_h**2, segments.sum(wk * k) / n - mean_k**2
    mixed = segments.sum(wh * k) / n - mean_h * mean_k
    return hh * kk - mixed**2 > 1e-6


def _pooled_scale(chi2: Floats, counts: NDArray[np.int64], fitted: NDArray[np.bool_], least: float) -> Floats:
    """Square of the Birge ratio: reduced chi squared of each position, not below `least`, drawn towards the whole scan's."""
    freedom = np.clip(2 * counts - 6, 0, None)
    known = fitted & (freedom > 0) & np.isfinite(chi2)
    typical = float(np.median(chi2[known])) if known.any() else 1.0
    prior = 6.0
    # few disks cannot tell it well
    pooled = (prior * typical + freedom * np.where(known, chi2, typical)) / (prior + freedom)
    return _ROBUST_INFLATION * np.maximum(pooled, least)
