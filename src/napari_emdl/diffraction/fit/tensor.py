"""Strain tensor of lattices against a reference lattice, and its standard errors.

Real space is deformed by F, so a disk lies at origin + (h, k) @ g_ref @ inv(F). F is split into a rotation and a symmetric
stretch U (polar decomposition, exact at any size); the strain is U - 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COMPONENTS = ("exx", "eyy", "exy", "theta_rad")


def strain_components(
    g: Floats,
    reference_g: Floats,
    axis_deg: float = 0.0,
    transform: Floats | None = None,
    scan_axes: Floats | None = None,
) -> Floats:
    """(n, 4) exx, eyy, exy, theta_rad of lattices (n, 2, 2) against a reference (2, 2).

    Parameters
    ----------
    axis_deg
        Direction of the x axis from the row axis towards the col axis: the scan's with `scan_axes`, else the detector's.
    transform
        (2, 2) applied to row vectors before: ellipse and pixel shape.
    scan_axes
        (2, 2) orthogonal matrix that takes (row, col) columns of the detector to the scan's axes.
    """
    f = deformation(g, reference_g, transform)
    # F = R U, U^2 = F^T F: closed form of the square root of a symmetric positive 2 x 2 matrix
    c = np.swapaxes(f, 1, 2) @ f
    root = np.sqrt(np.maximum(np.linalg.det(c), 0))
    u = (c + root[:, None, None] * np.eye(2)) / np.sqrt(np.maximum(np.trace(c, axis1=1, axis2=2) + 2 * root, 1e-30))[
        :, None, None
    ]
    angle = np.arctan2(f[:, 1, 0] - f[:, 0, 1], f[:, 0, 0] + f[:, 1, 1])
    turn = _turn(axis_deg, scan_axes)
    e = turn @ (u - np.eye(2)) @ turn.T
    # a mirror image turns the other way
    return np.stack([e[:, 0, 0], e[:, 1, 1], e[:, 0, 1], -angle * np.sign(np.linalg.det(turn))], axis=1)


def _turn(axis_deg: float, scan_axes: Floats | None) -> Floats:
    """(2, 2) matrix that takes (row, col) columns of the detector to the axes of the strain."""
    cos, sin = np.cos(np.deg2rad(axis_deg)), np.sin(np.deg2rad(axis_deg))
    turn = np.array([[cos, sin], [-sin, cos]])
    return turn if scan_axes is None else turn @ scan_axes


def deformation(g: Floats, reference_g: Floats, transform: Floats | None = None) -> Floats:
    """(n, 2, 2) real-space deformation F with g = reference_g @ inv(F), in column convention."""
    t = np.eye(2) if transform is None else transform
    return np.asarray(np.linalg.inv(np.linalg.inv(reference_g @ t) @ (g @ t)), dtype=np.float64)


def strain_covariance(
    g: Floats,
    covariance: Floats,
    reference_g: Floats,
    axis_deg: float = 0.0,
    transform: Floats | None = None,
    scan_axes: Floats | None = None,
) -> Floats:
    """(n, 4, 4) covariance of exx, eyy, exy, theta_rad by linear propagation.

    Parameters
    ----------
    covariance
        (n, 4, 4) of g1 row, g1 col, g2 row, g2 col.
    axis_deg, transform, scan_axes
        As for :func:`strain_components`.
    """
    t = np.eye(2) if transform is None else transform
    f = deformation(g, reference_g, t)
    turn = _turn(axis_deg, scan_axes)
    # F = inv(M G) with M = inv(G_ref): dF = -F M dG F, on turned axes dF'_ab = -left_ai dG_ij right_jb
    left = turn @ f @ np.linalg.inv(reference_g @ t)
    right = t @ f @ turn.T
    change = np.einsum("nai,njb->nabij", left, right).reshape(len(g), 2, 2, 4)
    xx, yy, xy, yx = change[:, 0, 0], change[:, 1, 1], change[:, 0, 1], change[:, 1, 0]
    rows = np.stack([xx, yy, 0.5 * (xy + yx), 0.5 * (xy - yx)], axis=1)
    return np.asarray(rows @ covariance @ rows.transpose(0, 2, 1), dtype=np.float64)


def strain_sigma(
    g: Floats,
    covariance: Floats,
    reference_g: Floats,
    axis_deg: float = 0.0,
    transform: Floats | None = None,
    scan_axes: Floats | None = None,
) -> Floats:
    """(n, 4) standard errors of exx, eyy, exy, theta_rad; arguments are those of :func:`strain_covariance`."""
    return standard_errors(strain_covariance(g, covariance, reference_g, axis_deg, transform, scan_axes))


def standard_errors(covariance: Floats) -> Floats:
    """(..., n) square roots of the diagonals of covariances (..., n, n)."""
    return np.asarray(np.sqrt(np.maximum(np.diagonal(covariance, axis1=-2, axis2=-1), 0)), dtype=np.float64)


def tensor_turn(angle_deg: float) -> Floats:
    """(3, 3) matrix that takes exx, eyy, exy to axes turned by an angle from the x axis towards the y axis."""
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    both = cos * sin
    return np.array([[cos**2, sin**2, 2 * both], [sin**2, cos**2, -2 * both], [-both, both, cos**2 - sin**2]])
