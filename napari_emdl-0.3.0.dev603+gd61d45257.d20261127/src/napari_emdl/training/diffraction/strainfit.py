"""Lattice fit of measured disks against the truth's indexing, for evaluation only."""

from __future__ import annotations

import numpy as np


def fit_basis(
    hk: np.ndarray,
    position_px: np.ndarray,
    sigma_px: np.ndarray,
    iterations: int = 6,
    ellipse: np.ndarray | None = None,
) -> np.ndarray | None:
    """Basis vectors (rows) by weighted, Cauchy-reweighted least squares; None where the disks do not span a plane.

    Weights are 1 / sigma^2, or with `ellipse` (n, 3: sigma_row_px, sigma_col_px, rho) the inverse covariance of each disk.
    """
    if len(hk) < 5 or np.linalg.matrix_rank(hk - hk.mean(0)) < 2:
        return None
    design = np.c_[np.ones(len(hk)), hk]
    whiten = np.eye(2) / np.clip(sigma_px, 1e-3, None)[:, None, None] if ellipse is None else _whitening(ellipse)
    # Unknowns (origin, g1, g2) x (row, col), flat; each disk gives two equations.
    equations = np.einsum("nab,ni->naib", whiten, design).reshape(len(hk), 2, 6)
    wanted = np.einsum("nab,nb->na", whiten, position_px)
    weight = np.ones(len(hk))
    for _ in range(iterations):
        left, right = (equations * weight[:, None, None]).reshape(-1, 6), (wanted * weight[:, None]).reshape(-1)
        solution = np.linalg.lstsq(left, right, rcond=None)[0]
        z = np.linalg.norm(wanted - equations @ solution, axis=1)
        weight = 1 / np.sqrt(1 + np.square(z / (2 * np.median(z) + 1e-12)))
    return solution.reshape(3, 2)[1:]


def _whitening(ellipse: np.ndarray) -> np.ndarray:
    """(n, 2, 2) matrices that turn errors of these ellipses into unit ones."""
    row, col, rho = (
        np.clip(ellipse[:, 0], 1e-3, None),
        np.clip(ellipse[:, 1], 1e-3, None),
        np.clip(ellipse[:, 2], -0.999, 0.999),
    )
    rest = np.sqrt(1 - rho * rho)
    return np.stack([np.stack([1 / row, 0 * row], 1), np.stack([-rho / (row * rest), 1 / (col * rest)], 1)], 1)


def strain_error(basis_px: np.ndarray, fitted_px: np.ndarray) -> np.ndarray:
    """Error of (e_rr, e_cc, e_rc) of a fitted basis relative to the true one."""
    deformation = np.linalg.inv(np.linalg.inv(basis_px) @ fitted_px)
    e = 0.5 * (deformation + deformation.T) - np.eye(2)
    return np.array([e[0, 0], e[1, 1], e[0, 1]])
