"""The map that is shown, judged: histogram with mean, median and spread, and whether its numbers can be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_emdl.gui.diffraction.maps import ScanMaps
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.forms import narrow
from napari_emdl.gui.kit.plots import Plot
from napari_emdl.gui.kit.session import bare, role_of, tag, tag_of

WHOLE, DRAWN = "the whole map", "a region drawn on it"
BAR_COLOR, MEDIAN_COLOR = "#5a8fd6", "#21d07a"


class MapHistogram(QWidget):
    """Histogram of the strain map that is shown; it follows the map, the region and every new fit.

    Signals
    -------
    judged
        The verdict changed; :attr:`line` has it.
    """

    judged = Signal()

    def __init__(self, state: StemState, viewer: Any, maps: Callable[[], ScanMaps | None], parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("map_histogram")
        self.stem, self.viewer, self.maps = state, bare(viewer), maps
        self.component = styles.STRAIN_MAPS[0][0]
        self.shown: Any = None  # diffraction.evidence.MapStatistics, in the shown unit
        self.line = ""
        self.within = narrow(QComboBox())
        self.within.addItems([WHOLE, DRAWN])
        self.within.setToolTip("Positions that count")
        self.draw_button = QPushButton("Draw region")
        self.draw_button.setToolTip("Put a rectangle on the map; move and resize it, or draw a polygon instead")
        self.plot = Plot("", "")
        self.plot.hideAxis("left")
        self.plot.setMinimumHeight(110)
        self.plot.setMaximumHeight(150)
        self.plot.setToolTip("Values of the fitted positions; green: median, orange: value at the cross-hair")
        self.bars = pg.BarGraphItem(x=[0], height=[0], width=1, brush=BAR_COLOR, pen=None)
        dashes = Qt.PenStyle.DashLine
        self.median = pg.InfiniteLine(0, pen=pg.mkPen(MEDIAN_COLOR, width=2, style=dashes))
        self.here = pg.InfiniteLine(0, pen=pg.mkPen(styles.CROSS_COLOR, width=2))
        for item in (self.bars, self.median, self.here):
            self.plot.addItem(item)
        self.text = QLabel("")
        self.text.setWordWrap(True)
        top = QHBoxLayout()
        top.addWidget(QLabel("Within"))
        top.addWidget(self.within, 1)
        top.addWidget(self.draw_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(top)
        column.addWidget(self.plot)
        column.addWidget(self.text)
        self.within.currentTextChanged.connect(self._on_within)
        self.draw_button.clicked.connect(self.draw)
        state.strain_changed.connect(self.refresh)
        state.cube_changed.connect(self.refresh)
        state.position_changed.connect(lambda *_: self._show_here())
        self._on_within(WHOLE)

    def show_component(self, component: str) -> None:
        """Show another map."""
        self.component = component
        self.refresh()

    def layer(self) -> Any:
        """Shapes layer of the region on this datacube, or None."""
        for layer in self.viewer.layers:
            if role_of(layer) == "statistics" and tag_of(layer).get("signal") is self.stem.cube:
                return layer
        return None

    def _on_within(self, text: str) -> None:
        self.draw_button.setVisible(text == DRAWN)
        if text == DRAWN and self.layer() is None:
            self.draw()
        self.refresh()

    def draw(self) -> None:
        """Put a rectangle on the middle of the map, ready to be moved."""
        maps = self.maps()
        if self.stem.cube is None or maps is None:
            return
        layer = self.layer()
        if layer is None:
            layer = self.viewer.add_shapes(
                name="Region of the histogram", ndim=2, metadata=tag("statistics", self.stem.cube), **maps.space
            )
            layer.events.data.connect(self._on_data)
        if not len(layer.data):
            rows, cols = self.stem.cube.scan_shape
            top, bottom, left, right = rows / 4 - 0.5, 3 * rows / 4 - 0.5, cols / 4 - 0.5, 3 * cols / 4 - 0.5
            layer.add(
                np.array([[top, left], [top, right], [bottom, right], [bottom, left]]),
                shape_type="rectangle",
                edge_color=BAR_COLOR,
                edge_width=max(rows, cols) / 120,
                face_color="#5a8fd618",
            )
        self.viewer.layers.selection.active = layer
        layer.mode = "select"
        self.refresh()

    def _on_data(self, event: Any) -> None:
        if not str(getattr(event, "action", "")).endswith("ing"):
            self.refresh()

    def region(self) -> NDArray[np.bool_] | None:
        """(R, C) positions that count, None for all."""
        layer, cube = self.layer(), self.stem.cube
        if self.within.currentText() == WHOLE or layer is None or cube is None or not len(layer.data):
            return None
        masks: NDArray[np.bool_] = layer.to_masks(mask_shape=cube.scan_shape).any(axis=0)
        return masks

    def refresh(self) -> None:
        """Count anew and judge."""
        strain = self.stem.found.strain
        if strain is None:
            self._show(None, "Fit the strain first.", "")
            return
        from napari_emdl.diffraction.judge.evidence import map_statistics, verdict_line

        _, title, factor, unit = self._entry()
        found = map_statistics(np.asarray(getattr(strain, self.component)) * factor, self.region())
        if found.n:
            text = (
                f"{title}: mean {found.mean:+.3f}, median {found.median:+.3f}, standard deviation {found.std:.3f} {unit} "
                f"({found.n:,} positions)."
            )
        else:
            text = "No fitted position lies in the region."
        self._show(found if found.n else None, text, verdict_line(strain, self.component))

    def _entry(self) -> tuple[str, str, float, str]:
        return next(entry for entry in styles.STRAIN_MAPS if entry[0] == self.component)

    def _show(self, found: Any, text: str, line: str) -> None:
        self.shown = found
        self.text.setText(text)
        self.bars.setVisible(found is not None)
        self.median.setVisible(found is not None)
        if found is not None:
            _, title, _, unit = self._entry()
            middles = (found.edges[:-1] + found.edges[1:]) / 2
            self.bars.setOpts(x=middles, height=found.counts, width=np.diff(found.edges) * 0.95)
            self.median.setValue(found.median)
            self.plot.setXRange(float(found.edges[0]), float(found.edges[-1]), padding=0.02)
            self.plot.setYRange(0, max(1.0, float(found.counts.max())), padding=0.05)
            self.plot.setLabel("bottom", f"{title} ({unit})")
        self._show_here()
        if line != self.line:
            self.line = line
            self.judged.emit()

    def _show_here(self) -> None:
        strain = self.stem.found.strain
        value = np.nan if strain is None else getattr(strain, self.component)[self.stem.settings.position] * self._entry()[2]
        known = bool(np.isfinite(value)) and self.shown is not None
        self.here.setVisible(known)
        if known:
            self.here.setValue(float(np.clip(value, self.shown.edges[0], self.shown.edges[-1])))
