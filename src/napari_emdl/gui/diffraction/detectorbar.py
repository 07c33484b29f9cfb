"""Buttons of the virtual detectors above the pattern."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QCheckBox, QLabel, QPushButton

from napari_emdl.gui.diffraction.canvas import DiffractionCanvas
from napari_emdl.gui.diffraction.detectors import Detectors
from napari_emdl.gui.diffraction.state import StemState


class DetectorBar(QObject):
    """Puts detectors onto the pattern, with their middle where the central beam is.

    Parameters
    ----------
    state, canvas
        Of the workspace.
    detectors
        Gives the detectors of the datacube that is shown, or None.
    """

    def __init__(
        self,
        state: StemState,
        canvas: DiffractionCanvas,
        detectors: Callable[[], Detectors | None],
        parent: QObject | None = None,
    ):
        super().__init__(parent)
        self.stem, self.canvas, self.detectors = state, canvas, detectors
        row = canvas.tools
        row.addWidget(QLabel("Virtual:"))
        for name, tip, action in (
            ("BF", "Bright field: a disk on the central beam", self.add_bright_field),
            ("ADF", "Annular dark field: a ring outside the central beam", self.add_annular),
            ("Draw", "Draw any shape on the pattern; shapes inside each other make holes", self.add_drawn),
        ):
            button = QPushButton(name)
            button.setToolTip(f"{tip}. Its image appears on the main canvas and follows when the shape is moved")
            button.setObjectName(f"detector_{name}")
            button.clicked.connect(action)
            row.addWidget(button)
        self.follow = QCheckBox("follow beam")
        self.follow.setChecked(True)
        self.follow.setToolTip(
            "Detectors go with the direct beam where it moves over the scan (descan); where it rests nothing changes"
        )
        self.follow.toggled.connect(self._on_follow)
        row.addWidget(self.follow)
        row.addWidget(canvas.structure)
        state.position_changed.connect(lambda *_: self._place())
        canvas.view_changed.connect(lambda *_: self._place())
        state.strain_changed.connect(self._on_strain)
        state.cube_changed.connect(self._on_cube)

    def _on_follow(self, on: bool) -> None:
        detectors = self.detectors()
        if detectors is not None:
            detectors.follow(on)

    def _on_strain(self) -> None:
        detectors, strain = self.detectors(), self.stem.found.strain
        if detectors is not None and strain is not None:
            detectors.take_strain(strain)

    def _on_cube(self) -> None:
        detectors = self.detectors()
        if detectors is not None:
            self.follow.setChecked(detectors.way.on)
        self._place()

    def _place(self) -> None:
        detectors = self.detectors()
        if detectors is not None:
            detectors.place(self.stem.settings.position)

    def _centre(self) -> tuple[float, float]:
        """Where the direct beam is most of the time."""
        found, detectors = self.stem.found, self.detectors()
        path = None if detectors is None or not detectors.way.on else detectors.way.known
        if path is not None:
            return float(path.middle_px[0]), float(path.middle_px[1])
        if found.lattice is not None and found.strain is not None:
            origin = np.asarray(found.strain.origin_px)
            finite = origin[np.isfinite(origin).all(axis=-1)]
            if len(finite):
                return float(np.median(finite[:, 0])), float(np.median(finite[:, 1]))
        kept = self.stem.data.kept_here()
        if kept is not None and len(kept):
            best = kept[np.argmax(kept["intensity"])]
            return float(best["row"]), float(best["col"])
        assert self.canvas.shape is not None
        return self.canvas.shape[0] / 2, self.canvas.shape[1] / 2

    def add_bright_field(self) -> None:
        """Virtual bright-field detector."""
        detectors = self.detectors()
        if detectors is not None:
            detectors.add_bright_field(self._centre(), 1.1 * self.canvas.radius_px)

    def add_annular(self) -> None:
        """Virtual annular dark-field detector."""
        detectors = self.detectors()
        if detectors is not None and self.canvas.shape is not None:
            inner = 1.6 * self.canvas.radius_px
            outer = max(min(self.canvas.shape) / 2 - 1, inner + 2)
            detectors.add_annular(self._centre(), inner, outer)

    def add_drawn(self) -> None:
        """Detector for the user to draw."""
        detectors = self.detectors()
        if detectors is not None:
            detectors.add_drawn()
            self.stem.message.emit("draw an ellipse on the pattern; other shapes are in the layer's tools")
