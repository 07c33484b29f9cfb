"""Diffusion panel: which sites are occupied when, where columns come and go, how often, and how two movies differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QButtonGroup, QCheckBox, QComboBox, QFileDialog, QTabWidget, QWidget

from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.fit.sites import GROUPS
from napari_emdl.atoms.fit.sitetable import event_table, nearest_site, site_spacing_px
from napari_emdl.atoms.judge.compare import WEAK_SEPARATION
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import OccupancyParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.gui.atoms.compare import CompareTab
from napari_emdl.gui.atoms.diffusion_tabs import DwellTab, RatesTab, SiteTab
from napari_emdl.gui.atoms.events import EventsTable
from napari_emdl.gui.atoms.hand import SiteTools
from napari_emdl.gui.atoms.jobs import export_result, fit_sites, mean_of, rethreshold, run_movie, save_result, write_job
from napari_emdl.gui.atoms.session import session_of
from napari_emdl.gui.atoms.sites import HEATMAPS, SiteLayers
from napari_emdl.gui.atoms.widgets import NO_MOVIE, Fold, MovieBox, ScrollPanel, ThresholdRow, button, line, row, single_shot
from napari_emdl.gui.kit.forms import ParamsForm
from napari_emdl.gui.kit.plots import named
from napari_emdl.gui.kit.session import bare
from napari_emdl.gui.kit.worker import Job, JobBar, Latest, report_error

FORM = ("method", "evidence", "frame_interval_s", "dose_e_per_A2", "min_site_fraction", "max_distance_A", "extrapolate")
NO_PIXEL = "<b>The pixel size is unknown.</b><br>Type or measure it in Plugins &gt; EM deep learning &gt; HRTEM columns."
NO_COLUMNS = "The columns of this movie are not found yet: the button finds them first, as set in the HRTEM columns panel."
ONE_FRAME = "<b>This is a single image.</b><br>Occupancy needs a movie: open one with several frames."


class DiffusionPanel(ScrollPanel):
    """Dock widget over one viewer."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = bare(napari_viewer)
        self.session = session_of(self.viewer)
        self.layers = SiteLayers(self.viewer)
        self.latest = Latest(rethreshold, "threshold", cancel_stale=False, parent=self)
        self.job: Job | None = None
        self.fitted: Occupancy | None = None
        self.tools = SiteTools(self.session, self.layers, self)
        self._columns: PeakTable | None = None
        self._build()
        self._connect()
        self.movie_box.refresh()
        self._show_state()

    # -- building

    def _build(self) -> None:
        self.movie_box = MovieBox(self.session)
        self.hint = line(NO_MOVIE, "hint")
        self.form = ParamsForm(OccupancyParams, include=FORM)
        self.fit_button = button("Fit occupancy", "Drift, sites, and which of them are occupied when", "fit", self.fit)
        self.export_button = button("Export…", "Tables (CSV), heatmaps (TIFF, PNG), annotated movie", "export", self.export)
        self.save_button = button("Save…", "Save the result as HDF5", "save_occupancy", self.save)
        self.bar = JobBar("frames")
        self.status = line(name="status", dim=True)
        self.threshold = ThresholdRow("Threshold", "Detections with a lower score do not count; sites and rates follow at once")
        self.heatmap = named(QComboBox(), "heatmap")
        self.heatmap.addItems(list(HEATMAPS))
        self.heatmap.setToolTip("What the colour of the sites shows")
        self.over_mean = button("Mean image", "Sites over the drift-corrected mean of all frames", "over_mean", checkable=True)
        self.over_movie = button("Movie", "Sites over the movie; they follow the drift", "over_movie", checkable=True)
        self.over_mean.setChecked(True)
        self._background = QButtonGroup(self)
        for made in (self.over_mean, self.over_movie):
            self._background.addButton(made)
        self.tabs = named(QTabWidget(), "tabs")
        self.site_tab, self.events, self.rates, self.dwell = SiteTab(), EventsTable(), RatesTab(), DwellTab()
        self.compare = CompareTab()
        tabs = {"Site": self.site_tab, "Events": self.events, "Rates": self.rates, "Dwell": self.dwell, "Compare": self.compare}
        for title, tab in tabs.items():
            self.tabs.addTab(tab, title)
        self.legend = line(name="group_legend", dim=True)
        body = self.body
        body.addWidget(self.movie_box)
        body.addWidget(self.hint)
        body.addWidget(row(self.fit_button, self.save_button, self.export_button, stretch=(2, 1, 1)))
        body.addWidget(self.bar)
        self.video = named(QCheckBox("Export an annotated movie (MP4) as well"), "export_video")
        self.video.setChecked(True)
        self.job_button = button("Save job…", "All settings as YAML for 'napari-emdl run JOB.yaml'", "save_job", self.save_job)
        body.addWidget(Fold("Settings", self.form, self.video, self.job_button))
        body.addWidget(self.status)
        self.result = QWidget()
        body.addWidget(self.threshold)
        body.addWidget(row(self.heatmap, self.over_mean, self.over_movie, stretch=(2, 1, 1)))
        body.addWidget(self.legend)
        body.addWidget(self.tabs, 1)

    def _connect(self) -> None:
        session = self.session
        session.movie_changed.connect(self._movie_changed)
        session.columns_changed.connect(self._columns_changed)
        session.frame_changed.connect(self._show_frame)
        session.occupancy_changed.connect(self._show_occupancy)
        session.threshold_changed.connect(self._threshold_changed)
        self.threshold.changed.connect(session.set_min_score)
        self.heatmap.currentTextChanged.connect(self.layers.set_heatmap)
        self.over_movie.toggled.connect(self._background_changed)
        self.latest.done.connect(self._rethresholded)
        self.latest.failed.connect(lambda error: self.status.setText(report_error(error)))
        self.events.chosen.connect(self._event_chosen)
        self.site_tab.seek.connect(session.seek)
        self.site_tab.regroup.connect(self.tools.regroup)
        self.site_tab.remove.connect(self.tools.remove)
        self.site_tab.keep_region.connect(self._keep_region)
        self.site_tab.reset.connect(self.tools.clear)
        self.tools.changed.connect(self._sites_changed)
        self.tools.pending.connect(self._show_state)
        self.viewer.mouse_drag_callbacks.append(self._mouse)
        self._state_timer = single_shot(self, 100, self._show_state)

    # -- state

    def _movie_changed(self) -> None:
        if self.job is not None:
            self.job.cancel()
        self.latest.drop()
        self.fitted = self._columns = None
        self.tools.clear()
        self.layers.remove()
        self._show_state()

    def _columns_changed(self, _frames: Any) -> None:
        if not self._state_timer.isActive():
            self._state_timer.start()

    def _show_state(self) -> None:
        movie, columns = self.session.movie, self.session.candidates
        ready = movie is not None and columns.done == movie.n_frames
        problem = ""
        if movie is None:
            problem = NO_MOVIE
        elif movie.n_frames < 2:
            problem = ONE_FRAME
        elif movie.pixel_A is None:
            problem = NO_PIXEL
        self.hint.setText(problem or NO_COLUMNS)
        self.hint.setVisible(bool(problem) or not ready)
        running = self.job is not None
        self.fit_button.setEnabled(not problem and not running)
        again = self.session.occupancy is not None
        more = f" with {len(self.tools.new)} new sites" if self.tools.new else ""
        self.fit_button.setText(f"Fit again{more}" if again else "Fit occupancy" if ready else "Find columns and fit")
        for widget in (self.save_button, self.export_button):
            widget.setEnabled(again and not running)
        shown: tuple[QWidget, ...] = (self.threshold, self.heatmap, self.over_mean, self.over_movie, self.tabs)
        for part in shown:
            part.setEnabled(again)

    # -- fitting

    def fit(self) -> None:
        """Find columns where they are missing, then drift, sites and occupancy, in the background."""
        movie, session = self.session.movie, self.session
        if movie is None or self.job is not None:
            return
        try:
            params = self.form.value()
        except EmdlError as error:
            report_error(error)
            return
        have = session.candidates.table()
        find = run_movie(movie, session.column_params, session.run_params)
        candidates, edits, sites = session.candidates, session.edits, self.tools.sites(self.fitted)

        def work(control: Any, on_block: Any) -> Any:
            table = have if have is not None else find(control, on_block)
            columns = edits.apply(table)
            threshold = session.min_score if have is not None else float(table.attrs["default_min_score"])
            wanted = params.model_copy(update={"min_score": threshold})
            fitted, mean = fit_sites(movie, columns, wanted, session.run_params, sites)(control, on_block)
            return table, columns, fitted, mean

        job = Job(work, "fitting occupancy", self)
        job.block.connect(lambda block, table: self._block_done(candidates, block.start, table))
        job.returned.connect(lambda result: self._fit_done(candidates, *result))
        job.failed.connect(lambda error: self.status.setText(report_error(error, "occupancy")))
        job.finished.connect(self._job_finished)
        self.job = job
        self.bar.watch(job)
        self._show_state()
        job.start()

    def _block_done(self, candidates: Any, start: int, table: PeakTable) -> None:
        if candidates is self.session.candidates:
            self.session.put_columns(start, table)

    def _fit_done(self, candidates: Any, table: PeakTable, columns: PeakTable, fitted: Occupancy, mean: np.ndarray) -> None:
        if candidates is not self.session.candidates:
            return
        if self.session.candidates.table() is not table:
            self.session.put_columns(0, table)
        self.fitted, self._columns = fitted, columns
        self.tools.taken()
        self.threshold.set_default(float(columns.attrs.get("default_min_score", 0.5)))
        self.layers.show_mean(self.session.layer, mean)
        self._hide_columns()
        self.session.set_occupancy(fitted)

    def _hide_columns(self) -> None:
        from napari_emdl.gui.atoms.layers import find_layer

        layer = find_layer(self.viewer, "columns")
        if layer is not None:
            layer.visible = False

    def _job_finished(self) -> None:
        self.job = None
        self._show_state()

    # -- result

    def _show_occupancy(self) -> None:
        occupancy = self.session.occupancy
        self._show_state()
        if occupancy is None:
            self.layers.remove()
            self.site_tab.show_site(None, None)
            self.rates.show_occupancy(None)
            self.dwell.show_occupancy(None)
            self.compare.show_occupancy(None, "")
            self.events.show_events({}, ())
            self.status.setText("")
            self.legend.setText("")
            return
        if self.fitted is None:  # opened from a file
            self.fitted, self._columns = occupancy, self.session.candidates.table()
            self._make_mean(occupancy)
        self.layers.show(self.session.layer, occupancy, self.session.frame)
        self.site_tab.trace.set_frames(occupancy.n_frames)
        groups = [name for code, name in enumerate(GROUPS) if (occupancy.groups == code).any()]
        self.events.show_events(event_table(occupancy), groups)
        self.rates.show_occupancy(occupancy)
        self.dwell.show_occupancy(occupancy)
        self.compare.show_occupancy(occupancy, self.session.layer.name)
        self.choose_site(self.site_tab.site if (self.site_tab.site or 0) < occupancy.n_sites else None)
        self.legend.setText(group_legend(occupancy))
        self.status.setText(summary(occupancy))

    def _make_mean(self, occupancy: Occupancy) -> None:
        assert self.session.movie is not None
        job = Job(mean_of(self.session.movie, occupancy), "mean image", self)
        job.returned.connect(lambda mean: self._mean_done(occupancy, mean))
        job.failed.connect(lambda error: self.status.setText(report_error(error, "mean image")))
        job.start()

    def _mean_done(self, occupancy: Occupancy, mean: np.ndarray) -> None:
        if self.fitted is occupancy:
            self.layers.show_mean(self.session.layer, mean)

    def _threshold_changed(self, value: float) -> None:
        if abs(self.threshold.value - value) > 1e-6:
            self.threshold.put(value)
        if self.fitted is not None and self._columns is not None:
            self.latest.submit(self.fitted, self._columns, value)

    def _rethresholded(self, occupancy: Occupancy, args: tuple[Any, ...]) -> None:
        if args[0] is self.fitted:
            self.session.set_occupancy(occupancy)

    def _show_frame(self, frame: int) -> None:
        self.layers.show_frame(frame)
        self.site_tab.trace.set_frame(frame)

    def _background_changed(self, over_movie: bool) -> None:
        self.layers.set_background(self.session.frame, over_movie)

    # -- sites

    def choose_site(self, site: int | None) -> None:
        """Show the life of a site; None of none."""
        self.site_tab.show_site(self.session.occupancy, site)
        self.site_tab.trace.set_frame(self.session.frame)
        self.layers.mark(site)

    def _event_chosen(self, frame: int, site: int) -> None:
        self.choose_site(site)
        self.session.seek(frame)

    def _mouse(self, _viewer: Any, event: Any) -> Any:
        start = np.array(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        layer = self.layers.sites
        if self.session.occupancy is None or layer is None or not layer.visible or np.hypot(*(np.array(event.pos) - start)) > 4:
            return
        point = layer.world_to_data(event.position[-2:])
        place = float(point[-2]), float(point[-1])
        if self.site_tab.add_button.isChecked():
            self.tools.add(*place)
            return
        site = nearest_site(np.asarray(layer.data), place, 0.6 * site_spacing_px(self.session.occupancy))
        if site is not None:
            self.choose_site(site)
            self.tabs.setCurrentWidget(self.site_tab)

    def _sites_changed(self, occupancy: Occupancy) -> None:
        if occupancy.n_sites != self.session.occupancy.n_sites:
            self.choose_site(None)
        self.fitted = occupancy
        self.session.set_occupancy(occupancy)

    def _keep_region(self) -> None:
        said = self.tools.keep_region()
        if said:
            self.status.setText(said)

    # -- files

    def save(self) -> None:
        """Ask for a file and save the occupancy."""
        movie = self.session.movie
        proposed = str(Path(movie.path).with_suffix(".occupancy.h5")) if movie is not None and movie.path else "occupancy.h5"
        path, _ = QFileDialog.getSaveFileName(self, "Save occupancy", proposed, "HDF5 (*.h5)")
        if path:
            self.save_to(path)

    def save_to(self, path: str) -> None:
        """Save the occupancy as it is shown."""
        occupancy = self.session.occupancy
        self._write(lambda _control, _block: save_result(occupancy, path), "saving")

    def save_job(self) -> None:
        """Ask for a file and save all settings as a job for the command line."""
        path, _ = QFileDialog.getSaveFileName(self, "Save job", "occupancy_job.yaml", "YAML (*.yaml)")
        if path:
            self.save_job_to(path)

    def save_job_to(self, path: str) -> None:
        """Save all settings as a job for the command line."""
        session = self.session
        try:
            self.status.setText(write_job(path, session.movie, session.column_params, self.form.value(), session.run_params))
        except (EmdlError, OSError) as error:
            self.status.setText(report_error(error, "save job"))

    def export(self) -> None:
        """Ask for a folder and export tables, heatmaps and the annotated movie."""
        folder = QFileDialog.getExistingDirectory(self, "Export into folder")
        if folder:
            self.export_to(folder)

    def export_to(self, folder: str) -> None:
        """Export tables, heatmaps and the annotated movie."""
        occupancy, movie = self.session.occupancy, self.session.movie
        assert movie is not None
        self.bar.watch(self._write(export_result(occupancy, movie, folder, self.video.isChecked()), "exporting"))

    def _write(self, function: Any, name: str) -> Job:
        job = Job(function, name, self)
        job.returned.connect(self.status.setText)
        job.failed.connect(lambda error: self.status.setText(report_error(error, name)))
        job.cancelled.connect(lambda: self.status.setText(f"{name} cancelled"))
        self.status.setText(f"{name} …")
        return job.start()

    def shut_down(self) -> None:
        """Stop what runs; no thread outlives the panel."""
        if self._mouse in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._mouse)
        if self.job is not None:
            self.job.cancel()
            self.job.wait(2.0)
        self.latest.close()


def group_legend(occupancy: Occupancy) -> str:
    """Outline colours of the groups that are there, and the event markers."""
    from napari_emdl.gui.atoms.sites import ARRIVES_COLOUR, GROUP_COLOURS, LEAVES_COLOUR

    parts = [
        f'<span style="color:{GROUP_COLOURS[name]}">◯</span> {name} {int((occupancy.groups == code).sum())}'
        for code, name in enumerate(GROUPS)
        if (occupancy.groups == code).any()
    ]
    marks = f'<span style="color:{ARRIVES_COLOUR}">▲</span> appears <span style="color:{LEAVES_COLOUR}">▼</span> vanishes'
    return " ".join(parts) + "<br>" + marks


def summary(occupancy: Occupancy) -> str:
    """What was found, in a line, with the notes of the fit."""
    facts = f"{occupancy.n_sites} sites in {occupancy.n_frames} frames, {len(occupancy.events)} events"
    separation = occupancy.attrs.get("separation")
    if separation:
        facts += f"; occupied and empty {separation:.1f} sigma apart"
    weak = ["⚠ This is little: rates and events are uncertain"] if separation and separation < WEAK_SEPARATION else []
    return ". ".join([facts, *weak, *occupancy.attrs.get("notes", ())])
