"""Dialog "Tune to my microscope": conditions of a session, a short training in the background, a model of its own."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Movie
from napari_emdl.gui.kit.plots import named
from napari_emdl.gui.kit.worker import Job, JobBar, error_line
from napari_emdl.training.tuning import Tuned, default_conditions, missing_for_tuning, read_range, tune

INTRO = (
    "The network learns images simulated for the conditions below and is compared with the original on images it has not "
    "seen. It becomes a model of its own in the model list. The narrower the ranges, the more it gains; leave empty what you "
    "do not know."
)
RANGES = {
    "dose_e_per_A2": ("Dose a frame [e/Å²]", "such as 50 - 200"),
    "sampling_A": ("Pixel size [Å]", "such as 0.09 - 0.11"),
    "C10_A": ("Defocus C10 [Å]", "positive is overfocus, such as 20 - 80"),
    "Cs_A": ("Cs [Å]", "1 µm is 10000 Å, such as -150000 - -100000"),
    "C12_A": ("Two-fold astigmatism [Å]", "such as 0 - 30"),
    "focal_spread_A": ("Focal spread [Å]", "such as 20 - 40"),
}


class TuneDialog(QDialog):
    """:attr:`tuned` gives the name of the new model."""

    tuned = Signal(str)

    def __init__(self, params: ColumnParams, movie: Movie | None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Tune to my microscope")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(520, 0)
        self._params = params
        self.job: Job | None = None
        known = default_conditions(params, movie.pixel_A if movie is not None else None)
        self.name = named(QLineEdit("my-microscope"), "tune_name")
        self.contrast = _choice("tune_contrast", ("both", "bright", "dark"), known.get("contrast", "both"))
        self.specimen = _choice("tune_specimen", ("metal", "oxide", "monolayer", "graphene", "any"), "metal")
        self.zone = _choice("tune_zone", ("any", "110", "100", "111"), "any")
        self.elements = named(QLineEdit(), "tune_elements")
        self.elements.setPlaceholderText("of the particle, such as Au, Pt; empty is any")
        self.energy = named(QDoubleSpinBox(), "tune_energy")
        self.energy.setRange(10, 1500)
        self.energy.setSuffix(" keV")
        self.energy.setValue(known.get("energy_keV", 300.0))
        self.minutes = named(QDoubleSpinBox(), "tune_minutes")
        self.minutes.setRange(0.5, 600)
        self.minutes.setSuffix(" min")
        self.minutes.setValue(6)
        self.ranges = {key: named(QLineEdit(), f"tune_{key}") for key in RANGES}
        self._build(known)

    def _build(self, known: dict[str, Any]) -> None:
        intro = QLabel(INTRO)
        intro.setWordWrap(True)
        form = QFormLayout()
        form.addRow("Name of the new model", self.name)
        form.addRow("Contrast", self.contrast)
        form.addRow("Beam energy", self.energy)
        for key, (title, example) in RANGES.items():
            self.ranges[key].setPlaceholderText(example)
            if key in known:
                self.ranges[key].setText("{:g} - {:g}".format(*known[key]))
            form.addRow(title, self.ranges[key])
        form.addRow("Specimen", self.specimen)
        form.addRow("Metals", self.elements)
        form.addRow("Zone axis", self.zone)
        form.addRow("Time", self.minutes)
        self.bar = JobBar("%")
        self.message = named(QLabel(missing_for_tuning(self._params.model)), "tune_message")
        self.message.setWordWrap(True)
        self.start_button = named(QPushButton("Tune"), "tune_start")
        self.start_button.setEnabled(not self.message.text())
        self.start_button.clicked.connect(lambda *_: self.start())
        close = QPushButton("Close")
        close.clicked.connect(self.reject)
        buttons = QHBoxLayout()
        buttons.addStretch(1)
        buttons.addWidget(self.start_button)
        buttons.addWidget(close)
        layout = QVBoxLayout(self)
        for widget in (intro,):
            layout.addWidget(widget)
        layout.addLayout(form)
        layout.addWidget(self.bar)
        layout.addWidget(self.message)
        layout.addLayout(buttons)

    def conditions(self) -> dict[str, Any]:
        """Conditions as typed; raises EmdlError with one line when a range cannot be read."""
        found: dict[str, Any] = {
            "contrast": self.contrast.currentText(),
            "energy_keV": self.energy.value(),
            "specimen": self.specimen.currentText(),
        }
        for key, field in self.ranges.items():
            if field.text().strip():
                found[key] = read_range(field.text(), RANGES[key][0])
        if self.zone.currentText() != "any":
            found["zone"] = self.zone.currentText()
        elements = [e.strip().capitalize() for e in self.elements.text().replace(";", ",").split(",") if e.strip()]
        if elements:
            found["elements"] = elements
        return found

    def start(self) -> None:
        """Tune in the background."""
        try:
            conditions = self.conditions()
        except EmdlError as error:
            self.message.setText(error_line(error))
            return
        name, minutes, base = self.name.text().strip(), self.minutes.value(), self._params.model
        job = Job(lambda control, _block: tune(base, conditions, name, minutes, control), "tuning", self)
        job.returned.connect(self._done)
        job.failed.connect(lambda error: self.message.setText(error_line(error)))
        job.cancelled.connect(lambda: self.message.setText("Cancelled; nothing was kept."))
        job.finished.connect(self._finished)
        self.job = job
        self.start_button.setEnabled(False)
        self.message.setText("")
        self.bar.watch(job)
        job.start()

    def _done(self, made: Tuned) -> None:
        self.message.setText(f"{made.said}. It is in the model list now.")
        self.tuned.emit(made.name)

    def _finished(self) -> None:
        self.job = None
        self.start_button.setEnabled(True)

    def reject(self) -> None:
        """Close; a tuning that still runs is cancelled."""
        if self.job is not None:
            self.job.end()
        super().reject()


def _choice(name: str, values: tuple[str, ...], chosen: str) -> QComboBox:
    box = named(QComboBox(), name)
    box.addItems(values)
    box.setCurrentText(chosen)
    return box
