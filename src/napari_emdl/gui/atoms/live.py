"""Live panel: frames are analysed while the microscope writes them; nothing is skipped, the picture may lag behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image
from qtpy.QtWidgets import QComboBox, QFileDialog, QLabel, QLineEdit, QTabWidget, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, OccupancyParams, RunParams
from napari_emdl.gui.atoms.diffusion_tabs import RatesTab
from napari_emdl.gui.atoms.jobs import column_models, live_frame, proposed_output, stopped_watch, watch_frames
from napari_emdl.gui.atoms.layers import ColumnsLayer
from napari_emdl.gui.atoms.sites import SiteLayers
from napari_emdl.gui.atoms.widgets import Fold, ScrollPanel, button, line, row, single_shot
from napari_emdl.gui.kit.forms import ParamsForm
from napari_emdl.gui.kit.plots import CountPlot, named
from napari_emdl.gui.kit.session import LIVE, bare, register, tag, unregister
from napari_emdl.gui.kit.styles import show_scale_bar, space
from napari_emdl.gui.kit.wording import said
from napari_emdl.gui.kit.worker import Job, Latest, report_error

COLUMN_FORM = ("pixel_size_A", "contrast", "mode", "frames", "energy_keV", "cs_um", "defocus_nm")
OCCUPANCY_FORM = ("frame_interval_s", "dose_e_per_A2")
HINT = (
    "<b>Choose what to watch:</b> a folder the camera writes frames into, a Gatan in-situ folder, or a TIFF or MRC stack that "
    "grows. Then press Start; frames are analysed as they come. scripts/replay_movie.py plays a movie into a folder to try it."
)


class LivePanel(ScrollPanel):
    """Dock widget over one viewer."""

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = bare(napari_viewer)
        self.columns_layer = ColumnsLayer(self.viewer, self)
        self.sites = SiteLayers(self.viewer)
        self.latest = Latest(live_frame, "live frame", cancel_stale=False, parent=self)
        self.job: Job | None = None
        self.state: Any = None
        self.image: Any = None
        self._counts: list[float] = []
        self._rolling: Any = None
        self._build()
        self._redraw = single_shot(self, 60, self._show_counts)
        self.latest.done.connect(self._show_frame)
        self.latest.failed.connect(lambda error: self.note.setText(report_error(error, "display")))
        self._show_state()
        register(self.viewer, LIVE, self)

    def _build(self) -> None:
        self.hint = line(HINT, "hint")
        self.place = named(QLineEdit(), "watch_place")
        self.place.setPlaceholderText("folder or growing stack")
        self.place.textChanged.connect(lambda *_: self._propose())
        self.output = named(QLineEdit(), "watch_output")
        self.output.setPlaceholderText("result file (.h5): proposed as soon as there is something to watch")
        self.output.textChanged.connect(lambda *_: self._show_state())
        self._proposed = ""
        folder_button = button("Folder…", "Folder the frames are written into", "watch_folder", self._ask_folder)
        stack_button = button("Stack…", "TIFF or MRC file that grows", "watch_stack", self._ask_stack)
        tip = "Result file; frames done are kept beside it, so stopping loses nothing"
        output_button = button("File…", tip, "watch_file", self._ask_output)
        self.model_box = named(QComboBox(), "model")
        for name, value, tip in column_models():
            self.model_box.addItem(name, value)
            self.model_box.setItemData(self.model_box.count() - 1, tip, 3)
        self.column_form = ParamsForm(ColumnParams, include=COLUMN_FORM)
        self.occupancy_form = ParamsForm(OccupancyParams, include=OCCUPANCY_FORM)
        self.settings = Fold("Settings", self.model_box, self.column_form, self.occupancy_form, opened=True)
        self.start_button = button("Start", "Analyse frames as they arrive", "start", self.start)
        tip = "Forget the frames of the stopped watch"
        self.restart_button = button("Start again", tip, "restart", lambda: self.start(restart=True))
        self.stop_button = button("Stop", "Stop and write the result; Go on takes it up again", "stop", self.stop)
        self.done_label = named(QLabel("0"), "frames_done")
        self.backlog_label = named(QLabel("0"), "backlog")
        for label in (self.done_label, self.backlog_label):
            label.setStyleSheet("font-size: 20pt; font-weight: bold;")
        self.note = line(name="note", dim=True)
        self.counts = CountPlot()
        self.rates = RatesTab()
        self.tabs = QTabWidget()
        self.tabs.addTab(self.counts, "Columns a frame")
        self.tabs.addTab(self.rates, "Rates of late")
        body = self.body
        body.addWidget(self.hint)
        body.addWidget(row(self.place, folder_button, stack_button, stretch=(1,)))
        body.addWidget(row(self.output, output_button, stretch=(1,)))
        body.addWidget(self.settings)
        body.addWidget(row(self.start_button, self.restart_button, self.stop_button, stretch=(1, 1, 1)))
        body.addWidget(
            row(
                self.done_label,
                line("frames analysed", dim=True),
                self.backlog_label,
                line("waiting", dim=True),
                stretch=(0, 1, 0, 1),
            )
        )
        body.addWidget(self.note)
        body.addWidget(self.tabs, 1)

    # -- what to watch

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder the frames are written into")
        if folder:
            self.watch_place(folder)

    def _ask_stack(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Stack that grows", "", "Stacks (*.tif *.tiff *.mrc *.mrcs *.st)")
        if path:
            self.watch_place(path)

    def _ask_output(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Result file", self.output.text() or "live.h5", "HDF5 (*.h5)")
        if path:
            self.output.setText(path)

    def watch_place(self, place: str) -> None:
        """Choose what to watch; a result file beside it is proposed unless one is chosen."""
        self.place.setText(place)

    def _propose(self) -> None:
        """A result file beside what is watched, until another one is typed or chosen."""
        if self.output.text().strip() in ("", self._proposed):
            self._proposed = proposed_output(self.place.text().strip())
            self.output.setText(self._proposed)
        self._show_state()

    def _show_state(self) -> None:
        running = self.job is not None
        chosen = bool(self.place.text().strip())
        left_over = not running and bool(self.output.text().strip()) and stopped_watch(self.output.text().strip())
        self.hint.setVisible(not chosen)
        self.start_button.setText("Go on" if left_over else "Start")
        self.start_button.setEnabled(chosen and not running)
        self.restart_button.setVisible(left_over)
        self.stop_button.setEnabled(running)
        for widget in (self.settings, self.place, self.output):
            widget.setEnabled(not running)

    # -- running

    def start(self, restart: bool = False) -> None:
        """Watch in the background; a stopped watch goes on unless it is to start again."""
        if self.job is not None:
            return
        try:
            columns = ColumnParams(**self.column_form.values(), model=self.model_box.currentData())
            occupancy = self.occupancy_form.value()
        except (EmdlError, ValueError) as error:
            self.note.setText(report_error(error))
            return
        place = self.place.text().strip()
        if not self.output.text().strip():
            self.output.setText(proposed_output(place))
        output = self.output.text().strip()
        run = RunParams(resume=not restart)
        self._counts, self._rolling, self.state = [], None, None
        job = Job(watch_frames(place, output, columns, occupancy, run), "live analysis", self)
        job.block.connect(lambda state, _: self._update(state))
        job.returned.connect(self._ended)
        job.failed.connect(lambda error: self.note.setText(report_error(error, "live")))
        job.finished.connect(self._finished)
        self.job = job
        self.note.setText("waiting for the first frame …")
        self._show_state()
        self.settings.head.setChecked(False)
        job.start()

    def stop(self) -> None:
        """Stop watching and write the result."""
        if self.job is not None:
            self.note.setText("stopping: all frames are fitted once more, then the result is written …")
            self.stop_button.setEnabled(False)
            self.job.cancel()

    def _ended(self, occupancy: Any) -> None:
        found = f"{occupancy.n_frames} frames, {occupancy.n_sites} sites, {len(occupancy.events)} events"
        self.note.setText(f"{found}. The result lies in {Path(self.output.text().strip()).absolute()}")
        self._show_occupancy(occupancy)

    def _finished(self) -> None:
        self.job = None
        self._show_state()

    # -- showing

    def _update(self, state: Any) -> None:
        self.state = state
        self._counts += [np.nan] * (state.done - 1 - len(self._counts))
        self._counts.append(float(state.latest.filter(min_score=state.latest.attrs.get("default_min_score", 0.5)).n_peaks))
        self.done_label.setText(f"{state.done:,}")
        self.backlog_label.setText(f"{state.backlog:,}")
        parts = [f"newest frame {state.key}"]
        if state.waiting:
            parts.append(f"{state.waiting} still being written")
        if state.broken:
            parts.append(f"{len(state.broken)} unreadable: {', '.join(state.broken[:3])}")
        if state.note:
            parts.append(said(state.note))
        if self.job is not None and not self.job.control.cancelled:
            self.note.setText("; ".join(parts))
        if not self._redraw.isActive():
            self._redraw.start()
        self.latest.submit(self.place.text().strip(), state.key, state)

    def _show_counts(self) -> None:
        self.counts.set_frames(len(self._counts))
        self.counts.show_counts(self._counts)
        self.counts.set_frame(len(self._counts) - 1)

    def _show_frame(self, frame: np.ndarray, args: tuple[Any, ...]) -> None:
        state = args[2]
        picture = frame if frame.ndim == 2 else frame[0]
        if self.image is None or self.image not in self.viewer.layers:
            pixel_A = state.latest.attrs.get("pixel_A")
            low, high = (float(v) for v in np.nanpercentile(picture, (0.5, 99.5)))
            look = space((pixel_A / 10, pixel_A / 10) if pixel_A else None)
            limits = (low, high if high > low else low + 1.0)
            self.image = Image(picture, name="live frame", contrast_limits=limits, metadata=tag("live"), **look)
            self.viewer.add_layer(self.image)
            show_scale_bar(self.viewer)
        else:
            self.image.data = picture
        self._show_columns(state)
        if state.rolling is not None and state.rolling is not self._rolling:
            self._show_occupancy(state.rolling)

    def _show_columns(self, state: Any) -> None:
        kept = state.latest.filter(min_score=state.latest.attrs.get("default_min_score", 0.5))
        rows = kept.at(0)
        species = [str(name) for name in state.latest.attrs.get("species", ("column",))]
        self.columns_layer.show(self.image, rows, np.arange(len(rows)), species, state.latest.attrs.get("pixel_A"))

    def _show_occupancy(self, occupancy: Any) -> None:
        if self._rolling is None and self.columns_layer.layer is not None:
            self.columns_layer.layer.visible = False  # rings under the discs of the heatmap only confuse
        self._rolling = occupancy
        self.rates.show_occupancy(occupancy)
        if self.image is not None and self.image in self.viewer.layers:
            self.sites.show(self.image, occupancy, occupancy.n_frames - 1)

    def shut_down(self) -> None:
        """Stop what runs; no thread outlives the panel."""
        unregister(self.viewer, LIVE)
        if self.job is not None:
            self.job.end(5.0)
        self.latest.close()
