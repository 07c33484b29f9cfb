"""Four maps side by side: one cross-hair, one zoom, titled colour bars whose ends say where values lie beyond, strain axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QPalette
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import styles

STRAIN_TITLES = {name: (title, factor, unit) for name, title, factor, unit in styles.STRAIN_MAPS}


class _Map:
    """One map with its colour bar, cross-hair and axes."""

    def __init__(self, layout: Any, number: int, name: str) -> None:
        self.name = name
        self.title, self.factor, self.unit = STRAIN_TITLES[name]
        self.plot = layout.addPlot(row=0, col=2 * number)
        self.plot.invertY(True)
        self.plot.setAspectLocked(True)
        self.plot.hideAxis("left")
        self.plot.hideAxis("bottom")
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        self.image = pg.ImageItem(axisOrder="row-major")
        self.plot.addItem(self.image)
        pen = pg.mkPen(styles.CROSS_COLOR, width=1)
        self.cross = pg.PlotCurveItem(pen=pen, connect="pairs")
        self.plot.addItem(self.cross)
        self.bar = pg.ColorBarItem(
            values=(-1, 1), colorMap=pg.colormap.get("RdBu_r", source="matplotlib"), width=11, interactive=False
        )
        self.bar.setImageItem(self.image)
        layout.addItem(self.bar, row=0, col=2 * number + 1)
        self.limits = (-1.0, 1.0)
        self.beyond = (0.0, 0.0)
        self.axes: list[Any] = []
        self.colour: Any = None

    def set_text(self, colour: Any) -> None:
        """Colour of title and numbers."""
        self.colour = colour
        self.bar.axis.setTextPen(pg.mkPen(colour))
        self.scale(self.limits, self.beyond)

    def show(self, values: Any, limits: tuple[float, float], beyond: tuple[float, float]) -> None:
        """Values in the shown unit."""
        self.image.setImage(values, autoLevels=False)
        self.image.setRect(-0.5, -0.5, values.shape[1], values.shape[0])
        self.scale(limits, beyond)

    def scale(self, limits: tuple[float, float], beyond: tuple[float, float]) -> None:
        """Colour scale; the title names shares of the map that lie beyond its ends."""
        self.limits, self.beyond = limits, beyond
        self.bar.setLevels(limits)
        marks = styles.end_marks(beyond)
        ends = f" <span style='font-size:8pt'>{marks} beyond</span>" if marks else ""
        self.plot.setTitle(f"{self.title} ({self.unit}){ends}", size="9pt", color=self.colour)

    def show_axes(self, axes: Any, shape: tuple[int, int]) -> None:
        """Glyph of the strain axes in the corner where it hides least."""
        for item in self.axes:
            self.plot.removeItem(item)
        self.axes = []
        size = 0.2 * min(shape)
        corner = np.array([shape[0] - 0.5 - 1.6 * size, -0.5 + 1.6 * size])
        for vector, name in ((axes.x, "x"), (axes.y, "y")):
            row, col = corner + size * vector
            self.axes.append(pg.PlotCurveItem([corner[1], col], [corner[0], row], pen=pg.mkPen("#101010", width=2)))
            label = pg.TextItem(name, color="#101010", anchor=(0.5, 0.5), fill=pg.mkBrush(255, 255, 255, 150))
            row, col = corner + 1.35 * size * vector
            label.setPos(col, row)
            self.axes.append(label)
        for item in self.axes:
            self.plot.addItem(item)


class FourMaps(QWidget):
    """ε xx, ε yy, ε xy and θ of the datacube that is shown.

    Parameters
    ----------
    state
        What is shown.
    limits
        Colour scale of a map, by its name, as the main canvas has it.

    Signals
    -------
    moved
        A click asks for the position (row, col).
    """

    moved = Signal(int, int)

    def __init__(self, state: StemState, limits: Callable[[str], tuple[float, float] | None], parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("four_maps")
        self.stem, self._limits = state, limits
        self.view = pg.GraphicsLayoutWidget()
        self.view.setToolTip("Click to move the cross-hair; the wheel zooms all four maps, a double click shows them whole")
        self.view.setAccessibleName("Four strain maps")
        self.maps = {name: _Map(self.view.ci, number, name) for number, name in enumerate(STRAIN_TITLES)}
        first = next(iter(self.maps.values())).plot
        for one in list(self.maps.values())[1:]:
            one.plot.setXLink(first)
            one.plot.setYLink(first)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.view)
        self.setMinimumSize(220, 150)
        self.view.scene().sigMouseClicked.connect(self._on_click)
        for signal in (state.strain_changed, state.coarse_changed, state.strain_failed):
            signal.connect(lambda *_: self.refresh())
        state.cube_changed.connect(self.refresh)
        state.position_changed.connect(lambda *_: self._show_cross())
        self._apply_theme()

    def sizeHint(self) -> QSize:
        return QSize(900, 230)

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        self.refresh()

    def changeEvent(self, event: Any) -> None:
        super().changeEvent(event)
        if event.type() == event.Type.PaletteChange and hasattr(self, "view"):
            self._apply_theme()

    def _apply_theme(self) -> None:
        self.view.setBackground(self.palette().color(QPalette.ColorRole.Window))
        for one in self.maps.values():
            one.set_text(self.palette().color(QPalette.ColorRole.WindowText))

    def refresh(self) -> None:
        """Draw the maps as they are now; nothing is drawn while they are not shown."""
        strain = self.stem.found.strain
        if not self.isVisible():
            return
        if strain is None:
            for one in self.maps.values():
                one.image.clear()
            return
        from napari_emdl.diffraction.judge.glance import axes_on_scan, beyond

        axes, values, coarse = axes_on_scan(strain), {}, self.stem.coarse
        for name, one in self.maps.items():
            shown = getattr(strain, name) if coarse is None else coarse.values[name]
            values[name] = np.asarray(shown, float) * one.factor
        for name, one in self.maps.items():
            limits = self._limits(name) or one.limits
            one.show(values[name], limits, beyond(values[name], limits))
            one.show_axes(axes, strain.shape)
        self._show_cross()
        if coarse is None:
            next(iter(self.maps.values())).plot.autoRange(padding=0.02)

    def _show_cross(self) -> None:
        if self.stem.cube is None:
            return
        (row, col), (rows, cols) = self.stem.settings.position, self.stem.cube.scan_shape
        for one in self.maps.values():
            one.cross.setData([-0.5, cols - 0.5, col, col], [row, row, -0.5, rows - 0.5])

    def _on_click(self, event: Any) -> None:
        strain = self.stem.found.strain
        if strain is None or event.button() != Qt.MouseButton.LeftButton:
            return
        for one in self.maps.values():
            if one.plot.sceneBoundingRect().contains(event.scenePos()):
                if event.double():
                    one.plot.autoRange(padding=0.02)
                    return
                place = one.plot.vb.mapSceneToView(event.scenePos())
                row, col = round(place.y()), round(place.x())
                if 0 <= row < strain.shape[0] and 0 <= col < strain.shape[1]:
                    self.moved.emit(row, col)
                return
