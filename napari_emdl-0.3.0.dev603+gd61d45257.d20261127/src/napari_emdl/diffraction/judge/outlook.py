"""What a run over a scan would give, told from a few of its patterns: is there a lattice, and how long does it take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import CalibrateParams, DiskParams, RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube, in_memory
from napari_emdl.diffraction.find.disks import make_finder
from napari_emdl.diffraction.find.probe import Probe
from napari_emdl.diffraction.fit.strain import fit_strain
from napari_emdl.jobs.control import Control

#: Fewer patterns with a lattice than this share: there is next to nothing to map.
_FEW = 0.25
#: Patterns that the aperture is found from.
APERTURE_PATTERNS = 24


@dataclass(frozen=True)
class Outlook:
    """What was found on some patterns of a scan.

    Attributes
    ----------
    params
        Settings the disks were found with.
    positions
        (n, 2) scan positions looked at.
    lattice
        (n,) bool, True where the disks lie on the lattice they have in common.
    s_per_pattern
        Time for a pattern, one at a time.
    n_patterns
        Patterns of the whole scan.
    """

    params: DiskParams
    positions: NDArray[np.int64]
    lattice: NDArray[np.bool_]
    s_per_pattern: float
    n_patterns: int

    @property
    def run_s(self) -> float:
        """Expected time of a run over the scan; a run on several cores or in batches is faster."""
        return self.s_per_pattern * self.n_patterns

    @property
    def problem(self) -> str:
        """One line when there is next to no lattice, else empty."""
        n, without = len(self.lattice), int((~self.lattice).sum())
        if n - without >= max(1.0, _FEW * n):
            return ""
        return f"no lattice in {without} of {n} patterns: nothing to strain here"


def look_ahead(
    cube: Datacube,
    probe: Probe,
    params: DiskParams | None = None,
    run: RunParams | None = None,
    n_patterns: int = 20,
    control: Control | None = None,
) -> Outlook:
    """Find disks and their lattice in patterns spread evenly over the scan.

    Parameters
    ----------
    n_patterns
        Patterns looked at, all of a smaller scan.

    Raises
    ------
    EmdlError
        When the disks cannot be found with these settings.
    """
    params, control = params or DiskParams(), control or Control()
    positions = spread_positions(cube.scan_shape, n_patterns)
    finder = make_finder(params, probe, cube.detector_shape, run)
    tables, times_s = [], []
    for row, col in positions:
        control.check()
        pattern = np.asarray(cube.data[row, col])
        started_s = time.perf_counter()
        tables.append(finder.find(pattern[None], control))
        times_s.append(time.perf_counter() - started_s)
    disks = PeakTable.concatenate(tables, (1, len(positions)))
    least = params.min_score if params.min_score is not None else finder.default_min_score
    disks.attrs = {"default_min_score": least, "detector_shape": cube.detector_shape}
    return Outlook(params, positions, _on_lattice(disks), float(np.median(times_s)), cube.n_patterns)


def pattern_fit_s(
    disks: PeakTable, cube: Datacube, params: StrainParams | None = None, n_patterns: int = 8, control: Control | None = None
) -> float:
    """Expected time of a fit to the patterns (``fit="pattern"``) on this machine, from a fit to a few of them.

    A pattern takes seven measurements of its disks: three while the aperture is found, from :data:`APERTURE_PATTERNS` patterns
    at most, and four while its lattice is.

    Raises
    ------
    EmdlError
        When these disks or patterns cannot be fitted so.
    """
    params, control = params or StrainParams(), control or Control()
    positions = spread_positions(cube.scan_shape, n_patterns)
    flat = positions[:, 0] * cube.scan_shape[1] + positions[:, 1]
    few = np.stack([np.asarray(cube.data[int(row), int(col)]) for row, col in positions])
    control.check()
    sample = in_memory(few[None], "datacube", cube.calibration)
    table = disks.select_positions(flat).reshape((1, len(flat)))
    table.attrs = dict(disks.attrs)
    alone = params.model_copy(update={"fit": "pattern", "reference": None, "reference_lattice": False, "regions": None})
    started_s = time.perf_counter()
    fitted = fit_strain(table, params=alone, cube=cast(Datacube, sample), control=control)
    n_fitted = int(fitted.mask.sum())
    each_s = (time.perf_counter() - started_s) / (7 * max(1, n_fitted))
    share = n_fitted / len(flat)
    return each_s * (3 * APERTURE_PATTERNS + 4 * share * cube.n_patterns)


def _on_lattice(disks: PeakTable) -> NDArray[np.bool_]:
    alone = StrainParams(calibrate=CalibrateParams(origin_model="measured"))  # neighbours here are far apart in the scan
    try:
        return np.asarray(fit_strain(disks, params=alone).mask, bool).ravel()
    except EmdlError:  # no lattice, or no disk at all
        return np.zeros(disks.n_positions, bool)


def spread_positions(shape: tuple[int, int], n: int) -> NDArray[np.int64]:
    """(n, 2) different positions that cover a scan evenly (the R2 sequence of M. Roberts), all of a smaller scan."""
    rows, cols = shape
    if rows * cols <= n:
        return np.argwhere(np.ones(shape, bool))
    plastic = 1.324717957244746
    count = np.arange(1, 8 * n + 1)
    row = (0.5 + count / plastic) % 1 * rows
    col = (0.5 + count / plastic**2) % 1 * cols
    flat = row.astype(np.int64) * cols + col.astype(np.int64)
    _, first = np.unique(flat, return_index=True)
    chosen = flat[np.sort(first)[:n]]
    return np.stack([chosen // cols, chosen % cols], axis=1)
