"""Reciprocal lattices: index the disks and fit every position at once, on the basis that `basis` finds.

Peaks lie flat with the scan position of each; sums over positions are segment sums, so that a fit of all positions is a few
passes over the flat arrays and one stack of closed-form 3 x 3 solutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.peaks import PeakTable

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

    def median(self, values: Floats) -> Floats:
        """(n,) medians of (N,) non-negative values, leaving out NaN; NaN where there is none."""
        known = np.isfinite(values)
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
        near; its residual is then small whatever the error of the lattice, so that without `precision` they count in full.
    precision
        (N, 3) row-row, col-col and row-col element of each disk's inverse covariance, where its error has a direction: a disk
        lit on one side tells its place across the lit edge only. Then `weight` should be the mean of the first two.
    """
    segments = Segments(np.asarray(offset, np.int64))
    of = segments.of
    finite = np.isfinite(position_px).all(axis=1) & np.isfinite(weight) & (weight > 0)
    position = np.where(finite[:, None], position_px, 0.0)
    weight = np.where(finite, weight, 0.0)
    if precision is not None:
        precision = np.where(finite[:, None], precision, 0.0)
    origin = np.array(np.broadcast_to(origin_px, (segments.n, 2)), dtype=float)
    lattice = np.array(np.broadcast_to(g, (segments.n, 2, 2)), dtype=float)
    short = float(np.linalg.norm(g, axis=1).min())
    limit_px = max_index_error * short
    stages = [1.5, 2.5, 4.5] + [np.inf] * max(1, iterations)
    scale = np.full(segments.n, np.nan)
    fitted = np.zeros(segments.n, bool)
    hk = np.zeros((len(of), 2))
    used = np.zeros(len(of), bool)
    covariance = np.full((segments.n, 6, 6), np.nan)
    trust = np.ones(len(of))
    for order in stages:
        h, k, miss = _index(position, origin, lattice, of)
        distance = np.hypot(miss[:, 0], miss[:, 1])
        hk = np.stack([h, k], axis=1)
        used = finite & (distance < limit_px) & (np.abs(h) <= order) & (np.abs(k) <= order)
        z = np.where(used, np.sqrt(_in_sigmas(miss, weight, precision)), np.nan)
        scale = segments.median(z)
        ratio = np.where(used, z / (2 * scale[of] + 1e-12), 0.0)
        trust = np.where(used, 1 / (1 + np.square(ratio)), 0.0)
        if precision is None:
            solution, covariance, fitted = _solve(segments, hk, position, weight * trust)
        else:
            solution, covariance, fitted = _solve_directed(segments, hk, position, precision * trust[:, None])
        sane = fitted & (np.abs(solution[:, 1:] - g).max(axis=(1, 2)) < 0.35 * short)
        sane &= np.linalg.norm(solution[:, 0] - origin_px, axis=1) < 0.5 * short
        lattice[sane], origin[sane] = solution[sane, 1:], solution[sane, 0]
        fitted = sane
    counts = segments.sum(used.astype(float)).astype(np.int64)
    predicted = origin[of] + np.einsum("ni,nij->nj", hk, lattice[of])
    miss = position - predicted
    robust = weight * trust
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = np.sqrt(segments.sum(robust * np.square(miss).sum(axis=1)) / segments.sum(robust))
        # both coordinates: 2 m measurements, 6 parameters
        chi2 = segments.sum(trust * _in_sigmas(miss, weight, precision)) / np.maximum(2 * counts - 6, 1)
    least = 0.0 if not calibrated else 1.0 if precision is None else _ROBUST_CHI2
    covariance = covariance * _pooled_scale(chi2, counts, fitted, least)[:, None, None]
    bad = ~fitted
    origin[bad], lattice[bad], residual[bad], covariance[bad] = np.nan, np.nan, np.nan, np.nan
    return LatticeFit(
        origin,
        lattice,
        covariance,
        residual,
        counts,
        segments.counts.copy(),
        _spans(segments, hk, used),
        hk.astype(np.int64),
        used & fitted[of],
    )


def _index(position: Floats, origin: Floats, lattice: Floats, of: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Nearest indices h, k (N,) of every peak on its position's lattice, and where it lies from there in px (N, 2)."""
    # written out by component: twice as fast as stacked products on millions of peaks
    (a, b), (c, d) = lattice[:, 0].T, lattice[:, 1].T
    determinant = a * d - b * c
    x, y = position[:, 0] - origin[of, 0], position[:, 1] - origin[of, 1]
    h = x * (d / determinant)[of] - y * (c / determinant)[of]
    k = y * (a / determinant)[of] - x * (b / determinant)[of]
    near_h, near_k = np.rint(h), np.rint(k)
    h -= near_h
    k -= near_k
    return near_h, near_k, np.stack([h * a[of] + k * c[of], h * b[of] + k * d[of]], axis=1)


def _in_sigmas(miss: Floats, weight: Floats, precision: Floats | None) -> Floats:
    """(N,) squared distances in units of each disk's error."""
    if precision is None:
        return np.asarray(weight * np.square(miss).sum(axis=1), dtype=np.float64)
    r, c = miss.T
    square = precision[:, 0] * r * r + precision[:, 1] * c * c + 2 * precision[:, 2] * r * c
    return np.asarray(np.maximum(square, 0), dtype=np.float64)


def _solve_directed(
    segments: Segments, hk: Floats, position: Floats, precision: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """As :func:`_solve` with a 2 x 2 weight for each disk: row and col are no longer independent."""
    terms = (np.ones(len(hk)), hk[:, 0], hk[:, 1])
    normal = np.zeros((segments.n, 3, 2, 3, 2))
    right = np.zeros((segments.n, 3, 2))
    rr, cc, rc = precision.T
    toward = (rr * position[:, 0] + rc * position[:, 1], rc * position[:, 0] + cc * position[:, 1])
    for i, first in enumerate(terms):
        for j, second in enumerate(terms[: i + 1]):
            product = first * second
            for (a, b), element in (((0, 0), rr), ((1, 1), cc), ((0, 1), rc), ((1, 0), rc)):
                normal[:, i, a, j, b] = normal[:, j, b, i, a] = segments.sum(product * element)
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


def _solve(segments: Segments, hk: Floats, position: Floats, weight: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Weighted least squares of (origin, g1, g2): (n, 3, 2), their covariance (n, 6, 6), and where it is regular."""
    h, k = hk[:, 0], hk[:, 1]
    wh, wk = weight * h, weight * k
    sums = {
        "1": segments.sum(weight),
        "h": segments.sum(wh),
        "k": segments.sum(wk),
        "hh": segments.sum(wh * h),
        "hk": segments.sum(wh * k),
        "kk": segments.sum(wk * k),
    }
    norm = np.where(sums["1"] > 0, sums["1"], 1.0)
    normal = np.stack([sums[n] / norm for n in ("1", "h", "k", "h", "hh", "hk", "k", "hk", "kk")], axis=1).reshape(-1, 3, 3)
    right = np.stack([segments.sum(w * position[:, c]) / norm for w in (weight, wh, wk) for c in (0, 1)], axis=1).reshape(
        -1, 3, 2
    )
    inverse, determinant = _invert(normal)
    regular = (sums["1"] > 0) & (determinant > 1e-9)
    each = inverse / norm[:, None, None]
    covariance = (each[:, :, None, :, None] * np.eye(2)[:, None, :]).reshape(-1, 6, 6)
    return inverse @ right, covariance, regular


def _invert(m: Floats) -> tuple[Floats, Floats]:
    """Inverse of symmetric (n, 3, 3) by cofactors, and the determinant; zero where singular."""
    a, b, c, d, e, f = m[:, 0, 0], m[:, 0, 1], m[:, 0, 2], m[:, 1, 1], m[:, 1, 2], m[:, 2, 2]
    co = [d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b]
    determinant = a * co[0] + b * co[1] + c * co[2]
    safe = np.where(np.abs(determinant) > 1e-12, determinant, np.inf)
    inverse = np.stack([co[0], co[1], co[2], co[1], co[3], co[4], co[2], co[4], co[5]], axis=1) / safe[:, None]
    return inverse.reshape(-1, 3, 3), determinant


def _spans(segments: Segments, hk: Floats, used: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True where the indices used span two directions."""
    w = used.astype(float)
    n = np.maximum(segments.sum(w), 1)
    h, k = segments.sum(w * hk[:, 0]) / n, segments.sum(w * hk[:, 1]) / n
    hh, kk = segments.sum(w * hk[:, 0] ** 2) / n - h**2, segments.sum(w * hk[:, 1] ** 2) / n - k**2
    mixed = segments.sum(w * hk[:, 0] * hk[:, 1]) / n - h * k
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
