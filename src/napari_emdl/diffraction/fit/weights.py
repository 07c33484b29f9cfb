"""How much each disk counts in a lattice fit: from its own error where the finder gave one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.peaks import PeakTable

Floats = NDArray[np.float64]

#: Attribute of a table whose disks were measured by a fit to the patterns, and not by a network that starts near a lattice.
ON_PATTERNS = "on_patterns"


def disk_precision(disks: PeakTable) -> Floats | None:
    """(N, 3) row-row, col-col and row-col element of the inverse covariance of each disk; None where there are no such fields.

    ``sigma_row_px``, ``sigma_col_px`` and ``rho`` are standard errors and their correlation. A disk without them, or with
    none that is finite, has that of its ``sigma_px``.
    """
    if not {"sigma_row_px", "sigma_col_px", "rho"} <= set(disks.fields):
        return None
    row, col, rho = (disks.column(name).astype(float) for name in ("sigma_row_px", "sigma_col_px", "rho"))
    known = np.isfinite(row) & np.isfinite(col) & np.isfinite(rho) & (row > 0) & (col > 0)
    if not known.any():
        return None
    row, col = np.where(known, np.maximum(row, 0.005), 1.0), np.where(known, np.maximum(col, 0.005), 1.0)
    rho = np.clip(np.where(known, rho, 0.0), -0.999, 0.999)
    share = 1 / (1 - rho**2)
    directed = np.stack([share / row**2, share / col**2, -share * rho / (row * col)], axis=1)
    plain = disk_weights(disks)[:, None] * np.array([1.0, 1.0, 0.0])
    return np.where(known[:, None], directed, plain)


def disk_weights(disks: PeakTable) -> Floats:
    """(N,) fit weights: 1/sigma^2 where the finder gave sigma, else intensity or score."""
    if has_sigma(disks):
        sigma = disks.column("sigma_px").astype(float)
        return np.where(np.isfinite(sigma), 1 / np.square(np.maximum(sigma, 0.01)), 0.0)
    values = disks.column("intensity" if "intensity" in disks.fields else "score").astype(float)
    return np.clip(values, 1e-12, None)


def misfit(disks: PeakTable, used: NDArray[np.bool_], residual_px: Floats) -> Floats:
    """(positions,) residual of a lattice in units of its disks' own errors; NaN where these or the residual are not known.

    Parameters
    ----------
    disks, used
        Disks, and which of them the lattice of their position was fitted to.
    residual_px
        (positions,) root mean square distance from the lattice.
    """
    if not has_sigma(disks):
        return np.full(disks.n_positions, np.nan)
    weight = np.where(used, disk_weights(disks), 0.0)
    of = disks.flat_index()
    total = np.bincount(of, weight, minlength=disks.n_positions)
    count = np.bincount(of, weight > 0, minlength=disks.n_positions)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(residual_px * np.sqrt(total / count), dtype=np.float64)


def has_sigma(disks: PeakTable) -> bool:
    """Whether most disks have an error of their own."""
    return "sigma_px" in disks.fields and bool(np.isfinite(disks.column("sigma_px")).mean() > 0.5)
