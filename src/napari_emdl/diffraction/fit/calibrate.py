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
from napari_emdl.diffraction.fit.projector import Distortion
from napari_emdl.diffraction.fit.weights import disk_precision, disk_weights
from napari_emdl.diffraction.lattice import fit_lattices

Floats = NDArray[np.float64]

#: Orders looked at for disks in pairs, orders within which the hidden one lies, how much larger its paired share must be.
_PAIRING_ORDERS = 12
_HIDDEN_WITHIN = 6
#: Positions that are asked whether the origin is hidden.
_HIDDEN_POSITIONS = 4096
_CLEARLY_PAIRED = 0.1


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
            raise EmdlError("the detector pixel size is unknown; give q_pixel_invA")
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
    hidden = hidden_origin(disks, smooth.reshape(-1, 2))
    if hidden is not None:
        raw, smooth = raw + hidden, smooth + hidden
        row, col = np.median(smooth.reshape(-1, 2), axis=0)
        warnings.append(
            f"the central disk is not seen (beam stop?): the origin, near ({row:.1f}, {col:.1f}), is the lattice point that "
            "the other disks lie around; give --origin if it is another"
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


def measure_origin(disks: PeakTable) -> Floats:
    """(n, 2) centre of the central disk of every position, NaN where there is none.

    The central disk is the brightest one of most positions. Where another disk outshines it (strong diffraction), the
    brightest among the disks near the typical centre is taken.
    """
    n = disks.n_positions
    place, of = disks.positions_px(), disks.flat_index()
    bright = disks.column("intensity" if "intensity" in disks.fields else "score").astype(float)
    out = np.full((n, 2), np.nan)
    if not len(place):
        return out
    brightest = _brightest(of, bright, np.ones(len(of), bool))
    spacing = nearest_neighbour(place, of)
    centre = _mode(place[brightest], spacing)
    # half the shortest distance between disks tells the central one from its neighbours
    near = np.hypot(place[:, 0] - centre[0], place[:, 1] - centre[1]) < 0.5 * spacing
    chosen = _brightest(of, bright, near)
    out[of[chosen]] = place[chosen]
    return out


def hidden_origin(disks: PeakTable, origin_px: Floats) -> Floats | None:
    """Lattice vector (2,) px from the brightest disk to the true origin, where that disk is not seen; None where it is.

    Behind a beam stop there is a hole in the lattice that disks lie around in pairs. The brightest disk of such patterns is
    another one, and the disks are not paired about it.

    Parameters
    ----------
    origin_px
        (positions, 2) origin taken so far.
    """
    if disks.n_positions > _HIDDEN_POSITIONS:  # a share of the positions is all that is asked for
        some = np.unique(np.linspace(0, disks.n_positions - 1, _HIDDEN_POSITIONS).astype(int))
        disks, origin_px = disks.select_positions(some), origin_px[some]
    place, of = disks.positions_px(), disks.flat_index()
    if len(place) < 8:
        return None
    # about any other lattice point the disks lie to one side
    aside = max(abs(float(np.median(place[:, k] - origin_px[:, k][of]))) for k in (0, 1))
    if aside < 0.3 * nearest_neighbour(place, of):
        return None
    try:
        g = find_basis(disks, origin_px).g
    except EmdlError:
        return None
    hk = (place - origin_px[of]) @ np.linalg.inv(g)
    near = np.rint(hk)
    on = (np.abs(hk - near) < 0.25).all(axis=1) & (np.abs(near) <= _PAIRING_ORDERS).all(axis=1)
    span = 2 * _PAIRING_ORDERS + 1
    seen = np.zeros((span, span))
    filled = np.unique(np.c_[of[on], near[on].astype(np.int64)], axis=0)
    np.add.at(seen, (filled[:, 1] + _PAIRING_ORDERS, filled[:, 2] + _PAIRING_ORDERS), 1.0)
    seen /= max(1, len(np.unique(of)))
    best, place_of_best = _paired(seen, 0, 0) + _CLEARLY_PAIRED, None
    for h in range(-_HIDDEN_WITHIN, _HIDDEN_WITHIN + 1):
        for k in range(-_HIDDEN_WITHIN, _HIDDEN_WITHIN + 1):
            around = seen[_PAIRING_ORDERS + h - 1 : _PAIRING_ORDERS + h + 2, _PAIRING_ORDERS + k - 1 : _PAIRING_ORDERS + k + 2]
            hole = around[1, 1] < 0.2 and np.median(np.delete(around.ravel(), 4)) > 0.5
            if hole and (value := _paired(seen, h, k)) > best:
                best, place_of_best = value, (h, k)
    return None if place_of_best is None else np.asarray(np.array(place_of_best) @ g, dtype=np.float64)


def _paired(seen: Floats, h: int, k: int) -> float:
    """Share of the disks seen at lattice points that have a partner on the other side of (h, k)."""
    reach = _PAIRING_ORDERS - max(abs(h), abs(k))
    rows = slice(_PAIRING_ORDERS + h - reach, _PAIRING_ORDERS + h + reach + 1)
    cols = slice(_PAIRING_ORDERS + k - reach, _PAIRING_ORDERS + k + reach + 1)
    both = np.minimum(seen[rows, cols], seen[rows, cols][::-1, ::-1]).sum()
    return float(both / max(seen.sum(), 1e-9))


def _brightest(of: NDArray[np.int64], bright: Floats, allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Row of the brightest allowed peak of each position that has one, of equals the first; `of` does not decrease."""
    rows = np.flatnonzero(allowed)
    if not len(rows):
        return rows
    value, where = np.where(np.isnan(bright[rows]), -np.inf, bright[rows]), of[rows]
    first = np.flatnonzero(np.r_[True, np.diff(where) > 0])
    most = np.repeat(np.maximum.reduceat(value, first), np.diff(np.r_[first, len(rows)]))
    top = np.flatnonzero(value == most)
    return rows[top[np.r_[True, np.diff(where[top]) > 0]]]


def _mode(points: Floats, reach_px: float) -> Floats:
    """Median of the densest group of points, the groups being a fraction of `reach_px` wide."""
    cell = max(0.25 * reach_px, 1.0)
    keys, counts = np.unique(np.rint(points / cell).astype(np.int64), axis=0, return_counts=True)
    start = keys[counts.argmax()] * cell
    for _ in range(3):
        start = np.median(points[np.linalg.norm(points - start, axis=1) <= max(0.5 * reach_px, 2.0)], axis=0)
    return start


def nearest_neighbour(place: Floats, of: NDArray[np.int64]) -> float:
    """Typical distance between neighbouring disks of one pattern."""
    from scipy.spatial import cKDTree

    some = slice(0, 20000)
    apart = 10 * float(np.ptp(place)) + 1e3
    tree = cKDTree(np.c_[place[some], of[some] * apart])
    if tree.n < 2:
        return 20.0
    distance = tree.query(tree.data, k=2)[0][:, 1]
    distance = distance[distance < apart / 2]
    return float(np.median(distance)) if len(distance) else 20.0


def fit_origin(raw_px: Floats, model: str = "plane") -> tuple[Floats, NDArray[np.bool_]]:
    """Smooth the measured centres over the scan, robustly.

    Parameters
    ----------
    raw_px
        (R, C, 2), NaN where nothing was measured.
    model
        "constant", "plane", "parabola", or "measured": the measured values, gaps filled by the plane.

    Returns
    -------
    origin_px, inliers
        (R, C, 2) and (R, C) bool.
    """
    rows, cols = raw_px.shape[:2]
    known: NDArray[np.bool_] = np.asarray(np.isfinite(raw_px).all(axis=-1))
    if not known.any():
        raise EmdlError("no central disk was found at any position; lower the threshold or set the probe")
    y, x = np.meshgrid(
        np.linspace(-1, 1, rows) if rows > 1 else [0.0], np.linspace(-1, 1, cols) if cols > 1 else [0.0], indexing="ij"
    )
    degree = {"constant": 0, "plane": 1, "parabola": 2, "measured": 1}[model]
    terms = [y**a * x**b for a in range(degree + 1) for b in range(degree + 1 - a) if (rows > a) and (cols > b)]
    design = np.stack(terms, axis=-1)
    if known.sum() < 2 * len(terms):
        design = design[..., :1]
    a, b = design[known], raw_px[known]
    coef = np.zeros((design.shape[-1], 2))
    coef[0] = np.median(b, axis=0)
    scale = 0.1
    for _ in range(30):
        distance = np.hypot(*(b - a @ coef).T)
        scale = max(1.5 * float(np.median(distance)), 0.02)
        w = np.sqrt(1 / (1 + np.square(distance / (2 * scale))))
        left = (a * np.square(w)[:, None]).T  # a few well-scaled columns: their normal equations lose nothing
        before, coef = coef, np.linalg.lstsq(left @ a, left @ b, rcond=None)[0]
        if np.abs(coef - before).max() < 1e-12:
            break
    smooth = design @ coef
    away = np.linalg.norm(np.nan_to_num(raw_px) - smooth, axis=-1)
    inliers = np.asarray(known & (away < max(5 * scale, 0.5)))
    if model == "measured":
        smooth = np.where(known[..., None], raw_px, smooth)
    return smooth, inliers


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
