"""Step 2: find the disks, on the current pattern as the cross-hair moves and on the whole scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QLabel, QLineEdit, QPushButton, QWidget

from napari_emdl.base.caveats import RANGE, Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams, RunParams, TemplateParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit.device_badge import DeviceBadge
from napari_emdl.gui.kit.forms import ParamsForm
from napari_emdl.gui.kit.steps import Fold, Step
from napari_emdl.gui.kit.wording import caveats_of
from napari_emdl.gui.kit.worker import Job, JobBar, report_error


class DisksStep(Step):
    """Method, model, device, Run on the scan with progress, Cancel and Resume."""

    def __init__(self, state: StemState, parent: QWidget | None = None):
        super().__init__(2, "Disks", "Find the Bragg disks of the pattern at the cross-hair, then of the whole scan", parent)
        self.stem = state
        self.form = ParamsForm(
            state.settings.disk_params,
            include=("method", "model", "min_spacing_px", "edge_px", "max_disks", "refine_passes", "flip_passes"),
        )
        self.template = ParamsForm(state.settings.disk_params.template)
        self.run_form = ParamsForm(state.settings.run_params, exclude=("resume",))
        self.live = QCheckBox("live")
        self.live.setChecked(state.live_enabled)
        self.live.setToolTip("Find the disks of the current pattern whenever the cross-hair moves (Space does it once)")
        self.badge = DeviceBadge()
        top = QHBoxLayout()
        top.addWidget(self.live)
        top.addStretch(1)
        top.addWidget(self.badge)
        self.ran = QLabel("")
        self.ran.setWordWrap(True)
        self.ran.setTextFormat(Qt.TextFormat.PlainText)
        self.ran.hide()
        self.ran.setToolTip("The networks that found the disks, and what is to be known about them")
        self.template_box = Fold("Template matching", self.template)
        self.output = QLineEdit()
        self.output.setToolTip("Result file; a run that was stopped goes on from here")
        self.output_button = QPushButton("…")
        self.output_button.setMaximumWidth(28)
        self.output_button.setToolTip("Choose where the disks are kept")
        file_row = QHBoxLayout()
        file_row.addWidget(QLabel("Keep in"))
        file_row.addWidget(self.output, 1)
        file_row.addWidget(self.output_button)
        self.run_box = Fold("Memory, device, workers", self.run_form)
        self.run_button = QPushButton("Run on the scan")
        self.run_button.setToolTip("Find the disks of every pattern; works in the background, can be stopped and resumed")
        self.resume_button = QPushButton("Resume")
        self.resume_button.setToolTip("Go on with a run that was stopped")
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 1)
        buttons.addWidget(self.resume_button)
        self.bar = JobBar("patterns")
        self.content.addLayout(top)
        self.content.addWidget(self.ran)
        self.content.addWidget(self.form)
        self.content.addWidget(self.template_box)
        self.content.addWidget(self.run_box)
        self.content.addLayout(file_row)
        self.content.addLayout(buttons)
        self._connect()
        self._show_template_box()
        self.refresh()

    def _connect(self) -> None:
        self.form.changed.connect(self.apply)
        self.template.changed.connect(self.apply)
        self.run_form.changed.connect(self.apply_run)
        self.live.toggled.connect(self._on_live)
        self.output.editingFinished.connect(self._on_output)
        self.output_button.clicked.connect(self._on_browse)
        self.run_button.clicked.connect(lambda *_: self.run())
        self.resume_button.clicked.connect(lambda *_: self.run(resume=True))
        self.stem.job_started.connect(self._on_started)
        self.stem.job_ended.connect(self.refresh)
        for signal in (self.stem.cube_changed, self.stem.disks_changed, self.stem.kept_changed, self.stem.probe_changed):
            signal.connect(self.refresh)
        self.stem.overlay_changed.connect(self._show_device)
        self.stem.disks_changed.connect(self._show_run)

    def apply(self) -> None:
        """Use the settings as they stand."""
        self._show_template_box()
        try:
            params: DiskParams = self.form.value()
            template: TemplateParams = self.template.value()
        except EmdlError as error:
            report_error(error, "disks")
            return
        kept = self.stem.settings.disk_params
        self.stem.set_disk_params(params.model_copy(update={"probe": kept.probe, "template": template, "min_score": None}))

    def apply_run(self) -> None:
        """Use device, memory and workers as they stand."""
        try:
            run: RunParams = self.run_form.value()
        except EmdlError as error:
            report_error(error, "disks")
            return
        if run != self.stem.settings.run_params:
            self.stem.settings.run_params = run
            self.stem.find_here()

    def put(self, params: DiskParams, run: RunParams | None = None) -> None:
        """Show settings, such as those of a job file."""
        with QSignalBlocker(self.template):  # half of the settings are nothing to act on
            self.template.put(params.template)
        self.form.put(params)
        if run is not None:
            self.run_form.put(run)

    def _show_template_box(self) -> None:
        self.template_box.setVisible(self.form.editors["method"].get() == "template")

    def _on_live(self, on: bool) -> None:
        self.stem.live_enabled = on
        self.stem.find_here()

    def _on_output(self) -> None:
        text = self.output.text().strip()
        if text:
            self.stem.settings.output = Path(text).expanduser()
            self.refresh()

    def _on_browse(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Keep the disks in", str(self.stem.settings.output or ""), "HDF5 (*.h5)")
        if name:
            self.output.setText(name)
            self._on_output()

    def run(self, resume: bool = False, then_strain: bool = False) -> None:
        """Start the run, or go on with one that was stopped."""
        try:
            self.stem.run(resume=resume, then_strain=then_strain)
        except EmdlError as error:
            report_error(error)

    def _on_started(self, job: Job) -> None:
        self.bar.watch(job)
        job.progressed.connect(self._on_progress)
        self.run_button.setEnabled(False)
        self.resume_button.setEnabled(False)
        self.tell("ready", "running …")

    def _on_progress(self, progress: Any) -> None:
        if progress.rate_per_s > 0:
            self.badge.show_provider(self.badge.provider, self.badge.note, progress.rate_per_s)

    def _show_device(self) -> None:
        live = self.stem.found.live
        if live is not None and self.stem.job is None:
            info, caveats = live.info, caveats_of(live.info.caveats)
            self.badge.show_provider(info.provider, str(caveats), 1 / max(live.seconds, 1e-6))
            self._show_model(info.model, caveats, bool(live.table.n_peaks))

    def _show_run(self) -> None:
        """Device and model of the scan's disks, as their provenance has them."""
        disks = self.stem.found.disks
        record = disks.attrs.get("provenance") if disks is not None else None
        if disks is not None and isinstance(record, dict):
            caveats = caveats_of(disks)
            self.badge.show_provider(str(record.get("provider") or ""), str(caveats), self.badge.rate_per_s)
            self._show_model(str((record.get("model") or {}).get("model") or ""), caveats, bool(disks.n_peaks))

    def _show_model(self, model: str, caveats: Caveats, found: bool) -> None:
        """Model, what lies outside its training, and where nothing was found all that may be why."""
        shown = caveats.about(RANGE) if found else caveats
        self.ran.setText("\n".join([*([f"Network: {model}"] if model else []), *(f"⚠ {text}." for text in shown.texts)]))
        self.ran.setVisible(bool(self.ran.text()))

    def refresh(self) -> None:
        """Tell what is there and what is missing."""
        stem = self.stem
        idle = stem.cube is not None and stem.job is None
        self.run_button.setEnabled(idle)
        self.resume_button.setEnabled(idle and stem.can_resume())
        if stem.settings.output is not None and not self.output.hasFocus():
            self.output.setText(str(stem.settings.output))
            self.output.setCursorPosition(len(str(stem.settings.output)))
        if stem.job is not None:
            return
        if stem.cube is None:
            self.tell("missing", "open a datacube first")
        elif stem.found.disks is None:
            probe = stem.found.probe is not None
            self.tell("ready" if probe else "missing", "press Run" if probe else "waits for the probe")
        else:
            self._tell_found(stem.found.disks, stem.cube.n_patterns)

    def _tell_found(self, disks: PeakTable, n_patterns: int) -> None:
        """How many disks there are, or why there is none."""
        found = self.stem.found
        done = int(found.done.sum()) if found.done is not None else 0
        n_kept = (disks if found.kept is None else found.kept).n_peaks
        per = n_kept / max(done, 1)
        text = f"{n_kept:,} found" if self.stem.data.lone else f"{per:.1f} a pattern" if per >= 0.1 else f"{n_kept:,} in all"
        if done < n_patterns:
            self.tell("warning", f"{done:,} of {n_patterns:,} patterns", "stopped before the end; Resume goes on")
        elif n_kept:
            self.tell("done", text, f"{text} at or above the least score, {disks.n_peaks:,} candidates in all")
        elif disks.n_peaks:
            self.tell("warning", "none kept", f"{disks.n_peaks:,} candidates, none within the limits; lower the least score")
        else:
            self.tell("warning", "none found", str(caveats_of(disks)) or "no pattern shows a disk of the probe's size")
