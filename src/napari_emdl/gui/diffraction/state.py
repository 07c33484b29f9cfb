"""State of one 4D-STEM workspace: what is open, found and fitted, and the workers that follow it. No widgets in here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_emdl.base.errors import EmdlError, OtherJobError
from napari_emdl.base.params import DiskLimits, DiskParams, RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube
from napari_emdl.gui.diffraction import jobs
from napari_emdl.gui.kit.worker import Job, Latest, error_line, report_error


class StemState(QObject):
    """The model behind the panels; every change is told by a signal.

    Signals
    -------
    cube_changed
        Another datacube was opened.
    position_changed
        The cross-hair moved to (row, col).
    pattern_changed
        The pattern at the position was read: (shown, contrast limits).
    probe_changed, overlay_changed, disks_changed, kept_changed, lattice_changed, strain_changed
        The probe; the disks at the position; the scan's table; its thresholded view; vector map and basis; the strain map.
    limits_changed
        What a disk must pass was changed by hand.
    map_changed
        The Bragg vector map of the disks kept; the basis follows later.
    structure_changed
        The network's structure-factor image of the pattern, or None where there is none.
    strain_failed
        Why there is no map with the settings as they are; the last map stays.
    job_started
        A :class:`Job` to watch.
    message
        One line for the status bar of the panel.
    """

    cube_changed = Signal()
    position_changed = Signal(int, int)
    pattern_changed = Signal(object, object)
    probe_changed = Signal()
    limits_changed = Signal()
    overlay_changed = Signal()
    disks_changed = Signal()
    kept_changed = Signal()
    lattice_changed = Signal()
    map_changed = Signal(object)
    strain_changed = Signal()
    structure_changed = Signal(object)
    strain_failed = Signal(str)
    job_started = Signal(object)
    job_ended = Signal()
    message = Signal(str)

    def __init__(self, parent: QObject | None = None):
        super().__init__(parent)
        self.cube: Datacube | None = None
        self.position = (0, 0)
        self.log = True
        self.live_enabled = True
        self.structure_wanted = False
        self.output: Path | None = None
        self.output_folder: Path | None = None  # where runs without a named file are kept; None is the cache folder
        self.run_params = RunParams()
        self.disk_params = DiskParams()
        self.strain_params = StrainParams()
        self.reference: Any = None  # None, "lattice" or a bool mask over the scan
        self.regions: NDArray[np.uint8] | None = None  # labels over the scan for several lattices, 0 for none
        self.region_shown = 0  # region whose lattice the vector map shows, 0 for all disks
        self._reset_results()
        self.job: Job | None = None
        self._then_strain = False
        self._last_error = ""
        finder, lattice = jobs.LiveFinder(), jobs.LatticeFinder()
        self._latest = {
            "pattern": Latest(jobs.shown_pattern, "pattern"),
            "probe": Latest(jobs.measure_probe, "probe"),
            "live": Latest(finder, "live disks"),
            "structure": Latest(finder.structure_factor, "structure factor"),
            "keep": Latest(jobs.keep, "threshold", cancel_stale=False),
            "prepare": Latest(jobs.prepare_limits, "limits"),
            "histogram": Latest(jobs.score_histogram, "histogram"),
            "map": Latest(lattice.image, "vector map", cancel_stale=False),
            "lattice": Latest(lattice, "lattice", cancel_stale=False),
            "strain": Latest(self._fit_strain, "strain", cancel_stale=False),
        }
        self._latest["pattern"].done.connect(self._on_pattern)
        self._latest["probe"].done.connect(self._on_probe)
        self._latest["live"].done.connect(self._on_live)
        self._latest["structure"].done.connect(self._on_structure)
        self._latest["keep"].done.connect(self._on_kept)
        self._latest["histogram"].done.connect(self._on_histogram)
        self._latest["map"].done.connect(self._on_map)
        self._latest["lattice"].done.connect(self._on_lattice)
        self._latest["strain"].done.connect(self._on_strain)
        for name, latest in self._latest.items():
            latest.failed.connect(lambda error, name=name: self._on_failed(name, error))

    def follow(self, name: str, function: Callable[..., Any], done: Callable[[Any, Any], None], **options: Any) -> Latest:
        """Worker of a further part of the panel; ``done(result, args)`` gets what it finds, and it ends with the workspace."""
        latest = self._latest[name] = Latest(function, name, **options)
        latest.done.connect(done)
        latest.failed.connect(lambda error: self._on_failed(name, error))
        return latest

    def _reset_results(self) -> None:
        self.pattern: NDArray[Any] | None = None
        self.probe: Any = None
        self.live: jobs.LiveResult | None = None
        self.min_score: float | None = None
        self.default_min_score: float | None = None
        self.disks: PeakTable | None = None
        self.disks_file: Path | None = None  # result file that holds them as they are, when there is one
        self.done: NDArray[np.bool_] | None = None
        self.kept: PeakTable | None = None
        self.histogram: Any = None  # (edges, counts, logarithmic) of the scan's scores
        self.lattice: jobs.LatticeView | None = None
        self.strain: Any = None
        self._blocks: dict[int, PeakTable] = {}

    # opening and moving

    def set_cube(self, cube: Datacube) -> None:
        """Start over with another datacube; the probe is measured and the middle pattern shown at once."""
        self.cancel()
        for latest in self._latest.values():
            latest.drop()
        self._reset_results()
        self.cube = cube
        self.reference = self.regions = None
        self.region_shown = 0
        self.position = (cube.scan_shape[0] // 2, cube.scan_shape[1] // 2)
        self.output = jobs.default_output(cube, self.output_folder)
        self.cube_changed.emit()
        self.measure_probe()
        self.show_pattern()

    def move_to(self, row: int, col: int) -> None:
        """Show another position of the scan."""
        if self.cube is None or (row, col) == self.position:
            return
        self.position = (row, col)
        self.position_changed.emit(row, col)
        self.show_pattern()
        if self._is_done():
            self.overlay_changed.emit()

    def show_pattern(self) -> None:
        """Read the pattern at the position in the background."""
        if self.cube is not None:
            self._latest["pattern"].submit(self.cube, *self.position, self.log)

    def _on_pattern(self, result: Any, args: Any) -> None:
        cube, row, col, _log = args
        if cube is not self.cube:
            return
        self.pattern, shown, limits = result
        self.pattern_changed.emit(shown, limits)
        self._refresh_structure()
        if (row, col) == self.position and not self._is_done():
            self.find_here()

    # probe

    def measure_probe(self) -> None:
        """Make the probe anew from the settings, in the background."""
        if self.cube is not None:
            self._latest["probe"].submit(self.cube, self.disk_params.probe)

    def _on_probe(self, probe: Any, args: Any) -> None:
        if args[0] is self.cube:
            self.probe = probe
            self.probe_changed.emit()
            self.find_here()
            self._refresh_structure()

    # disks at the position

    def find_here(self, force: bool = False) -> None:
        """Find the disks of the current pattern, in the background; the latest request wins."""
        ready = self.probe is not None and self.pattern is not None
        if ready and (force or (self.live_enabled and not self._is_done() and self.job is None)):
            self._latest["live"].submit(self.position, self.pattern, self.probe, self.disk_params, self.run_params)

    def _on_live(self, result: jobs.LiveResult, args: Any) -> None:
        if args[2] is not self.probe:
            return
        self.live = result
        self._suggest_threshold(result.default_min_score)
        if result.position == self.position:
            self.overlay_changed.emit()

    @property
    def has_structure(self) -> bool:
        """True for the methods that make a structure-factor image."""
        return self.disk_params.method.startswith("fcunet")

    def show_structure(self, on: bool) -> None:
        """Follow the pattern with the network's structure-factor image, or stop doing so."""
        self.structure_wanted = on
        self._refresh_structure()

    def _refresh_structure(self) -> None:
        if not (self.structure_wanted and self.has_structure):
            self._latest["structure"].drop()
            self.structure_changed.emit(None)
        elif self.probe is not None and self.pattern is not None:
            self._latest["structure"].submit(self.pattern, self.probe, self.disk_params, self.run_params)

    def _on_structure(self, image: NDArray[np.float32], args: Any) -> None:
        if args[0] is self.pattern and self.structure_wanted and self.has_structure:
            self.structure_changed.emit(image)

    def _suggest_threshold(self, value: float) -> None:
        if value != self.default_min_score:
            self.default_min_score = value
            self.min_score = value

    def _is_done(self) -> bool:
        if self.done is None or self.disks is None:
            return False
        return bool(self.done[self.position])

    def here(self) -> NDArray[np.void] | None:
        """All candidates at the position, from the scan's table or the live finder; None while unknown."""
        if self._is_done() and self.disks is not None:
            return self.disks[self.position]
        if self.live is not None and self.live.position == self.position:
            return self.live.table.at(0)
        return None

    def kept_here(self) -> NDArray[np.void] | None:
        """Disks at the position that pass the limits."""
        found = self.here()
        return None if found is None or self.cube is None else jobs.within(found, self.limits, self.cube.detector_shape)

    @property
    def limits(self) -> DiskLimits:
        """What a disk must pass to be kept."""
        chosen = {name: getattr(self.strain_params, name) for name in DiskLimits.model_fields}
        return DiskLimits(**{**chosen, "min_score": self.min_score})

    def set_limits(self, limits: DiskLimits) -> None:
        """Take other limits, score and all; a least score of None is the method's own."""
        least = self.default_min_score if limits.min_score is None else limits.min_score
        others = limits.model_dump(exclude={"min_score"})
        before = self.limits
        self.min_score = least
        self.strain_params = self.strain_params.model_copy(update=others)
        if self.limits != before:
            self.limits_changed.emit()
            self.overlay_changed.emit()
            self._refresh_kept()

    # settings

    def set_disk_params(self, params: DiskParams) -> None:
        """Take other settings for finding disks; the scan's disks stay until the next run."""
        if params == self.disk_params:
            return
        new_probe = params.probe != self.disk_params.probe
        other_scores = (params.method, params.model) != (self.disk_params.method, self.disk_params.model)
        self.disk_params = params
        if other_scores and self.disks is None:
            self.default_min_score = None
        if new_probe:
            self.measure_probe()
        else:
            self.find_here(force=self.disks is None)
            self._refresh_structure()

    def set_threshold(self, min_score: float) -> None:
        """Filter disks by score: the overlay at once, the scan's table and the strain right behind."""
        self.min_score = float(min_score)
        self.limits_changed.emit()
        self.overlay_changed.emit()
        self._refresh_kept()

    def set_strain_params(self, params: StrainParams) -> None:
        """Take other settings for the strain and fit again when there is something to fit."""
        if params == self.strain_params:
            return
        before, self.strain_params = self.limits, params
        if self.limits != before:
            self.limits_changed.emit()
            self.overlay_changed.emit()
            self._refresh_kept()  # lattice and strain follow
            return
        self._refresh_lattice()
        if self.strain is not None:
            self.fit()

    def set_reference(self, reference: Any) -> None:
        """None (median of all), "lattice", or a bool mask over the scan; fits again when there is a map."""
        self.reference = reference
        if self.strain is not None:
            self.fit()

    # the scan

    def run(self, resume: bool = False, then_strain: bool = False) -> None:
        """Find the disks of the whole scan as a job."""
        if self.cube is None:
            raise EmdlError("no datacube is open; open one with File > Open or File > Open Sample")
        if self.job is not None:
            raise EmdlError(f"{self.job.name} is running; cancel it first")
        self._then_strain = then_strain
        if not resume:
            self._blocks, self.disks, self.kept, self.strain, self.disks_file = {}, None, None, None, None
            self.done = np.zeros(self.cube.scan_shape, bool)
        self._latest["live"].drop()
        params = self.run_params.model_copy(update={"resume": resume})
        job = Job(jobs.find_disks(self.cube, self.probe, self.disk_params, params, self.output), "finding disks")
        job.block.connect(self._on_block)
        job.returned.connect(self._on_disks)
        job.failed.connect(self._on_job_failed)
        job.cancelled.connect(self._on_cancelled)
        job.finished.connect(self._on_job_finished)
        self.job = job
        self.job_started.emit(job)
        job.start()

    def can_resume(self) -> bool:
        """True when a partial run of this datacube lies on disk."""
        return self.job is None and self.output is not None and jobs.partial_file(self.output) is not None

    def _on_block(self, block: Any, table: PeakTable) -> None:
        if self.cube is None or self.done is None:
            return
        self._blocks[block.start] = table
        self.done.reshape(-1)[block.start : block.stop] = True

    def _on_disks(self, table: PeakTable) -> None:
        self._blocks = {}
        self.take_disks(table, file=self.output)
        if self._then_strain:
            self.fit()

    def take_disks(self, table: PeakTable, done: NDArray[np.bool_] | None = None, file: Path | None = None) -> None:
        """Use a table over the scan: from a run, a partial run or a file."""
        self.disks, self.disks_file = table, file
        self.done = np.ones(table.shape, bool) if done is None else done
        default = table.attrs.get("default_min_score")
        if default is not None:
            self._suggest_threshold(float(default))
        if self.min_score is None:
            self.min_score = 0.0
        self.histogram = None
        self._latest["histogram"].submit(table.column("score"))
        self._latest["prepare"].submit(table)
        self.disks_changed.emit()
        self.overlay_changed.emit()
        self._refresh_kept()

    def _on_histogram(self, histogram: Any, args: Any) -> None:
        if self.disks is not None:
            self.histogram = histogram
            self.overlay_changed.emit()

    def _on_cancelled(self) -> None:
        self.message.emit("stopped; what is finished is kept, Resume goes on")
        self._keep_partial()

    def _on_job_failed(self, error: BaseException) -> None:
        if isinstance(error, OtherJobError):
            error = EmdlError(
                "the run that was stopped had other settings; press Run on the scan to begin anew with these, "
                "or set the others again and press Resume"
            )
        self.message.emit(report_error(error, "finding disks"))
        self._keep_partial()

    def _keep_partial(self) -> None:
        if self._blocks and self.cube is not None and self.done is not None:
            attrs = {"partial": True, "probe_radius_px": getattr(self.probe, "radius_px", None)}
            attrs |= {"detector_shape": self.cube.detector_shape, "calibration": self.cube.calibration}
            attrs["default_min_score"] = self.default_min_score
            self.take_disks(jobs.join_blocks(self._blocks, self.cube.scan_shape, attrs), self.done)

    def _on_job_finished(self) -> None:
        self.job = None
        self.job_ended.emit()

    def cancel(self) -> None:
        """Stop whatever runs on the scan."""
        if self.job is not None:
            self.job.cancel()

    # threshold on the scan, strain

    def _refresh_kept(self) -> None:
        if self.disks is not None and self.min_score is not None:
            self._latest["keep"].submit(self.disks, self.limits)

    def _on_kept(self, kept: PeakTable, args: Any) -> None:
        if args[0] is not self.disks:
            return
        self.kept = kept
        self.kept_changed.emit()
        self._refresh_lattice()
        if self.strain is not None:
            self.fit()

    def _refresh_lattice(self) -> None:
        if self.disks is not None and self.kept is not None:
            for name in ("map", "lattice"):
                self._latest[name].submit(self.disks, self.kept, *self._lattice_of())

    def _lattice_of(self) -> tuple[StrainParams, NDArray[np.bool_] | None]:
        """Settings and positions of the lattice that is shown."""
        if self.regions is None or not self.region_shown:
            return self.strain_params, None
        phase = next((p for p in self.strain_params.phases if p.label == self.region_shown), None)
        own = {"g1": phase.g1 if phase else None, "g2": phase.g2 if phase else None}
        return self.strain_params.model_copy(update=own), self.regions == self.region_shown

    def set_regions(self, regions: NDArray[np.uint8] | None) -> None:
        """Labels over the scan (0: none) for several lattices, or None for one; fits again when there is a map."""
        self.regions = regions
        if regions is None or not (regions == self.region_shown).any():
            self.region_shown = 0
        present = set() if regions is None else set(np.unique(regions).tolist())
        phases = tuple(phase for phase in self.strain_params.phases if phase.label in present)
        self.strain_params = self.strain_params.model_copy(update={"phases": phases})
        self._refresh_lattice()
        if self.strain is not None:
            self.fit()

    def show_region(self, number: int) -> None:
        """Show the lattice of one region on the vector map, 0 for that of the whole scan."""
        self.region_shown = number
        self._refresh_lattice()

    def _on_map(self, image: NDArray[np.float32], args: Any) -> None:
        if args[0] is self.disks:
            self.map_changed.emit(image)

    def _on_lattice(self, lattice: jobs.LatticeView, args: Any) -> None:
        if args[0] is self.disks:
            self.lattice = lattice
            self.lattice_changed.emit()

    def fit(self) -> None:
        """Fit lattice and strain to the disks kept, in the background."""
        if self.disks is None:
            raise EmdlError("there are no disks yet; press Run to find them first")
        params = self.strain_params.model_copy(update={"min_score": self.min_score})
        self._latest["strain"].submit(self.disks, self.reference, params, self.regions)

    @staticmethod
    def _fit_strain(control: Any, disks: PeakTable, reference: Any, params: StrainParams, regions: Any) -> Any:
        from napari_emdl.diffraction.fit.strain import fit_strain

        return fit_strain(disks, reference=reference, params=params, control=control, regions=regions)

    def _on_strain(self, strain: Any, args: Any) -> None:
        if args[0] is self.disks:
            self.strain = strain
            self.strain_changed.emit()

    def _on_failed(self, name: str, error: BaseException) -> None:
        where = {"live": "live disks", "keep": "threshold", "structure": "structure factor"}.get(name, name)
        line = f"{where}: {error_line(error)}"
        self.message.emit(line)
        if name == "strain":
            self.strain_failed.emit(error_line(error))
        if line != self._last_error:  # the same trouble at every step of the cross-hair is told once
            self._last_error = line
            report_error(error, where)

    @property
    def busy(self) -> bool:
        """True while anything runs."""
        return self.job is not None or any(latest.busy for latest in self._latest.values())

    def close(self, timeout_s: float = 3.0) -> bool:
        """Cancel everything and wait for the threads; True when all have ended."""
        job = self.job
        self.cancel()
        ended = [latest.close(timeout_s) for latest in self._latest.values()]
        if job is not None:
            ended.append(job.wait(timeout_s))
        return all(ended)
