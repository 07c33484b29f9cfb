"""What the residuals of the lattice fits of a scan say of the errors of its disks.

A single pattern has few disks and leaves little to judge their errors by; a scan has thousands. Two things are read from them:
how large they are in units of what the disks say of themselves, and how much the same disk errs alike at neighbouring
positions. Thickness and tilt change slowly over a scan, and with them the contrast inside the disks that pulls at their places;
what neighbours share, the difference of neighbours does not show.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.lattice import LatticeFit

Floats = NDArray[np.float64]

#: Residuals count up to so many times the error of their disk.
_MOST = 4.0
#: Median of the squared length of two independent standard normal variates.
_MEDIAN_OF_TWO = 2 * np.log(2)
#: Pairs of neighbours that tell enough, and positions that are looked at.
_ENOUGH_PAIRS, _POSITIONS = 200, 4000
#: More than this part of the variance is never taken for shared.
_MOST_ALIKE = 0.6


def in_errors(disks: PeakTable, fit: LatticeFit, good: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.intp], Floats]:
    """Disks that a lattice was fitted to, and their residuals (n, 2) in units of ``sigma_px``, within four.

    Parameters
    ----------
    disks, fit
        Disks with ``sigma_px`` over the scan, and their lattices.
    good
        (positions,) lattices that count; None for all.
    """
    of, sigma = disks.flat_index(), disks.column("sigma_px").astype(float)
    known = fit.used & np.isfinite(sigma) & (sigma > 0) & np.isfinite(fit.residual_px)[of]
    if good is not None:
        known &= good[of]
    rows = np.flatnonzero(known)
    at = of[rows]
    place = fit.origin[at] + np.einsum("na,nab->nb", fit.hk[rows], fit.g[at])
    return rows, np.clip((disks.positions_px()[rows] - place) / sigma[rows, None], -_MOST, _MOST)


def typical_size(residual: Floats) -> float:
    """Robust mean square of residuals (n, 2) in units of their errors, 1 where these are right; NaN of none."""
    return float(np.median(np.square(residual).sum(axis=1)) / _MEDIAN_OF_TWO) if len(residual) else float("nan")


def alike_in_neighbours(disks: PeakTable, fit: LatticeFit, good: NDArray[np.bool_]) -> float:
    """Part of the variance of residuals that a disk shares with itself at the next positions and not with the whole scan.

    0 where too few disks are seen at neighbouring positions, or the disks have no errors of their own.

    Parameters
    ----------
    disks, fit, good
        As for :func:`in_errors`, over (scan rows, scan cols).
    """
    if "sigma_px" not in disks.fields or len(disks.shape) != 2:
        return 0.0
    rows, residual = in_errors(disks, fit, good & _some(disks.shape))
    if len(rows) < _ENOUGH_PAIRS:
        return 0.0
    at, hk = disks.flat_index()[rows], fit.hk[rows]
    _, which = np.unique(hk, axis=0, return_inverse=True)
    which = which.ravel()
    key = at * (int(which.max()) + 1) + which
    order = np.argsort(key)
    key, residual, at, which = key[order], residual[order], at[order], which[order]
    square = np.square(residual).sum(axis=1)
    product = total = 0.0
    pairs = 0
    cols = disks.shape[1]
    for step, has_next in ((1, (at + 1) % cols > 0), (cols, np.ones(len(at), bool))):
        wanted = key + step * (int(which.max()) + 1)
        there = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        first = np.flatnonzero(has_next & (key[there] == wanted))
        second = there[first]
        product += float((residual[first] * residual[second]).sum())
        total += 0.5 * float(square[first].sum() + square[second].sum())
        pairs += len(first)
    if pairs < _ENOUGH_PAIRS or not total > 0:
        return 0.0
    return float(np.clip(product / total - _everywhere(residual, which), 0.0, _MOST_ALIKE))


def _everywhere(residual: Floats, which: NDArray[np.intp]) -> float:
    """Part of the variance that disks of the same indices share over the whole scan: a reference takes it out."""
    count = np.bincount(which)
    sums = np.stack([np.bincount(which, residual[:, k]) for k in (0, 1)], axis=1)
    squares = np.bincount(which, np.square(residual).sum(axis=1))
    often = count >= 4
    shared = (np.square(sums).sum(axis=1) - squares)[often] / (count[often] - 1)
    return float(shared.sum() / max(float(squares[often].sum()), 1e-12))


def _some(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(positions,) at most about `_POSITIONS` of a scan, in whole stripes of rows, so that neighbours stay together."""
    rows, cols = int(shape[0]), int(shape[1])
    stripes = max(1, _POSITIONS // (3 * cols))
    if rows <= 3 * stripes:
        return np.ones(rows * cols, bool)
    first = np.linspace(0, rows - 3, stripes).astype(int)
    chosen = np.zeros(rows, bool)
    chosen[(first[:, None] + np.arange(3)).ravel()] = True
    return np.repeat(chosen, cols)
