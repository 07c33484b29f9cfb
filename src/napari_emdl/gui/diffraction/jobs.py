"""What the 4D-STEM workspace asks of the core, as functions for worker threads. They call and pass on; nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.caveats import RANGE, Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskLimits, DiskParams, ProbeParams, RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration, Datacube
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.finder import LiveFinder, LiveResult
from napari_emdl.workflow.runs import DISK_RUNS


def shown_pattern(control: Control, cube: Datacube, row: int, col: int, log: bool) -> tuple[Any, Any, tuple[float, float]]:
    """Read one pattern; returns (pattern, the same scaled for display, contrast limits)."""
    pattern = np.asarray(cube.data[row, col])
    control.check()
    shown = np.nan_to_num(pattern.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if log:
        shown = np.log1p(np.maximum(shown, 0))
    low, high = np.quantile(shown, (0.02, 0.9995))
    return pattern, shown, (float(low), float(max(high, low + 1e-6)))


def measure_probe(control: Control, cube: Datacube, params: ProbeParams) -> Any:
    """Probe from the chosen source."""
    from napari_emdl.diffraction.find.probe import make_probe

    control.check()
    return make_probe(cube, params, cube.detector_shape)


class LiveDisks:
    """Disks and structure-factor image of one pattern, as the cross-hair moves; only other settings make a new finder."""

    def __init__(self) -> None:
        self._live: LiveFinder[Any] = LiveFinder(_make_finder)

    def __call__(
        self,
        control: Control,
        position: tuple[int, int],
        pattern: NDArray[Any],
        probe: Any,
        params: DiskParams,
        run: RunParams,
        calibration: Calibration | None = None,
    ) -> LiveResult[tuple[int, int]]:
        """Disks of `pattern`; meant for :class:`napari_emdl.gui.kit.worker.Latest`."""
        from napari_emdl.diffraction.find.trained import outside_training

        finder = self._get(pattern, probe, params, run)
        found = self._live.find(finder, position, pattern, control, params.min_score)
        if calibration is None:
            return found
        outside = Caveats(outside_training(params, calibration), RANGE)
        return replace(found, info=replace(found.info, caveats=found.info.caveats + outside))

    def structure_factor(
        self, control: Control, pattern: NDArray[Any], probe: Any, params: DiskParams, run: RunParams
    ) -> NDArray[np.float32]:
        """FCU-Net's image of `pattern` (rows, cols), of the same shape."""
        finder = self._get(pattern, probe, params, run)
        control.check()
        image: NDArray[np.float32] = finder.structure_factor(pattern, control)
        return image

    def _get(self, pattern: NDArray[Any], probe: Any, params: DiskParams, run: RunParams) -> Any:
        shape = (pattern.shape[0], pattern.shape[1])
        return self._live.get((id(probe), params, shape, run.device), params, probe, shape, run)


def _make_finder(params: DiskParams, probe: Any, shape: tuple[int, int], run: RunParams) -> Any:
    from napari_emdl.diffraction.find.disks import make_finder

    return make_finder(params, probe, shape, run)


def find_disks(
    cube: Datacube, probe: Any, params: DiskParams, run: RunParams, output: Path | None
) -> Callable[[Control, Callable[..., None]], PeakTable]:
    """Job that finds the disks of the whole scan and leaves the result at `output`."""

    def job(control: Control, on_block: Callable[..., None]) -> PeakTable:
        from napari_emdl.diffraction.find.disks import find_disks as find
        from napari_emdl.io import save
        from napari_emdl.jobs.checkpoint import discard_part

        if output is not None:
            DISK_RUNS.prepare(output)
        table = find(cube, probe=probe, params=params, run=run, output=output, control=control, on_block=on_block)
        if output is not None:
            save(table, output)
            discard_part(output)
        return table

    return job


def run_file(cube: Datacube, folder: Path | None = None) -> Path:
    """Where a run keeps its disks unless the user names a file: the cache folder, one file a datacube."""
    return replace(DISK_RUNS, folder=folder).file(cube)


def keep(control: Control, table: PeakTable, limits: DiskLimits) -> PeakTable:
    """Disks within the limits, as a view."""
    from napari_emdl.diffraction.find.limits import within_limits

    control.check()
    return within_limits(table, limits, control.check)


def prepare_limits(control: Control, table: PeakTable) -> None:
    """What limits on spacing and edge need to know of a table, before the first slider moves."""
    from napari_emdl.diffraction.find.limits import prepare

    prepare(table, control.check)


def within(found: NDArray[np.void], limits: DiskLimits, detector_shape: tuple[int, int]) -> NDArray[np.void]:
    """Disks of one position within the same limits; one on a field they do not have is left out."""
    from napari_emdl.diffraction.find.limits import edge_distance_px, stronger_distance_px

    names = found.dtype.names or ()
    kept = np.ones(len(found), bool)
    if limits.min_score is not None:
        kept &= found["score"] >= limits.min_score
    if limits.min_intensity is not None and "intensity" in names:
        kept &= found["intensity"] >= limits.min_intensity
    if limits.max_sigma_px is not None and "sigma_px" in names:
        kept &= found["sigma_px"] <= limits.max_sigma_px
    if limits.min_spacing_px is not None:
        apart = stronger_distance_px(found["row"], found["col"], found["score"], (0, len(found)))
        kept &= apart >= limits.min_spacing_px
    if limits.edge_px is not None:
        kept &= edge_distance_px(found["row"], found["col"], detector_shape) >= limits.edge_px
    return found[kept]


def preload(_control: Control) -> None:
    """Import what the first pattern, run, fit, project and export need, so that no click waits for it."""
    import napari_emdl.diffraction.find.disks
    import napari_emdl.diffraction.find.limits
    import napari_emdl.diffraction.find.probe
    import napari_emdl.diffraction.find.spots
    import napari_emdl.diffraction.judge.outlook
    import napari_emdl.diffraction.navigation
    from napari_emdl.gui.kit.responsive import prepare_layers

    prepare_layers()
    import matplotlib.colors  # noqa: F401 (colours of the disks)

    import napari_emdl.diffraction.basis
    import napari_emdl.diffraction.fit.regions
    import napari_emdl.diffraction.fit.strain
    import napari_emdl.diffraction.fit.vectormap
    import napari_emdl.diffraction.judge.evidence
    import napari_emdl.diffraction.judge.glance
    import napari_emdl.exporting.annotations
    import napari_emdl.exporting.folder
    import napari_emdl.exporting.strainfigure  # noqa: F401
    from napari_emdl.base.kinds import kinds

    kinds()


def outlook(control: Control, cube: Datacube, probe: Any, params: DiskParams, run: RunParams) -> Any:
    """What some patterns say of a run over the scan."""
    from napari_emdl.diffraction.judge.outlook import look_ahead

    return look_ahead(cube, probe, params, run, control=control)


def fit_strain(
    control: Control, data: Any, disks: PeakTable, reference: Any, params: StrainParams, regions: NDArray[np.uint8] | None
) -> Any:
    """Strain map; whose it is goes along for the receiver."""
    from napari_emdl.diffraction.fit.strain import fit_strain as fit
    from napari_emdl.diffraction.standin import is_stand_in

    cube = None if is_stand_in(data.cube) else data.cube
    return fit(disks, reference=reference, params=params, control=control, regions=regions, cube=cube)


def can_turn(strain: Any) -> bool:
    """Whether a map can be turned to other axes without a fit."""
    from napari_emdl.diffraction.fit.turn import can_turn as can

    return can(strain)


def turn_strain(control: Control, data: Any, strain: Any, axis_deg: float) -> Any:
    """The map on other axes; whose it is goes along for the receiver."""
    from napari_emdl.diffraction.fit.turn import turn_strain as turn

    control.check()
    return turn(strain, axis_deg)


@dataclass(frozen=True)
class CoarseView:
    """Strain of every `step`-th row and column as blocks of the scan: (R, C) by component."""

    step: int
    values: dict[str, NDArray[np.float64]]


def follows_coarsely(disks: PeakTable) -> bool:
    """True for a scan so large that a coarse map comes first."""
    from napari_emdl.diffraction.fit.coarse import coarse_step

    return coarse_step(disks.shape) > 1


class CoarseStrain:
    """Coarse strain map, in time for a slider; the positions are picked once for a table."""

    def __init__(self) -> None:
        self._of: Any = None
        self._scan: Any = None

    def __call__(
        self,
        control: Control,
        data: Any,
        disks: PeakTable,
        known: Any,
        reference: Any,
        params: StrainParams,
        limits: DiskLimits,
    ) -> CoarseView | None:
        """Meant for :class:`napari_emdl.gui.kit.worker.Latest`; None where only the whole scan can tell."""
        from napari_emdl.diffraction.fit.coarse import CoarseScan

        if self._of is not disks:
            self._of, self._scan = disks, CoarseScan(disks)
        control.check()
        try:
            found = self._scan.strain(known, params, limits, reference, control)
        except EmdlError:
            return None
        names = ("exx", "eyy", "exy", "theta_rad")
        return CoarseView(self._scan.step, {name: self._scan.whole(getattr(found, name)) for name in names})


def pattern_fit_s(control: Control, cube: Datacube, disks: PeakTable, params: StrainParams) -> float:
    """Expected time of a fit to the patterns."""
    from napari_emdl.diffraction.judge.outlook import pattern_fit_s as expected

    return expected(disks, cube, params, control=control)


def score_histogram(control: Control, scores: NDArray[Any], bins: int = 80) -> tuple[NDArray[Any], NDArray[Any], bool]:
    """Edges and counts of scores; edges are log10 of the score (True) where scores are not a probabilities."""
    control.check()
    high = float(scores.max()) if len(scores) else 1.0
    logarithmic = high > 1.0
    values = np.log10(np.maximum(scores, 1.0)) if logarithmic else scores
    edges = np.linspace(0, np.log10(high * 1.05) if logarithmic else 1.0, bins + 1)
    return edges, np.histogram(values, edges)[0], logarithmic


@dataclass(frozen=True)
class LatticeView:
    """Basis as the canvas shows it on the Bragg vector map."""

    centre_px: tuple[float, float]
    basis: Any
    problem: str = ""


def _inside(kept: PeakTable, inside: NDArray[np.bool_] | None) -> PeakTable:
    """Disks of the scan positions that count."""
    return kept if inside is None else kept.where(inside.ravel()[kept.flat_index()])


class LatticeFinder:
    """Vector map and basis of the disks kept; the origins are fitted once for a table, not at each threshold."""

    UPSAMPLE = 2

    def __init__(self) -> None:
        self._lock = threading.Lock()  # map and basis are asked for by two threads
        self._key: Any = None
        self._origin: Any = None
        self._map: Any = None

    def image(
        self,
        control: Control,
        disks: PeakTable,
        kept: PeakTable,
        params: StrainParams,
        inside: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Vector map of the disks kept, in time for a slider; where each disk falls is known from the last time."""
        self._prepare(disks, params)
        control.check()
        image: NDArray[np.float32] = self._map.image(_inside(kept, inside))
        return image

    def __call__(
        self,
        control: Control,
        disks: PeakTable,
        kept: PeakTable,
        params: StrainParams,
        inside: NDArray[np.bool_] | None = None,
    ) -> LatticeView:
        """Meant for :class:`napari_emdl.gui.kit.worker.Latest`; `inside` are the scan positions that count."""
        from napari_emdl.diffraction.basis import find_basis, given_basis

        centre, basis, problem = self._centre(disks), None, ""
        if disks.n_peaks == 0:
            return LatticeView(centre, None, "there is no disk to find a lattice from")
        kept = _inside(kept, inside)
        try:
            self._prepare(disks, params)
            control.check()
            origin = self._origin
            if params.g1 is not None and params.g2 is not None:
                basis = given_basis((params.g1, params.g2), kept, origin)
            else:
                basis = find_basis(kept, origin)
        except EmdlError as error:  # no lattice is a finding, not a failure: the map is shown and the step says why
            problem = str(error)
        return LatticeView(centre, basis, problem)

    @staticmethod
    def _centre(disks: PeakTable) -> tuple[float, float]:
        rows, cols = (int(n) for n in disks.attrs["detector_shape"])
        return float(rows // 2), float(cols // 2)

    def _prepare(self, disks: PeakTable, params: StrainParams) -> None:
        from napari_emdl.diffraction.fit.calibrate import calibrate
        from napari_emdl.diffraction.fit.vectormap import VectorMap

        key = (id(disks), params.calibrate)
        with self._lock:
            if key == self._key:
                return
            strong = disks.filter(min_score=disks.attrs.get("default_min_score"))
            self._origin = calibrate(strong, params.calibrate).origin_px
            rows, cols = (int(n) for n in disks.attrs["detector_shape"])
            self._map = VectorMap(disks, self._origin, (rows, cols), self._centre(disks), self.UPSAMPLE)
            self._key = key
