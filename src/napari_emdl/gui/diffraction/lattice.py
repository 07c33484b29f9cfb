"""Step 3: calibration of the patterns and the lattice on the Bragg vector map, found or dragged by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.gui.diffraction.canvas import VIEWS, DiffractionCanvas
from napari_emdl.gui.diffraction.jobs import LatticeFinder
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.forms import ParamsForm
from napari_emdl.gui.kit.handles import Handles
from napari_emdl.gui.kit.session import tag
from napari_emdl.gui.kit.steps import Fold, Step
from napari_emdl.gui.kit.wording import said
from napari_emdl.gui.kit.worker import report_error

FOLLOW_MS = 120  # between two fits while an arrow is dragged


class LatticeStep(Step):
    """Shows the Bragg vector map with g1 and g2 as arrows; dragging an arrow's tip sets it."""

    def __init__(self, state: StemState, canvas: DiffractionCanvas, parent: QWidget | None = None):
        super().__init__(3, "Lattice", "Calibrate the patterns and choose the lattice vectors g1 and g2", parent)
        self.stem, self.canvas = state, canvas
        self._drawing = self._dragging = False
        self.handles = Handles(canvas.model, self._tips, self._on_tip, lambda: canvas.space["scale"])
        self._throttle = QTimer(self)
        self._throttle.setSingleShot(True)
        self._throttle.setInterval(FOLLOW_MS)
        self._throttle.timeout.connect(self._tell_vectors)
        self.vectors_dragged: Callable[[list[tuple[float, float]]], None] = self.take_vectors
        self.form = ParamsForm(state.settings.strain_params, include=("g1", "g2", "lattices", "min_disks", "max_index_error"))
        self.calibration = ParamsForm(state.settings.strain_params.calibrate)
        self.show_button = QPushButton("Show vector map")
        self.show_button.setCheckable(True)
        self.show_button.setToolTip("All disks of the scan on the diffraction canvas; drag the tips of g1 and g2 there")
        self.find_button = QPushButton("Find g1, g2")
        self.find_button.setToolTip("Forget vectors set by hand and find them automatically")
        buttons = QHBoxLayout()
        buttons.addWidget(self.show_button)
        buttons.addWidget(self.find_button)
        self.note = QLabel("")
        self.note.setWordWrap(True)
        box = Fold("Calibration", self.calibration)
        self.content.addLayout(buttons)
        self.content.addWidget(self.note)
        self.content.addWidget(self.form)
        self.content.addWidget(box)
        self.show_button.toggled.connect(lambda on: canvas.view.setCurrentText(VIEWS[1] if on else VIEWS[0]))
        canvas.view_changed.connect(lambda text: self.show_button.setChecked(text == VIEWS[1]))
        self.find_button.clicked.connect(self.find_vectors)
        self.form.changed.connect(self.apply)
        self.calibration.changed.connect(self.apply)
        state.lattice_changed.connect(self.show_lattice)
        state.map_changed.connect(lambda image: canvas.show_vector_map(image, 1.0 / LatticeFinder.UPSAMPLE))
        state.cube_changed.connect(self.refresh)
        state.disks_changed.connect(self.refresh)
        state.settings_changed.connect(self._follow_lattices)
        state.strain_changed.connect(self.show_lattice)
        self.refresh()

    def _follow_lattices(self) -> None:
        """Regions that are taken away make it one lattice."""
        editor, wanted = self.form.editors["lattices"], self.stem.settings.strain_params.lattices
        if editor.get() != wanted:
            editor.put(wanted)

    def apply(self) -> None:
        """Use the settings as they stand."""
        try:
            values = self.form.values()
            values["calibrate"] = self.calibration.value()
            params = StrainParams.model_validate({**dict(self.stem.settings.strain_params), **values})
        except (EmdlError, ValueError) as error:
            report_error(error, "lattice")
            return
        self.stem.set_strain_params(params)

    def find_vectors(self) -> None:
        """Back to automatic vectors."""
        for name in ("g1", "g2"):
            self.form.editors[name].put(None)
        self.apply()

    def refresh(self) -> None:
        """Tell what is missing."""
        self.show_button.setEnabled(self.stem.found.disks is not None)
        self.find_button.setEnabled(self.stem.found.disks is not None)
        if self.stem.found.disks is None:
            self.tell("missing", "needs disks")
            self.note.setText("Run the disks on the scan first (step 2).")
        elif self.stem.found.lattice is None:
            self.tell("ready", "looking for g1, g2 …")
            self.note.setText("")

    def show_lattice(self) -> None:
        """Draw vector map and basis, and tell how well it explains the disks."""
        view = self.stem.found.lattice
        if view is None:
            return
        if view.basis is None:
            self.tell("warning", "no lattice found", view.problem)
            self.note.setText(said(view.problem))
            return
        g = np.asarray(view.basis.g, float)
        self._draw(g, view.centre_px)
        lengths = np.linalg.norm(g, axis=1)
        cosine = float(g[0] @ g[1] / lengths.prod())
        angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        text = f"{100 * view.basis.indexed_fraction:.0f} % indexed"
        source = "set by hand" if view.basis.source == "given" else "found"
        self.tell("done" if view.basis.indexed_fraction > 0.6 else "warning", text, f"{text}, g1 and g2 {source}")
        note = f"g1, g2 {source}: {lengths[0]:.2f} and {lengths[1]:.2f} px, {angle:.1f}° apart"
        cube = self.stem.cube
        if cube is not None and cube.calibration.q_pixel_invA:
            q = float(np.mean(cube.calibration.q_pixel_invA))
            note += f" (spacings {1 / (lengths[0] * q):.3f} and {1 / (lengths[1] * q):.3f} Å)"
        count = self._lattices()
        if count > 1:
            self.tell("done", f"{count} lattices", f"{count} lattices, one for each region")
            note = f"{count} lattices, see *Several lattices*. The one that most disks lie on: {note}"
        elif view.basis.indexed_fraction <= 0.6:
            note += ". Many disks lie off this lattice: another phase, a grain boundary, or the wrong vectors."
        self.note.setText(note)

    def _lattices(self) -> int:
        """Regions with a lattice of their own while all of them are shown, else 1."""
        settings = self.stem.settings
        if settings.regions is None or settings.region_shown:
            return 1
        return len(np.unique(settings.regions[settings.regions > 0]))

    def _draw(self, g: np.ndarray, centre: tuple[float, float]) -> None:
        lines = [np.array([centre, np.asarray(centre) + vector]) for vector in g]
        layer = self.canvas.layer("lattice")
        if layer is None:
            self.canvas.turns.soon("lattice", lambda: self._add_vectors(lines, centre))
        elif len(layer.data) == 2 and not self._dragging:
            self._drawing = True
            try:
                layer.data = lines
            finally:
                self._drawing = False

    def _add_vectors(self, lines: list[np.ndarray], centre: tuple[float, float]) -> None:
        layer = self.canvas.model.add_shapes(
            lines,
            shape_type="line",
            name="g1, g2",
            edge_color=list(styles.LATTICE_COLORS),
            edge_width=max(self.canvas.shape or (1,)) / 120,
            features={"g": ["g1", "g2"]},
            text={"string": "{g}", "size": 10, "color": "white", "anchor": "center"},
            visible=self.canvas.view.currentText() == VIEWS[1],
            metadata=tag("lattice", centre=centre),
            **self.canvas.space,
        )
        layer.editable = False  # its tips are handles of the canvas, whatever layer is chosen
        layer.events.data.connect(self._on_dragged)

    def _tips(self) -> np.ndarray:
        """(2, 2) tips of g1 and g2 while the vector map shows them."""
        layer = self.canvas.layer("lattice")
        if layer is None or not layer.visible or len(layer.data) != 2:
            return np.zeros((0, 2))
        return np.array([np.asarray(line, float)[-1, -2:] for line in layer.data])

    def _on_tip(self, index: int, place: tuple[float, float], finished: bool) -> None:
        """The arrow follows the mouse, the lattice follows the arrow a few times a second."""
        layer = self.canvas.layer("lattice")
        if layer is None or len(layer.data) != 2:
            return
        lines = [np.array(line) for line in layer.data]
        lines[index][-1, -2:] = place
        self._dragging, self._drawing = not finished, True
        try:
            layer.data = lines
        finally:
            self._drawing = False
        if finished:
            self._throttle.stop()
            self._tell_vectors()
        elif not self._throttle.isActive():
            self._throttle.start()

    def _tell_vectors(self) -> None:
        layer, lattice = self.canvas.layer("lattice"), self.stem.found.lattice
        if layer is None or lattice is None or len(layer.data) != 2:
            return
        tips = self._tips() if layer.visible else np.array([np.asarray(line, float)[-1, -2:] for line in layer.data])
        vectors = tips - np.asarray(lattice.centre_px)
        if np.linalg.norm(vectors, axis=1).min() > 1e-6:
            self.vectors_dragged([(float(row), float(col)) for row, col in vectors])

    def _on_dragged(self, event: Any) -> None:
        if self._drawing or self.stem.found.lattice is None or str(getattr(event, "action", "")).endswith("ing"):
            return
        self._tell_vectors()

    def take_vectors(self, vectors: list[tuple[float, float]]) -> None:
        """Use g1 and g2 as they were dragged."""
        for name, vector in zip(("g1", "g2"), vectors, strict=True):
            self.form.editors[name].put(vector)
        self.apply()
