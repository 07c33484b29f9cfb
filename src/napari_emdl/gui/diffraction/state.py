"""State of a 4D-STEM workspace: the datacube that is shown, changes of its settings, and what follows them. No widgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_emdl.base.params import DiskParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.standin import is_stand_in
from napari_emdl.gui.diffraction import jobs
from napari_emdl.gui.diffraction.data import StemData
from napari_emdl.gui.diffraction.fitstate import FitState
from napari_emdl.gui.diffraction.scanrun import ScanRun
from napari_emdl.gui.kit import responsive
from napari_emdl.gui.kit.worker import Job
from napari_emdl.workflow.finder import LiveResult
from napari_emdl.workflow.runs import DISK_RUNS

#: The rest is imported once the window has shown the panel.
IMPORTS_MS = 100
PREVIEW_MS = 1500  # between two vector maps of a run that goes on


class StemState(FitState):
    """What panels change and follow; `settings` and `found` are of the datacube that is shown.

    Signals
    -------
    cube_changed
        Another datacube is shown.
    position_changed
        The cross-hair moved to (row, col).
    pattern_changed
        The pattern at the position was read: (shown, contrast limits).
    probe_changed
        The probe was measured or read.
    block_found
        A run finished a part of the scan that is shown: (block, table).
    structure_changed
        The network's structure-factor image of the pattern, or None where there is none.
    outlook_changed
        Some patterns were looked at to say what a run over the scan would give.
    """

    cube_changed = Signal()
    position_changed = Signal(int, int)
    pattern_changed = Signal(object, object)
    probe_changed = Signal()
    block_found = Signal(object, object)
    structure_changed = Signal(object)
    outlook_changed = Signal()

    def __init__(self, parent: QObject | None = None):
        super().__init__(parent)
        self.log = True
        self.live_enabled = True
        self.structure_wanted = False
        self.output_folder: Path | None = None  # where runs without a named file are kept; None is the cache folder
        self._then_strain = False
        self.scan_run = ScanRun(self)
        self.job_started, self.job_ended = self.scan_run.started, self.scan_run.ended
        self.scan_run.block_found.connect(self._on_block)
        self.scan_run.found.connect(self._on_disks)
        self.scan_run.message.connect(self.message)
        self._preview = QTimer(self)
        self._preview.setSingleShot(True)
        self._preview.setInterval(PREVIEW_MS)
        self._preview.timeout.connect(self._show_part)
        self._add_followers()
        self.disks_changed.connect(lambda: self.followers.drop("outlook"))

    def _add_followers(self) -> None:
        live, part, follow = jobs.LiveDisks(), jobs.LatticeFinder(), self.followers.add
        follow("imports", jobs.preload, lambda *_: responsive.more())
        self._imports = QTimer(self)
        self._imports.setSingleShot(True)
        self._imports.setInterval(IMPORTS_MS)
        self._imports.timeout.connect(self._import_rest)
        self._imports.start()
        follow("pattern", jobs.shown_pattern, self._on_pattern)
        follow("probe", jobs.measure_probe, self._on_probe)
        follow("live", live, self._on_live)
        follow("structure", live.structure_factor, self._on_structure)
        follow("outlook", jobs.outlook, self._on_outlook, silent=True)
        follow("part", part.image, self._on_part, cancel_stale=False, silent=True)

    def _import_rest(self) -> None:
        self.followers.submit("imports")

    @property
    def job(self) -> Job | None:
        """Run over the scan, while it goes on."""
        return self.scan_run.job

    # opening and moving

    def show(self, data: StemData) -> None:
        """Show another datacube, with all that was found in it; a run that goes on is stopped, what it finished is kept."""
        self.cancel()
        self._preview.stop()
        if self._rest.isActive():
            self.follow()  # of the datacube that is put aside
        self.coarse, self.fit_time_s, self.peaks_for_now, self._patterns_wait = None, None, False, None
        self._stale = False
        self.followers.drop("pattern", "probe", "live", "structure", "outlook", "histogram", "map", "part", "lattice", "coarse")
        self.data = data
        self.cube_changed.emit()
        found = data.found
        if is_stand_in(data.cube):
            self.probe_changed.emit()
        elif found.probe is None:
            self.measure_probe()
        else:
            self.probe_changed.emit()
        self.show_pattern()
        if found.disks is not None:
            self._tell_disks(again=found.kept is not None)
        if found.lattice is not None:
            self.lattice_changed.emit()
        if found.strain is not None:
            self.strain_changed.emit()
        self.outlook_changed.emit()

    def move_to(self, row: int, col: int) -> None:
        """Show another position of the scan."""
        if self.cube is None or (row, col) == self.settings.position:
            return
        self.settings.position = (row, col)
        self.position_changed.emit(row, col)
        self.show_pattern()
        self.overlay_changed.emit()

    def show_pattern(self) -> None:
        """Read the pattern at the position in the background."""
        if self.cube is not None and not is_stand_in(self.cube):
            self.followers.submit("pattern", self.cube, *self.settings.position, self.log)

    def _on_pattern(self, result: Any, args: Any) -> None:
        cube, row, col, _log = args
        if cube is not self.cube:
            return
        self.found.pattern, shown, limits = result
        self.pattern_changed.emit(shown, limits)
        self._refresh_structure()
        if (row, col) == self.settings.position:
            self.find_here()

    # probe

    def measure_probe(self) -> None:
        """Make the probe anew from the settings, in the background."""
        if self.cube is not None and not is_stand_in(self.cube):
            self.followers.submit("probe", self.cube, self.settings.disk_params.probe)
            if self.found.probe is None:
                self.probe_changed.emit()  # it is being measured

    @property
    def measures_probe(self) -> bool:
        """True while the probe is measured or read."""
        return self.followers.works("probe")

    def _on_probe(self, probe: Any, args: Any) -> None:
        if args[0] is self.cube:
            self.found.probe = probe
            self.probe_changed.emit()
            self.find_here()
            self._refresh_structure()

    # disks at the position

    def find_here(self, force: bool = False) -> None:
        """Find the disks of the current pattern, in the background; the latest request wins."""
        data, found = self.data, self.found
        if found.probe is None or found.pattern is None:
            return
        if force or (self.live_enabled and not data.is_done()):
            settings = self.settings
            self.followers.submit(
                "live",
                settings.position,
                found.pattern,
                found.probe,
                settings.disk_params,
                settings.run_params,
                self.cube.calibration if self.cube is not None else None,
            )

    def _on_live(self, result: LiveResult[tuple[int, int]], args: Any) -> None:
        if args[2] is not self.found.probe:
            return
        self.found.live = result
        self.settings.suggest_threshold(result.default_min_score)
        if result.position == self.settings.position:
            self.overlay_changed.emit()
        self._look_ahead()

    def show_structure(self, on: bool) -> None:
        """Follow the pattern with the network's structure-factor image, or stop doing so."""
        self.structure_wanted = on
        self._refresh_structure()

    def _refresh_structure(self) -> None:
        found, settings = self.found, self.settings
        if not (self.structure_wanted and settings.has_structure):
            self.followers.drop("structure")
            self.structure_changed.emit(None)
        elif found.probe is not None and found.pattern is not None:
            self.followers.submit("structure", found.pattern, found.probe, settings.disk_params, settings.run_params)

    def _on_structure(self, image: NDArray[np.float32], args: Any) -> None:
        if args[0] is self.found.pattern and self.structure_wanted and self.settings.has_structure:
            self.structure_changed.emit(image)

    # what a run would give

    def _look_ahead(self) -> None:
        """Look at some patterns, once for each set of parameters, while nothing is found in the scan."""
        data, found, settings = self.data, self.found, self.settings
        known = found.outlook is not None and found.outlook.params == settings.disk_params
        if data.cube is None or found.probe is None or found.disks is not None or self.job is not None or known:
            return
        self.followers.submit("outlook", data.cube, found.probe, settings.disk_params, settings.run_params)

    def _on_outlook(self, outlook: Any, args: Any) -> None:
        if args[0] is self.cube and args[2] == self.settings.disk_params:
            self.found.outlook = outlook
            self.outlook_changed.emit()

    # settings

    def set_disk_params(self, params: DiskParams) -> None:
        """Take other settings for finding disks; the scan's disks stay until the next run."""
        settings = self.settings
        if params == settings.disk_params:
            return
        before, settings.disk_params = settings.disk_params, params
        other_scores = (params.method, params.model) != (before.method, before.model)
        if other_scores and self.found.disks is None:
            settings.default_min_score = None
        if params.probe != before.probe:
            self.measure_probe()
        else:
            self.find_here(force=self.found.disks is None)
            self._refresh_structure()
        self.outlook_changed.emit()

    # the scan

    def run(self, resume: bool = False, then_strain: bool = False) -> None:
        """Find the disks of the whole scan as a job."""
        self.followers.drop("outlook", "live")
        self.scan_run.start(self.data, resume)
        self._then_strain = then_strain
        self.overlay_changed.emit()
        self.find_here()

    def can_resume(self) -> bool:
        """True when a partial run of this datacube lies on disk."""
        output = self.settings.output
        return self.job is None and output is not None and DISK_RUNS.can_resume(output)

    def _on_block(self, data: StemData, block: Any, table: PeakTable) -> None:
        if data is not self.data:
            return
        default = table.attrs.get("default_min_score")
        if default is not None:
            self.settings.suggest_threshold(float(default))
        self.block_found.emit(block, table)
        row, col = self.settings.position
        if self.cube is not None and block.start <= row * self.cube.scan_shape[1] + col < block.stop:
            self.overlay_changed.emit()
        if not self._preview.isActive():
            self._preview.start()

    def _show_part(self) -> None:
        """Vector map of the part of the scan that is finished."""
        part = self.data.part_found()
        if part is not None:
            strong = part.filter(min_score=self.settings.min_score)
            self.followers.submit("part", part, strong, self.settings.strain_params)

    def _on_part(self, image: NDArray[np.float32], _args: Any) -> None:
        if self.found.partial is not None:
            self.map_changed.emit(image)

    def _on_disks(self, data: StemData, complete: bool) -> None:
        if data is not self.data:
            return
        self._tell_disks()
        if complete and self._then_strain:
            self.fit()

    def cancel(self) -> None:
        """Stop whatever runs on the scan."""
        self.scan_run.cancel()
        self.cancel_fit()

    @property
    def busy(self) -> bool:
        """True while anything runs."""
        return self.job is not None or self.fit_job is not None or self.followers.busy or self._rest.isActive()

    def close(self, timeout_s: float = 3.0) -> bool:
        """Cancel everything and wait for the threads; True when all have ended."""
        self.over = True
        jobs_going = [job for job in (self.job, self.fit_job) if job is not None]
        self.cancel()
        self._imports.stop()
        self._preview.stop()
        self._rest.stop()
        ended = self.followers.close(timeout_s)
        return ended and all(job.wait(timeout_s) for job in jobs_going)
