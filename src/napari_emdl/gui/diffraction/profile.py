"""Strain along a line drawn on the map, with its error as a band."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSpinBox, QVBoxLayout, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.gui.diffraction.maps import ScanMaps
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.plots import Plot
from napari_emdl.gui.kit.session import bare, role_of, tag, tag_of
from napari_emdl.gui.kit.worker import error_line

LINE_COLOR = "#ff7ac8"


class LineProfile(QWidget):
    """Plot of one strain component along a line; it follows the line, the map that is shown and every new fit."""

    def __init__(self, state: StemState, viewer: Any, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("line_profile")
        self.stem, self.viewer = state, bare(viewer)
        self.maps: ScanMaps | None = None
        self.component = styles.STRAIN_MAPS[0][0]
        self.shown: Any = None  # diffraction.profile.Profile
        self.draw_button = QPushButton("Draw line")
        self.draw_button.setToolTip("Put a line on the map; drag it or its ends, the plot follows")
        self.width_box = QSpinBox()
        self.width_box.setRange(1, 999)
        self.width_box.setToolTip("Scan positions averaged across the line")
        self.plot = Plot("", "")
        self.plot.setMinimumHeight(120)
        self.note = QLabel("")
        self.note.setWordWrap(True)
        top = QHBoxLayout()
        top.addWidget(self.draw_button, 1)
        top.addWidget(QLabel("Width"))
        top.addWidget(self.width_box)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(top)
        column.addWidget(self.plot)
        column.addWidget(self.note)
        self.draw_button.clicked.connect(self.draw)
        self.width_box.valueChanged.connect(lambda *_: self.refresh())
        state.strain_changed.connect(self.refresh)
        state.cube_changed.connect(self.refresh)
        self.refresh()

    def layer(self) -> Any:
        """Shapes layer with the line on this datacube, or None."""
        for layer in self.viewer.layers:
            if role_of(layer) == "profile" and tag_of(layer).get("signal") is self.stem.cube:
                return layer
        return None

    def draw(self) -> None:
        """Put a line across the scan, ready to be moved."""
        if self.stem.cube is None or self.maps is None:
            return
        layer = self.layer()
        if layer is None or not len(layer.data):
            rows, cols = self.stem.cube.scan_shape
            line = np.array([[(rows - 1) / 2, 0.0], [(rows - 1) / 2, cols - 1.0]])
            if rows > 1 and cols == 1:
                line = np.array([[0.0, 0.0], [rows - 1.0, 0.0]])
            if layer is None:
                layer = self.viewer.add_shapes(
                    name="Profile",
                    ndim=2,
                    metadata=tag("profile", self.stem.cube),
                    **self.maps.space,
                )
                layer.events.data.connect(self._on_data)
            layer.add(
                line, shape_type="line", edge_color=LINE_COLOR, edge_width=max(rows, cols) / 100, face_color="transparent"
            )
        self.viewer.layers.selection.active = layer
        layer.mode = "select"
        self.refresh()

    def watch(self, layer: Any) -> None:
        """Follow a line that a project brought."""
        layer.events.data.connect(self._on_data)
        self.refresh()

    def _on_data(self, event: Any) -> None:
        if not str(getattr(event, "action", "")).endswith("ing"):
            self.refresh()

    def show_component(self, component: str) -> None:
        """Plot another strain component."""
        self.component = component
        self.refresh()

    def refresh(self) -> None:
        """Read the line anew and plot."""
        self.shown = None
        self.plot.clear()
        layer, strain = self.layer(), self.stem.found.strain
        if strain is None or layer is None or not len(layer.data):
            self.note.setText("Fit the strain first." if strain is None else "Draw a line on the map.")
            return
        from napari_emdl.diffraction.judge.profile import line_profile

        line = np.asarray(layer.data[-1], float)
        step = self.stem.cube.calibration.pixel_nm if self.stem.cube is not None else None
        ends = tuple(line[0]), tuple(line[-1])
        try:
            self.shown = line_profile(strain, *ends, self.component, self.width_box.value(), step)
        except EmdlError as error:
            self.note.setText(error_line(error))
            return
        self._plot("nm" if step else "positions")

    def _plot(self, unit: str) -> None:
        _, title, factor, shown_unit = next(entry for entry in styles.STRAIN_MAPS if entry[0] == self.component)
        distance, value, sigma = self.shown.distance, self.shown.value * factor, self.shown.sigma * factor
        band = QColor(LINE_COLOR)
        band.setAlpha(70)
        known = np.flatnonzero(np.isfinite(value))
        for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):  # pyqtgraph fills no band with gaps
            edges = [pg.PlotCurveItem(distance[run], (value + sign * sigma)[run]) for sign in (-1, 1)]
            self.plot.addItem(pg.FillBetweenItem(*edges, brush=band))
        self.plot.plot(distance, value, connect="finite", pen=pg.mkPen(LINE_COLOR, width=2))
        self.plot.setLabel("bottom", f"distance ({unit})")
        self.plot.setLabel("left", f"{title} ({shown_unit})")
        self.plot.autoRange()
        missing = int((self.shown.count == 0).sum())
        self.note.setText(f"{missing} of {len(value)} places have no fit; the line is open there." if missing else "")
