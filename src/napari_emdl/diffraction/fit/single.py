"""Strain of a scan with one lattice: origin, basis, lattice of every position, reference, map and evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.basis import Basis, find_basis, given_basis
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration, calibrate
from napari_emdl.diffraction.fit.disagree import widened
from napari_emdl.diffraction.fit.distortion import corrected, shared_changes, undistorted
from napari_emdl.diffraction.fit.facts import (
    BASIS_HOW,
    axes_of,
    described_reference,
    spread_warning,
    strain_provenance,
    uniform_spread,
)
from napari_emdl.diffraction.fit.projector import Distortion
from napari_emdl.diffraction.fit.residuals import alike_in_neighbours
from napari_emdl.diffraction.fit.sigma import scale_of, shared_among_disks
from napari_emdl.diffraction.fit.strainmap import Evidence, StrainMap, reference_mask, select_disks
from napari_emdl.diffraction.fit.tensor import COMPONENTS, standard_errors, strain_components, strain_covariance
from napari_emdl.diffraction.fit.through import Made, Through, cube_of
from napari_emdl.diffraction.fit.turn import turn_strain
from napari_emdl.diffraction.fit.weights import ON_PATTERNS, disk_precision, disk_weights, has_sigma, misfit
from napari_emdl.diffraction.lattice import LatticeFit, fit_lattices
from napari_emdl.jobs.control import Control

Floats = NDArray[np.float64]

#: A lattice vector further than this from the scan's basis, in units of the shorter vector, is another lattice.
_FAR = 0.25
#: Residual above this, in units of the shorter lattice vector, is not a fit.
_MAX_RESIDUAL = 0.1
#: Residual of a typical lattice in units of its disks' errors above which the lattice is not theirs: .6 to 1.9 on simulated
#: scans and measured patterns (networks), 2.5 where a ring was taken for disks and the strain was off by 5 %.
_MISFIT = 2.0


@dataclass(frozen=True)
class FirstFit:
    """The lattice of every position, fitted to the disks that count, before anything is asked of the patterns."""

    disks: PeakTable
    calibration: DiffractionCalibration
    basis: Basis
    fit: LatticeFit
    reason: NDArray[np.uint8]


def first_fit(
    disks: PeakTable,
    params: StrainParams,
    *,
    reference: Any = None,
    control: Control | None = None,
    calibration: DiffractionCalibration | None = None,
) -> FirstFit:
    """Origin, basis and the lattice of every position; arguments and errors as for `fit_one_lattice`."""
    if control is not None:
        control.check()
        control.report(0, 3, "origin")
    chosen = select_disks(disks, params)
    if chosen.mask is not None:
        chosen = chosen.compact()  # a view picks its columns anew each time it is asked
    chosen, measured, basis = prepared(chosen, params, calibration, reference)
    if control is not None:
        control.check()
        control.report(1, 3, "lattice")
    fit = _fit(chosen, measured, basis, params)
    fit = replace(fit, covariance=shared_among_disks(chosen, fit)[:, None, None] * fit.covariance)
    return FirstFit(chosen, measured, basis, fit, reasons_of(fit, basis.g, params))


def fit_one_lattice(
    disks: PeakTable,
    params: StrainParams,
    *,
    reference: Any = None,
    control: Control | None = None,
    calibration: DiffractionCalibration | None = None,
    cube: Datacube | None = None,
    run: RunParams | None = None,
    output: str | Path | None = None,
    first: FirstFit | None = None,
) -> StrainMap:
    """Strain map of a scan (R, C) with one lattice.

    Arguments and errors are those of :func:`napari_emdl.diffraction.fit.strain.fit_strain`; `first` is what `first_fit` gave
    for the same arguments.
    """
    if first is None:
        first = first_fit(disks, params, reference=reference, control=control, calibration=calibration)
    chosen, measured, basis, fit = first.disks, first.calibration, first.basis, first.fit
    made = Made(chosen, fit)
    if params.fit != "peaks":
        good = first.reason == 0
        made = Through(
            disks,
            params,
            chosen,
            fit,
            good,
            lambda table, at: _fit(table, measured, basis, params, at),
            lambda found: reasons_of(found, basis.g, params) == 0,
            run or RunParams(),
            output,
            control,
            measured.distortion,
            None if _ideal(reference, params) else reference_of(good, disks.shape, reference, params),
        ).make(cube)
    chosen, fit = made.disks, made.fit
    reason = reasons_of(fit, basis.g, params)
    if control is not None:
        control.check()
        control.report(2, 3, "strain")
    reference_g, inliers = _reference_lattice(fit.g, reason == 0, disks.shape, reference, params)
    if measured.distortion is not None and made.kind != "cepstrum":
        common = reference_of(reason == 0, disks.shape, reference, params) if inliers else None
        _add_shared(fit, chosen, measured.distortion, common)
    # all on the axes of 0 degrees: numbers must not depend on which way one looks at them
    result = _strain_map(fit, reason, reference_g, disks.shape, measured)
    maps = np.stack([result[name] for name in COMPONENTS[:3]], axis=-1)
    scale = scale_of(maps, result["sigma"][..., :3], alike_in_neighbours(first.disks, first.fit, first.reason == 0))
    result["sigma"] = scale.factor * result["sigma"]
    result["covariance"] = scale.factor**2 * result["covariance"]
    if inliers:
        result["in_reference"] = reference_of(reason == 0, disks.shape, reference, params).reshape(disks.shape)
    missed = misfit(chosen, fit.used, fit.residual_px)[reason == 0]
    evidence = _evidence(fit, reason, inliers, basis, measured, result, float(np.median(missed)) if len(missed) else 0.0)
    if made.warning:
        evidence = replace(evidence, warnings=(*evidence.warnings, made.warning))
    described = described_reference(reference, params, inliers, reference_g)
    if described["uniform"]:
        described["spread"] = uniform_spread(result, result["in_reference"])
        evidence = replace(evidence, warnings=(*evidence.warnings, *spread_warning(described["spread"])))
    facts = {
        "reference": described,
        "basis": {"source": basis.source, "how": BASIS_HOW[basis.source], "g_px": basis.g},
        "axes": axes_of(measured, 0.0),
        "fit": made.facts(params.fit),
        "aperture": made.aperture,
        "sigma_scale": scale.to_json(),
        "distortion": None if measured.distortion is None else measured.distortion.facts(),
    }
    attrs = {
        "fit": facts["fit"],
        "sigma_scale": facts["sigma_scale"],
        "distortion": facts["distortion"],
        "basis_g": basis.g,
        "basis_source": basis.source,
        "reference_source": facts["reference"],
        "axes": facts["axes"],
        "params": params.model_dump(mode="json"),
        "disks_provenance": disks.attrs.get("provenance"),
        "provenance": strain_provenance(params, disks, facts),
        "caveats": Caveats.of(disks).to_json(),
    }
    if control is not None:
        control.report(3, 3, "done")
    alone = made.weights.alone.reshape(disks.shape) if made.kind == "both" and made.weights is not None else None
    strain = StrainMap(**result, calibration=measured, evidence=evidence, attrs=attrs, peaks_alone=alone)
    strain = turn_strain(strain, params.axis_deg)
    if params.check == "none":
        return strain
    return _checked(strain, disks, params, reference, cube_of(disks) if cube is None else cube, run, control)


def _checked(
    strain: StrainMap,
    disks: PeakTable,
    params: StrainParams,
    reference: Any,
    cube: Datacube,
    run: RunParams | None,
    control: Control | None,
) -> StrainMap:
    """The map against other fits of the same disks; a fit that cannot be had is a warning."""
    wanted = ("cepstrum", "pattern") if params.check == "both" else (params.check,)
    others, said = {}, []
    for name in wanted:
        if name == params.fit:
            continue
        other = params.model_copy(update={"fit": name, "check": "none"})
        try:
            others[name] = fit_one_lattice(
                disks, other, reference=reference, control=control, calibration=strain.calibration, cube=cube, run=run
            )
        except EmdlError as error:
            said.append(f"not checked by {name}: {error}")
    result = widened(strain, others)
    if said and result.evidence is not None:
        result = replace(result, evidence=replace(result.evidence, warnings=(*result.evidence.warnings, *said)))
    return result


def _fit(
    disks: PeakTable,
    measured: DiffractionCalibration,
    basis: Basis,
    params: StrainParams,
    at: NDArray[np.int64] | None = None,
) -> LatticeFit:
    """Lattices of all positions from the basis of the scan; `disks` of the positions `at` alone where these are given."""
    origin = measured.origin_px.reshape(-1, 2)
    return weighted_lattices(disks, origin if at is None else origin[at], basis.g, params.max_index_error)


def weighted_lattices(disks: PeakTable, origin_px: Floats, g: Floats, max_index_error: float) -> LatticeFit:
    """Lattices of all positions near basis `g`, each disk with the weight of its error."""
    return fit_lattices(
        disks.positions_px(),
        disk_weights(disks),
        disks.offset,
        origin_px,
        g,
        max_index_error=max_index_error,
        calibrated=has_sigma(disks),
        precision=disk_precision(disks),
        independent=bool(disks.attrs.get(ON_PATTERNS)),
    )


def prepared(
    chosen: PeakTable, params: StrainParams, calibration: DiffractionCalibration | None = None, reference: Any = None
) -> tuple[PeakTable, DiffractionCalibration, Basis]:
    """Disks that count, without the projector's distortion where that is corrected; calibration and basis."""
    if calibration is not None:
        if calibration.distortion is not None:
            chosen = undistorted(chosen, calibration.distortion)
        return chosen, calibration, _basis(chosen, params, calibration, reference)
    found = calibrate(chosen, params.calibrate, chosen.attrs.get("calibration"))
    basis = _basis(chosen, params, found, reference)
    disks, measured = corrected(chosen, params, found, [(None, basis.g)])
    return disks, measured, basis if disks is chosen else _basis(disks, params, measured, reference)


def _ideal(reference: Any, params: StrainParams) -> bool:
    return params.reference_lattice or (isinstance(reference, str) and reference == "lattice")


def _basis(disks: PeakTable, params: StrainParams, measured: DiffractionCalibration, reference: Any) -> Basis:
    if _ideal(reference, params) and (params.g1 is None or params.g2 is None):
        raise EmdlError("an ideal reference lattice needs g1 and g2; give both in pixels")
    return find_or_given(disks, params, measured.origin_px.reshape(-1, 2))


def find_or_given(disks: PeakTable, params: StrainParams, origin: Floats) -> Basis:
    """Basis of the scan: the user's, fitted to the disks, or found in them."""
    if (params.g1 is None) != (params.g2 is None):
        raise EmdlError("give both g1 and g2, or neither")
    if params.g1 is not None and params.g2 is not None:
        return given_basis([params.g1, params.g2], disks, origin)
    return find_basis(disks, origin)


def reasons_of(fit: LatticeFit, basis_g: Floats, params: StrainParams) -> NDArray[np.uint8]:
    """(n,) code of :data:`REASONS`."""
    short = float(np.linalg.norm(basis_g, axis=1).min())
    fitted = np.isfinite(fit.residual_px)
    with np.errstate(invalid="ignore"):
        far = np.linalg.norm(fit.g - basis_g, axis=2).max(axis=1) > _FAR * short
    reason = np.zeros(len(fitted), np.uint8)
    reason[fitted & (np.nan_to_num(fit.residual_px) > _MAX_RESIDUAL * short)] = 5
    reason[~fitted | far] = 4
    # a lattice that explains less than half of the disks is not theirs
    reason[(fit.n_indexed < params.min_disks) | (fit.n_indexed < 0.5 * fit.n_disks)] = 3
    reason[~fit.rank_ok] = 2
    reason[fit.n_disks < params.min_disks] = 1
    return reason


def _reference_lattice(
    g: Floats, good: NDArray[np.bool_], shape: tuple[int, ...], reference: Any, params: StrainParams
) -> tuple[Floats, int]:
    """Reference lattice and the number of positions that made it."""
    if _ideal(reference, params):
        return np.array([params.g1, params.g2], dtype=float), 0
    inside = reference_of(good, shape, reference, params)
    if not inside.any():
        where = "the reference region" if reference is not None or params.reference is not None else "the scan"
        raise EmdlError(f"no position in {where} has a fitted lattice; choose another region or lower the thresholds")
    return np.median(g[inside], axis=0), int(inside.sum())


def reference_of(good: NDArray[np.bool_], shape: tuple[int, ...], reference: Any, params: StrainParams) -> NDArray[np.bool_]:
    """(n,) positions that make the reference."""
    return reference_mask(shape, params.reference if reference is None else reference).ravel() & good


def _add_shared(fit: LatticeFit, disks: PeakTable, distortion: Distortion, reference: NDArray[np.bool_] | None) -> None:
    """Add to the covariance of every lattice what the error of the distortion makes of it, against the reference's."""
    changes = shared_changes(distortion, disks.positions_px(), fit, disk_weights(disks), disks.offset)
    if reference is not None:
        changes = changes - np.median(changes[reference], axis=0)
    fit.covariance[:, 2:, 2:] += np.einsum("nat,ts,nbs->nab", changes, distortion.covariance, changes)


def _strain_map(
    fit: LatticeFit,
    reason: NDArray[np.uint8],
    reference_g: Floats,
    shape: tuple[int, ...],
    measured: DiffractionCalibration,
) -> dict[str, Any]:
    """Fields of the map on the axes of 0 degrees, NaN where `reason` is not zero."""
    rows, cols = int(shape[0]), int(shape[1])
    good = reason == 0
    components = np.full((len(good), 4), np.nan)
    covariance = np.full((len(good), 4, 4), np.nan)
    transform, axes = measured.transform(), measured.scan_axes()
    components[good] = strain_components(fit.g[good], reference_g, 0.0, transform, axes)
    covariance[good] = strain_covariance(fit.g[good], fit.covariance[good, 2:, 2:], reference_g, 0.0, transform, axes)
    blank = np.where(good, 1.0, np.nan)
    g = fit.g * blank[:, None, None]
    named = {name: components[:, i].reshape(rows, cols) for i, name in enumerate(COMPONENTS)}
    return {
        **named,
        "sigma": standard_errors(covariance).reshape(rows, cols, 4),
        "covariance": covariance[:, :3, :3].reshape(rows, cols, 3, 3),
        "g1": g[:, 0].reshape(rows, cols, 2),
        "g2": g[:, 1].reshape(rows, cols, 2),
        "origin_px": (fit.origin * blank[:, None]).reshape(rows, cols, 2),
        "mask": good.reshape(rows, cols),
        "reason": reason.reshape(rows, cols),
        "n_indexed": fit.n_indexed.reshape(rows, cols),
        "residual_px": (fit.residual_px * blank).reshape(rows, cols),
        "reference_g": reference_g,
        "axis_deg": 0.0,
    }


def _evidence(
    fit: LatticeFit,
    reason: NDArray[np.uint8],
    inliers: int,
    basis: Basis,
    measured: DiffractionCalibration,
    fields: dict[str, Any],
    missed: float = 0.0,
) -> Evidence:
    good = reason == 0
    enough = reason != 1
    indexed = float(fit.n_indexed[good].sum() / max(1, fit.n_disks[good].sum()))
    consensus = float(good.sum() / max(1, enough.sum()))
    residual = float(np.median(fit.residual_px[good])) if good.any() else float("nan")
    warnings = list(measured.warnings)
    if indexed < 0.8:
        warnings.append(f"only {100 * indexed:.0f} % of the disks lie on the lattice: check g1 and g2, or raise the threshold")
    if consensus < 0.7:
        warnings.append(
            f"only {100 * consensus:.0f} % of the positions with enough disks agree on the lattice: more than one crystal?"
        )
    sigma = fields["sigma"][fields["mask"]]
    if len(sigma) and np.median(sigma[:, :3]) > 0.01:
        warnings.append(
            f"the strain is uncertain by {100 * np.median(sigma[:, :3]):.1f} % at a typical position: not quantitative"
        )
    if missed > _MISFIT:
        warnings.append(
            f"the disks lie {missed:.1f} times as far from the lattice as their errors say: a distortion, a second crystal, or "
            "a ring taken for disks"
        )
    if 0 < inliers < 4:
        warnings.append(f"the reference rests on {inliers} position{'s' if inliers > 1 else ''} only")
    return Evidence(indexed, consensus, residual, inliers, tuple(warnings))
