"""The frame of the 4D-STEM panel: what is open, the buttons on top, the steps to scroll through, the status line."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from napari_emdl.gui.kit.fitting import Column
from napari_emdl.gui.kit.notices import Notices
from napari_emdl.gui.kit.steps import Step
from napari_emdl.gui.kit.tour import Tour
from napari_emdl.gui.kit.wording import said

LEAST_WIDTH = 280  # before the first layout a widget is as narrow as can be
HINT = (
    "Open one with File > Open or with the button below, or try File > Open Sample > EM deep learning > "
    "Strained 4D-STEM datacube."
)


class Frame(QWidget):
    """Lays out what the workspace made.

    Parameters
    ----------
    above
        Widgets above the title: offer to restore, list of open files.
    buttons
        Buttons beside *Run all*.
    bar
        Progress of a run.
    steps
        Steps of the guided path.
    """

    def __init__(
        self,
        above: tuple[QWidget, ...],
        buttons: tuple[QWidget, ...],
        bar: QWidget,
        steps: tuple[Step, ...],
        parent: QWidget | None = None,
    ):
        super().__init__(parent)
        self.notices, self.tour = Notices(), Tour()
        self.title, self.hint, self.outlook = _line("No datacube is open"), _line(HINT), _line("")
        self.outlook.setToolTip("From some patterns spread over the scan, with the settings as they are")
        self.outlook.hide()
        self.run_all_button = QPushButton("Run all")
        self.run_all_button.setObjectName("run_all")
        self.run_all_button.setToolTip("Probe, disks, lattice and strain with the settings as they are")
        self.run_all_button.setEnabled(False)
        self.results, self.figure_button, self.export_button = QWidget(), QPushButton("Figure…"), QPushButton("Export…")
        self.figure_button.setToolTip(
            "A figure ready to print: of the strain maps, or of the pattern with its disks where there are none"
        )
        self.export_button.setToolTip("Tables, images and figures into a folder (step 5 has more)")
        keep = QHBoxLayout(self.results)
        keep.setContentsMargins(0, 0, 0, 0)
        for made, name in ((self.figure_button, "figure"), (self.export_button, "export_results")):
            made.setObjectName(name)
            keep.addWidget(made)
        self.results.hide()
        self.help_button = QToolButton()
        self.help_button.setText("?")
        self.help_button.setToolTip("Keys, the way through, and a guided tour")
        self.help_button.setAccessibleName("Help")
        top = QHBoxLayout()
        top.addWidget(self.run_all_button, 1)
        for button in (*buttons, self.help_button):
            top.addWidget(button)
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(4, 2, 4, 2)
        column.setSpacing(4)
        for widget in (above[0], self.notices, self.tour, *above[1:], self.title, self.hint):
            column.addWidget(widget)
        column.addLayout(top)
        for widget in (self.results, self.outlook, bar, *steps):
            column.addWidget(widget)
        column.addStretch(1)
        self.scroll_area = Column(inner)
        self.status = _line("")
        self.status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)  # else napari fills up below it
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.scroll_area, 1)
        outer.addWidget(self.status)

    def say(self, text: str) -> None:
        """One line, or a few, at the bottom."""
        self.status.setText(said(text))
        self._fit_status()

    def _fit_status(self) -> None:
        """Height for the width there is: layouts do not ask wrapped text again."""
        self.status.setMinimumHeight(max(0, self.status.heightForWidth(max(self.width(), LEAST_WIDTH))))

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit_status()

    def show_results(self, there: bool) -> None:
        """What can be done with results, once there are any."""
        self.results.setVisible(there)

    def show_outlook(self, line: str) -> None:
        """What a run would give; an empty line takes it away."""
        self.outlook.setText(said(line))
        self.outlook.setVisible(bool(line))


def _line(text: str) -> QLabel:
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    return label
