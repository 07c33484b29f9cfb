"""Strain maps: lattice of every position against a reference lattice.

Real space is deformed by F, so a disk lies at origin + (h, k) @ g_ref @ inv(F). F is split into a rotation and a symmetric
stretch U (polar decomposition, exact at any size); the strain is U - 1. exx is along the x axis, which is the row axis turned
by `axis_deg` towards the col axis: of the scan where rotation and flip between detector and scan are known, else of the
detector. Positive is longer in real space. The sign of theta is py4DSTEM's: positive where the lattice is turned from the col
axis towards the row axis.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.basis import Basis, find_basis, given_basis
from napari_emdl.diffraction.find.limits import within_limits
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration, calibrate
from napari_emdl.diffraction.fit.facts import (
    BASIS_HOW,
    axes_of,
    described_reference,
    spread_warning,
    strain_provenance,
    uniform_spread,
)
from napari_emdl.diffraction.fit.tensor import COMPONENTS, strain_components, strain_sigma
from napari_emdl.diffraction.lattice import LatticeFit, fit_lattices
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.parameters import with_overrides

Floats = NDArray[np.float64]
Reference = tuple[int, int, int, int] | NDArray[np.bool_] | Literal["lattice"] | None

#: What the codes in :attr:`StrainMap.reason` mean.
REASONS = (
    "fitted",
    "too few disks",
    "disks on a line",
    "too few disks on the lattice",
    "lattice far from the reference",
    "high residual",
    "outside the regions",
)
#: A lattice vector further than this from the scan's basis, in units of the shorter vector, is another lattice.
_FAR = 0.25
#: Residual above this, in units of the shorter lattice vector, is no fit.
_MAX_RESIDUAL = 0.1
#: Edges of disks that stray by more than this share of the height are not what the pattern fit takes them for.
_RAGGED = 0.05


@dataclass(frozen=True)
class Evidence:
    """What tells whether the map can be trusted.

    Attributes
    ----------
    indexed_fraction
        Fraction of the disks used that lie on their position's lattice.
    basis_consensus
        Fraction of the positions with enough disks whose lattice agrees with the scan's basis.
    median_residual_px
        Median over positions of the distance of disks from the fitted lattice.
    reference_inliers
        Positions that made the reference; 0 for an ideal lattice.
    warnings
        Plain sentences; empty when nothing speaks against the map.
    """

    indexed_fraction: float
    basis_consensus: float
    median_residual_px: float
    reference_inliers: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StrainMap:
    """Strain over the scan (R, C); every number is NaN where `mask` is False, and `reason` says why.

    Attributes
    ----------
    exx, eyy, exy, theta_rad
        (R, C) strain (no unit) and rotation in rad, on the axes turned by `axis_deg`.
    sigma
        (R, C, 4) standard errors of exx, eyy, exy, theta_rad.
    g1, g2
        (R, C, 2) lattice vectors (row, col) in px.
    origin_px
        (R, C, 2) fitted origin.
    mask
        (R, C) bool, True where there is a fit.
    reason
        (R, C) uint8 index into :data:`REASONS`.
    n_indexed
        (R, C) disks on the lattice.
    residual_px
        (R, C) weighted rms distance of those disks from it.
    reference_g
        (2, 2) rows g1, g2 of the unstrained lattice in px; of the first region where there are several.
    axis_deg
        Direction of the x axis from the row axis towards the col axis; ``attrs["axes"]`` says whether of scan or detector.
    calibration
        Origin, ellipse and units used.
    evidence
        Whether to trust it.
    region
        (R, C) uint8 number of the region (phase) each position belongs to, 0 for none; None for a scan of one lattice.
        ``attrs["regions"]`` has the lattice and evidence of each by its number as text.
    """

    exx: Floats
    eyy: Floats
    exy: Floats
    theta_rad: Floats
    sigma: Floats
    g1: Floats
    g2: Floats
    origin_px: Floats
    mask: NDArray[np.bool_]
    reason: NDArray[np.uint8]
    n_indexed: NDArray[np.int64]
    residual_px: Floats
    reference_g: Floats
    axis_deg: float
    calibration: DiffractionCalibration | None = None
    evidence: Evidence | None = None
    attrs: dict[str, Any] = field(default_factory=dict)
    region: NDArray[np.uint8] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(scan rows, scan cols)."""
        return self.exx.shape[0], self.exx.shape[1]

    def reference_g_at(self, position: tuple[int, int]) -> Floats:
        """(2, 2) unstrained lattice that counts at a scan position: that of its region where there are several."""
        if self.region is None:
            return self.reference_g
        return np.asarray(self.attrs["regions"][str(int(self.region[position]))]["reference_g"], dtype=np.float64)

    def component(self, name: str) -> Floats:
        """(R, C) map of one of :data:`COMPONENTS`."""
        if name not in COMPONENTS:
            raise EmdlError(f"no strain component {name!r}; there are {', '.join(COMPONENTS)}")
        return getattr(self, name)


def fit_strain(
    disks: PeakTable,
    *,
    reference: Any = None,
    params: StrainParams | None = None,
    control: Control | None = None,
    regions: ArrayLike | str | Path | None = None,
    calibration: DiffractionCalibration | None = None,
    cube: Datacube | None = None,
    **overrides: Any,
) -> StrainMap:
    """Strain map from disks.

    Parameters
    ----------
    disks
        Table over (scan rows, scan cols) with row, col, score and, if there, sigma_px and intensity. Disks below
        `params.min_score` (the table's own default when None) are not used.
    reference
        Unstrained region (row0, row1, col0, col1), a bool mask (R, C), "lattice" for g1 and g2 themselves, or None for the
        median of all positions.
    regions
        (R, C) labels for a scan of several lattices, or the name of their file; see
        :func:`napari_emdl.diffraction.fit.regions.fit_strain_regions`.
    calibration
        Origin, ellipse and units when they are measured already.
    cube
        The patterns, for ``fit="pattern"``; opened from where the disks were found when None.
    overrides
        Fields of :class:`StrainParams`, such as ``axis_deg=45``.

    Raises
    ------
    EmdlError
        When there is no lattice, no fitted position in the reference, or no datacube for a fit to the patterns.
    """
    params = _with_overrides(params or StrainParams(), overrides)
    if len(disks.shape) != 2:
        disks = disks.reshape((1, disks.n_positions))
    regions = params.regions if regions is None else regions
    if regions is not None:
        from napari_emdl.diffraction.fit.regions import fit_strain_regions, read_regions

        labels = read_regions(regions, disks.shape) if isinstance(regions, str | Path) else regions
        return fit_strain_regions(disks, labels, reference=reference, params=params, control=control, cube=cube)
    if control is not None:
        control.check()
        control.report(0, 3, "origin")
    chosen = select_disks(disks, params)
    if chosen.n_peaks == 0:
        raise EmdlError("there is no disk above the threshold; lower the least score")
    measured = calibration or calibrate(chosen, params.calibrate, disks.attrs.get("calibration"))
    basis = _basis(chosen, params, measured, reference)
    if control is not None:
        control.check()
        control.report(1, 3, "lattice")
    fit = _fit(chosen, measured, basis, params)
    aperture: dict[str, float] | None = None
    if params.fit == "pattern":
        chosen, aperture = _on_patterns(chosen, _cube_of(disks) if cube is None else cube, fit, basis, params, control)
        fit = _fit(chosen, measured, basis, params)
    reason = _reasons(fit, basis.g, params)
    if control is not None:
        control.check()
        control.report(2, 3, "strain")
    reference_g, inliers = _reference_lattice(fit.g, reason == 0, disks.shape, reference, params)
    result = _strain_map(fit, reason, reference_g, disks.shape, params.axis_deg, measured)
    evidence = _evidence(fit, reason, inliers, basis, measured, result)
    if aperture is not None and aperture["ripple"] > _RAGGED:
        text = (
            f"the edges of the disks are ragged ({100 * aperture['ripple']:.0f} % from pixel to pixel, as where simulated "
            "apertures are cut on whole pixels), so the strain is fitted to the peaks and not to the patterns"
        )
        evidence = replace(evidence, warnings=(*evidence.warnings, text))
    described = described_reference(reference, params, inliers, reference_g)
    if described["uniform"]:
        inside = reference_mask(disks.shape, params.reference if reference is None else reference) & result["mask"]
        described["spread"] = uniform_spread(result, inside)
        evidence = replace(evidence, warnings=(*evidence.warnings, *spread_warning(described["spread"])))
    facts = {
        "reference": described,
        "basis": {"source": basis.source, "how": BASIS_HOW[basis.source], "g_px": basis.g},
        "axes": axes_of(measured, params.axis_deg),
        "aperture": aperture,
    }
    attrs = {
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
    return StrainMap(**result, calibration=measured, evidence=evidence, attrs=attrs)


def _fit(disks: PeakTable, measured: DiffractionCalibration, basis: Basis, params: StrainParams) -> LatticeFit:
    """Lattices of all positions from the basis of the scan."""
    return fit_lattices(
        disks.positions_px(),
        disk_weights(disks),
        disks.offset,
        measured.origin_px.reshape(-1, 2),
        basis.g,
        max_index_error=params.max_index_error,
        calibrated=_has_sigma(disks),
        precision=disk_precision(disks),
    )


def _on_patterns(
    disks: PeakTable, cube: Datacube, fit: LatticeFit, basis: Basis, params: StrainParams, control: Control | None
) -> tuple[PeakTable, dict[str, float]]:
    """Disks measured on the patterns, and the aperture; the disks as they are where its edges are ragged."""
    from napari_emdl.diffraction.fit.pattern import measure_aperture, measure_on_patterns

    good = _reasons(fit, basis.g, params) == 0
    aperture = measure_aperture(disks, cube, fit, good)
    if aperture.ripple <= _RAGGED:
        disks = measure_on_patterns(disks, cube, fit, good, aperture, control)
    return disks, asdict(aperture)


def _cube_of(disks: PeakTable) -> Datacube:
    """The datacube that the disks were found in, opened again."""
    from napari_emdl.io import open_datacube

    record = disks.attrs.get("provenance") or {}
    path = (record.get("input") or {}).get("path")
    if not path:
        raise EmdlError("the fit to patterns needs the datacube the disks were found in; give it as cube=, or use --fit peaks")
    cube = open_datacube(path)
    if tuple(cube.scan_shape) != tuple(disks.shape):
        there = f"{cube.scan_shape[0]} x {cube.scan_shape[1]}"
        raise EmdlError(
            f"{path} is now a scan of {there}, the disks are of {disks.shape[0]} x {disks.shape[1]}; use --fit peaks"
        )
    return cube


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
    if _has_sigma(disks):
        sigma = disks.column("sigma_px").astype(float)
        return np.where(np.isfinite(sigma), 1 / np.square(np.maximum(sigma, 0.01)), 0.0)
    values = disks.column("intensity" if "intensity" in disks.fields else "score").astype(float)
    return np.clip(values, 1e-12, None)


def _has_sigma(disks: PeakTable) -> bool:
    return "sigma_px" in disks.fields and bool(np.isfinite(disks.column("sigma_px")).mean() > 0.5)


def lattice_consistent(
    disks: PeakTable, params: StrainParams | None = None, tolerance_px: float | None = None, **overrides: Any
) -> NDArray[np.bool_]:
    """(N,) mask of the disks that lie on the lattice of their own position; use with :meth:`PeakTable.where`.

    Needs no truth and no reference: it takes out false disks between lattice points. All disks of a position that cannot be
    fitted are kept, as nothing is known against them.

    Parameters
    ----------
    tolerance_px
        Largest distance from a lattice point; None takes five times the position's residual or four sigma of the disk, but
        between a tenth and a fifth of the shorter lattice vector.
    """
    params = _with_overrides(params or StrainParams(), overrides)
    table = disks if len(disks.shape) == 2 else disks.reshape((1, disks.n_positions))
    chosen = select_disks(table, params)
    origin = calibrate(chosen, params.calibrate, disks.attrs.get("calibration")).origin_px.reshape(-1, 2)
    basis = _find_or_given(chosen, params, origin)
    fit = fit_lattices(chosen.positions_px(), disk_weights(chosen), chosen.offset, origin, basis.g)
    good = _reasons(fit, basis.g, params) == 0
    of = table.flat_index()
    relative = table.positions_px() - np.where(good[:, None], fit.origin, 0.0)[of]
    g = np.where(good[:, None, None], fit.g, np.eye(2))
    hk = np.einsum("ni,nij->nj", relative, np.linalg.inv(g)[of])
    miss = np.linalg.norm(np.einsum("ni,nij->nj", hk - np.rint(hk), g[of]), axis=1)
    limit = 5 * np.nan_to_num(fit.residual_px)[of]
    if "sigma_px" in disks.fields:
        limit = np.maximum(limit, 4 * np.nan_to_num(disks.column("sigma_px")))
    short = float(np.linalg.norm(basis.g, axis=1).min())
    limit = np.clip(limit, 0.1 * short, 0.2 * short)
    return np.asarray(~good[of] | (miss < (limit if tolerance_px is None else tolerance_px)))


def _with_overrides(params: StrainParams, overrides: dict[str, Any]) -> StrainParams:
    return with_overrides(StrainParams, params, overrides)


def select_disks(disks: PeakTable, params: StrainParams) -> PeakTable:
    """Disks that count with these settings, by the default threshold of the method where none is set."""
    least = params.min_score if params.min_score is not None else disks.attrs.get("default_min_score")
    return within_limits(disks, params.model_copy(update={"min_score": least}))


def _basis(disks: PeakTable, params: StrainParams, measured: DiffractionCalibration, reference: Any) -> Basis:
    ideal = params.reference_lattice or (isinstance(reference, str) and reference == "lattice")
    if ideal and (params.g1 is None or params.g2 is None):
        raise EmdlError("an ideal reference lattice needs g1 and g2; give both in pixels")
    return _find_or_given(disks, params, measured.origin_px.reshape(-1, 2))


def _find_or_given(disks: PeakTable, params: StrainParams, origin: Floats) -> Basis:
    if (params.g1 is None) != (params.g2 is None):
        raise EmdlError("give both g1 and g2, or neither")
    if params.g1 is not None and params.g2 is not None:
        return given_basis([params.g1, params.g2], disks, origin)
    return find_basis(disks, origin)


def _reasons(fit: LatticeFit, basis_g: Floats, params: StrainParams) -> NDArray[np.uint8]:
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
    if params.reference_lattice or (isinstance(reference, str) and reference == "lattice"):
        return np.array([params.g1, params.g2], dtype=float), 0
    inside = reference_mask(shape, params.reference if reference is None else reference).ravel() & good
    if not inside.any():
        where = "the reference region" if reference is not None or params.reference is not None else "the scan"
        raise EmdlError(f"no position in {where} has a fitted lattice; choose another region or lower the thresholds")
    return np.median(g[inside], axis=0), int(inside.sum())


def reference_mask(shape: tuple[int, ...], reference: ArrayLike | None) -> NDArray[np.bool_]:
    """Positions of a reference over the scan: None (all), a mask, or row0, row1, col0, col1."""
    if reference is None:
        return np.ones(shape, bool)
    if isinstance(reference, str):
        raise EmdlError(f"unknown reference {reference!r}; give a region, a mask, or 'lattice'")
    array = np.asarray(reference)
    if array.dtype == bool:
        if array.shape != tuple(shape):
            raise EmdlError(f"the reference mask has shape {array.shape}, the scan is {shape[0]} x {shape[1]}")
        return array
    if array.shape != (4,):
        raise EmdlError("a reference region is four numbers: row0, row1, col0, col1")
    r0, r1, c0, c1 = (int(v) for v in array)
    if not (0 <= r0 < r1 <= shape[0] and 0 <= c0 < c1 <= shape[1]):
        raise EmdlError(f"reference region {r0}:{r1},{c0}:{c1} does not lie in the scan of {shape[0]} x {shape[1]}")
    mask = np.zeros(shape, bool)
    mask[r0:r1, c0:c1] = True
    return mask


def _strain_map(
    fit: LatticeFit,
    reason: NDArray[np.uint8],
    reference_g: Floats,
    shape: tuple[int, ...],
    axis_deg: float,
    measured: DiffractionCalibration,
) -> dict[str, Any]:
    """Fields of the map, NaN where `reason` is not zero."""
    rows, cols = int(shape[0]), int(shape[1])
    good = reason == 0
    components = np.full((len(good), 4), np.nan)
    sigma = np.full((len(good), 4), np.nan)
    transform, axes = measured.transform(), measured.scan_axes()
    components[good] = strain_components(fit.g[good], reference_g, axis_deg, transform, axes)
    sigma[good] = strain_sigma(fit.g[good], fit.covariance[good, 2:, 2:], reference_g, axis_deg, transform, axes)
    blank = np.where(good, 1.0, np.nan)
    g = fit.g * blank[:, None, None]
    named = {name: components[:, i].reshape(rows, cols) for i, name in enumerate(COMPONENTS)}
    return {
        **named,
        "sigma": sigma.reshape(rows, cols, 4),
        "g1": g[:, 0].reshape(rows, cols, 2),
        "g2": g[:, 1].reshape(rows, cols, 2),
        "origin_px": (fit.origin * blank[:, None]).reshape(rows, cols, 2),
        "mask": good.reshape(rows, cols),
        "reason": reason.reshape(rows, cols),
        "n_indexed": fit.n_indexed.reshape(rows, cols),
        "residual_px": (fit.residual_px * blank).reshape(rows, cols),
        "reference_g": reference_g,
        "axis_deg": float(axis_deg),
    }


def _evidence(
    fit: LatticeFit,
    reason: NDArray[np.uint8],
    inliers: int,
    basis: Basis,
    measured: DiffractionCalibration,
    fields: dict[str, Any],
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
    if 0 < inliers < 4:
        warnings.append(f"the reference rests on {inliers} position{'s' if inliers > 1 else ''} only")
    return Evidence(indexed, consensus, residual, inliers, tuple(warnings))
