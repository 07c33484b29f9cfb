"""Diffusion panel: which sites are occupied when, where columns come and go, how often, and how two movies differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QButtonGroup, QCheckBox, QComboBox, QFileDialog, QWidget

from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.fit.sites import GROUPS
from napari_emdl.atoms.fit.sitetable import event_table, nearest_site, site_spacing_px
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import OccupancyParams
from napari_emdl.gui.atoms.compare import CompareTab
from napari_emdl.gui.atoms.diffusion_tabs import DwellTab, RatesTab, SiteTab
from napari_emdl.gui.atoms.events import EventsTable
from napari_emdl.gui.atoms.fitting import OccupancyFollower
from napari_emdl.gui.atoms.hand import SiteTools
from napari_emdl.gui.atoms.jobs import export_result, save_result
from napari_emdl.gui.atoms.pixelbox import PixelBox
from napari_emdl.gui.atoms.project import enter, leave
from napari_emdl.gui.atoms.session import session_of
from napari_emdl.gui.atoms.sites import HEATMAPS, SiteLayers
from napari_emdl.gui.atoms.sitewords import group_legend, summary
from napari_emdl.gui.atoms.tools import LimitsTools, ProjectRow
from napari_emdl.gui.atoms.widgets import (
    NO_MOVIE,
    Fold,
    MovieBox,
    PageTabs,
    ScrollPanel,
    ThresholdRow,
    button,
    line,
    row,
    single_shot,
)
from napari_emdl.gui.kit.forms import ParamsForm
from napari_emdl.gui.kit.plots import named
from napari_emdl.gui.kit.session import bare
from napari_emdl.gui.kit.worker import Job, JobBar, report_error

FORM = ("method", "evidence", "frame_interval_s", "dose_e_per_A2", "min_site_fraction", "max_distance_A", "extrapolate")
NO_COLUMNS = "The columns of this movie are not found yet: the button finds them first, as set in the HRTEM columns panel."
SOME_COLUMNS = "Columns are known in {} of {} frames: the button finds the others first, as set in the HRTEM columns panel."
ONE_FRAME = "<b>This is a single image.</b><br>Occupancy needs a movie: open one with several frames."


class DiffusionPanel(ScrollPanel):
    """Dock widget over one viewer."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = bare(napari_viewer)
        self.session = session_of(self.viewer)
        self.layers = SiteLayers(self.viewer)
        self.fitting = OccupancyFollower(self.session, self)
        self._jobs: list[Job] = []  # that write files
        self.tools = SiteTools(self.session, self.layers, self)
        self.keeper = enter(self.session, "diffusion", self)
        self._build()
        self._put_settings()
        self._connect()
        self.movie_box.refresh()
        self._show_state()
        if self.session.occupancy is not None:
            self._show_occupancy()
        self.fitting.follow_limits()
        if "diffusion" in self.session.shown_later:
            self.put_display(self.session.shown_later.pop("diffusion"))

    # -- building

    def _build(self) -> None:
        self.project_row = ProjectRow(self.session, self.keeper)
        self.notices = self.project_row.notices
        self.movie_box = MovieBox(self.session)
        self.hint = line(NO_MOVIE, "hint")
        self.pixel_box = PixelBox(self.session, asks_only=True)
        self.form = ParamsForm(OccupancyParams, include=FORM)
        self.fit_button = button("Fit occupancy", "Drift, sites, and which of them are occupied when", "fit", self.fit)
        self.export_button = button("Export…", "Tables (CSV), heatmaps (TIFF, PNG), annotated movie", "export", self.export)
        self.save_button = button("Save…", "Save the result as HDF5", "save_occupancy", self.save)
        self.bar = JobBar("frames")
        self.status = line(name="status", dim=True)
        self.threshold = ThresholdRow("Threshold", "Detections with a lower score do not count; sites and rates follow at once")
        self.limits = LimitsTools(self.session)
        self.limits.add_keys(self.threshold)
        self.heatmap = named(QComboBox(), "heatmap")
        self.heatmap.addItems(list(HEATMAPS))
        self.heatmap.setToolTip("What the colour of the sites shows")
        self.over_mean = button("Mean image", "Sites over the drift-corrected mean of all frames", "over_mean", checkable=True)
        self.over_movie = button("Movie", "Sites over the movie; they follow the drift", "over_movie", checkable=True)
        self.over_mean.setChecked(True)
        self._background = QButtonGroup(self)
        for made in (self.over_mean, self.over_movie):
            self._background.addButton(made)
        self.tabs = named(PageTabs(), "tabs")
        self.site_tab, self.events, self.rates, self.dwell = SiteTab(), EventsTable(), RatesTab(), DwellTab()
        self.compare = CompareTab()
        tabs = {"Site": self.site_tab, "Events": self.events, "Rates": self.rates, "Dwell": self.dwell, "Compare": self.compare}
        for title, tab in tabs.items():
            self.tabs.addTab(tab, title)
        self.legend = line(name="group_legend", dim=True)
        body = self.body
        body.addWidget(self.project_row)
        body.addWidget(self.movie_box)
        body.addWidget(self.hint)
        body.addWidget(self.pixel_box)
        body.addWidget(row(self.fit_button, self.save_button, self.export_button, stretch=(2, 1, 1)))
        body.addWidget(self.bar)
        self.video = named(QCheckBox("Export an annotated movie (MP4) as well"), "export_video")
        self.video.setChecked(True)
        body.addWidget(Fold("Settings", self.form, self.video))
        body.addWidget(self.status)
        body.addWidget(self.threshold)
        body.addWidget(self.limits)
        body.addWidget(row(self.heatmap, self.over_mean, self.over_movie, stretch=(2, 1, 1)))
        body.addWidget(self.legend)
        body.addWidget(self.tabs, 1)

    def _connect(self) -> None:
        session = self.session
        self.follow(session.movie_changed, self._movie_changed)
        self.follow(session.columns_changed, self._columns_changed)
        self.follow(session.frame_changed, self._show_frame)
        self.follow(session.occupancy_changed, self._show_occupancy)
        self.follow(session.settings_changed, self._put_settings)
        self.follow(session.message, self.project_row.show_note)
        self.follow(session.pixel_changed, self._show_state)
        self.pixel_box.form.changed.connect(self._take_pixel)
        self.form.changed.connect(self._take_settings)
        self.threshold.follow(session)
        self.heatmap.currentTextChanged.connect(self.layers.set_heatmap)
        self.over_movie.toggled.connect(self._background_changed)
        self.fitting.started.connect(self.bar.watch)
        self.fitting.started.connect(lambda _job: self._show_state())
        self.fitting.ended.connect(self._show_state)
        self.fitting.failed.connect(self.status.setText)
        self.fitting.mean_found.connect(self._show_mean)
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

    def _put_settings(self) -> None:
        """Show the parameters of the session."""
        with QSignalBlocker(self.form):
            self.form.put(self.session.data.settings.occupancy)

    def _take_settings(self) -> None:
        """Parameters as they are typed; they count with the next fit."""
        try:
            self.session.data.settings.occupancy = self.form.value()
        except EmdlError as error:
            self.status.setText(report_error(error))

    def _take_pixel(self) -> None:
        """A pixel size that was typed where the panel asks for it."""
        typed = self.pixel_box.typed_A()
        if typed is not None:
            self.session.use_pixel_A(typed, "user")

    def _movie_changed(self) -> None:
        self.fitting.stop()
        self.project_row.show_note("")
        self.tools.clear()
        self.layers.remove()
        self._show_state()

    def _columns_changed(self, _frames: Any) -> None:
        if not self._state_timer.isActive():
            self._state_timer.start()

    def _show_state(self) -> None:
        movie, columns = self.session.movie, self.session.candidates
        ready = movie is not None and columns.complete
        problem = ""
        if movie is None:
            problem = NO_MOVIE
        elif movie.n_frames < 2:
            problem = ONE_FRAME
        asks = not problem and movie is not None and movie.pixel_A is None
        some = SOME_COLUMNS.format(columns.n_done, movie.n_frames) if movie is not None and columns.n_done else NO_COLUMNS
        self.hint.setText(problem or some)
        self.hint.setVisible(bool(problem) or not (ready or asks))
        running = self.fitting.job is not None
        self.fit_button.setEnabled(not problem and not asks and not running)
        again = self.session.occupancy is not None
        more = f" with {len(self.tools.new)} new sites" if self.tools.new else ""
        self.fit_button.setText(f"Fit again{more}" if again else "Fit occupancy" if ready else "Find columns and fit")
        for widget in (self.save_button, self.export_button):
            widget.setEnabled(again and not running)
        shown: tuple[QWidget, ...] = (self.threshold, self.limits, self.heatmap, self.over_mean, self.over_movie, self.tabs)
        for part in shown:
            part.setEnabled(again)

    # -- fitting

    def fit(self) -> None:
        """Find columns where they are missing, then drift, sites and occupancy, in the background."""
        self._take_settings()
        self.fitting.fit(self.tools.sites(self.session.data.results.fitted))

    def _show_mean(self, mean: np.ndarray) -> None:
        self.layers.show_mean(self.session.layer, mean)

    def _hide_columns(self) -> None:
        from napari_emdl.gui.atoms.layers import find_layer

        layer = find_layer(self.viewer, "columns")
        if layer is not None:
            layer.visible = False

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
        if occupancy is self.session.data.results.fitted:
            self.tools.taken()
            self._hide_columns()
            if self.layers.mean is None:  # opened from a file
                self.fitting.make_mean()
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
        self.session.set_fitted(occupancy, self.session.data.results.fitted_columns)

    def _keep_region(self) -> None:
        said = self.tools.keep_region()
        if said:
            self.session.message.emit(said)

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

    def export(self) -> None:
        """Ask for a folder and export tables, heatmaps and the annotated movie."""
        folder = QFileDialog.getExistingDirectory(self, "Export into folder")
        if folder:
            self.export_to(folder)

    def export_to(self, folder: str) -> Job:
        """Export tables, heatmaps and the annotated movie."""
        occupancy, movie = self.session.occupancy, self.session.movie
        assert movie is not None
        work = export_result(occupancy, movie, folder, self.video.isChecked(), self.layers.mean_image)
        return self._write(work, f"exporting {self.session.layer.name}", shown_by=self.bar)

    def _write(self, function: Any, name: str, shown_by: JobBar | None = None) -> Job:
        job = Job(function, name, self)
        tell = self.session.message.emit
        job.returned.connect(tell)
        job.failed.connect(lambda error: tell(report_error(error, name)))
        job.cancelled.connect(lambda: tell(f"{name} cancelled"))
        if shown_by is not None:
            shown_by.watch(job)
        tell("" if shown_by is not None else f"{name} …")
        self._jobs = [kept for kept in self._jobs if kept.running] + [job]
        return job.start()

    # -- what a project keeps of the panel

    def display(self) -> dict[str, Any]:
        """What is shown; of no effect on results."""
        return {
            "heatmap": self.heatmap.currentText(),
            "over_movie": self.over_movie.isChecked(),
            "tab": self.tabs.currentIndex(),
            "site": self.site_tab.site,
            "video": self.video.isChecked(),
            "new_sites": [[float(row), float(col)] for row, col in self.tools.new],
        }

    def put_display(self, shown: dict[str, Any]) -> None:
        """Show what :meth:`display` gave."""
        self.heatmap.setCurrentText(str(shown.get("heatmap", self.heatmap.currentText())))
        (self.over_movie if shown.get("over_movie") else self.over_mean).setChecked(True)
        self.tabs.setCurrentIndex(int(shown.get("tab", 0)))
        self.video.setChecked(bool(shown.get("video", True)))
        self.tools.put_new([(float(row), float(col)) for row, col in shown.get("new_sites", ())])
        site, occupancy = shown.get("site"), self.session.occupancy
        if site is not None and occupancy is not None and site < occupancy.n_sites:
            self.choose_site(int(site))

    def shut_down(self) -> None:
        """Stop what runs; no thread outlives the panel."""
        if self._mouse in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._mouse)
        self.pixel_box.guessing.close()
        self.fitting.close()
        for job in self._jobs:
            job.end()
        leave(self.session, "diffusion")
