"""Diffraction canvas: a second viewer for reciprocal space, with the pattern, rings for the disks and drawn detectors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.components import ViewerModel
from napari.qt import QtViewer
from numpy.typing import NDArray
from qtpy.QtCore import QSize, QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QPushButton, QVBoxLayout, QWidget
from superqt import QFlowLayout

from napari_emdl.gui.kit import glyphs, pace, styles
from napari_emdl.gui.kit.forms import narrow
from napari_emdl.gui.kit.session import bare, camera_of, role_of, tag

AXES = ("q row", "q col")
VIEWS = ("Pattern", "Vector map")
#: Roles of layers that serve the next patterns of the same kind.
KEPT = ("pattern", "disks", "fit")
GONE = "gone"
STRUCTURE_TIP = "What FCU-Net makes of the pattern: bright where it sees a disk's centre, however faint the disk is"
FLAT = "translucent_no_depth"  # napari draws discs with depth, which would hide what lies below their transparent middle


_spare: WeakKeyDictionary[Any, DiffractionCanvas] = WeakKeyDictionary()


def keep_spare(viewer: Any, canvas: DiffractionCanvas) -> None:
    """Canvas for the next workspace of a viewer."""
    _spare[bare(viewer)] = canvas


def canvas_for(viewer: Any) -> DiffractionCanvas:
    """The canvas that was made before for a workspace of `viewer`, else a new one."""
    return _spare.pop(bare(viewer), None) or DiffractionCanvas()


class DiffractionCanvas(QWidget):
    """Widget with its own ViewerModel; it shows what it is told and computes nothing.

    Signals
    -------
    display_changed
        Log or linear was chosen.
    structure_wanted
        The structure-factor image was switched on or off.
    """

    display_changed = Signal()
    view_changed = Signal(str)
    structure_wanted = Signal(bool)

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("diffraction_canvas")
        self.model = ViewerModel(title="Diffraction")
        self.qt_viewer = QtViewer(self.model)
        glyphs.make_ready(self.qt_viewer, glyphs.ALIGN + glyphs.SCALE)
        pace.follow(self.qt_viewer)
        self.turns = pace.Turns(self)
        self.space = styles.space(None, axis_labels=AXES)
        self.radius_px = 5.0
        self.shape: tuple[int, int] | None = None
        self._fit_zoom: float | None = None
        self._later: dict[str, Callable[[], None]] = {}  # role -> what a hidden layer is to show
        self.view = narrow(QComboBox())
        self.view.addItems(VIEWS)
        self.view.setToolTip("What the diffraction canvas shows: the pattern under the cross-hair, or all disks of the scan")
        self.view.currentTextChanged.connect(self._on_view)
        self.log = QCheckBox("log")
        self.log.setChecked(True)
        self.log.setToolTip("Logarithmic display of the pattern; the data stay as they are")
        self.log.toggled.connect(lambda *_: self.display_changed.emit())
        self.auto = QCheckBox("auto")
        self.auto.setChecked(True)
        self.auto.setToolTip("Set the contrast anew for every pattern")
        self.rings = QCheckBox("disks")
        self.rings.setChecked(True)
        self.rings.setToolTip(
            "Rings of the probe's radius around the disks, coloured by score; crosses are the lattice fitted to them"
        )
        self.rings.toggled.connect(self._on_rings)
        self.structure = QCheckBox("structure factor")
        self.structure.setToolTip(STRUCTURE_TIP)
        self.structure.toggled.connect(self.structure_wanted)
        self.home = QPushButton("Fit")
        self.home.setToolTip("Show the whole pattern")
        self.home.clicked.connect(self.fit)
        self.tools = QFlowLayout()  # in a narrow dock there are more rows, and nothing is cut off
        self.tools.setContentsMargins(4, 2, 4, 2)
        self.tools.setHorizontalSpacing(5)
        self.tools.setVerticalSpacing(2)
        for widget in (self.view, self.log, self.auto, self.rings, self.home):
            self.tools.addWidget(widget)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(self.tools)
        column.addWidget(self.qt_viewer, 1)
        self.below = QVBoxLayout()
        self.below.setContentsMargins(0, 0, 0, 0)
        column.addLayout(self.below)
        self.setMinimumSize(240, 240)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        if self.shape is not None and not self._zoomed():
            QTimer.singleShot(0, self.fit)

    def _zoomed(self) -> bool:
        return self._fit_zoom is not None and abs(camera_of(self.model).zoom / self._fit_zoom - 1) > 1e-3

    def fit(self) -> None:
        """Show the whole pattern."""
        self.model.reset_view()
        self._fit_zoom = camera_of(self.model).zoom

    def sizeHint(self) -> QSize:
        return QSize(370, 480)

    def set_detector(self, shape: tuple[int, int], q_pixel_invA: tuple[float, float] | None) -> None:
        """Start over for patterns of `shape` with pixels of `q_pixel_invA`."""
        space = styles.space(q_pixel_invA, "1/angstrom", AXES)
        self._later.clear()
        self.turns.stop()
        self._put_off(KEPT if (shape, space) == (self.shape, self.space) else ())
        self.shape, self.space = shape, space
        pattern = self.layer("pattern")
        if pattern is None:
            self._add_pattern(shape)
        else:
            pattern.data = np.zeros(shape, np.float32)
            self.show_disks(np.zeros((0, 2)), np.zeros(0))
            self.show_fit(np.zeros((0, 2)))
        width = shape[1] * q_pixel_invA[1] if q_pixel_invA else None
        self.turns.soon("scale bar", lambda: styles.show_scale_bar(self.model, width))
        self.view.setCurrentIndex(0)
        self.fit()

    def _put_off(self, but: tuple[str, ...]) -> None:
        """All layers but those of some roles are known no more, and removed when there is time: napari takes long for it."""
        for layer in self.model.layers:
            if role_of(layer) not in but:
                layer.metadata.update(tag(GONE))
                layer.visible = False
        self.turns.soon("take off", self._take_off)

    def _take_off(self) -> None:
        gone = [layer for layer in self.model.layers if role_of(layer) == GONE]
        if gone:
            with getattr(self.model.layers, "batched_update", contextlib.nullcontext)():  # napari before 0.9 has none
                for layer in gone:
                    self.model.layers.remove(layer)

    def _add_pattern(self, shape: tuple[int, int]) -> Any:
        layer = self.model.add_image(
            np.zeros(shape, np.float32),
            name="Pattern",
            colormap=styles.PATTERN_COLORMAP,
            contrast_limits=(0, 1),
            visible=self.view.currentText() == VIEWS[0],
            metadata=tag("pattern"),
            **self.space,
        )
        self.model.layers.move(len(self.model.layers) - 1, 0)  # below everything, also where the user had deleted it
        return layer

    def layer(self, role: str) -> Any:
        """Layer of that role, or None when there is none or the user deleted it."""
        return next((layer for layer in self.model.layers if role_of(layer) == role), None)

    def show_pattern(self, shown: NDArray[Any], limits: tuple[float, float]) -> None:
        """Show a pattern as it comes, already scaled for display.

        Parameters
        ----------
        shown
            (rows, cols) float32.
        limits
            Contrast limits, used while "auto" is on.
        """
        if self.shape is None:
            return
        layer = self.layer("pattern")
        if layer is None:
            layer = self._add_pattern(self.shape)
        layer.data = shown
        if self.auto.isChecked():
            low, high = limits
            layer.contrast_limits_range = (low, max(high, low + 1e-6) * 1.5 + 1e-6)
            layer.contrast_limits = (low, max(high, low + 1e-6))

    def show_disks(
        self, positions_px: NDArray[Any], score: NDArray[Any], limits: tuple[float, float] | None = None, **features: Any
    ) -> None:
        """Draw rings of the probe's radius.

        Parameters
        ----------
        positions_px
            (n, 2) row, col.
        score
            (n,) colours the rings, within `limits`.
        features
            More columns for the features table, (n,) each.
        """
        layer = self.layer("disks")
        if layer is not None and not layer.visible:  # napari slices no hidden points, and stumbles over other numbers of them
            self._later["disks"] = partial(self.show_disks, positions_px, score, limits, **features)
            return
        table = {"score": np.asarray(score, float), **{k: np.asarray(v, float) for k, v in features.items()}}
        if len(positions_px) == 0:
            self.turns.forget("disks")
            if layer is not None:
                layer.data = np.zeros((0, 2))
            return
        low, high = limits or (float(score.min()), float(score.max()))
        if layer is None:
            if self.shape is not None:
                self.turns.soon("disks", partial(self._add_disks, positions_px, table, (low, max(high, low + 1e-6))))
            return
        with layer.events.blocker_all():
            layer.data = positions_px
            layer.features = table
            layer.size = 2 * self.radius_px
            layer.border_contrast_limits = (low, max(high, low + 1e-6))
        layer.border_color = "score"
        layer.refresh()

    def _add_disks(self, positions_px: NDArray[Any], table: dict[str, Any], limits: tuple[float, float]) -> None:
        layer = self.model.add_points(
            positions_px,
            name="Disks",
            features=table,
            face_color="transparent",
            symbol="disc",
            blending=FLAT,
            size=2 * self.radius_px,
            border_width=0.09,
            border_color="score",
            border_colormap=styles.disk_colormap(),
            border_contrast_limits=limits,
            visible=self.rings.isChecked() and self.view.currentText() == VIEWS[0],
            metadata=tag("disks"),
            **self.space,
        )
        layer.editable = False
        layer.events.visible.connect(partial(self._catch_up, "disks"))

    def show_fit(self, points_px: NDArray[Any]) -> None:
        """Crosses at the points (n, 2) of the fitted lattice."""
        layer = self.layer("fit")
        if layer is not None and not layer.visible:
            self._later["fit"] = partial(self.show_fit, points_px)
        elif layer is not None:
            layer.data, layer.size = points_px, 0.7 * self.radius_px
        elif len(points_px):
            self.turns.soon("fit", partial(self._add_fit, points_px))
        else:
            self.turns.forget("fit")

    def _add_fit(self, points_px: NDArray[Any]) -> None:
        layer = self.model.add_points(
            points_px,
            name="Fitted lattice",
            symbol="cross",
            size=0.7 * self.radius_px,
            face_color=styles.CROSS_COLOR,
            border_width=0,
            blending=FLAT,
            opacity=0.8,
            visible=self.rings.isChecked() and self.view.currentText() == VIEWS[0],
            metadata=tag("fit"),
            **self.space,
        )
        layer.editable = False
        layer.events.visible.connect(partial(self._catch_up, "fit"))

    def _catch_up(self, role: str, _event: Any = None) -> None:
        """A layer that was hidden is shown again: draw what came meanwhile."""
        layer = self.layer(role)
        if layer is not None and layer.visible and role in self._later:
            self._later.pop(role)()

    def offer_structure(self, on: bool) -> None:
        """Let the structure-factor image be switched on, or say why not."""
        self.structure.setEnabled(on)
        self.structure.setToolTip(STRUCTURE_TIP if on else "Only the methods fcunet and fcunet-plain make such an image")

    def show_structure(self, image: NDArray[Any] | None) -> None:
        """Show the network's image (rows, cols) in place of the pattern; None hides it."""
        layer = self.layer("structure factor")
        if image is None or self.shape is None:
            if layer is not None:
                layer.visible = False
            return
        visible = self.view.currentText() == VIEWS[0]
        limits = (0.0, max(float(image.max()), 1e-6))
        if layer is not None:
            layer.data = image
            layer.contrast_limits_range = layer.contrast_limits = limits
            layer.visible = visible
            return
        self.model.add_image(
            image,
            name="Structure factor",
            colormap="magma",
            contrast_limits=limits,
            blending=FLAT,
            visible=visible,
            metadata=tag("structure factor"),
            **self.space,
        )
        self.model.layers.move(len(self.model.layers) - 1, 1)  # right above the pattern

    def show_vector_map(self, image: NDArray[Any], scale_px: float) -> None:
        """Show a Bragg vector map.

        Parameters
        ----------
        image
            (rows, cols) counts.
        scale_px
            Detector pixels per pixel of the map.
        """
        space = dict(self.space)
        space["scale"] = tuple(np.asarray(self.space["scale"], float) * scale_px)
        shown = np.sqrt(np.sqrt(np.maximum(image, 0))).astype(np.float32)  # weak orders beside the central beam
        lit = shown[shown > 0]
        limits = (0.0, float(np.quantile(lit, 0.97)) if lit.size else 1.0)
        layer = self.layer("vector map")
        if layer is None:
            self.turns.soon("vector map", partial(self._add_vector_map, shown, limits, space))
        else:
            layer.data = shown
            layer.contrast_limits = limits

    def _add_vector_map(self, shown: NDArray[np.float32], limits: tuple[float, float], space: dict[str, Any]) -> None:
        self.model.add_image(
            shown,
            name="Bragg vector map",
            colormap="magma",
            contrast_limits=limits,
            visible=self.view.currentText() == VIEWS[1],
            metadata=tag("vector map"),
            **space,
        )
        self.model.layers.move(len(self.model.layers) - 1, 1)

    def _on_view(self, text: str) -> None:
        pattern = text == VIEWS[0]
        for role, visible in (
            ("pattern", pattern),
            ("structure factor", pattern and self.structure.isChecked()),
            ("disks", pattern and self.rings.isChecked()),
            ("fit", pattern and self.rings.isChecked()),
            ("vector map", not pattern),
            ("lattice", not pattern),
        ):
            layer = self.layer(role)
            if layer is not None:
                layer.visible = visible
        self.view_changed.emit(text)

    def _on_rings(self, on: bool) -> None:
        for layer in (self.layer("disks"), self.layer("fit")):
            if layer is not None:
                layer.visible = on and self.view.currentText() == VIEWS[0]

    def release(self) -> None:
        """Let go of the canvas; call once before the widget is closed."""
        self.turns.stop()
        self.model.layers.clear()
        self.qt_viewer.close()
        self.qt_viewer.setParent(None)  # owned by Python again, so that it goes now and not with some later event
        del self.qt_viewer  # whoever still holds this widget does not hold a dead canvas with it
