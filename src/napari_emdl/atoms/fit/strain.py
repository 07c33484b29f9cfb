"""Strain from column positions.

Every neighbourhood is matched to the lattice's template, an affine map is fitted and split by polar
decomposition. Imaging, not fitting, sets the error at surfaces: columns without all their neighbours carry a floor of 1-2 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.lattices import Lattice, find_lattice
from napari_emdl.base.errors import EmdlError

#: absolute error of surface columns that no fit removes (Madsen et al., Adv. Struct. Chem. Imaging 3:14, 2017)
SURFACE_FLOOR = 0.015
#: fewest neighbours for an affine fit
FEWEST = 3


@dataclass(frozen=True)
class ColumnStrain:
    """Strain of every column; x is the row axis turned by `axis_deg` towards the col axis, y is a quarter turn further.

    Attributes
    ----------
    position_px
        (n, 2) row, col.
    exx, eyy, exy, theta_rad
        (n,) float64, NaN where fewer than three neighbours fit. exx > 0 is expansion; theta is the rotation from row to col
        axis.
    sigma
        (n, 4) standard deviations of exx, eyy, exy and theta_rad, with the floor of surface columns in it.
    surface
        (n,) bool, not all lattice neighbours are there.
    n_neighbours
        (n,) neighbours used.
    reference_px
        (2, 2) lattice vectors (rows) taken as unstrained.
    attrs
        How the reference was chosen, floor, pixel size.
    """

    position_px: NDArray[np.float64]
    exx: NDArray[np.float64]
    eyy: NDArray[np.float64]
    exy: NDArray[np.float64]
    theta_rad: NDArray[np.float64]
    sigma: NDArray[np.float64]
    surface: NDArray[np.bool_]
    n_neighbours: NDArray[np.int64]
    reference_px: NDArray[np.float64]
    attrs: dict[str, Any] = field(default_factory=dict)


def column_strain(
    position_px: NDArray[np.floating],
    sigma_px: NDArray[np.floating] | float | None = None,
    *,
    pixel_A: float = 0.1,
    lattice: Lattice | None = None,
    reference: Lattice | tuple[float, float, float] | None = None,
    axis_deg: float = 0.0,
    tolerance: float = 0.3,
) -> ColumnStrain:
    """Strain from the positions of columns in one frame, or of sites averaged over a movie.

    Parameters
    ----------
    position_px
        (n, 2) row, col.
    sigma_px
        Standard deviation of a position an axis, (n,) or one for all; taken from the scatter of the fits when None.
    pixel_A
        Pixel size.
    lattice
        Template; found from the positions when None.
    reference
        What counts as unstrained: a Lattice in pixels; or (a_A, b_A, angle_deg), a known lattice whose direction is that of the
        particle; the mean of the bulk interior when None.
    axis_deg
        Direction of the x axis from the row axis towards the col axis.
    tolerance
        Farthest a neighbour may lie from its place in the template, in units of the spacing.

    Raises
    ------
    EmdlError
        When the columns form no lattice, or there is no interior to refer to.
    """
    points = np.asarray(position_px, np.float64).reshape(-1, 2)
    if len(points) < 6:
        raise EmdlError(f"strain needs a lattice of columns, and there are {len(points)}: lower the score threshold")
    template = lattice or find_lattice(points, np.ones(len(points)), pixel_A)
    if template is None:
        raise EmdlError("these columns form no lattice: strain needs one; check the detections")
    vectors, index = _neighbours(points, template, tolerance)
    surface = (index >= 0).sum(1) < 6
    basis = template.neighbours_px
    fitted, covariance, residual = _affine(basis, vectors, index >= 0)
    unstrained, how = _reference(template, fitted, surface, reference, pixel_A)
    # fitted maps template vectors to measured ones; the reference may be another lattice than the template
    to_template = np.stack([template.a_px, template.b_px], 1) @ np.linalg.inv(unstrained.T)
    deformation = fitted @ to_template
    parts = _polar(deformation, axis_deg)
    error = _position_error(sigma_px, residual, index >= 0, len(points))
    sigma = _errors(covariance, to_template, error, axis_deg)
    sigma[surface] = np.hypot(sigma[surface], SURFACE_FLOOR)
    bad = (index >= 0).sum(1) < FEWEST
    for values in (*parts, sigma):
        values[bad] = np.nan
    attrs = {"reference": how, "surface_floor": SURFACE_FLOOR, "axis_deg": axis_deg, "pixel_A": pixel_A}
    return ColumnStrain(points, *parts, sigma, surface, (index >= 0).sum(1), unstrained, attrs)


def occupancy_strain(occupancy: Occupancy, **options: Any) -> ColumnStrain:
    """Strain of the sites of a movie that are occupied at least half of the time; options as in :func:`column_strain`.

    Raises
    ------
    EmdlError
        When no site is occupied that long; for a known lattice where the pixel size was guessed.
    """
    use = np.nan_to_num(occupancy.mean_occupancy()) >= 0.5
    if not use.any():
        raise EmdlError("no site is occupied half of the time: there is nothing to measure strain on")
    pixel_A = float(occupancy.attrs["pixel_A"])
    if occupancy.attrs.get("pixel_guessed") and isinstance(options.get("reference"), tuple):
        raise EmdlError(
            "the pixel size was guessed, and strain against a known lattice would be as wrong as it is: give the pixel size "
            "and find the columns anew, or take the particle's own interior as reference"
        )
    return column_strain(occupancy.sites_px[use], pixel_A=pixel_A, **({"lattice": occupancy.sites.lattice} | options))


def _neighbours(
    points: NDArray[np.float64], lattice: Lattice, tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vectors (n, 6, 2) to the six template neighbours and their indices (n, 6), -1 where there is none."""
    tree = cKDTree(points)
    basis = lattice.neighbours_px
    index = np.full((len(points), 6), -1, np.int64)
    for k, vector in enumerate(basis):
        distance, found = tree.query(points + vector, distance_upper_bound=tolerance * lattice.spacing_px)
        index[:, k] = np.where(np.isfinite(distance), found, -1)
    vectors = points[index] - points[:, None, :]
    return np.where((index >= 0)[..., None], vectors, 0.0), index


def _affine(
    basis: NDArray[np.float64], vectors: NDArray[np.float64], there: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Least-squares maps F (n, 2, 2) with F @ basis = vectors.

    Returns
    -------
    F, covariance (n, 2, 2) of a row of F for unit error of a vector, residual (n, 6, 2)
    """
    weight = there.astype(np.float64)
    normal = np.einsum("nk,ki,kj->nij", weight, basis, basis)
    singular = np.abs(np.linalg.det(normal)) < 1e-6 * np.trace(normal, axis1=1, axis2=2).clip(1e-12) ** 2
    normal[singular] = np.eye(2)
    inverse = np.linalg.inv(normal)
    mixed = np.einsum("nk,nki,kj->nij", weight, vectors, basis)
    fitted = mixed @ inverse
    fitted[singular] = np.nan
    residual = np.where(there[..., None], vectors - np.einsum("nij,kj->nki", fitted, basis), 0.0)
    # the centre column is shared by all its vectors: errors of a vector are correlated, half of their variance is common
    one = np.einsum("nk,ki->ni", weight, basis)
    shared = np.einsum("nij,nj,nk,nkl->nil", inverse, one, one, inverse)
    return fitted, inverse + shared, np.nan_to_num(residual)


def _reference(
    template: Lattice,
    fitted: NDArray[np.float64],
    surface: NDArray[np.bool_],
    reference: Lattice | tuple[float, float, float] | None,
    pixel_A: float,
) -> tuple[NDArray[np.float64], str]:
    """(2, 2) unstrained lattice vectors as rows, and how they were chosen."""
    own = np.stack([template.a_px, template.b_px])
    if isinstance(reference, Lattice):
        given = np.stack([reference.a_px, reference.b_px])
        # the template may be another choice of vectors of the same lattice
        return np.round(own @ np.linalg.inv(given)) @ given, "lattice given in pixels"
    interior = fitted[~surface]
    if reference is not None:
        return _known_lattice(own, reference, pixel_A), f"known lattice {reference[0]} Å, {reference[1]} Å, {reference[2]}°"
    if not len(interior):
        raise EmdlError("no column has all six neighbours, so there is no interior to refer to: give a known lattice")
    return own @ np.median(interior, axis=0).T, f"mean of {len(interior)} interior columns"


def _known_lattice(own: NDArray[np.float64], known: tuple[float, float, float], pixel_A: float) -> NDArray[np.float64]:
    """Known cell in pixels, turned to fit the particle's own vectors best."""
    a_A, b_A, angle_deg = known
    if not (a_A > 0 and b_A > 0 and 0 < angle_deg < 180):
        raise EmdlError("a known lattice is two lengths in Å and the angle between them in degrees, such as 2.5 2.5 70.5")
    sign = np.sign(own[0, 0] * own[1, 1] - own[0, 1] * own[1, 0]) or 1.0
    angle = np.deg2rad(angle_deg)
    best, smallest = own, np.inf
    for first, second in ((a_A, b_A), (b_A, a_A)):
        cell = np.array([[first, 0.0], [second * np.cos(angle), sign * second * np.sin(angle)]]) / pixel_A
        u, _, vt = np.linalg.svd(own.T @ cell)
        turned = cell @ (u @ np.diag([1.0, np.linalg.det(u @ vt)]) @ vt).T
        misfit = float(np.sum((turned - own) ** 2))
        if misfit < smallest:
            best, smallest = turned, misfit
    return best


def _polar(
    deformation: NDArray[np.float64], axis_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """exx, eyy, exy and rotation of F = R U, in axes turned by `axis_deg`."""
    c, s = np.cos(np.deg2rad(axis_deg)), np.sin(np.deg2rad(axis_deg))
    axes = np.array([[c, s], [-s, c]])
    local = axes @ deformation @ axes.T
    theta = np.arctan2(local[:, 1, 0] - local[:, 0, 1], local[:, 0, 0] + local[:, 1, 1])
    back = np.stack([np.stack([np.cos(theta), np.sin(theta)], -1), np.stack([-np.sin(theta), np.cos(theta)], -1)], 1)
    stretch = back @ local
    return stretch[:, 0, 0] - 1, stretch[:, 1, 1] - 1, 0.5 * (stretch[:, 0, 1] + stretch[:, 1, 0]), theta


def _position_error(
    sigma_px: NDArray[np.floating] | float | None, residual: NDArray[np.float64], there: NDArray[np.bool_], count: int
) -> NDArray[np.float64]:
    """(n,) standard deviation of a position an axis."""
    if sigma_px is not None:
        return np.broadcast_to(np.asarray(sigma_px, np.float64), (count,)).copy()
    full = there.all(1)
    used = residual[full] if full.any() else residual
    freedom = max(1, 2 * len(used) * 6 - 4 * len(used))
    # each vector is the difference of two positions
    return np.full(count, np.sqrt(np.sum(used**2) / freedom / 2))


def _errors(
    covariance: NDArray[np.float64], to_template: NDArray[np.float64], error_px: NDArray[np.float64], axis_deg: float
) -> NDArray[np.float64]:
    """(n, 4) standard deviations of exx, eyy, exy and theta to first order in small strain."""
    c, s = np.cos(np.deg2rad(axis_deg)), np.sin(np.deg2rad(axis_deg))
    axes = np.array([[c, s], [-s, c]])
    row = axes @ to_template.T @ covariance @ to_template @ axes.T * error_px[:, None, None] ** 2
    xx, yy = row[:, 0, 0], row[:, 1, 1]
    shear = 0.25 * (xx + yy)
    return np.sqrt(np.maximum(np.stack([xx, yy, shear, shear], -1), 0.0))
