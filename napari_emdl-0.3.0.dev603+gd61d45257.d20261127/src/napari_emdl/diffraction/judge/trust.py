"""Whether to trust the disks of a scan: gain, agreement with another method, and training range, on some of its patterns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.caveats import RANGE
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams, RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.find.disks import make_finder
from napari_emdl.diffraction.find.pairing import agreement_distance_px
from napari_emdl.diffraction.find.probe import Probe
from napari_emdl.diffraction.find.trained import outside_training
from napari_emdl.diffraction.fit.strain import StrainMap
from napari_emdl.diffraction.judge.compare import Agreement, compare_disks
from napari_emdl.diffraction.judge.gain import GainCheck, check_gain, gain_line
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.finder import Finder

#: Gain this far from 1 is told as a warning, if it is also this many errors away.
_GAIN_OFF, _GAIN_ERRORS = 0.05, 2.0
#: Less agreement between two methods than this is told.
_LITTLE_AGREEMENT = 0.7


@dataclass(frozen=True)
class Trust:
    """What was found on some patterns of a scan.

    Attributes
    ----------
    positions
        (n, 2) scan positions looked at.
    gain
        Result of the gain check, None where no pattern kept its lattice.
    agreement
        Of the method with `other` on the same patterns.
    method, other
        The method in use, and the one it was compared with.
    sigma_px, spread_px
        Median error of a disk as the finder gives it, and spread between its flip passes (NaN without).
    warnings
        Plain sentences.
    """

    positions: NDArray[np.int64]
    gain: GainCheck | None
    agreement: Agreement
    method: str
    other: str
    sigma_px: float
    spread_px: float
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """What was found, in words, without the warnings."""
        out = [gain_line(self.gain)] if self.gain is not None else []
        found = self.agreement
        out.append(
            f"{self.method} and {self.other} agree on {100 * found.total_share:.0f} % of the disks, "
            f"{found.median_distance_px:.2f} px apart ({int(found.only_first.sum())} only {self.method}, "
            f"{int(found.only_second.sum())} only {self.other})"
        )
        passes = f", spread of the flip passes {self.spread_px:.3f} px" if np.isfinite(self.spread_px) else ""
        return [*out, f"median error of a disk {self.sigma_px:.3f} px{passes}"]


def check_trust(
    cube: Datacube,
    probe: Probe,
    disk_params: DiskParams,
    strain: StrainMap,
    *,
    strain_params: StrainParams | None = None,
    min_score: float | None = None,
    run: RunParams | None = None,
    n_patterns: int = 6,
    control: Control | None = None,
) -> Trust:
    """Check gain and agreement on patterns spread over the fitted positions of a scan (of its largest region).

    Parameters
    ----------
    cube
        Datacube the strain is of.
    probe, disk_params
        As the disks were found.
    strain
        Its map: chooses the patterns and gives their lattice.
    min_score
        Least score in use; the method's own when None.
    n_patterns
        Patterns to look at; the disks of each are moved eight times.

    Raises
    ------
    EmdlError
        When no position is fitted.
    """
    fitted = _largest_region(strain)
    if not len(fitted):
        raise EmdlError("no position is fitted, so there is nothing to check; fit the strain first")
    positions = fitted[np.unique(np.linspace(0, len(fitted) - 1, n_patterns).astype(int))]
    rows, cols = positions.T
    patterns = np.stack([np.asarray(cube.data[int(r), int(c)]) for r, c in positions])
    other = "template" if disk_params.method != "template" else "light"
    found, finder = _found(disk_params, probe, cube, patterns, run, min_score, control)
    second, _ = _found(
        disk_params.model_copy(update={"method": other, "model": None}), probe, cube, patterns, run, None, control
    )
    agreement = compare_disks(found, second, agreement_distance_px(probe.radius_px))
    warnings = [*finder.info.caveats.about(RANGE).texts, *outside_training(disk_params, cube.calibration)]
    gain = None
    try:
        gain = check_gain(
            patterns,
            finder,
            np.stack([strain.g1[rows, cols], strain.g2[rows, cols]], axis=1),
            strain.origin_px[rows, cols],
            params=strain_params,
            min_score=min_score,
            control=control,
        )
    except EmdlError as error:
        warnings.append(str(error))
    warnings = [*warnings, *_judge(gain, agreement, disk_params.method, other)]
    sigma = float(np.median(found.column("sigma_px"))) if found.n_peaks else float("nan")
    spread = found.column("spread_px") if "spread_px" in found.fields else np.zeros(0)
    known = spread[np.isfinite(spread)]
    median_spread = float(np.median(known)) if len(known) else float("nan")
    return Trust(positions, gain, agreement, disk_params.method, other, sigma, median_spread, tuple(warnings))


def _largest_region(strain: StrainMap) -> NDArray[np.int64]:
    """(n, 2) fitted positions, of the largest region where there are several."""
    mask = strain.mask
    if strain.region is not None and mask.any():
        mask = mask & (strain.region == np.bincount(strain.region[mask]).argmax())
    return np.argwhere(mask)


def _found(
    params: DiskParams,
    probe: Probe,
    cube: Datacube,
    patterns: NDArray[np.generic],
    run: RunParams | None,
    min_score: float | None,
    control: Control | None,
) -> tuple[PeakTable, Finder]:
    finder = make_finder(params, probe, cube.detector_shape, run)
    table = finder.find(patterns, control)
    return table.filter(min_score=finder.default_min_score if min_score is None else min_score), finder


def _judge(gain: GainCheck | None, agreement: Agreement, method: str, other: str) -> list[str]:
    out = []
    if gain is not None:
        off = np.abs(gain.gain - 1)
        clear = ~np.isfinite(gain.sigma) | (off > _GAIN_ERRORS * np.nan_to_num(gain.sigma))
        if (clear & (off > _GAIN_OFF)).any():
            worst = float(gain.gain[np.where(clear, off, 0).argmax()])
            out.append(
                f"only {100 * worst:.0f} % of a strain comes back"
                if worst < 1
                else f"strain comes back {worst:.2f} times too large"
            )
    if agreement.total_share < _LITTLE_AGREEMENT:
        out.append(
            f"{method} and {other} disagree on {100 * (1 - agreement.total_share):.0f} % of the disks: look at some patterns"
        )
    return out
