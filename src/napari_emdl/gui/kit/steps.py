"""Steps of the guided path: a foldable box with a number, a state and one line that says what is there or missing."""

from __future__ import annotations

from typing import Literal

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from napari_emdl.gui.kit.wording import said

StepState = Literal["missing", "ready", "done", "warning"]

_MARKS = {"missing": ("○", "#8a8a8a"), "ready": ("●", "#3d8bd4"), "done": ("✓", "#2e9e5b"), "warning": ("!", "#d9822b")}


class Fold(QWidget):
    """Compact foldable part of a panel, closed at first.

    Parameters
    ----------
    title
        Shown beside the arrow.
    content
        Widget that is folded away.
    """

    def __init__(self, title: str, content: QWidget, parent: QWidget | None = None):
        super().__init__(parent)
        self.arrow = QToolButton()
        self.arrow.setCheckable(True)
        self.arrow.setAutoRaise(True)
        self.arrow.setText(title)
        self.arrow.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.arrow.setArrowType(Qt.ArrowType.RightArrow)
        self.arrow.setStyleSheet("QToolButton { border: none; background: transparent; text-align: left; }")
        self.content = content
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.arrow)
        column.addWidget(content)
        content.hide()
        self.arrow.toggled.connect(self._on_toggled)

    def _on_toggled(self, unfolded: bool) -> None:
        self.arrow.setArrowType(Qt.ArrowType.DownArrow if unfolded else Qt.ArrowType.RightArrow)
        self.content.setVisible(unfolded)


class Step(QFrame):
    """Foldable step.

    Parameters
    ----------
    number, title
        Shown in the header.
    tip
        What the step is for.
    """

    toggled = Signal(bool)

    def __init__(self, number: int, title: str, tip: str = "", parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName(f"step_{number}")
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.arrow = QToolButton()
        self.arrow.setCheckable(True)
        self.arrow.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.arrow.setAutoRaise(True)
        self.arrow.setText(f"{number}  {title}")
        self.arrow.setToolTip(tip)
        self.arrow.setStyleSheet("QToolButton { border: none; background: transparent; font-weight: bold; text-align: left; }")
        self.arrow.toggled.connect(self._on_toggled)
        self.mark = QLabel()
        self.mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.mark.setFixedWidth(18)
        self.line = QLabel()
        self.line.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.line.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        header = QHBoxLayout()
        header.setContentsMargins(0, 0, 0, 0)
        header.setSpacing(4)
        header.addWidget(self.mark)
        header.addWidget(self.arrow)
        header.addWidget(self.line, 1)
        self.body = QWidget()
        self.content = QVBoxLayout(self.body)
        self.content.setContentsMargins(6, 2, 4, 4)
        self.content.setSpacing(4)
        self.body.hide()
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 3, 4, 3)
        column.setSpacing(2)
        column.addLayout(header)
        column.addWidget(self.body)
        self.tell("missing", "")
        self._on_toggled(False)

    def _on_toggled(self, unfolded: bool) -> None:
        self.arrow.setArrowType(Qt.ArrowType.DownArrow if unfolded else Qt.ArrowType.RightArrow)
        self.body.setVisible(unfolded)
        self.toggled.emit(unfolded)

    def unfold(self, on: bool = True) -> None:
        """Open or close the step."""
        self.arrow.setChecked(on)

    def tell(self, state: StepState, text: str, tip: str = "") -> None:
        """Show what is there or what is missing."""
        mark, color = _MARKS[state]
        text, tip = said(text), said(tip)
        self.state = state
        self.mark.setText(mark)
        self.mark.setStyleSheet(f"color: {color}; font-weight: bold; font-size: 13px;")
        self.line.setText(text)
        self.line.setToolTip(tip or text)
