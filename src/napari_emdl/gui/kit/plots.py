"""Small live plots of the atom panels: counts a frame, trace of a site, dwell times, rates. They draw, and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pyqtgraph as pg
from napari.settings import get_settings
from numpy.typing import ArrayLike, NDArray
from qtpy.QtCore import QEvent, QObject, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFont, QPalette
from qtpy.QtWidgets import QWidget

from napari_emdl.base.showing import PALETTE

OCCUPIED_COLOUR = "#56B4E9"
EMPTY_COLOUR = "#E69F00"
FRAME_LINE_COLOUR = "#D55E00"


Q = TypeVar("Q", bound=QObject)


def named(widget: Q, name: str) -> Q:
    """The widget, with a name it can be found by."""
    widget.setObjectName(name)
    return widget


class Plot(pg.PlotWidget):
    """Plot in the colours of the window, without pyqtgraph's own menus."""

    def __init__(self, x_label: str, y_label: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setMenuEnabled(False)
        self.hideButtons()
        self.setMouseEnabled(x=False, y=False)
        self.setLabel("bottom", x_label)
        self.setLabel("left", y_label)
        self.showGrid(x=True, y=True, alpha=0.15)
        for side in ("bottom", "left"):
            self.getAxis(side).enableAutoSIPrefix(False)
        self.set_colours()

    def sizeHint(self) -> QSize:
        """Small: panels are narrow."""
        return QSize(240, 130)

    def minimumSizeHint(self) -> QSize:
        """Small enough for a low window."""
        return QSize(120, 90)

    def changeEvent(self, event: QEvent) -> None:
        """Another theme, or a larger type."""
        super().changeEvent(event)
        made = "text_colour" in self.__dict__  # Qt tells of changes before that, and pyqtgraph looks up what it has not yet
        if made and event.type() in (QEvent.Type.StyleChange, QEvent.Type.PaletteChange, QEvent.Type.FontChange):
            self.set_colours()

    def set_colours(self) -> None:
        """Take background and text colours, and the size of type, from the window."""
        palette = (self.parentWidget() or self).palette()
        self.text_colour = palette.color(QPalette.ColorRole.WindowText)
        self.setBackground(palette.color(QPalette.ColorRole.Window))
        line, font = QColor(self.text_colour), QFont(self.font())
        line.setAlphaF(0.5)
        font.setPointSizeF(0.9 * get_settings().appearance.font_size)
        for side in ("bottom", "left"):
            axis = self.getAxis(side)
            axis.setPen(pg.mkPen(line, width=1))
            axis.setTextPen(pg.mkPen(self.text_colour))
            axis.setTickFont(font)
            axis.label.setFont(font)
        if self.plotItem.legend is not None:
            self.plotItem.legend.setLabelTextColor(self.text_colour)


class FramePlot(Plot):
    """Plot over frames with a line at the current one; a click or a drag of the line asks to go to a frame."""

    seek = Signal(int)

    def __init__(self, y_label: str, parent: QWidget | None = None) -> None:
        super().__init__("frame", y_label, parent)
        self.line = pg.InfiniteLine(0, angle=90, movable=True, pen=pg.mkPen(FRAME_LINE_COLOUR, width=2))
        self.line.setZValue(10)
        self.line.sigDragged.connect(lambda: self.seek.emit(round(self.line.value())))
        self.addItem(self.line)
        self.scene().sigMouseClicked.connect(self._clicked)
        self._frames = 1

    def set_frames(self, frames: int) -> None:
        """Number of frames of the movie."""
        self._frames = max(frames, 1)
        self.setXRange(-0.5, max(self._frames - 0.5, 0.5), padding=0.02)
        self.line.setBounds((0, self._frames - 1))

    def set_frame(self, frame: int) -> None:
        """Move the line to the current frame."""
        self.line.blockSignals(True)
        self.line.setValue(frame)
        self.line.blockSignals(False)

    def _clicked(self, event: pg.GraphicsScene.mouseEvents.MouseClickEvent) -> None:
        view = self.getPlotItem().vb
        if event.button() != Qt.MouseButton.LeftButton or not view.sceneBoundingRect().contains(event.scenePos()):
            return
        frame = round(view.mapSceneToView(event.scenePos()).x())
        self.seek.emit(int(np.clip(frame, 0, self._frames - 1)))


class CountPlot(FramePlot):
    """Number of columns in each frame; frames that were not run yet stay empty."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("columns", parent)
        self._curve = self.plot(
            [],
            [],
            pen=pg.mkPen(OCCUPIED_COLOUR, width=1.5),
            symbol="o",
            symbolSize=4,
            symbolBrush=OCCUPIED_COLOUR,
            symbolPen=None,
        )
        self.show_counts(())

    def show_counts(self, counts: ArrayLike) -> None:
        """Draw (frames,) counts; NaN for frames that were not run."""
        values = np.asarray(counts, float)
        known = values[np.isfinite(values)]
        self.getAxis("left").setStyle(showValues=bool(len(known)))
        if not len(known):
            self._curve.setData([], [])
            return
        self._curve.setData(np.arange(len(values)), values, connect="finite")
        self.setYRange(max(0.0, known.min() * 0.95 - 1), known.max() * 1.05 + 1, padding=0)


class TracePlot(FramePlot):
    """Life of one site: probability of being occupied, the decision as a band below, frames out of view in grey."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("P(occupied)", parent)
        self.setYRange(-0.12, 1.05, padding=0)
        self._bands: list[pg.LinearRegionItem] = []
        self._curve = self.plot([], [], pen=pg.mkPen("#ffffff", width=1.2))
        self._band = pg.ImageItem(np.zeros((1, 1, 4), np.uint8))
        self._band.setZValue(-5)
        self.addItem(self._band)

    def show_site(self, p_occupied: NDArray[np.float64], occupied: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
        """Draw (frames,) posterior, decision and validity of a site."""
        frames = len(p_occupied)
        self._curve.setPen(pg.mkPen(self.text_colour, width=1.2))
        self._curve.setData(np.arange(frames), np.where(valid, p_occupied, np.nan), connect="finite")
        colours = np.array([QColor(c).getRgb() for c in (EMPTY_COLOUR, OCCUPIED_COLOUR, "#707070")], np.uint8)
        state = np.where(valid, occupied.astype(int), 2)
        self._band.setImage(colours[state][:, None, :], levels=(0, 255))
        self._band.setRect(-0.5, -0.11, frames, 0.07)
        self.set_frames(frames)

    def clear_site(self) -> None:
        """Draw nothing."""
        self._curve.setData([], [])
        self._band.setImage(np.zeros((1, 1, 4), np.uint8))


class SurvivalPlot(Plot):
    """Kaplan-Meier curves of dwell times with their confidence bands."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("dwell time", "P(lasts longer)", parent)
        self.addLegend(offset=(-5, 5), labelTextSize="8pt", labelTextColor=self.text_colour)
        self.setYRange(0, 1.02, padding=0)

    def show_curves(
        self,
        curves: Sequence[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]],
        unit: str,
    ) -> None:
        """Draw (name, time, survival, low, high) curves; arrays of a curve have equal length.

        Parameters
        ----------
        unit
            Unit of time, for the axis.
        """
        self.clear()
        self.setLabel("bottom", f"dwell time ({unit})")
        for index, (name, time, survival, low, high) in enumerate(curves):
            if not len(time):
                continue
            colour = QColor((OCCUPIED_COLOUR, EMPTY_COLOUR)[index] if index < 2 else PALETTE[index % len(PALETTE)])
            band = QColor(colour)
            band.setAlpha(60)
            edges = [pg.PlotCurveItem(*_steps(time, values)) for values in (low, high)]
            self.addItem(pg.FillBetweenItem(*edges, brush=band))
            self.plot(*_steps(time, survival), pen=pg.mkPen(colour, width=2), name=name)


def _steps(time: NDArray[Any], survival: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Corners of a survival curve: 1 from the start, each value from its time on."""
    return np.r_[0, np.repeat(time, 2)], np.repeat(np.r_[1, survival], 2)[:-1]


class RatePlot(Plot):
    """Rates by group as points with intervals."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("", "probability in the next frame", parent)
        self.addLegend(offset=(5, 1), colCount=2, labelTextSize="8pt", labelTextColor=self.text_colour)

    def show_rates(
        self,
        groups: Sequence[str],
        series: Sequence[tuple[str, ArrayLike, ArrayLike, ArrayLike]],
        unit: str,
        level: float | None = None,
    ) -> None:
        """Draw series of (name, rate, low, high), one value a group.

        Parameters
        ----------
        unit
            Label of the rate axis.
        level
            Where to draw a line, such as a ratio of 1.
        """
        self.clear()
        if level is not None:
            self.addItem(pg.InfiniteLine(level, angle=0, pen=pg.mkPen(self.text_colour, style=Qt.PenStyle.DashLine)))
        self.setLabel("left", unit)
        self.getAxis("bottom").setTicks([list(enumerate(groups))])
        width, highest = 0.16, 0.0
        for index, (name, rate, low, high) in enumerate(series):
            x = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
            rate, low, high = (np.asarray(v, float) for v in (rate, low, high))
            known = np.isfinite(rate)
            if not known.any():
                continue
            highest = max(highest, float(np.nanmax(high[known])))
            colour = PALETTE[(1, 0, 2, 4)[index % 4]]
            error = pg.ErrorBarItem(
                x=x[known],
                y=rate[known],
                top=(high - rate)[known],
                bottom=(rate - low)[known],
                beam=0.06,
                pen=pg.mkPen(colour, width=1.5),
            )
            self.addItem(error)
            self.plot(x[known], rate[known], pen=None, symbol="o", symbolSize=8, symbolBrush=colour, symbolPen=None, name=name)
        self.setXRange(-0.5, max(len(groups) - 0.5, 0.5), padding=0.02)
        self.setYRange(0, 1.25 * highest if highest else 1.0, padding=0)  # room for the legend
