"""Where the contrast is not sure: both readings side by side, one click takes one."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QImage, QPainter, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from napari_emdl.gui.atoms.jobs import both_readings
from napari_emdl.gui.atoms.session import AtomsSession
from napari_emdl.gui.atoms.widgets import line
from napari_emdl.gui.kit.plots import named
from napari_emdl.gui.kit.worker import Latest, report_error

#: side of a picture on the screen, and colour of the columns in it
SIDE_PX, MARK = 150, QColor(255, 140, 0)
QUESTION = "It is not sure whether the columns are bright or dark. Click the picture that is right."


class ReadingsRow(QWidget):
    """Two pictures of the same part of the frame, with the columns of either reading; hidden while the contrast is sure.

    Signals
    -------
    chosen
        "bright" or "dark".
    """

    chosen = Signal(str)

    def __init__(self, session: AtomsSession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.latest = Latest(both_readings, "bright and dark columns", parent=self)
        self.latest.done.connect(self._show)
        self.latest.failed.connect(report_error)
        self.buttons = {sign: self._button(sign) for sign in ("bright", "dark")}
        side_by_side = QHBoxLayout()
        for made in self.buttons.values():
            side_by_side.addWidget(made)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(line(QUESTION, "readings_question"))
        layout.addLayout(side_by_side)
        self.hide()

    def _button(self, sign: str) -> QToolButton:
        made = named(QToolButton(), f"reading_{sign}")
        made.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
        made.setIconSize(QSize(SIDE_PX, SIDE_PX))
        made.setToolTip(f"<qt>The columns are {sign}: find them so in all frames</qt>")
        made.clicked.connect(lambda *_: self.chosen.emit(sign))
        return made

    def follow(self, attrs: dict[str, Any]) -> None:
        """Show the two readings of the current frame where the finder is not sure, as the attributes of its table tell."""
        data = self.session.data
        counts = attrs.get("readings") or {}
        if data.settings.columns.contrast != "auto" or not counts or data.movie is None:
            self.hide()
            return
        if self.isVisibleTo(self.parentWidget()):
            return
        for sign, made in self.buttons.items():
            made.setIcon(QIcon(_blank()))  # what lies below does not move when the picture comes
            made.setText(f"{sign}: {counts.get(sign, 0):.0f} columns")
        self.show()
        self.latest.submit(data.movie, data.find_params(), data.settings.run, self.session.frame)

    def _show(self, readings: Any, _args: Any) -> None:
        for reading in readings:
            made = self.buttons[reading.contrast]
            made.setText(f"{reading.contrast}: {reading.columns} columns")
            made.setIcon(QIcon(_drawn(reading.picture, reading.points_px)))

    def close_workers(self) -> None:
        """Stop what runs."""
        self.latest.close()


def _blank() -> QPixmap:
    empty = QPixmap(SIDE_PX, SIDE_PX)
    empty.fill(Qt.GlobalColor.transparent)
    return empty


def _drawn(picture: np.ndarray, points_px: np.ndarray) -> QPixmap:
    """The picture with a dot on every column."""
    rows, cols = picture.shape
    grey = picture.tobytes()  # the image looks into it
    image = QImage(grey, cols, rows, cols, QImage.Format.Format_Grayscale8)
    scale = SIDE_PX / max(rows, cols)
    pixmap = QPixmap.fromImage(image).scaled(round(cols * scale), round(rows * scale))
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(MARK)
    for row, col in points_px:
        painter.drawEllipse(QPointF((col + 0.5) * scale, (row + 0.5) * scale), 2.5, 2.5)
    painter.end()
    return pixmap
