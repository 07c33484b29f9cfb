"""Limits, lattice and strain of the datacube that is shown: what is set, and the workers that follow it. No widgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskLimits, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.standin import is_stand_in
from napari_emdl.gui.diffraction import jobs
from napari_emdl.gui.diffraction.data import Found, Settings, StemData
from napari_emdl.gui.diffraction.followers import Followers
from napari_emdl.gui.kit.worker import Job, report_error

REST_MS = 200  # a slider that stood still for so long rests


class FitState(QObject):
    """From the disks of a scan to its strain.

    Signals
    -------
    overlay_changed, disks_changed, kept_changed, lattice_changed, strain_changed
        The disks at the position; the scan's table; its thresholded view; vector map and basis; the strain map.
    limits_changed
        What a disk must pass was changed by hand.
    settings_changed
        Anything else was changed by hand.
    map_changed
        The Bragg vector map of the disks kept; the basis follows later.
    coarse_changed
        A coarse map of the strain is there for the time until the whole one comes: :attr:`coarse`.
    strain_failed
        Why there is no map with the settings as they are; the last map stays.
    fit_started, fit_stale
        A fit to the patterns goes on (a :class:`Job` to watch); the map is of settings before, until the user fits again.
    fit_time_changed
        How long a fit to the patterns takes is known: :attr:`fit_time_s`.
    message
        One line for the status bar of the panel.
    """

    limits_changed = Signal()
    settings_changed = Signal()
    overlay_changed = Signal()
    disks_changed = Signal()
    kept_changed = Signal()
    lattice_changed = Signal()
    map_changed = Signal(object)
    strain_changed = Signal()
    coarse_changed = Signal()
    strain_failed = Signal(str)
    fit_started = Signal(object)
    fit_stale = Signal()
    fit_time_changed = Signal()
    message = Signal(str)

    def __init__(self, parent: QObject | None = None):
        super().__init__(parent)
        self.data = StemData()
        self.over = False  # the workspace is closed
        self.followers = Followers(self)
        self.followers.failed.connect(self._on_failed)
        lattice, follow = jobs.LatticeFinder(), self.followers.add
        follow("keep", jobs.keep, self._on_kept, cancel_stale=False)
        follow("prepare", jobs.prepare_limits, lambda *_: None)
        follow("histogram", jobs.score_histogram, self._on_histogram)
        follow("map", lattice.image, self._on_map, cancel_stale=False, silent=True)  # the lattice says why, in its step
        follow("lattice", lattice, self._on_lattice, cancel_stale=False)
        follow("strain", jobs.fit_strain, self._on_strain, cancel_stale=False)
        follow("turn", jobs.turn_strain, self._on_turned, cancel_stale=False)
        follow("fit time", jobs.pattern_fit_s, self._on_fit_time, silent=True)
        coarse = follow("coarse", jobs.CoarseStrain(), self._on_coarse, cancel_stale=False)
        coarse.failed.connect(lambda *_: self._go_on())
        self._keep_waits = False
        self.fit_job: Job | None = None
        self.fit_time_s: float | None = None
        self.peaks_for_now = False
        self._patterns_wait: tuple[Any, ...] | None = None
        self.coarse: jobs.CoarseView | None = None
        self._stale = False
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self._rest.timeout.connect(self.follow)

    @property
    def cube(self) -> Datacube | None:
        """Datacube that is shown."""
        return self.data.cube

    @property
    def settings(self) -> Settings:
        """What is set for it."""
        return self.data.settings

    @property
    def found(self) -> Found:
        """What was found in it."""
        return self.data.found

    @property
    def limits(self) -> DiskLimits:
        """What a disk must pass to be kept."""
        return self.settings.limits

    def set_limits(self, limits: DiskLimits) -> None:
        """Take other limits, score and all; a least score of None is the method's own."""
        before = self.settings.limits
        self.settings.put_limits(limits)
        if self.settings.limits != before:
            self._tell_limits()

    def set_threshold(self, min_score: float) -> None:
        """Filter disks by score: the overlay at once, the scan's table and the strain right behind."""
        self.settings.min_score = float(min_score)
        self._tell_limits()

    def _tell_limits(self) -> None:
        self._keep_waits = self._look_coarsely()
        self.limits_changed.emit()
        self.overlay_changed.emit()
        if not self._keep_waits:
            self._refresh_kept()  # lattice and strain follow

    def set_strain_params(self, params: StrainParams) -> None:
        """Take other settings for the strain and fit again when there is something to fit."""
        settings = self.settings
        if params == settings.strain_params:
            return
        turned = settings.strain_params == params.model_copy(update={"axis_deg": settings.strain_params.axis_deg})
        before, settings.strain_params = settings.limits, params
        self.settings_changed.emit()
        if turned and self.found.strain is not None and jobs.can_turn(self.found.strain):
            self.followers.submit("turn", self.data, self.found.strain, params.axis_deg)
            return
        if settings.limits != before:
            self._tell_limits()
            return
        self._refresh_lattice()
        self._look_coarsely()
        self._refit()

    def set_reference(self, reference: Any) -> None:
        """None (median of all), "lattice", or a bool mask over the scan; fits again when there is a map."""
        self.settings.reference = reference
        self.settings_changed.emit()
        self._look_coarsely()
        self._refit()

    def set_regions(self, regions: NDArray[np.uint8] | None) -> None:
        """Labels over the scan (0: none) for several lattices, or None for one; fits again when there is a map."""
        self.settings.put_regions(regions)
        if regions is None:  # whoever takes several lattices away wants one
            one = self.settings.strain_params.model_copy(update={"lattices": "one"})
            self.settings.strain_params = one
            self.settings_changed.emit()
        self._refresh_lattice()
        self._refit()

    def show_region(self, number: int) -> None:
        """Show the lattice of one region on the vector map, 0 for that of the whole scan."""
        self.settings.region_shown = number
        self._refresh_lattice()

    def take_disks(self, table: PeakTable, done: NDArray[np.bool_] | None = None, file: Path | None = None) -> None:
        """Use a table over the scan: from a run, a partial run or a file."""
        if self.settings.regions_found:
            self.settings.put_regions(None)
        self.data.take_disks(table, done, file)
        self._tell_disks()

    def _tell_disks(self, again: bool = False) -> None:
        disks = self.found.disks
        if disks is None:
            return
        if self.found.histogram is None:
            self.followers.submit("histogram", disks.column("score"))
        self.followers.submit("prepare", disks)
        self.disks_changed.emit()
        self.overlay_changed.emit()
        if again:  # they were shown before, and nothing has changed since
            self.kept_changed.emit()
            self._refresh_lattice()
        else:
            self._refresh_kept()

    def _on_histogram(self, histogram: Any, args: Any) -> None:
        if self.found.disks is not None:
            self.found.histogram = histogram
            self.overlay_changed.emit()

    def _refresh_kept(self) -> None:
        if self.found.disks is not None and self.settings.min_score is not None:
            self.followers.submit("keep", self.found.disks, self.settings.limits)

    def _on_kept(self, kept: PeakTable, args: Any) -> None:
        if args[0] is not self.found.disks:
            return
        self.found.kept = kept
        self.kept_changed.emit()
        self._refresh_lattice()
        self._refit()

    def _refresh_lattice(self) -> None:
        disks, kept = self.found.disks, self.found.kept
        if disks is not None and kept is not None:
            for name in ("map", "lattice"):
                self.followers.submit(name, disks, kept, *self.settings.lattice_shown())

    def _on_map(self, image: NDArray[np.float32], args: Any) -> None:
        if args[0] is self.found.disks:
            self.map_changed.emit(image)

    def _on_lattice(self, lattice: jobs.LatticeView, args: Any) -> None:
        if args[0] is self.found.disks:
            self.found.lattice = lattice
            self.lattice_changed.emit()

    def _refit(self) -> None:
        """Follow other settings: at once with a fit to the peaks, when the user says so with one to the patterns."""
        if self.found.strain is None:
            return
        if self._follows_coarsely():
            self._rest.start()  # the whole scan takes seconds: it waits until the slider rests
        elif not self.settings.strain_params.needs_patterns:
            self.follow()
        else:
            self._stale = True
            self.fit_stale.emit()
            self._ask_fit_time()

    def _follows_coarsely(self) -> bool:
        """True where a coarse map of the strain comes before the whole one."""
        settings, found = self.settings, self.found
        one_lattice = not settings.strain_params.needs_patterns and settings.regions is None
        return one_lattice and found.strain is not None and found.disks is not None and jobs.follows_coarsely(found.disks)

    def _look_coarsely(self) -> bool:
        """Ask for a coarse map with the settings as they are, where one comes first; True when it does."""
        follows = self._follows_coarsely()
        if follows:
            settings, found = self.settings, self.found
            what = settings.reference, settings.strain_params, settings.limits
            self.followers.submit("coarse", self.data, found.disks, found.strain, *what)
        return follows

    def _on_coarse(self, view: jobs.CoarseView | None, args: Any) -> None:
        data, _disks, known = args[:3]
        if view is not None and data is self.data and known is self.found.strain:  # else the whole one was faster
            self.coarse = view
            self.coarse_changed.emit()
        self._go_on()

    def _go_on(self) -> None:
        """With the whole table, which had to wait: both cores were for the coarse map."""
        if self._keep_waits:
            self._keep_waits = False
            self._refresh_kept()

    def _ask_fit_time(self) -> None:
        disks, cube = self.found.disks, self.cube
        if disks is not None and cube is not None and not is_stand_in(cube):
            self.followers.submit("fit time", cube, disks, self.settings.strain_params)

    def _on_fit_time(self, seconds: float, args: Any) -> None:
        if args[0] is self.cube:
            self.fit_time_s = seconds
            self.fit_time_changed.emit()

    def _start_pattern_fit(self, *args: Any) -> None:
        """Fit to the patterns as a job with progress; one that goes on is stopped."""
        self.cancel_fit()
        job = Job(lambda control, _block: jobs.fit_strain(control, *args), "fitting the patterns", self)
        job.returned.connect(lambda strain: self._on_strain(strain, args))
        job.failed.connect(lambda error: self._on_failed("strain", report_error(error, "strain")))
        job.cancelled.connect(self._on_fit_stopped)  # a method: Qt lets go of it when the workspace is gone first
        job.finished.connect(lambda: self._on_fit_finished(job))
        self.fit_job = job
        self.fit_started.emit(job)
        job.start()

    def _on_fit_stopped(self) -> None:
        self.message.emit("the fit to the patterns was stopped; the map is as before")

    def _on_fit_finished(self, job: Job) -> None:
        if self.fit_job is job:
            self.fit_job = None

    def cancel_fit(self) -> None:
        """Stop a fit to the patterns."""
        if self.fit_job is not None:
            self.fit_job.cancel()

    def follow(self) -> None:
        """Fit with other settings: to the peaks alone where the fit is chosen by itself, so that sliders are followed."""
        self._fit(patterns=False)

    def fit(self) -> None:
        """Fit lattice and strain to the disks kept, or to the patterns, in the background.

        Where the fit is chosen by itself a map of the peaks comes at once, and one of peaks and patterns when it is ready.
        """
        self._fit(patterns=True)

    def _fit(self, patterns: bool) -> None:
        disks, settings = self.found.disks, self.settings
        if disks is None:
            raise EmdlError("there are no disks yet; press Run to find them first")
        params = settings.strain_params.model_copy(update={"min_score": settings.min_score})
        self._rest.stop()
        self.cancel_fit()
        self.peaks_for_now, self._patterns_wait = False, None
        if params.needs_patterns:
            self._start_pattern_fit(self.data, disks, settings.reference, params, settings.regions)
            return
        peaks = params.model_copy(update={"fit": "peaks"})
        self.followers.submit("strain", self.data, disks, settings.reference, peaks, settings.regions)
        if params.fit == "auto" and patterns:
            self._patterns_wait = self.data, disks, settings.reference, params, settings.regions
        elif params.fit == "auto" and not is_stand_in(self.cube):
            self.peaks_for_now = True
            if self.fit_time_s is None:
                self._ask_fit_time()

    def _on_strain(self, strain: Any, args: Any) -> None:
        data, disks = args[:2]
        if self.over:  # a fit that ended while the window was closed
            return
        if data is self.data and self._rest.isActive():
            return  # the slider moved on, and a coarse map of where it is now is shown
        if disks is data.found.disks:
            data.found.strain = strain
            if data.settings.regions is None and strain.attrs.get("regions_found"):
                data.settings.put_regions(strain.region, found=True)
            axis_deg = data.settings.strain_params.axis_deg
            if strain.axis_deg != axis_deg and jobs.can_turn(strain):  # the axis was turned while it was fitted
                self.followers.submit("turn", data, strain, axis_deg)
            if data is self.data:
                self.coarse = None
                self._stale = False
                self.strain_changed.emit()
                self._tell_fit(strain)

    def _on_turned(self, strain: Any, args: Any) -> None:
        data, known = args[:2]
        if data.found.strain is not known:
            return
        data.found.strain = strain
        if data is self.data:
            self.strain_changed.emit()
            if self._stale:
                self.fit_stale.emit()

    def _tell_fit(self, strain: Any) -> None:
        """Go on to the patterns, or say that the map is now of them too."""
        wanted, self._patterns_wait = self._patterns_wait, None
        how = strain.attrs.get("fit") or {}
        if wanted is not None:
            self._start_pattern_fit(*wanted)
        elif how.get("wanted") == "auto":
            self.message.emit(f"the strain is {how['text']}")

    def _on_failed(self, name: str, line: str) -> None:
        if self.over:
            return
        self.message.emit(f"{name}: {line}")
        if name == "strain":
            self.coarse = None
            self.strain_failed.emit(line)
        elif name == "lattice":
            self.found.lattice = jobs.LatticeView((0.0, 0.0), None, line)
            self.lattice_changed.emit()
