"""Arrows on the pattern: residuals of the fit, displacement from the reference lattice, and the strain's x axis to drag."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QGridLayout, QSpinBox, QWidget

from napari_emdl.gui.diffraction.canvas import VIEWS, DiffractionCanvas
from napari_emdl.gui.diffraction.marks import ARROW_COLOR, Marks, arrows
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit.forms import narrow
from napari_emdl.gui.kit.session import tag

NONE, RESIDUALS, DISPLACEMENT = "no arrows", "disk to fit", "reference to fit"
AXIS_COLOR = "#ff8a3d"


class PatternArrows(QWidget):
    """Which arrows the pattern has, and how much longer than true they are drawn.

    Signals
    -------
    axis_dragged
        The x axis was turned to this angle in degrees, from the row axis towards the col axis.
    """

    axis_dragged = Signal(float)

    def __init__(self, state: StemState, canvas: DiffractionCanvas, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("pattern_arrows")
        self.stem, self.canvas = state, canvas
        self.marks = Marks(
            canvas,
            "arrows",
            "Arrows",
            edge_color=ARROW_COLOR,
            vector_style="arrow",
            edge_width=max(canvas.shape or (128,)) / 90,
        )
        self.head = Marks(canvas, "x axis head", "x axis", edge_color=AXIS_COLOR, vector_style="arrow")
        self._drawing = False
        self.choice = narrow(QComboBox())
        self.choice.addItems([NONE, RESIDUALS, DISPLACEMENT])
        self.choice.setToolTip(
            "Arrows on the pattern: from each disk to its point of the fitted lattice (residual), or from the unstrained "
            "lattice to the fitted one (strain)"
        )
        self.factor = QSpinBox()
        self.factor.setRange(1, 999)
        self.factor.setValue(20)
        self.factor.setSuffix(" times")
        self.factor.setKeyboardTracking(False)
        self.factor.setToolTip("Arrows are drawn so many times longer than they are")
        self.axis = QCheckBox("x axis as an arrow to drag")
        self.axis.setToolTip("The strain's x axis on the pattern; drag its tip to turn the axes of the strain")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.choice, 0, 0)
        grid.addWidget(self.factor, 0, 1)
        grid.addWidget(self.axis, 1, 0, 1, 2)
        grid.setColumnStretch(0, 1)
        self.choice.currentTextChanged.connect(lambda *_: self.refresh())
        self.factor.valueChanged.connect(lambda *_: self.refresh())
        self.axis.toggled.connect(lambda *_: self.show_axis())
        canvas.view_changed.connect(lambda *_: self._set_axis_visible())
        for signal in (state.overlay_changed, state.strain_changed, state.kept_changed, state.cube_changed):
            signal.connect(self.refresh)
        state.position_changed.connect(lambda *_: self.refresh())

    def refresh(self) -> None:
        """Draw the arrows of the position."""
        self.marks.show(arrows(*self._ends(), self.factor.value()))
        self.show_axis()

    def _ends(self) -> tuple[NDArray[Any], NDArray[Any]]:
        from napari_emdl.diffraction.judge.evidence import lattice_points, lattice_residuals

        none = np.zeros((0, 2))
        strain, kept, choice = self.stem.found.strain, self.stem.data.kept_here(), self.choice.currentText()
        if strain is None or choice == NONE or self.canvas.shape is None:
            return none, none
        if choice == DISPLACEMENT:
            return lattice_points(strain, self.stem.settings.position, self.canvas.shape)
        if kept is None:
            return none, none
        return lattice_residuals(strain, self.stem.settings.position, np.stack([kept["row"], kept["col"]], axis=-1))

    # the x axis

    def _origin(self) -> NDArray[np.float64]:
        strain = self.stem.found.strain
        if strain is not None and strain.mask[self.stem.settings.position]:
            return np.asarray(strain.origin_px[self.stem.settings.position], float)
        return (np.asarray(self.canvas.shape, float) - 1) / 2

    def axis_layer(self) -> Any:
        """Shapes layer of the x axis, or None."""
        return self.canvas.layer("x axis")

    def _set_axis_visible(self) -> None:
        layer = self.axis_layer()
        if layer is not None:
            layer.visible = self.axis.isChecked() and self.canvas.view.currentText() == VIEWS[0]

    def show_axis(self) -> None:
        """Draw the x axis of the strain through the origin of the pattern."""
        layer, shape = self.axis_layer(), self.canvas.shape
        if shape is None or not self.axis.isChecked():
            self.head.show(np.zeros((0, 2, 2)))
            self._set_axis_visible()
            return
        turn = np.deg2rad(self.stem.settings.strain_params.axis_deg)
        origin = self._origin()
        along = 0.38 * min(shape) * np.array([np.cos(turn), np.sin(turn)])
        line = np.array([origin, origin + along])
        self.head.show(arrows(line[:1], line[1:], 1.0))
        self._drawing = True
        try:
            if layer is None:
                layer = self.canvas.model.add_shapes(
                    [line],
                    shape_type="line",
                    name="x axis of the strain",
                    edge_color=AXIS_COLOR,
                    edge_width=max(shape) / 110,
                    features={"axis": ["x"]},
                    text={"string": "{axis}", "size": 14, "color": AXIS_COLOR, "anchor": "center", "translation": 0.6 * along},
                    opacity=0.9,
                    metadata=tag("x axis"),
                    **self.canvas.space,
                )
                layer.events.data.connect(self._on_dragged)
                self.canvas.model.layers.selection.active = layer
                layer.mode = "direct"  # the tip is a handle
            elif len(layer.data) == 1:
                if not np.allclose(layer.data[0], line):
                    layer.data = [line]
                    layer.text.translation = 0.6 * along
            else:
                layer.data = [line]
        finally:
            self._drawing = False
        self._set_axis_visible()

    def _on_dragged(self, event: Any) -> None:
        if self._drawing or str(getattr(event, "action", "")).endswith("ing") or len(event.source.data) != 1:
            return
        line = np.asarray(event.source.data[0], float)
        row, col = line[-1] - line[0]
        if np.hypot(row, col) > 1e-6:
            self.axis_dragged.emit(round(float(np.degrees(np.arctan2(col, row))), 1))
        self.show_axis()
