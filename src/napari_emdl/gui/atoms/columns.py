"""Columns panel: find atomic columns in the frame that is shown, then in the whole movie, and put them right by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.gui.atoms.hand import ColumnTools
from napari_emdl.gui.atoms.jobs import can_resume, column_models, find_frame, run_file, run_movie, save_result
from napari_emdl.gui.atoms.layers import ColumnsLayer
from napari_emdl.gui.atoms.session import session_of
from napari_emdl.gui.atoms.widgets import (
    NO_MOVIE,
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
from napari_emdl.gui.kit.worker import Job, JobBar, Latest, report_error

CONDITIONS = ("contrast", "mode", "frames", "energy_keV", "cs_um", "defocus_nm")
#: The form shows four decimals; a smaller difference was not typed by anyone.
PIXEL_ROUNDING_A = 6e-5
NO_PIXEL = "The pixel size is unknown. Type it below, or measure it from a lattice spacing you know."


@dataclass(frozen=True)
class Settings:
    """Everything the candidates of a frame depend on."""

    params: ColumnParams
    run: RunParams


class ColumnsPanel(ScrollPanel):
    """Dock widget over one viewer."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = bare(napari_viewer)
        self.session = session_of(self.viewer)
        self.columns_layer = ColumnsLayer(self.viewer, self)
        self.latest = Latest(find_frame, "columns of the current frame", cancel_stale=False, parent=self)
        self.job: Job | None = None
        self._job_settings: Settings | None = None
        self._fitted_default: float | None = None
        self._build()
        self._debounce = single_shot(self, 350, self._settings_changed)
        self._refresh_counts = single_shot(self, 40, self._show_counts)
        self._connect()
        self.movie_box.refresh()
        self._movie_changed()

    # -- building

    def _build(self) -> None:
        self.movie_box = MovieBox(self.session)
        self.badge = DeviceBadge()
        self.hint = line(NO_MOVIE, "hint")
        self.model_box = named(QComboBox(), "model")
        self.model_box.setToolTip("Network that finds the columns, or the classical Laplacian of Gaussian")
        self.tune_button = button(
            "Tune to my microscope…",
            "Train the network a few minutes more, on images simulated for your conditions",
            "tune",
            self.tune,
        )
        self.conditions = ParamsForm(ColumnParams, include=CONDITIONS)
        self.pixel = ParamsForm(ColumnParams, include=("pixel_size_A",))
        self.measure_button = button(
            "Measure…",
            "Pick a known lattice spacing in the Fourier transform of this frame",
            "measure_pixel",
            self.measure_pixel,
        )
        self.pixel_source = line(name="pixel_source", dim=True)
        self.run_form = ParamsForm(RunParams, include=("device", "batch", "max_memory", "workers"))
        self.threshold = ThresholdRow(
            "Threshold", "Columns with a lower score are hidden, at once and in all frames already run"
        )
        self.run_button = button(
            "Run on movie", "Find the columns of every frame; you can go on working meanwhile", "run", self.run
        )
        self.restart_button = button(
            "Start again", "Forget the frames that are done and begin with the first", "restart", lambda: self.run(restart=True)
        )
        self.save_button = button("Save…", "Save columns, with edits, as HDF5", "save", self.save)
        self.bar = JobBar("frames")
        self.status = line(name="status", dim=True)
        self.edit_bar = EditBar()
        self.counts = CountPlot()
        self.counts.setFixedHeight(125)
        self.content = QWidget()
        body = self.body
        body.addWidget(row(self.movie_box, self.badge, stretch=(1,)))
        body.addWidget(self.hint)
        body.addWidget(row(self.model_box, self.tune_button, stretch=(1,)))
        body.addWidget(row(self.pixel, self.measure_button, stretch=(1,)))
        body.addWidget(self.pixel_source)
        body.addWidget(Fold("Imaging conditions", self.conditions, opened=True))
        body.addWidget(Fold("Device and memory", self.run_form))
        body.addWidget(self.threshold)
        body.addWidget(row(self.run_button, self.restart_button, self.save_button, stretch=(2, 1, 1)))
        body.addWidget(self.bar)
        body.addWidget(self.status)
        body.addWidget(self.counts)
        body.addWidget(self.edit_bar)
        body.addStretch(1)
        self._working: list[QWidget] = [
            self.model_box, self.tune_button, self.pixel, self.measure_button, self.conditions, self.threshold, self.run_button,
            self.save_button, self.edit_bar, self.counts,
        ]  # fmt: skip
        self._list_models()

    def _connect(self) -> None:
        session = self.session
        self.model_box.currentIndexChanged.connect(self._debounced)
        for form in (self.conditions, self.pixel, self.run_form):
            form.changed.connect(self._debounced)
        self.threshold.changed.connect(session.set_min_score)
        self.counts.seek.connect(session.seek)
        self.tools = ColumnTools(session, self.columns_layer, self.edit_bar, self)
        self.latest.done.connect(self._frame_found)
        self.latest.failed.connect(self._frame_failed)
        session.movie_changed.connect(self._movie_changed)
        session.frame_changed.connect(self._show_frame)
        session.columns_changed.connect(self._columns_changed)
        session.threshold_changed.connect(self._threshold_changed)

    def _list_models(self, chosen: str | None = None) -> None:
        with QSignalBlocker(self.model_box):
            self.model_box.clear()
            for name, value, tip in column_models():
                self.model_box.addItem(name, value)
                self.model_box.setItemData(self.model_box.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        if chosen is not None:
            self.model_box.setCurrentIndex(max(0, self.model_box.findData(chosen)))

    # -- settings

    def settings(self) -> Settings:
        """Parameters as they stand in the panel; raises EmdlError when they do not fit."""
        movie = self.session.movie
        own = movie is not None and movie.calibration.source.get("pixel_nm") in ("user", "measured")
        values = {
            **self.conditions.values(),
            "model": self.model_box.currentData(),
            "pixel_size_A": movie.pixel_A if movie and own else None,
        }
        return Settings(ColumnParams(**values), self.run_form.value())

    def _debounced(self, *_: Any) -> None:
        self._debounce.start()

    def _settings_changed(self) -> None:
        """Other settings make other candidates: the frame shown is found again at once."""
        typed = self.pixel.values()["pixel_size_A"]
        movie = self.session.movie
        if typed and movie is not None and abs(typed - (movie.pixel_A or 0.0)) > PIXEL_ROUNDING_A:
            self.session.set_pixel_A(typed, "user")
        try:
            settings = self.settings()
        except EmdlError as error:
            self.status.setText(report_error(error))
            return
        self.session.column_params, self.session.run_params = settings.params, settings.run
        if self.job is not None:
            return
        self.session.forget_columns()
        self._show_state()
        self._show_frame(self.session.frame)

    def _movie_changed(self) -> None:
        self.latest.drop()
        if self.job is not None:
            self.job.cancel()
        self.columns_layer.remove()
        movie = self.session.movie
        if movie is not None:
            self.pixel.put(ColumnParams(pixel_size_A=movie.pixel_A))
            self.counts.set_frames(movie.n_frames)
        self.counts.setVisible(movie is not None and movie.n_frames > 1)
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
        self.hint.setVisible(not known)
        self.hint.setText(NO_MOVIE if movie is None else NO_PIXEL)
        for widget in self._working:
            widget.setEnabled(movie is not None)
        self.pixel_source.setText(self.session.pixel_text())
        running = self.job is not None
        total = movie.n_frames if movie is not None else 0
        left_over = movie is not None and known and not running and self.session.candidates.done < total and self._left_over()
        done = self.session.candidates.done
        resume = f"Resume ({done} of {total} done)" if done > 1 else "Resume earlier run"
        self.run_button.setText(resume if left_over else "Run on movie" if total > 1 else "Run")
        self.restart_button.setVisible(bool(left_over))
        self.run_button.setEnabled(bool(known) and not running)
        self.save_button.setEnabled(movie is not None and self.session.candidates.done == total and not running)

    def _left_over(self) -> bool:
        try:
            return can_resume(run_file(self.session.movie, self.settings().params))
        except EmdlError:
            return False

    # -- current frame

    def _show_frame(self, frame: int) -> None:
        """Show the columns of a frame, finding them first when they are not known yet."""
        self.counts.set_frame(frame)
        if self.session.movie is None:
            return
        candidates = self.session.candidates.rows(frame)
        if candidates is not None:
            self._show_points(candidates)
            return
        self.columns_layer.clear()
        if self.session.movie.pixel_A is None:
            return
        try:
            settings = self.settings()
        except EmdlError as error:
            report_error(error)
            return
        self.latest.submit(self.session.movie, settings.params, settings.run, frame, self.session.candidates)

    def _frame_found(self, table: PeakTable, args: tuple[Any, ...]) -> None:
        _, _, _, frame, candidates = args
        if candidates is not self.session.candidates or candidates.rows(frame) is not None:
            return
        self.session.put_columns(frame, table)
        if frame != self.session.frame and self.session.candidates.rows(self.session.frame) is None:
            self._show_frame(self.session.frame)

    def _frame_failed(self, error: Exception) -> None:
        self.status.setText(report_error(error))

    def _show_points(self, candidates: np.ndarray) -> None:
        session = self.session
        rows, keys = session.edits.merge(session.frame, candidates, session.min_score)
        species = session.species
        pixel_A = session.movie.pixel_A if session.movie is not None else None
        self.columns_layer.show(session.layer, rows, keys, species, pixel_A)
        self.edit_bar.set_species(species)
        kind = rows["species"].astype(int) if "species" in (rows.dtype.names or ()) else np.zeros(len(rows), int)
        counts = np.bincount(kind, minlength=len(species))[: len(species)]
        self.edit_bar.show_counts(species, counts.tolist(), int(np.sum(keys < 0)))
        self.edit_bar.set_undo(session.edits.can_undo, session.edits.can_redo)

    def _columns_changed(self, frames: range | None) -> None:
        attrs = self.session.candidates.attrs
        if "default_min_score" in attrs and attrs["default_min_score"] != self._fitted_default:
            self._fitted_default = float(attrs["default_min_score"])
            self.threshold.set_default(self._fitted_default)
        if attrs:
            self.badge.show_provider(str(attrs.get("provider", "")), str(attrs.get("note", "")))
            self._say_what_ran()
        if frames is not None and self.session.frame in frames:
            rows = self.session.candidates.rows(self.session.frame)
            if rows is not None:
                self._show_points(rows)
        if not self._refresh_counts.isActive():
            self._refresh_counts.start()

    def _say_what_ran(self) -> None:
        attrs, done = self.session.candidates.attrs, self.session.candidates.done
        total = self.session.candidates.n_frames
        known = attrs.get("contrast") in ("bright", "dark")
        contrast = f", {attrs['contrast']} contrast" if known else ""
        frames = f"{done} of {total} frames " if total > 1 else ""
        warning = f"; {attrs['warning']}" if attrs.get("warning") else ""
        self.status.setText(f"{frames}found with {attrs.get('model') or attrs.get('method', '')}{contrast}{warning}")
        self.save_button.setEnabled(done == total and self.job is None)

    def _threshold_changed(self, _value: float) -> None:
        if abs(self.threshold.value - self.session.min_score) > 1e-6:
            self.threshold.put(self.session.min_score)
        rows = self.session.candidates.rows(self.session.frame)
        if rows is not None:
            self._show_points(rows)
        if not self._refresh_counts.isActive():
            self._refresh_counts.start()

    def _show_counts(self) -> None:
        self.counts.show_counts(self.session.candidates.counts(self.session.min_score, self.session.edits))

    # -- whole movie

    def run(self, restart: bool = False) -> None:
        """Find the columns of all frames in the background; an earlier run that was cut short goes on."""
        movie = self.session.movie
        if movie is None or self.job is not None:
            return
        try:
            settings = self.settings()
        except EmdlError as error:
            report_error(error)
            return
        self.latest.drop()
        candidates = self.session.candidates
        job = Job(run_movie(movie, settings.params, settings.run, restart), "finding columns", self)
        job.block.connect(lambda block, table: self._block_done(candidates, block.start, table))
        job.returned.connect(lambda table: self._block_done(candidates, 0, table))
        job.failed.connect(lambda error: self.status.setText(report_error(error, "columns")))
        job.finished.connect(self._job_finished)
        self.job = job
        self.bar.watch(job)
        self._show_state()
        job.start()

    def _block_done(self, candidates: Any, start: int, table: PeakTable) -> None:
        if candidates is self.session.candidates:
            self.session.put_columns(start, table)

    def _job_finished(self) -> None:
        self.job = None
        self._show_state()
        self._show_frame(self.session.frame)

    def save(self) -> None:
        """Ask for a file and save the columns as they are shown."""
        movie, table = self.session.movie, self.session.columns()
        if movie is None or table is None:
            return
        proposed = str(Path(movie.path).with_suffix(".columns.h5")) if movie.path else "columns.h5"
        path, _ = QFileDialog.getSaveFileName(self, "Save columns", proposed, "HDF5 (*.h5)")
        if path:
            self.save_to(path)

    def save_to(self, path: str) -> None:
        """Save the columns as they are shown, hand edits included."""
        table = self.session.columns()
        job = Job(lambda _control, _block: save_result(table, path), "saving", self)
        job.returned.connect(self.status.setText)
        job.failed.connect(lambda error: self.status.setText(report_error(error, "saving")))
        job.start()

    # -- pixel size, tuning

    def measure_pixel(self) -> None:
        """Open the Fourier transform of the current frame to pick a known spacing in."""
        from napari_emdl.gui.atoms.pixelsize import PixelSizeDialog

        if self.session.movie is None:
            return
        dialog = PixelSizeDialog(self.session.movie, self.session.frame, self)
        dialog.measured.connect(self.use_measured_pixel)
        dialog.open()

    def use_measured_pixel(self, pixel_A: float) -> None:
        """Take over a pixel size measured in the Fourier transform."""
        self.session.set_pixel_A(pixel_A, "measured")
        self.pixel.put(ColumnParams(pixel_size_A=pixel_A))

    def tune(self) -> None:
        """Open the dialog that tunes the network to the imaging conditions."""
        from napari_emdl.gui.atoms.tune import TuneDialog

        try:
            params = self.settings().params
        except EmdlError as error:
            self.status.setText(report_error(error))
            return
        dialog = TuneDialog(params, self.session.movie, self)
        dialog.tuned.connect(self._list_models)
        dialog.open()

    def shut_down(self) -> None:
        """Stop what runs; no thread outlives the panel."""
        if self.job is not None:
            self.job.cancel()
            self.job.wait(2.0)
        self.latest.close()
