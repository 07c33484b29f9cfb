"""Step 1: the vacuum probe, that is the shape of a disk."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFileDialog, QFormLayout, QLabel, QLineEdit, QPushButton, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ProbeParams
from napari_emdl.diffraction.standin import is_stand_in
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit.forms import narrow, tooltip_of
from napari_emdl.gui.kit.steps import Step
from napari_emdl.gui.kit.wording import said
from napari_emdl.gui.kit.worker import report_error

MEASURED, FILE, RADIUS, REGION = "measured from the data", "from a file", "radius", "vacuum region of the scan"


class ProbeStep(Step):
    """Chooses where the probe comes from; by default it is measured from the data's central disk."""

    def __init__(self, state: StemState, parent: QWidget | None = None):
        super().__init__(1, "Probe", "The vacuum probe: its shape is what disks are compared with", parent)
        self.stem = state
        fields = ProbeParams.model_fields
        self.source = narrow(QComboBox())
        self.source.addItems([MEASURED, FILE, RADIUS, REGION])
        self.source.setToolTip("Where the probe comes from")
        self.file = QLineEdit()
        self.file.setPlaceholderText("FILE or FILE::DATASET")
        self.file.setToolTip(tooltip_of("file", fields["file"]))
        self.browse = QPushButton("Browse…")
        self.radius = QDoubleSpinBox()
        self.radius.setRange(0.6, 512)
        self.radius.setSuffix(" px")
        self.radius.setKeyboardTracking(False)
        self.radius.setToolTip(tooltip_of("radius_px", fields["radius_px"]))
        self.region = QLineEdit()
        self.region.setPlaceholderText("row0, row1, col0, col1")
        self.region.setToolTip(tooltip_of("region", fields["region"]))
        self.form = QFormLayout()
        self.form.setContentsMargins(0, 0, 0, 0)
        self.form.addRow("Probe", self.source)
        self.form.addRow("File", self.file)
        self.form.addRow("", self.browse)
        self.form.addRow("Radius", self.radius)
        self.form.addRow("Region", self.region)
        self.note = QLabel("")
        self.note.setWordWrap(True)
        self.content.addLayout(self.form)
        self.content.addWidget(self.note)
        self.source.currentTextChanged.connect(self._on_source)
        self.browse.clicked.connect(self._on_browse)
        self.file.editingFinished.connect(self.apply)
        self.radius.valueChanged.connect(lambda *_: self.apply())
        self.region.editingFinished.connect(self.apply)
        state.probe_changed.connect(self.show_probe)
        state.cube_changed.connect(self.show_probe)
        state.followers.failed.connect(self._on_failed)
        self._show_rows()
        self.show_probe()

    def _show_rows(self) -> None:
        source = self.source.currentText()
        for widget, wanted in ((self.file, FILE), (self.browse, FILE), (self.radius, RADIUS), (self.region, REGION)):
            self.form.setRowVisible(widget, source == wanted)

    def _on_source(self, source: str) -> None:
        self._show_rows()
        if source in (MEASURED, RADIUS):
            self.apply()

    def _on_browse(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "File with the vacuum probe")
        if name:
            self.file.setText(name)
            self.apply()

    def _params(self) -> ProbeParams | None:
        source = self.source.currentText()
        if source == MEASURED:
            return ProbeParams()
        if source == RADIUS:
            return ProbeParams(radius_px=self.radius.value())
        if source == FILE:
            text = self.file.text().strip()
            return ProbeParams(file=text) if text else None
        text = self.region.text().strip()
        if not text:
            return None
        try:
            r0, r1, c0, c1 = (int(part) for part in text.replace(":", ",").split(","))
        except ValueError:
            raise EmdlError(f"cannot read the vacuum region {text!r}; write row0, row1, col0, col1") from None
        return ProbeParams(region=(r0, r1, c0, c1))

    def apply(self) -> None:
        """Use what is set; nothing happens while a file or region is missing."""
        try:
            params = self._params()
        except (EmdlError, ValueError) as error:
            report_error(error, "probe")
            return
        if params is not None:
            self.stem.set_disk_params(self.stem.settings.disk_params.model_copy(update={"probe": params}))

    def put(self, params: ProbeParams) -> None:
        """Show settings, such as those of a job file."""
        source = FILE if params.file else REGION if params.region else RADIUS if params.radius_px else MEASURED
        self.file.setText(params.file or "")
        self.region.setText(", ".join(map(str, params.region)) if params.region else "")
        self.source.blockSignals(True)
        self.source.setCurrentText(source)
        self.source.blockSignals(False)
        if params.radius_px:
            self.radius.setValue(params.radius_px)
        self._show_rows()
        self.apply()

    def _on_failed(self, worker: str, line: str) -> None:
        if worker == "probe":
            self.tell("warning", "no probe", line)

    def show_probe(self) -> None:
        """Tell what probe is in use."""
        probe: Any = self.stem.found.probe
        cube = self.stem.cube
        if cube is None:
            self.tell("missing", "open a datacube first")
            return
        if is_stand_in(cube):
            self.tell("done", "disks are given")
            self.note.setText("Only disks are open, no patterns: there is nothing to compare a probe with.")
            return
        if probe is None:
            self.tell("missing", "measuring …" if self.stem.measures_probe else "no probe yet")
            return
        text = f"radius {probe.radius_px:.2f} px"
        note = f"Radius {probe.radius_px:.2f} px"
        q = cube.calibration.q_pixel_invA
        if q:
            note += f" = {probe.radius_px * sum(q) / 2:.3f} 1/Å"
        note += f", {probe.source}."
        if probe.note:
            told = said(probe.note)
            note += f" {told[:1].upper()}{told[1:]}."
        self.tell("warning" if probe.note else "done", text, note)
        expected = cube.calibration.probe_radius_px()
        if expected and not 0.8 < probe.radius_px / expected < 1.25:
            note += f" The file's semiangle and pixel size would give {expected:.1f} px: check them."
            self.tell("warning", text, note)
        self.note.setText(note)
        if self.source.currentText() != RADIUS:
            self.radius.blockSignals(True)
            self.radius.setValue(probe.radius_px)
            self.radius.blockSignals(False)
