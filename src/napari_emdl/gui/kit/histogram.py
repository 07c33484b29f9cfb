"""Histogram of scores with a limit to drag."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import QDoubleSpinBox, QLabel, QSizePolicy, QToolButton, QVBoxLayout, QWidget
from superqt import QFlowLayout

STEP = 0.04  # part of the axis that [ and ] move the limit


class ScoreHistogram(QWidget):
    """Shows how scores are spread and lets the user drag the least score.

    The axis is logarithmic for scores that are no probabilities (their range exceeds 0 to 1).
    """

    changed = Signal(float)

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("score_histogram")
        self._logarithmic = False
        self._default: float | None = None
        self._value = 0.0
        self.plot = pg.PlotWidget()
        self.plot.setMenuEnabled(False)
        self.plot.setMouseEnabled(False, False)
        self.plot.hideButtons()
        self.plot.getPlotItem().hideAxis("left")
        self.plot.setMinimumHeight(72)
        self.plot.setMaximumHeight(110)
        self.plot.setToolTip("Scores of the disks found; drag the line to set the least score ([ and ] move it)")
        self.bars = pg.BarGraphItem(x=[0], height=[0], width=1, brush="#5a8fd6", pen=None)
        self.line = pg.InfiniteLine(0, movable=True, pen=pg.mkPen("#ffb000", width=3), hoverPen=pg.mkPen("#ffd060", width=5))
        self.plot.addItem(self.bars)
        self.plot.addItem(self.line)
        self.line.sigPositionChanged.connect(self._on_line)
        self.spin = QDoubleSpinBox()
        self.spin.setDecimals(3)
        self.spin.setRange(0, 1e9)
        self.spin.setKeyboardTracking(False)
        self.spin.setFixedWidth(104)
        self.spin.setToolTip("Least score of a disk")
        self.spin.valueChanged.connect(self._on_spin)
        self.reset = QToolButton()
        self.reset.setText("↺")
        self.reset.setToolTip("Back to the method's own threshold")
        self.reset.clicked.connect(self._on_reset)
        self.count = QLabel("")
        self.count.setContentsMargins(4, 0, 4, 2)
        self.count.setWordWrap(True)
        self.count.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.row = row = QFlowLayout()
        row.setContentsMargins(4, 0, 4, 0)
        row.setHorizontalSpacing(3)
        row.setVerticalSpacing(1)
        row.addWidget(QLabel("Score ≥"))
        row.addWidget(self.spin)
        row.addWidget(self.reset)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.plot)
        column.addLayout(row)
        column.addWidget(self.count)
        self._with_scores(False)
        self._apply_theme()

    def _with_scores(self, there: bool) -> None:
        """An axis and a limit mean something only beside scores."""
        self.line.setVisible(there)
        self.plot.getPlotItem().getAxis("bottom").setStyle(showValues=there)

    def changeEvent(self, event: Any) -> None:
        super().changeEvent(event)
        if event.type() in (event.Type.StyleChange, event.Type.PaletteChange):
            self._apply_theme()

    def _apply_theme(self) -> None:
        if not hasattr(self, "plot"):
            return
        palette = self.palette()
        self.plot.setBackground(palette.color(QPalette.ColorRole.Window))
        text = QColor(palette.color(QPalette.ColorRole.WindowText))
        self.plot.getPlotItem().getAxis("bottom").setTextPen(text)
        self.plot.getPlotItem().getAxis("bottom").setPen(text)

    @property
    def value(self) -> float:
        """Least score."""
        return self._value

    def show_counts(self, edges: NDArray[Any], counts: NDArray[Any], logarithmic: bool, default: float | None) -> None:
        """Show counts of a pattern or of a whole scan; `edges` are log10 of the score when `logarithmic`."""
        self._set_axis(logarithmic)
        self._draw(edges, counts, default)

    def _set_axis(self, logarithmic: bool) -> None:
        self._logarithmic = logarithmic
        axis = self.plot.getPlotItem().getAxis("bottom")
        axis.setLogMode(logarithmic)
        axis.setStyle(maxTickLevel=0 if logarithmic else 2)  # decades alone: the numbers between them crowd
        with QSignalBlocker(self.spin):  # fewer decimals round what is shown, not the threshold
            self.spin.setDecimals(1 if logarithmic else 3)
        self.spin.setSingleStep(1.0 if logarithmic else 0.02)

    def _draw(self, edges: NDArray[Any], counts: NDArray[Any], default: float | None) -> None:
        self._default = default
        heights = np.sqrt(counts)  # so that few strong disks are seen beside many weak ones
        self.bars.setOpts(x=(edges[:-1] + edges[1:]) / 2, height=heights, width=np.diff(edges) * 0.95)
        self._with_scores(True)
        self.plot.setXRange(float(edges[0]), float(edges[-1]), padding=0.02)
        self.plot.setYRange(0, max(1.0, float(heights.max(initial=1))), padding=0.05)
        self._show(self._value)

    def show_none(self) -> None:
        """Nothing was found yet in what is shown."""
        self.bars.setOpts(x=[0], height=[0], width=1)
        self._with_scores(False)

    def set_value(self, value: float) -> None:
        """Show a threshold without telling."""
        self._value = float(value)
        self._show(self._value)

    def _to_axis(self, value: float) -> float:
        return float(np.log10(max(value, 1e-3))) if self._logarithmic else value

    def _show(self, value: float) -> None:
        with QSignalBlocker(self.line), QSignalBlocker(self.spin):
            self.line.setValue(self._to_axis(value))
            self.spin.setValue(value)

    def _take(self, value: float) -> None:
        value = max(0.0, float(value))
        if value != self._value:
            self._value = value
            self._show(value)
            self.changed.emit(value)

    def _on_line(self, *_: Any) -> None:
        at = float(self.line.value())
        self._take(10**at if self._logarithmic else at)

    def _on_spin(self, value: float) -> None:
        self._take(value)

    def _on_reset(self) -> None:
        if self._default is not None:
            self._take(self._default)

    def step(self, direction: int) -> None:
        """Move the limit by one step of the axis, as the keys [ and ] do."""
        low, high = self.plot.getPlotItem().viewRange()[0]
        at = float(np.clip(self._to_axis(self._value) + direction * STEP * (high - low), low, high))
        self._take(10**at if self._logarithmic else at)

    def show_count(self, here: int | None, in_all: int | None, candidates: int | None) -> None:
        """Tell how many disks pass."""
        parts = []
        if here is not None:
            parts.append(f"{here} here")
        if in_all is not None:
            parts.append(f"{in_all:,} of {candidates:,} in the scan" if candidates is not None else f"{in_all:,} in the scan")
        self.count.setText(" · ".join(parts))
