"""A guided tour in a panel: a few steps, each with a sentence and the control it is about; skipped at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

MARK = "border: 2px solid #ffb000; border-radius: 3px;"


@dataclass(frozen=True)
class TourStep:
    """One step.

    Attributes
    ----------
    text
        What to do and what it shows.
    widget
        Control it is about; it is framed meanwhile.
    action, button
        What the button does for those who would rather watch, and its text.
    ready
        The step can only be taken when this is true.
    """

    text: str
    widget: QWidget | None = None
    action: Callable[[], object] | None = None
    button: str = "Do it"
    ready: Callable[[], bool] = lambda: True


class Tour(QFrame):
    """Shows the steps one by one; hidden while no tour goes on."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("tour")
        self.setAccessibleName("Guided tour")
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.steps: list[TourStep] = []
        self.at = -1
        self._framed: tuple[QWidget, str] | None = None
        self.text = QLabel("")
        self.text.setWordWrap(True)
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.do_button, self.next_button, self.skip_button = QPushButton("Do it"), QPushButton("Next"), QPushButton("Skip")
        self.skip_button.setToolTip("End the tour; ? > Guided tour begins it again")
        row = QHBoxLayout()
        for button in (self.do_button, self.next_button, self.skip_button):
            row.addWidget(button)
        column = QVBoxLayout(self)
        column.addWidget(self.text)
        column.addLayout(row)
        self.do_button.clicked.connect(lambda *_: self._do())
        self.next_button.clicked.connect(lambda *_: self.go_on())
        self.skip_button.clicked.connect(lambda *_: self.end())
        self.hide()

    def begin(self, steps: list[TourStep]) -> None:
        """Begin a tour."""
        self.end()
        self.steps = steps
        self.show()
        self.go_on()

    def go_on(self) -> None:
        """Show the next step, or end after the last."""
        self._unframe()
        self.at += 1
        if self.at >= len(self.steps):
            self.end()
            return
        step = self.steps[self.at]
        self.text.setText(f"{self.at + 1} of {len(self.steps)}: {step.text}")
        self.do_button.setVisible(step.action is not None)
        self.do_button.setText(step.button)
        self.next_button.setText("Done" if self.at == len(self.steps) - 1 else "Next")
        if step.widget is not None:
            self._framed = step.widget, step.widget.styleSheet()
            step.widget.setStyleSheet(f"{step.widget.styleSheet()} {type(step.widget).__name__} {{ {MARK} }}")

    def _do(self) -> None:
        step = self.steps[self.at] if 0 <= self.at < len(self.steps) else None
        if step is not None and step.action is not None and step.ready():
            step.action()

    def _unframe(self) -> None:
        if self._framed is not None:
            widget, sheet = self._framed
            widget.setStyleSheet(sheet)
            self._framed = None

    def end(self) -> None:
        """End the tour."""
        self._unframe()
        self.steps, self.at = [], -1
        self.hide()
