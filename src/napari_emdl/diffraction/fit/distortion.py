"""Projector distortion of a scan, measured from its own lattices.

A strain moves the disks of a pattern linearly, (h, k) -> origin + h g1 + k g2, and differently at every position. What is left
of such fits as a smooth function of the place on the detector, the same at all positions, cannot be strain. Its terms
(:mod:`napari_emdl.diffraction.fit.projector`) are fitted to all positions at once, origin, g1 and g2 of each free; these are
eliminated (Frisch and Waugh, Econometrica 1 (1933) 387), and disks are corrected and their lattices fitted anew until nothing
changes.

Contrast inside the disks moves a reflection at every position alike, too. So the terms must tell where reflections lie that
the fit has not seen (folds of pairs hk, -hk), and the covariance takes each such pair for one measurement (sandwich estimate;
Liang and Zeger, Biometrika 73 (1986) 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration, calibrate
from napari_emdl.diffraction.fit.projector import GROUPS, Distortion, none_at
from napari_emdl.diffraction.fit.weights import disk_weights, has_sigma
from napari_emdl.diffraction.lattice import LatticeFit, Segments, fit_lattices

Floats = NDArray[np.float64]

#: Positions looked at, and steps of the fit.
_POSITIONS, _STEPS = 400, 6
#: Parts that reflections are divided into to be foretold.
_FOLDS = 12
#: A correction must bring unseen reflections nearer to their lattices by this factor at least, this many of its errors from 1;
#: less is asked of further terms.
_NEARER, _FURTHER, _CLEARLY = 0.8, 0.92, 3.0
#: It must shift disks, beside what a lattice takes up, by this share of their radius (or px where that is unknown): contrast
#: inside disks does as much.
_LEAST_RADII, _LEAST_PX = 0.02, 0.08
#: No disk counts as if it were better than this: what is alike at all positions is not noise.
_LEAST_SIGMA_PX = 0.05


@dataclass(frozen=True)
class _Scan:
    """Disks of one lattice, the positions looked at."""

    place: Floats
    weight: Floats
    offset: NDArray[np.int64]
    origin: Floats
    g: Floats
    max_index_error: float

    def lattices(self, distortion: Distortion) -> tuple[Floats, LatticeFit]:
        """Undistorted disks (N, 2) and the lattices fitted to them."""
        place = distortion.undistorted(self.place)
        fit = fit_lattices(
            place,
            self.weight,
            self.offset,
            distortion.undistorted(self.origin),
            self.g,
            max_index_error=self.max_index_error,
        )
        return place, fit


@dataclass(frozen=True)
class _Fitted:
    """A fit of some groups of terms.

    Attributes
    ----------
    distortion
        With these terms.
    unseen
        Weighted distance of every pair of reflections (scan, h, k) from where a fit says that has not seen it.
    shift_px
        Rms shift of disks, beside what lattices take up.
    """

    distortion: Distortion
    unseen: dict[tuple[int, int, int], float]
    shift_px: float

    def nearer_than(self, other: _Fitted) -> tuple[float, float]:
        """Sum of the distances of the pairs that both have over the other's, and the gain in units of its error."""
        pairs = [pair for pair in self.unseen if pair in other.unseen]
        mine, theirs = (np.array([one.unseen[pair] for pair in pairs]) for one in (self, other))
        gain = theirs - mine
        error = float(gain.std(ddof=1)) * np.sqrt(len(gain)) if len(gain) > 1 else np.inf
        return float(mine.sum() / max(theirs.sum(), 1e-12)), float(gain.sum() / max(error, 1e-12))


def corrected(
    disks: PeakTable,
    params: StrainParams,
    measured: DiffractionCalibration,
    lattices: Sequence[tuple[NDArray[np.bool_] | None, Floats]],
) -> tuple[PeakTable, DiffractionCalibration]:
    """Disks as an undistorted pattern would have them, and their calibration; what was given where nothing is corrected.

    Parameters
    ----------
    disks
        Table over (scan rows, scan cols), with those disks only that count.
    params
        ``params.calibrate`` says what is measured and which standard is used.
    measured
        Calibration of the disks as found.
    lattices
        Positions (R, C; None for all) and basis (2, 2) of each lattice of the scan.

    Raises
    ------
    EmdlError
        When the standard is none.
    """
    wanted = params.calibrate
    ellipse = measured.ellipse
    if wanted.standard is not None:
        standard = _standard(wanted.standard)
        distortion = None if standard.distortion is None else replace(standard.distortion, source=str(wanted.standard))
        ellipse = ellipse if standard.ellipse is None else standard.ellipse
    elif wanted.distortion == "auto":
        distortion = measure_distortion(disks, params, measured.origin_px.reshape(-1, 2), lattices)
    else:
        distortion = None
    if distortion is None:
        return disks, measured if ellipse is measured.ellipse else replace(measured, ellipse=ellipse)
    disks = undistorted(disks, distortion)
    if wanted.origin is not None:
        row, col = distortion.undistorted(np.array(wanted.origin)).tolist()
        wanted = wanted.model_copy(update={"origin": (row, col)})
    again = calibrate(disks, wanted, disks.attrs.get("calibration"))
    return disks, replace(again, distortion=distortion, ellipse=ellipse if wanted.standard is not None else again.ellipse)


def _standard(path: str) -> DiffractionCalibration:
    """Calibration of a strain result."""
    from napari_emdl.io import load

    found = getattr(load(path), "calibration", None)
    if not isinstance(found, DiffractionCalibration):
        raise EmdlError(f"{path} is no strain result: fit a scan or pattern of the standard with 'napari-emdl strain' first")
    if found.distortion is None and found.ellipse is None:
        raise EmdlError(
            f"the standard {path} tells neither a distortion nor an ellipse; fit it with `ellipticity`, or leave it out"
        )
    return found


def measure_distortion(
    disks: PeakTable,
    params: StrainParams,
    origin_px: Floats,
    lattices: Sequence[tuple[NDArray[np.bool_] | None, Floats]],
) -> Distortion | None:
    """Distortion that all positions share; None where there is none that clearly and significantly helps.

    Parameters
    ----------
    disks, params, lattices
        As for :func:`corrected`.
    origin_px
        (positions, 2) origin of every position.
    """
    scans = _scans(disks, params, origin_px, lattices)
    if not scans:
        return None
    centre = np.median(np.concatenate([scan.origin for scan in scans]), axis=0)
    away = np.concatenate([np.linalg.norm(scan.place - centre, axis=1) for scan in scans])
    scale = float(np.quantile(away, 0.98))
    least_px = max(_LEAST_RADII * float(disks.attrs.get("probe_radius_px") or 0), _LEAST_PX)
    plain = best = _fitted(scans, none_at(centre, scale))
    if plain is None or best is None or plain.distortion.after_px < least_px:
        return None
    for _ in GROUPS:
        tried = [
            one
            for name in GROUPS
            if name not in best.distortion.groups
            and (one := _fitted(scans, none_at(centre, scale, (*best.distortion.groups, name)))) is not None
            and _is_better(one, best)
        ]
        if not tried:
            break
        # the worth of each is told against the same fit without any
        best = min(tried, key=lambda one: one.nearer_than(plain)[0])
    found = best.distortion
    if not found.groups or best.shift_px < least_px:
        return None
    return replace(found, before_px=plain.distortion.after_px, held_out=best.nearer_than(plain)[0])


def undistorted(disks: PeakTable, distortion: Distortion) -> PeakTable:
    """The same disks where an undistorted pattern would have them; their errors in its pixels."""
    place = distortion.undistorted(disks.positions_px())
    stretch = distortion.stretch(place)
    changed: dict[str, Floats] = {"row": place[:, 0], "col": place[:, 1]}
    for name in ("sigma_px", "sigma_row_px", "sigma_col_px"):
        if name in disks.fields:
            changed[name] = disks.column(name) * stretch
    return disks.with_columns(**changed)


def shared_changes(
    distortion: Distortion, place_px: Floats, fit: LatticeFit, weight: Floats, offset: NDArray[np.int64]
) -> Floats:
    """(n, 4, T) change of g1 and g2 (row, col in turn) of every position by each coefficient of the distortion.

    Parameters
    ----------
    place_px
        (N, 2) undistorted disks.
    fit, weight, offset
        Lattices fitted to them, with which weights.
    """
    segments = Segments(offset)
    terms = np.column_stack([np.ones(len(place_px)), fit.hk]).astype(float)
    used = np.where(fit.used, weight, 0.0)
    columns = distortion.columns(place_px).reshape(len(place_px), -1)
    slopes = _lattice_part(segments, terms, used, columns)[:, 1:]
    return np.asarray(slopes.reshape(segments.n, 4, -1), dtype=np.float64)


def _is_better(one: _Fitted, than: _Fitted) -> bool:
    share, sure = one.nearer_than(than)
    return share < (_FURTHER if than.distortion.groups else _NEARER) and sure > _CLEARLY


def _scans(
    disks: PeakTable,
    params: StrainParams,
    origin_px: Floats,
    lattices: Sequence[tuple[NDArray[np.bool_] | None, Floats]],
) -> list[_Scan]:
    rich = disks.counts().ravel() >= max(params.min_disks, 6)
    scans = []
    for inside, g in lattices:
        here = np.flatnonzero(rich if inside is None else rich & inside.ravel())
        if not len(here):
            continue
        here = here[:: max(1, int(np.ceil(len(here) / _POSITIONS)))]
        some = disks.select_positions(here)
        weight = disk_weights(some)
        if has_sigma(some):
            weight = weight / (1 + weight * _LEAST_SIGMA_PX**2)
        scans.append(_Scan(some.positions_px(), weight, some.offset, origin_px[here], g, params.max_index_error))
    return scans


@dataclass(frozen=True)
class _Equations:
    """Residuals (M, 2), columns (M, 2, T), terms of the lattice (M, 3), weights (M,) and pair (M,) of disks; offsets of the
    positions; which pairs (P, 3)."""

    residual: Floats
    columns: Floats
    terms: Floats
    weight: Floats
    offset: NDArray[np.int64]
    pair: NDArray[np.int64]
    pairs: NDArray[np.int64]

    @property
    def n_pairs(self) -> int:
        return len(self.pairs)

    def beside_lattice(self, weight: Floats) -> tuple[Floats, Floats]:
        """Residuals and columns without what a lattice fitted with `weight` takes up at every position."""
        both = np.concatenate([self.residual[..., None], self.columns], axis=2).reshape(len(self.weight), -1)
        segments = Segments(self.offset)
        part = _lattice_part(segments, self.terms, weight, both)[segments.of]
        both = (both - np.einsum("ni,nit->nt", self.terms, part)).reshape(len(self.weight), 2, -1)
        return both[..., 0], both[..., 1:]


def _lattice_part(segments: Segments, terms: Floats, weight: Floats, values: Floats) -> Floats:
    """(n, 3, m) weighted least squares of values (N, m) on the terms (N, 3) of the lattice at every position."""
    normal = np.empty((segments.n, 3, 3))
    right = np.empty((segments.n, 3, values.shape[1]))
    for i in range(3):
        weighted = weight * terms[:, i]
        for j in range(3):
            normal[:, i, j] = segments.sum(weighted * terms[:, j])
        for k in range(values.shape[1]):
            right[:, i, k] = segments.sum(weighted * values[:, k])
    scale = np.maximum(np.trace(normal, axis1=1, axis2=2), 1e-12)
    return np.asarray(np.linalg.solve(normal + 1e-9 * scale[:, None, None] * np.eye(3), right), dtype=np.float64)


def _equations(scans: Sequence[_Scan], distortion: Distortion) -> _Equations | None:
    parts, pairs, first = [], [], 0
    for number, scan in enumerate(scans):
        place, fit = scan.lattices(distortion)
        of = Segments(scan.offset).of
        use = fit.used & fit.rank_ok[of] & (fit.n_indexed[of] >= 5)
        hk = fit.hk[use]
        expected = fit.origin[of[use]] + np.einsum("ni,nij->nj", hk.astype(float), fit.g[of[use]])
        sign = np.where((hk[:, 0] < 0) | ((hk[:, 0] == 0) & (hk[:, 1] < 0)), -1, 1)
        names, pair = np.unique(hk * sign[:, None], axis=0, return_inverse=True)
        residual = place[use] - expected
        counts = np.bincount(of[use], minlength=len(scan.offset) - 1)
        terms = np.column_stack([np.ones(len(hk)), hk]).astype(float)
        parts.append((residual, distortion.columns(expected), terms, scan.weight[use], counts, pair.ravel() + first))
        pairs.append(np.column_stack([np.full(len(names), number), names]))
        first += len(names)
    if not parts or not sum(len(part[0]) for part in parts):
        return None
    residual, columns, terms, weight, counts, pair = (np.concatenate([part[k] for part in parts]) for k in range(6))
    size = np.linalg.norm(residual, axis=1)
    z = size * np.sqrt(weight)
    weight = weight / (1 + np.square(z / (2 * np.median(z) + 1e-12)))
    return _Equations(residual, columns, terms, weight, np.r_[0, np.cumsum(counts)], pair, np.concatenate(pairs))


def _fitted(scans: Sequence[_Scan], start: Distortion) -> _Fitted | None:
    """Fit the terms of `start`; None where there are too few reflections or the fit is lost."""
    distortion = start
    t = len(start.coefficients_px)
    for _ in range(_STEPS if t else 1):
        equations = _equations(scans, distortion)
        if equations is None or 2 * equations.n_pairs < t + 8:
            return None
        residual, columns = equations.beside_lattice(equations.weight)
        if not t:
            break
        normal = np.einsum("n,nat,nas->ts", equations.weight, columns, columns)
        # undistorted = place + columns @ change, and that is to lie on the lattice
        step = -np.linalg.lstsq(normal, np.einsum("n,nat,na->t", equations.weight, columns, residual), rcond=None)[0]
        distortion = replace(distortion, coefficients_px=distortion.coefficients_px + step)
        if np.abs(step).max() < 1e-4:
            break
        if distortion.largest_px > 0.3 * distortion.scale_px:
            return None
    assert equations is not None
    after = float(np.sqrt((equations.weight * np.square(residual).sum(axis=1)).sum() / equations.weight.sum()))
    shift = 0.0
    if t:
        moved = columns @ distortion.coefficients_px
        shift = float(np.sqrt((equations.weight * np.square(moved).sum(axis=1)).sum() / equations.weight.sum()))
        distortion = replace(distortion, covariance=_sandwich(equations, residual, columns, normal))
    return _Fitted(replace(distortion, after_px=after), _unseen(equations), shift)


def _sandwich(equations: _Equations, residual: Floats, columns: Floats, normal: Floats) -> Floats:
    """Covariance of the coefficients with every pair of reflections as one measurement."""
    score = np.einsum("n,nat,na->nt", equations.weight, columns, residual)
    of_pair = np.zeros((equations.n_pairs, score.shape[1]))
    np.add.at(of_pair, equations.pair, score)
    inverse = np.linalg.pinv(normal)
    freedom = equations.n_pairs / max(1.0, equations.n_pairs - score.shape[1] / 2 - 3)
    return np.asarray(freedom * inverse @ (of_pair.T @ of_pair) @ inverse, dtype=np.float64)


def _unseen(equations: _Equations) -> dict[tuple[int, int, int], float]:
    """Weighted distance of each pair of reflections from where a fit without it (and its fold) says."""
    folds = np.random.default_rng(0).permutation(equations.n_pairs) % min(_FOLDS, equations.n_pairs)
    out = np.zeros(equations.n_pairs)
    for fold in range(folds.max() + 1):
        left_out = folds[equations.pair] == fold
        weight = np.where(left_out, 0.0, equations.weight)
        residual, columns = equations.beside_lattice(weight)
        if columns.shape[2]:
            normal = np.einsum("n,nat,nas->ts", weight, columns, columns)
            step = -np.linalg.lstsq(normal, np.einsum("n,nat,na->t", weight, columns, residual), rcond=None)[0]
            residual = residual + columns @ step
        miss = np.sqrt(equations.weight) * np.linalg.norm(residual, axis=1)
        np.add.at(out, equations.pair[left_out], miss[left_out])
    return {(int(n), int(h), int(k)): float(v) for (n, h, k), v in zip(equations.pairs, out, strict=True)}
