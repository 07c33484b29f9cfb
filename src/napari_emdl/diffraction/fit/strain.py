"""Strain maps: lattice of every position against a reference lattice.

Real space is deformed by F, so a disk lies at origin + (h, k) @ g_ref @ inv(F). F is split into a rotation and a symmetric
stretch U (polar decomposition, exact at any size); the strain is U - 1. exx is along the x axis, which is the row axis turned
by `axis_deg` towards the col axis: of the scan where rotation and flip between detector and scan are known, else of the
detector. Positive is longer in real space. The sign of theta is py4DSTEM's: positive where the lattice is turned from the col
axis towards the row axis.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.params import RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration
from napari_emdl.diffraction.fit.regions import fit_strain_regions, read_regions
from napari_emdl.diffraction.fit.several import several_lattices
from napari_emdl.diffraction.fit.single import first_fit, fit_one_lattice, prepared, reasons_of
from napari_emdl.diffraction.fit.strainmap import REASONS, Evidence, Reference, StrainMap, reference_mask, select_disks
from napari_emdl.diffraction.fit.tensor import COMPONENTS
from napari_emdl.diffraction.fit.weights import disk_precision, disk_weights
from napari_emdl.diffraction.lattice import distance_from_lattice, fit_lattices
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.notebook import with_progress
from napari_emdl.workflow.parameters import with_overrides

__all__ = [
    "COMPONENTS",
    "REASONS",
    "Evidence",
    "Reference",
    "StrainMap",
    "disk_precision",
    "disk_weights",
    "fit_strain",
    "lattice_consistent",
    "reference_mask",
    "select_disks",
]


@with_progress("fitting lattices", "positions")
def fit_strain(
    disks: PeakTable,
    *,
    reference: Any = None,
    params: StrainParams | None = None,
    control: Control | None = None,
    regions: ArrayLike | str | Path | None = None,
    calibration: DiffractionCalibration | None = None,
    cube: Datacube | None = None,
    run: RunParams | None = None,
    output: str | Path | None = None,
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
        :func:`napari_emdl.diffraction.fit.regions.fit_strain_regions`. Where none are given, ``lattices="auto"`` finds those of
        a scan of several crystals (:mod:`napari_emdl.diffraction.fit.several`); the map then has ``region`` and a warning.
    calibration
        Origin, ellipse, distortion and units when they are measured already.
    cube
        The patterns, for every fit but ``"peaks"``; opened from where the disks were found when None. ``fit="auto"``, the
        default, keeps to the peaks where they cannot be had; ``attrs["fit"]`` says what was fitted and why.
    run, output
        Memory, workers and whether to resume of the fits that go through the patterns, and the result file beside which
        finished blocks are kept (of every lattice its own), so that the fit goes on after a crash.
    overrides
        Fields of :class:`StrainParams`, such as ``axis_deg=45``.

    Raises
    ------
    EmdlError
        When there is no lattice, no fitted position in the reference, or no datacube for a fit to the patterns.
    """
    params = with_overrides(StrainParams, params or StrainParams(), overrides)
    if len(disks.shape) != 2:
        disks = disks.reshape((1, disks.n_positions))
    regions = params.regions if regions is None else regions
    if regions is not None:
        labels = read_regions(regions, disks.shape) if isinstance(regions, str | Path) else regions
        return fit_strain_regions(
            disks, labels, reference=reference, params=params, control=control, cube=cube, run=run,
            calibration=calibration, output=output,
        )  # fmt: skip
    first = first_fit(disks, params, reference=reference, control=control, calibration=calibration)
    found = several_lattices(first, disks.shape, params, control)
    if found is None:
        return fit_one_lattice(
            disks, params, reference=reference, control=control, cube=cube, run=run, output=output, first=first
        )
    return fit_strain_regions(
        disks, found.labels, reference=reference, params=params, control=control, cube=cube, run=run,
        calibration=first.calibration, found=found, output=output,
    )  # fmt: skip


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
    params = with_overrides(StrainParams, params or StrainParams(), overrides)
    table = disks if len(disks.shape) == 2 else disks.reshape((1, disks.n_positions))
    chosen, measured, basis = prepared(select_disks(table, params), params)
    origin = measured.origin_px.reshape(-1, 2)
    fit = fit_lattices(chosen.positions_px(), disk_weights(chosen), chosen.offset, origin, basis.g)
    good = reasons_of(fit, basis.g, params) == 0
    of = table.flat_index()
    place = table.positions_px() if measured.distortion is None else measured.distortion.undistorted(table.positions_px())
    relative = place - np.where(good[:, None], fit.origin, 0.0)[of]
    miss = distance_from_lattice(relative, np.where(good[:, None, None], fit.g, np.eye(2))[of])
    limit = 5 * np.nan_to_num(fit.residual_px)[of]
    if "sigma_px" in disks.fields:
        limit = np.maximum(limit, 4 * np.nan_to_num(disks.column("sigma_px")))
    short = float(np.linalg.norm(basis.g, axis=1).min())
    limit = np.clip(limit, 0.1 * short, 0.2 * short)
    return np.asarray(~good[of] | (miss < (limit if tolerance_px is None else tolerance_px)))
