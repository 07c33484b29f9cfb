"""Columns panel: find atomic columns in the frame that is shown, then in the whole movie, and put them right by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.gui.atoms.finding import ColumnsFollower
from napari_emdl.gui.atoms.hand import ColumnTools
from napari_emdl.gui.atoms.jobs import column_models, save_figure, save_result
from napari_emdl.gui.atoms.layers import ColumnsLayer
from napari_emdl.gui.atoms.pixelbox import PixelBox
from napari_emdl.gui.atoms.project import enter, leave
from napari_emdl.gui.atoms.readings import ReadingsRow
from napari_emdl.gui.atoms.session import session_of
from napari_emdl.gui.atoms.tools import LimitsTools, ProjectRow
from napari_emdl.gui.atoms.widgets import (
    EditBar,
    Fold,
    MovieBox,
    ScrollPanel,
    ThresholdRow,
    button,
    line,
    row,
    single_shot,
)
from napari_emdl.gui.kit.device_badge import DeviceBadge
from napari_emdl.gui.kit.forms import ParamsForm
from napari_emdl.gui.kit.plots import CountPlot, named
from napari_emdl.gui.kit.session import bare
from napari_emdl.gui.kit.styles import show_scale_bar
from napari_emdl.gui.kit.suggest import Suggestion
from napari_emdl.gui.kit.wording import caveats_of, worth_telling
from napari_emdl.gui.kit.worker import Job, JobBar, report_error
from napari_emdl.workflow.parameters import with_overrides

CONDITIONS = ("contrast", "mode", "energy_keV", "cs_um", "defocus_nm")


class ColumnsPanel(ScrollPanel):
    """Dock widget over one viewer."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = bare(napari_viewer)
        self.session = session_of(self.viewer)
        self.columns_layer = ColumnsLayer(self.viewer, self)
        self.finding = ColumnsFollower(self.session, self)
        self.keeper = enter(self.session, "columns", self)
        self._build()
        self._debounce = single_shot(self, 350, self._settings_changed)
        self._refresh_counts = single_shot(self, 40, self._show_counts)
        self._put_settings()
        self._connect()
        self.movie_box.refresh()
        self._movie_changed()
        if "columns" in self.session.shown_later:
            self.put_display(self.session.shown_later.pop("columns"))

    # -- building

    def _build(self) -> None:
        self.project_row = ProjectRow(self.session, self.keeper)
        self.notices = self.project_row.notices
        self.suggestion = Suggestion(self.viewer, self.notices, self)
        self.movie_box = MovieBox(self.session)
        self.badge = DeviceBadge()
        self.pixel_box = PixelBox(self.session)
        self.hint, self.pixel = self.pixel_box.hint, self.pixel_box.form
        self.model_box = named(QComboBox(), "model")
        self.model_box.setToolTip("Network that finds the columns, or the classical Laplacian of Gaussian")
        self.tune_button = button(
            "Tune…",
            "Tune to my microscope: train the network a few minutes more, on images simulated for your conditions",
            "tune",
            self.tune,
        )
        self.conditions = ParamsForm(ColumnParams, include=CONDITIONS)
        self.run_form = ParamsForm(RunParams, include=("device", "batch", "max_memory", "workers"))
        self.readings = ReadingsRow(self.session)
        self.threshold = ThresholdRow(
            "Threshold", "Columns with a lower score are hidden, at once and in all frames already run"
        )
        self.average = ParamsForm(ColumnParams, include=("frames",))
        self.limits = LimitsTools(self.session)
        self.limits.add_keys(self.threshold)
        self.run_button = button(
            "Run on movie", "Find the columns of every frame; you can go on working meanwhile", "run", self.run
        )
        self.restart_button = button(
            "Start again", "Forget the frames that are done and begin with the first", "restart", lambda: self.run(restart=True)
        )
        self.save_button = button("Save…", "Save columns, with edits, as HDF5", "save", self.save)
        self.figure_button = button(
            "Figure…", "The frame that is shown, with its columns: PNG, PDF or SVG", "figure", self.figure
        )
        self.bar = JobBar("frames")
        self.status = line(name="status", dim=True)
        self.edit_bar = EditBar()
        self.counts = CountPlot()
        self.counts.setFixedHeight(125)
        body = self.body
        body.addWidget(self.project_row)
        body.addWidget(row(self.movie_box, self.badge, stretch=(1,)))
        body.addWidget(self.pixel_box)
        body.addWidget(row(self.model_box, self.tune_button, stretch=(1,)))
        body.addWidget(Fold("Imaging conditions", self.conditions, opened=True))
        body.addWidget(Fold("Device and memory", self.run_form))
        body.addWidget(self.readings)
        body.addWidget(self.threshold)
        body.addWidget(self.average)
        body.addWidget(self.limits)
        body.addWidget(row(self.run_button, self.restart_button, stretch=(2, 1)))
        body.addWidget(row(self.figure_button, self.save_button, stretch=(1, 1)))
        body.addWidget(self.bar)
        body.addWidget(self.status)
        body.addWidget(self.counts)
        body.addWidget(self.edit_bar)
        body.addStretch(1)
        self._working: list[QWidget] = [
            self.model_box, self.tune_button, self.conditions, self.threshold, self.average, self.limits, self.run_button,
            self.save_button, self.edit_bar, self.counts,
        ]  # fmt: skip
        self._list_models()

    def _connect(self) -> None:
        session = self.session
        self.model_box.currentIndexChanged.connect(self._debounced)
        for form in (self.conditions, self.average, self.pixel, self.run_form):
            form.changed.connect(self._debounced)
        self.threshold.follow(session)
        self.readings.chosen.connect(self._contrast_chosen)
        self.counts.seek.connect(session.seek)
        self.tools = ColumnTools(session, self.columns_layer, self.edit_bar, self)
        self.finding.started.connect(self.bar.watch)
        self.finding.started.connect(lambda _job: self._show_state())
        self.finding.ended.connect(self._run_ended)
        self.finding.failed.connect(self.status.setText)
        self.follow(session.movie_changed, self._movie_changed)
        self.follow(session.frame_changed, self._show_frame)
        self.follow(session.columns_changed, self._columns_changed)
        self.follow(session.limits_changed, self._limits_changed)
        self.follow(session.settings_changed, self._put_settings)
        self.follow(session.message, self.project_row.show_note)

    def _list_models(self, chosen: str | None = None) -> None:
        with QSignalBlocker(self.model_box):
            self.model_box.clear()
            for name, value, tip in column_models():
                self.model_box.addItem(name, value)
                self.model_box.setItemData(self.model_box.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        if chosen is not None:
            self.model_box.setCurrentIndex(max(0, self.model_box.findData(chosen)))

    # -- settings

    def _put_settings(self) -> None:
        """Show the parameters of the session; nothing is found anew."""
        settings = self.session.data.settings
        with QSignalBlocker(self.model_box), QSignalBlocker(self.conditions), QSignalBlocker(self.run_form):
            self.model_box.setCurrentIndex(max(0, self.model_box.findData(settings.columns.model)))
            self.conditions.put(settings.columns)
            with QSignalBlocker(self.average):
                self.average.put(settings.columns)
            self.run_form.put(settings.run)

    def _contrast_chosen(self, sign: str) -> None:
        """One of the two readings was clicked."""
        self.conditions.editors["contrast"].put(sign)
        self.readings.hide()
        self._debounced()

    def _debounced(self, *_: Any) -> None:
        self._debounce.start()

    def _settings_changed(self) -> None:
        """Other settings make other candidates: the frame shown is found again at once."""
        session = self.session
        try:
            new_pixel_A = self.pixel_box.typed_A()
            values = {**self.conditions.values(), **self.average.values(), "model": self.model_box.currentData()}
            columns = with_overrides(ColumnParams, session.data.settings.columns, values)
            run = self.run_form.value()
        except EmdlError as error:
            self.status.setText(report_error(error))
            return
        settings = session.data.settings
        if new_pixel_A is None and (columns, run) == (settings.columns, settings.run):
            return  # nothing was changed: what is there stays
        if new_pixel_A is not None:
            session.set_pixel_A(new_pixel_A, "user")
        settings.columns, settings.run = columns, run
        if self.finding.job is None:
            self._find_anew()

    def _find_anew(self) -> None:
        self.session.forget_columns()
        self._show_state()
        self._show_frame(self.session.frame)

    def _movie_changed(self) -> None:
        self.finding.stop()
        self.readings.hide()
        self.columns_layer.remove()
        movie = self.session.movie
        self.suggestion.follow(movie, self.session.layer)
        if movie is not None:
            self.counts.set_frames(movie.n_frames)
            show_scale_bar(self.viewer)
        several = movie is not None and movie.n_frames > 1
        self.counts.setVisible(several)
        self.average.setVisible(several)
        self.status.setText("")
        self.project_row.show_note("")
        if self._debounce.isActive():
            self._debounce.stop()
            self._settings_changed()
        self._show_state()
        self._show_counts()
        self._show_frame(self.session.frame)

    def _show_state(self) -> None:
        """Hints, enabled buttons and the text of Run for what there is."""
        movie = self.session.movie
        known = movie is not None and movie.pixel_A is not None
        for widget in self._working:
            widget.setEnabled(movie is not None)
        running = self.finding.job is not None
        total = movie.n_frames if movie is not None else 0
        left_over = self.finding.can_resume()
        done = self.session.candidates.n_done
        resume = f"Resume ({done} of {total} done)" if done > 1 else "Resume earlier run"
        self.run_button.setText(resume if left_over else "Run on movie" if total > 1 else "Run")
        self.restart_button.setVisible(left_over)
        self.run_button.setEnabled(known and not running)
        self.run_button.setVisible(total != 1)  # the columns of an image are found by themselves
        self._enable_saving()

    def _enable_saving(self) -> None:
        candidates = self.session.candidates
        self.save_button.setEnabled(candidates.complete and self.finding.job is None)
        self.figure_button.setEnabled(candidates.rows(self.session.frame) is not None)

    # -- current frame

    def _show_frame(self, frame: int) -> None:
        """Show the columns of a frame, finding them first when they are not known yet."""
        self.counts.set_frame(frame)
        if self.session.movie is None:
            return
        if self.session.candidates.rows(frame) is None:
            self.columns_layer.clear()
            self.edit_bar.show_counts((), (), 0)
            self.finding.find(frame)
        else:
            self._show_points()

    def _show_points(self) -> None:
        """Columns of the frame now shown, as edits and threshold leave them."""
        session = self.session
        found = session.data.shown(session.frame)
        if found is None:
            return
        rows, keys = found
        species = session.species
        pixel_A = session.movie.pixel_A if session.movie is not None else None
        self.columns_layer.show(session.layer, rows, keys, species, pixel_A)
        self.edit_bar.set_species(species)
        kind = rows["species"].astype(int) if "species" in (rows.dtype.names or ()) else np.zeros(len(rows), int)
        counts = np.bincount(kind, minlength=len(species))[: len(species)]
        self.edit_bar.show_counts(species, counts.tolist(), int(np.sum(keys < 0)))
        self.edit_bar.set_undo(session.edits.can_undo, session.edits.can_redo)
        self._enable_saving()

    def _columns_changed(self, frames: range | None) -> None:
        attrs = self.session.candidates.attrs
        if attrs:
            self.badge.show_provider(str(attrs.get("provider", "")), str(caveats_of(attrs)))
            self._say_what_ran()
            self.readings.follow(attrs)
        if frames is not None and self.session.frame in frames:
            self._show_points()
        if not self._refresh_counts.isActive():
            self._refresh_counts.start()

    def _say_what_ran(self) -> None:
        attrs, done = self.session.candidates.attrs, self.session.candidates.n_done
        total = self.session.candidates.n_positions
        known = attrs.get("contrast") in ("bright", "dark")
        contrast = f", {attrs['contrast']} contrast" if known else ""
        frames = f"{done} of {total} frames " if total > 1 else ""
        caveats = f"; {told}" if (told := worth_telling(attrs)) else ""
        ran = f"the network {attrs['model']}" if attrs.get("model") else attrs.get("method", "")
        self.status.setText(f"{frames}found with {ran}{contrast}{caveats}")
        self._enable_saving()

    def _limits_changed(self) -> None:
        self._show_points()
        if not self._refresh_counts.isActive():
            self._refresh_counts.start()

    def _show_counts(self) -> None:
        self.counts.show_counts(self.session.data.counts())

    # -- whole movie

    def run(self, restart: bool = False) -> None:
        """Find the columns of all frames in the background; an earlier run that was cut short goes on."""
        if self._debounce.isActive():
            self._debounce.stop()
            self._settings_changed()
        self.finding.run(restart)

    def _run_ended(self) -> None:
        self._show_state()
        self._show_frame(self.session.frame)

    def save(self) -> None:
        """Ask for a file and save the columns as they are shown."""
        movie, table = self.session.movie, self.session.data.columns()
        if movie is None or table is None:
            return
        proposed = str(Path(movie.path).with_suffix(".columns.h5")) if movie.path else "columns.h5"
        path, _ = QFileDialog.getSaveFileName(self, "Save columns", proposed, "HDF5 (*.h5)")
        if path:
            self.save_to(path)

    def save_to(self, path: str) -> None:
        """Save the columns as they are shown, hand edits included."""
        table = self.session.data.columns()
        self._write(lambda: save_result(table, path), "saving")

    def figure(self) -> None:
        """Ask for a file and draw the frame that is shown, with its columns, into it."""
        movie = self.session.movie
        if movie is None:
            return
        proposed = str(Path(movie.path).with_suffix(".columns.png")) if movie.path else "columns.png"
        path, _ = QFileDialog.getSaveFileName(self, "Save figure", proposed, "Figure (*.png *.pdf *.svg)")
        if path:
            self.figure_to(path)

    def figure_to(self, path: str) -> None:
        """Draw the frame that is shown, with its columns as edits and threshold leave them."""
        session = self.session
        found = session.data.shown(session.frame)
        if session.movie is not None and found is not None:
            movie, frame, rows, species = session.movie, session.frame, found[0], tuple(session.species)
            self._write(lambda: save_figure(movie, frame, rows, species, path), "figure")

    def _write(self, function: Callable[[], str], name: str) -> None:
        job = Job(lambda _control, _block: function(), name, self)
        job.returned.connect(self.session.message.emit)
        job.failed.connect(lambda error: self.session.message.emit(report_error(error, name)))
        job.start()

    # -- tuning

    def tune(self) -> None:
        """Open the dialog that tunes the network to the imaging conditions."""
        from napari_emdl.gui.atoms.tune import TuneDialog

        dialog = TuneDialog(self.session.data.find_params(), self.session.movie, self)
        dialog.tuned.connect(self._list_models)
        dialog.open()

    # -- what a project keeps of the panel

    def display(self) -> dict[str, Any]:
        """What is shown; of no effect on results."""
        return {"columns_visible": bool(self.columns_layer.layer is None or self.columns_layer.layer.visible)}

    def put_display(self, shown: dict[str, Any]) -> None:
        """Show what :meth:`display` gave."""
        if self.columns_layer.layer is not None:
            self.columns_layer.layer.visible = bool(shown.get("columns_visible", True))

    def shut_down(self) -> None:
        """Stop what runs; no thread outlives the panel."""
        self.pixel_box.guessing.close()
        self.finding.close()
        self.suggestion.close()
        self.readings.close_workers()
        leave(self.session, "columns")
