"""Strain tensor of lattices against a reference lattice, and its standard errors.

Real space is deformed by F, so a disk lies at origin + (h, k) @ g_ref @ inv(F). F is split into a rotation and a symmetric
stretch U (polar decomposition, exact at any size); the strain is U - 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def strain_components(g: Floats, reference_g: Floats, axis_deg: float = 0.0, transform: Floats | None = None) -> Floats:
    """(n, 4) exx, eyy, exy, theta_rad of lattices (n, 2, 2) against a reference (2, 2).

    Parameters
    ----------
    transform
        (2, 2) applied to row vectors before: ellipse and pixel shape.
    """
    f = deformation(g, reference_g, transform)
    # F = R U, U^2 = F^T F: closed form of the square root of a symmetric positive 2 x 2 matrix
    c = np.swapaxes(f, 1, 2) @ f
    root = np.sqrt(np.maximum(np.linalg.det(c), 0))
    u = (c + root[:, None, None] * np.eye(2)) / np.sqrt(np.maximum(np.trace(c, axis1=1, axis2=2) + 2 * root, 1e-30))[
        :, None, None
    ]
    angle = np.arctan2(f[:, 1, 0] - f[:, 0, 1], f[:, 0, 0] + f[:, 1, 1])
    cos, sin = np.cos(np.deg2rad(axis_deg)), np.sin(np.deg2rad(axis_deg))
    turn = np.array([[cos, sin], [-sin, cos]])
    e = turn @ (u - np.eye(2)) @ turn.T
    return np.stack([e[:, 0, 0], e[:, 1, 1], e[:, 0, 1], -angle], axis=1)


def deformation(g: Floats, reference_g: Floats, transform: Floats | None = None) -> Floats:
    """(n, 2, 2) real-space deformation F with g = reference_g @ inv(F), in column convention."""
    t = np.eye(2) if transform is None else transform
    return np.asarray(np.linalg.inv(np.linalg.inv(reference_g @ t) @ (g @ t)), dtype=np.float64)


def strain_sigma(
    g: Floats, covariance: Floats, reference_g: Floats, axis_deg: float = 0.0, transform: Floats | None = None
) -> Floats:
    """(n, 4) standard errors of exx, eyy, exy, theta_rad by linear propagation.

    Parameters
    ----------
    covariance
        (n, 2, 2) of (g1, g2), the same for the row and the col coordinate, which are independent.
    """
    t = np.eye(2) if transform is None else transform
    f = deformation(g, reference_g, t)
    cos, sin = np.cos(np.deg2rad(axis_deg)), np.sin(np.deg2rad(axis_deg))
    turn = np.array([[cos, sin], [-sin, cos]])
    # F = inv(M G) with M = inv(G_ref): dF = -F M dG F, on turned axes dF' = -left dG right
    left = turn @ f @ np.linalg.inv(reference_g @ t)
    right = t @ f @ turn.T
    spread = left @ covariance @ np.swapaxes(left, 1, 2)
    mixed = np.swapaxes(right, 1, 2) @ right
    # cov(dF_ab, dF_cd) = spread_ac * mixed_bd
    var_xx = spread[:, 0, 0] * mixed[:, 0, 0]
    var_yy = spread[:, 1, 1] * mixed[:, 1, 1]
    both = spread[:, 0, 0] * mixed[:, 1, 1] + spread[:, 1, 1] * mixed[:, 0, 0]
    cross = 2 * spread[:, 0, 1] * mixed[:, 0, 1]
    variance = np.stack([var_xx, var_yy, 0.25 * (both + cross), 0.25 * (both - cross)], axis=1)
    return np.sqrt(np.maximum(variance, 0))
