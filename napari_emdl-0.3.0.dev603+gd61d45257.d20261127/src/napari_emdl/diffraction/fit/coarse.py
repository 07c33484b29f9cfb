"""Strain of every n-th position of a scan: a coarse map that follows a slider while the whole scan waits for its turn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.params import DiskLimits, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.limits import prepare, within_limits
from napari_emdl.diffraction.fit.single import fit_one_lattice
from napari_emdl.diffraction.fit.strainmap import StrainMap
from napari_emdl.jobs.control import Control

#: Positions of a coarse map: 40 disks each are fitted within a frame of the screen.
MOST = 768
#: Scans of fewer positions are fitted whole about as soon.
LEAST = 4096


def coarse_step(shape: tuple[int, ...], most: int = MOST) -> int:
    """Every how many rows and cols a position is fitted so that at most `most` are; 1 for a scan that is small anyway."""
    n = math.prod(shape)
    return 1 if n < LEAST else math.ceil(math.sqrt(n / most))


class CoarseScan:
    """Positions in the middle of blocks of a scan, with their disks.

    Parameters
    ----------
    disks
        Table over (scan rows, scan cols) with all candidates.
    step
        Rows and cols of a block; :func:`coarse_step` of the scan when None.
    """

    def __init__(self, disks: PeakTable, step: int | None = None) -> None:
        rows, cols = (int(n) for n in disks.shape)
        self.scan_shape = rows, cols
        self.step = coarse_step(disks.shape) if step is None else step
        self.rows, self.cols = _middles(rows, self.step), _middles(cols, self.step)
        flat = (self.rows[:, None] * cols + self.cols).ravel()
        self.disks = disks.select_positions(flat).reshape((len(self.rows), len(self.cols))).compact()
        prepare(self.disks)

    def strain(
        self, known: StrainMap, params: StrainParams, limits: DiskLimits, reference: Any = None, control: Control | None = None
    ) -> StrainMap:
        """Strain at the middles of the blocks.

        Parameters
        ----------
        known
            Map of the whole scan with other limits: its origin, ellipse and basis are used again, they hardly change.
        params
            Of a fit to the peaks.
        limits
            What a disk must pass.
        reference
            None, "lattice", or a bool mask (R, C) over the scan.

        Raises
        ------
        EmdlError
            When no block has a lattice, or none in the reference: only the whole scan tells then.
        """
        blocks = np.ix_(self.rows, self.cols)
        g1, g2 = (tuple(float(v) for v in g) for g in known.attrs["basis_g"])
        own = {"g1": params.g1 or g1, "g2": params.g2 or g2, "reference": None, "check": "none"}
        passed = dict.fromkeys(DiskLimits.model_fields) | {"min_score": 0.0}  # the limits are applied here
        kept = within_limits(self.disks, limits, None if control is None else control.check)
        measured = known.calibration
        calibration = measured and replace(
            measured,
            origin_px=measured.origin_px[blocks],
            origin_raw_px=measured.origin_raw_px[blocks],
            inliers=measured.inliers[blocks],
        )
        return fit_one_lattice(
            kept,
            params.model_copy(update={**passed, **own}),
            reference=reference[blocks] if isinstance(reference, np.ndarray) else reference,
            control=control,
            calibration=calibration,
        )

    def whole(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of the blocks (rows, cols) as blocks of the scan (R, C)."""
        spread = np.repeat(np.repeat(values, self.step, axis=0), self.step, axis=1)
        return spread[: self.scan_shape[0], : self.scan_shape[1]]


def _middles(n: int, step: int) -> NDArray[np.int64]:
    """Middle of each block of `step`; the last block may be cut."""
    starts = np.arange(0, n, step)
    return np.asarray(starts + (np.minimum(starts + step, n) - starts) // 2)
