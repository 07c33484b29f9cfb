"""A strain map and what speaks for it; which disks and positions count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.showing import ShownResult
from napari_emdl.diffraction.find.limits import within_limits
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration
from napari_emdl.diffraction.fit.tensor import COMPONENTS

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
class StrainMap(ShownResult):
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
    disagreement
        (R, C, 4) rms difference of other fits of the same scan in exx, eyy, exy, theta_rad; None where nothing was checked.
    peaks_alone
        (R, C) bool, positions at which the peaks count alone in a fit to peaks and patterns, because the two are too far apart
        there or the patterns gave no lattice; None of other fits. ``attrs["fit"]`` says which fit ran, and why.
    covariance
        (R, C, 3, 3) covariance of exx, eyy, exy, by which the map can be turned to other axes
        (:func:`napari_emdl.diffraction.fit.turn.turn_strain`); None in files of before and in maps checked by other fits.
    in_reference
        (R, C) bool, positions that made the reference; None where the reference is an ideal lattice.
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
    disagreement: Floats | None = None
    peaks_alone: NDArray[np.bool_] | None = None
    covariance: Floats | None = None
    in_reference: NDArray[np.bool_] | None = None

    def __repr__(self) -> str:
        return f"StrainMap(shape={self.shape}, {int(self.mask.sum())} positions fitted)"

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


def select_disks(disks: PeakTable, params: StrainParams) -> PeakTable:
    """Disks that count with these settings, by the default threshold of the method where none is set.

    Raises
    ------
    EmdlError
        When there is none.
    """
    least = params.min_score if params.min_score is not None else disks.attrs.get("default_min_score")
    chosen = within_limits(disks, params.model_copy(update={"min_score": least}))
    if chosen.n_peaks == 0 and disks.n_peaks == 0:
        why = str(Caveats.of(disks))
        raise EmdlError(f"there is no disk to fit: {why or 'none was found; try another method or probe'}")
    if chosen.n_peaks == 0:
        raise EmdlError("there is no disk above the threshold; lower the least score")
    return chosen


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
