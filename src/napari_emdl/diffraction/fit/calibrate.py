"""Origin, ellipticity and units of diffraction patterns, measured from their disks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import CalibrateParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration
from napari_emdl.diffraction.basis import Basis, find_basis
from napari_emdl.diffraction.fit.latticepoint import on_the_right_point
from napari_emdl.diffraction.fit.origin import fit_origin, hidden_origin, measure_origin, off_the_model
from napari_emdl.diffraction.fit.projector import Distortion
from napari_emdl.diffraction.fit.weights import disk_precision, disk_weights
from napari_emdl.diffraction.lattice import fit_lattices

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ellipse:
    """Elliptical distortion: a circle appears stretched by a along theta and by b across it.

    Attributes
    ----------
    a, b
        Stretches with a >= b and a * b = 1, so that the mean camera length stays.
    theta_rad
        Direction of the longer axis, from the row axis towards the col axis.
    """

    a: float
    b: float
    theta_rad: float

    def matrix(self) -> Floats:
        """(2, 2) symmetric matrix that distorts (row, col) vectors."""
        c, s = np.cos(self.theta_rad), np.sin(self.theta_rad)
        turn = np.array([[c, -s], [s, c]])
        return turn @ np.diag([self.a, self.b]) @ turn.T


@dataclass(frozen=True)
class DiffractionCalibration:
    """Where the origin is and what a pixel means.

    Attributes
    ----------
    origin_px
        (R, C, 2) smoothed origin.
    origin_raw_px
        (R, C, 2) measured centre of the central disk, NaN where there is none.
    inliers
        (R, C) bool, measured centres that the smooth model agrees with.
    ellipse
        Distortion that was found, None when not asked for.
    calibration
        Units.
    warnings
        Plain sentences on what should not be trusted.
    distortion
        Distortion beyond the ellipse that disks are corrected for; then `origin_px` lies in the undistorted pattern.
    """

    origin_px: Floats
    origin_raw_px: Floats
    inliers: NDArray[np.bool_]
    ellipse: Ellipse | None
    calibration: Calibration
    warnings: tuple[str, ...] = ()
    distortion: Distortion | None = None

    def scan_axes(self) -> Floats | None:
        """(2, 2) matrix that takes (row, col) columns of the detector to the scan's axes; None where it is not known.

        As py4DSTEM applies QR_flip and QR_rotation: row and col interchanged, then turned from the row axis to the col axis.
        """
        known = self.calibration
        if not {"qr_rotation_rad", "qr_flip"} & set(known.source) and not known.qr_rotation_rad and not known.qr_flip:
            return None
        cos, sin = np.cos(known.qr_rotation_rad), np.sin(known.qr_rotation_rad)
        turn = np.array([[cos, -sin], [sin, cos]])
        return turn[:, ::-1] if known.qr_flip else turn

    @property
    def residual_px(self) -> Floats:
        """(R, C, 2) measured minus smoothed origin."""
        return self.origin_raw_px - self.origin_px

    def transform(self) -> Floats:
        """(2, 2) matrix that takes vectors from the origin, as rows, to undistorted square pixels: v @ matrix."""
        undo = np.asarray(np.eye(2) if self.ellipse is None else np.linalg.inv(self.ellipse.matrix()), dtype=np.float64)
        size = self.calibration.q_pixel_invA
        if size is None:
            return undo
        return np.asarray(undo.T @ np.diag(np.asarray(size) / np.mean(size)), dtype=np.float64)

    def to_reciprocal(self, disks: PeakTable) -> Floats:
        """(N, 2) scattering vectors of all disks as found in 1/angstrom; distortion, origin, ellipse and pixel size applied."""
        if self.calibration.q_pixel_invA is None:
            raise EmdlError("the detector pixel size is unknown; give `q_pixel_invA`")
        origin = self.origin_px.reshape(-1, 2)[disks.flat_index()]
        place = disks.positions_px() if self.distortion is None else self.distortion.undistorted(disks.positions_px())
        return (place - origin) @ self.transform() * float(np.mean(self.calibration.q_pixel_invA))


def calibrate(
    disks: PeakTable,
    params: CalibrateParams | None = None,
    calibration: Calibration | None = None,
    basis: ArrayLike | None = None,
) -> DiffractionCalibration:
    """Measure the origin of every position and, when asked for, the elliptical distortion.

    Parameters
    ----------
    disks
        Table over (scan rows, scan cols) with intensity.
    calibration
        Units known so far; `params` overrides them.
    basis
        (2, 2) lattice vectors in px, for the ellipse; found when None.
    """
    params = params or CalibrateParams()
    known = calibration or disks.attrs.get("calibration") or Calibration()
    q_pixel, step = params.q_pixel_invA, params.scan_step_nm
    rotation = None if params.rotation_deg is None else float(np.deg2rad(params.rotation_deg))
    known = known.override(
        q_pixel_invA=None if q_pixel is None else (q_pixel, q_pixel),
        pixel_nm=None if step is None else (step, step),
        qr_rotation_rad=rotation,
        qr_flip=params.flip,
    )
    scan = disks.shape if len(disks.shape) == 2 else (1, disks.n_positions)
    if params.origin is not None:
        given = np.broadcast_to(np.asarray(params.origin, float), (*scan, 2)).copy()
        found = measure_ellipse(disks, given, basis) if params.ellipticity else None
        return DiffractionCalibration(given, given, np.ones(scan, bool), found, known)
    raw = measure_origin(disks).reshape(*scan, 2)
    smooth, inliers = fit_origin(raw, params.origin_model)
    warnings = []
    if params.origin_model in ("plane", "parabola"):
        raw, smooth, inliers, said = off_the_model(disks, raw, smooth, inliers, params.origin_model)
        warnings += said
    hidden = hidden_origin(disks, smooth.reshape(-1, 2))
    if hidden is not None:
        raw, smooth = raw + hidden, smooth + hidden
    raw, smooth, inliers, moved = on_the_right_point(disks, raw, smooth, inliers)
    warnings += moved
    if hidden is not None and not moved:
        row, col = np.median(smooth.reshape(-1, 2), axis=0)
        warnings.append(
            f"the central disk is not seen (beam stop?): the origin, near ({row:.1f}, {col:.1f}), is the lattice point that "
            "the other disks lie around; give `origin` if it is another"
        )
    measured = np.isfinite(raw[..., 0])
    if measured.any() and inliers.sum() < 0.7 * measured.sum():
        warnings.append(
            f"origin: only {100 * inliers.sum() / measured.sum():.0f} % of the central disks follow the {params.origin_model}"
        )
    ellipse = measure_ellipse(disks, smooth, basis) if params.ellipticity else None
    return DiffractionCalibration(smooth, raw, inliers, ellipse, known, tuple(warnings))


def with_calibration(disks: PeakTable, params: CalibrateParams | None = None) -> PeakTable:
    """The same disks with their origin (and ellipse, when asked for) as attributes, so that files carry them to py4DSTEM.

    Returns
    -------
    PeakTable
        With ``attrs["origin_px"]`` (R, C, 2), ``attrs["ellipse"]`` (a, b, theta_rad) or none, and ``attrs["calibration"]``.

    Raises
    ------
    EmdlError
        When no central disk was found.
    """
    least = disks.attrs.get("default_min_score")
    measured = calibrate(disks if least is None else disks.filter(min_score=least), params, disks.attrs.get("calibration"))
    made = PeakTable(disks.shape, disks.offset, {name: disks.column(name) for name in disks.fields})
    made.attrs = {**disks.attrs, "origin_px": measured.origin_px, "calibration": measured.calibration}
    if measured.ellipse is not None:
        made.attrs["ellipse"] = (measured.ellipse.a, measured.ellipse.b, measured.ellipse.theta_rad)
    return made


def measure_ellipse(disks: PeakTable, origin_px: Floats, basis: ArrayLike | None = None) -> Ellipse:
    """Elliptical distortion from the median lattice, taking the crystal's lattice for square, rectangular or hexagonal.

    A single lattice tells the distortion only if its symmetry is known: equal lengths and an angle of 90, 60 or 120 degrees
    are what an undistorted square or hexagonal lattice has. Use a region whose lattice has that symmetry.

    Raises
    ------
    EmdlError
        When the lattice is neither nearly square nor nearly hexagonal.
    """
    flat = (
        np.broadcast_to(origin_px, (*disks.shape, 2)).reshape(-1, 2)
        if origin_px.ndim > 1
        else np.broadcast_to(origin_px, (disks.n_positions, 2))
    )
    found: Basis = find_basis(disks, flat) if basis is None else Basis(np.asarray(basis, float), 1.0, "given")
    fit = fit_lattices(disks.positions_px(), disk_weights(disks), disks.offset, flat, found.g, precision=disk_precision(disks))
    g = np.nanmedian(fit.g, axis=0) if np.isfinite(fit.g).any() else found.g
    return ellipse_of_lattice(g)


def ellipse_of_lattice(g: ArrayLike) -> Ellipse:
    """Pure stretch that takes a square or hexagonal lattice to `g` (rows g1, g2)."""
    g = np.asarray(g, dtype=float)
    candidates = []
    for angle in (np.pi / 2, np.pi / 3, 2 * np.pi / 3):
        size = np.sqrt(abs(np.linalg.det(g)) / np.sin(angle))
        ideal = size * np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle) * np.sign(np.linalg.det(g))]])
        # as columns: g.T = stretch @ turn @ ideal.T
        u, stretch, _ = np.linalg.svd(g.T @ np.linalg.inv(ideal.T))
        candidates.append((float(stretch[0] / stretch[1]), u, stretch))
    ratio, u, stretch = min(candidates, key=lambda c: c[0])
    if ratio > 1.2:
        raise EmdlError(
            "the lattice is neither square nor hexagonal, so it does not tell the ellipticity; leave it uncorrected"
        )
    a, b = stretch / np.sqrt(stretch[0] * stretch[1])
    return Ellipse(float(a), float(b), float(np.arctan2(u[1, 0], u[0, 0])))
