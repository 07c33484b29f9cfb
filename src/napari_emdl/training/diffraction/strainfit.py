"""Lattice fit of measured disks against the truth's indexing, for evaluation only."""

from __future__ import annotations

import numpy as np


def fit_basis(hk: np.ndarray, position_px: np.ndarray, sigma_px: np.ndarray, iterations: int = 6) -> np.ndarray | None:
    """Basis vectors (rows) by 1/sigma-weighted, Cauchy-reweighted least squares; None where the disks do not span a plane."""
    if len(hk) < 5 or np.linalg.matrix_rank(hk - hk.mean(0)) < 2:
        return None
    design = np.c_[np.ones(len(hk)), hk]
    base = 1 / np.clip(sigma_px, 1e-3, None)
    weight = base
    for _ in range(iterations):
        coefficients = np.linalg.lstsq(design * weight[:, None], position_px * weight[:, None], rcond=None)[0]
        z = np.linalg.norm(position_px - design @ coefficients, axis=1) * base
        weight = base / np.sqrt(1 + np.square(z / (2 * np.median(z) + 1e-12)))
    return coefficients[1:]


def strain_error(basis_px: np.ndarray, fitted_px: np.ndarray) -> np.ndarray:
    """Error of (e_rr, e_cc, e_rc) of a fitted basis relative to the true one."""
    deformation = np.linalg.inv(np.linalg.inv(basis_px) @ fitted_px)
    e = 0.5 * (deformation + deformation.T) - np.eye(2)
    return np.array([e[0, 0], e[1, 1], e[0, 1]])
