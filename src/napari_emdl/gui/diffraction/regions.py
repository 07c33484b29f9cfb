"""Several lattices in one scan: regions on the main canvas, drawn or found, each with its own g1, g2 and reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QPushButton, QSpinBox, QVBoxLayout, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RegionParams, StrainParams
from napari_emdl.gui.diffraction.maps import ScanMaps
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit.forms import ParamsForm, narrow
from napari_emdl.gui.kit.session import bare, role_of, tag
from napari_emdl.gui.kit.worker import report_error

HINT = (
    "One lattice for the whole scan. Several phases or grains are found with the strain; else paint regions (one number "
    "each), find them, or take a Labels layer."
)
ALL = "all disks"
OUTLINED_FROM = 48  # scan positions
SETTLE_MS = 300  # a stroke of the brush is many events


class RegionsBox(QWidget):
    """Regions of the scan and the lattice of each.

    Parameters
    ----------
    state, viewer
        Of the workspace.
    maps
        Gives the maps of the open datacube, or None.
    """

    def __init__(self, state: StemState, viewer: Any, maps: Callable[[], ScanMaps | None], parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("regions")
        self.stem, self.viewer, self.maps = state, bare(viewer), maps
        self.draw_button = QPushButton("Paint")
        self.draw_button.setToolTip("A Labels layer on the main canvas: paint, fill or draw polygons, one number a lattice")
        self.find_button = QPushButton("Find")
        self.find_button.setToolTip("Group the positions by where their disks lie; correct the result with the brush")
        self.number = QSpinBox()
        self.number.setRange(1, 8)
        self.number.setSpecialValueText("auto")
        self.number.setToolTip("How many regions to find; auto: as many as there are lattices")
        self.take_button = QPushButton("Take layer")
        self.take_button.setToolTip("Use the Labels layer that is selected on the main canvas")
        self.clear_button = QPushButton("Clear")
        self.clear_button.setToolTip("Back to one lattice")
        self.shown = narrow(QComboBox())
        self.shown.addItem(ALL, 0)
        self.shown.setToolTip("Which region's disks and lattice the vector map shows; drag the arrows there to change them")
        self.form = ParamsForm(RegionParams(), include=("name", "g1", "g2", "reference_lattice"))
        self.note = QLabel(HINT)
        self.note.setWordWrap(True)
        first, second = QHBoxLayout(), QHBoxLayout()
        for button in (self.draw_button, self.find_button):
            first.addWidget(button, 1)
        first.addWidget(self.number)
        for button in (self.take_button, self.clear_button):
            second.addWidget(button, 1)
        self.one = QWidget()
        rows = QFormLayout(self.one)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addRow("Lattice of", self.shown)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for item in (first, second):
            column.addLayout(item)
        for widget in (self.note, self.one, self.form):
            column.addWidget(widget)
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(self.read_layer)
        self._find = state.followers.add("regions", _segment, self._on_found)
        self._connect()
        self.refresh()

    def _connect(self) -> None:
        self.draw_button.clicked.connect(lambda *_: self.paint())
        self.find_button.clicked.connect(lambda *_: self.find_regions())
        self.take_button.clicked.connect(lambda *_: self.take())
        self.clear_button.clicked.connect(lambda *_: self.clear())
        self.shown.currentIndexChanged.connect(self._on_shown)
        self.form.changed.connect(self._on_form)
        self.viewer.layers.events.removed.connect(self._on_removed)
        self.stem.strain_changed.connect(self._show_found)
        for signal in (self.stem.cube_changed, self.stem.disks_changed, self.stem.strain_changed):
            signal.connect(self.refresh)

    def release(self) -> None:
        """Let go of the viewer."""
        self._settle.stop()
        self.viewer.layers.events.removed.disconnect(self._on_removed)

    # the regions

    def layer(self) -> Any:
        """Labels layer of the regions, or None."""
        maps = self.maps()
        return None if maps is None else maps.layer("regions")

    def show_labels(self, labels: NDArray[np.uint8]) -> Any:
        """Put labels onto the main canvas, where they can be painted."""
        from napari.layers import Labels

        maps, layer = self.maps(), self.layer()
        if maps is None:
            return None
        if layer is not None:
            layer.data = labels.astype(np.uint8)
            return layer
        space, mine = maps.space, tag("regions", self.stem.cube)
        layer = Labels(labels.astype(np.uint8), name="Regions", opacity=0.35, metadata=mine, **space)
        self.viewer.add_layer(layer)
        for event in (layer.events.paint, layer.events.labels_update, layer.events.set_data, layer.events.data):
            event.connect(self._on_painted)
        return layer

    def _show_found(self) -> None:
        """Outlines of the regions that the fit found; they go where it finds one lattice again."""
        settings, layer = self.stem.settings, self.layer()
        if settings.regions_found and settings.regions is not None:
            chosen = self.viewer.layers.selection.active
            shown = self.show_labels(settings.regions)
            if shown is not None and layer is None:
                shown.contour, shown.opacity = 1, 0.6
                shown.visible = min(settings.regions.shape) >= OUTLINED_FROM  # on a small map they hide what they surround
                self.viewer.layers.selection.active = chosen
        elif layer is not None and settings.regions is None and layer.contour:
            self.viewer.layers.remove(layer)

    def _on_painted(self, _event: Any = None) -> None:
        self._settle.start()

    def paint(self) -> None:
        """Labels layer with the brush in hand; the whole scan is region 1 at first."""
        if self.stem.cube is None:
            return
        layer = self.layer()
        if layer is None:
            layer = self.show_labels(np.ones(self.stem.cube.scan_shape, np.uint8))
            layer.brush_size = max(1, min(self.stem.cube.scan_shape) // 8)
        self.viewer.layers.selection.active = layer
        layer.selected_label = 2
        layer.mode = "paint"
        self.note.setText("Paint the second lattice with the brush (label 2), or use the polygon tool.")
        self.read_layer()

    def find_regions(self) -> None:
        """Group the positions, in the background."""
        if self.stem.found.kept is not None:
            self.note.setText("looking for regions …")
            self._find.submit(self.stem.found.kept, self.number.value(), self.stem.settings.strain_params)

    def _on_found(self, labels: Any, args: Any) -> None:
        if args[0] is self.stem.found.kept:
            self.show_labels(labels)
            self.use(labels)

    def take(self) -> None:
        """Use the selected Labels layer."""
        from napari.layers import Labels

        chosen = self.viewer.layers.selection.active
        if not isinstance(chosen, Labels):
            report_error(EmdlError("select a Labels layer with one number a lattice, then press Take layer"), "regions")
            return
        if chosen is self.layer():
            self.read_layer()
        else:
            self.use_checked(chosen.data)

    def load(self, path: str | Path) -> None:
        """Use the labels of a file."""
        from napari_emdl.diffraction.fit.regions import read_regions

        if self.stem.cube is not None:
            try:
                labels = read_regions(path, self.stem.cube.scan_shape)
            except EmdlError as error:
                report_error(error, "regions")
                return
            self.show_labels(labels)
            self.use(labels)

    def use_checked(self, labels: Any) -> None:
        """Use labels if they fit the scan; a line says why not."""
        from napari_emdl.diffraction.fit.regions import check_regions

        if self.stem.cube is None:
            return
        try:
            checked = check_regions(labels, self.stem.cube.scan_shape)
        except EmdlError as error:
            report_error(error, "regions")
            return
        self.show_labels(checked)
        self.use(checked)

    def read_layer(self) -> None:
        """Use the labels as they are painted now."""
        layer = self.layer()
        if layer is not None and np.any(layer.data):
            self.use(np.array(layer.data, np.uint8))

    def use(self, labels: NDArray[np.uint8]) -> None:
        """Fit a lattice for each label from now on."""
        if self.stem.settings.regions is None or not np.array_equal(labels, self.stem.settings.regions):
            self.stem.set_regions(labels)
            self.refresh()

    def clear(self) -> None:
        """Back to one lattice; the layer goes."""
        layer = self.layer()
        if layer is not None:
            self.viewer.layers.remove(layer)
        elif self.stem.settings.regions is not None:
            self._forget()

    def _on_removed(self, event: Any) -> None:
        if role_of(event.value) == "regions" and self.stem.settings.regions is not None and self.layer() is None:
            self._forget()

    def _forget(self) -> None:
        self._settle.stop()
        self.stem.set_regions(None)
        self.refresh()

    # the lattice of one region

    def _on_shown(self) -> None:
        number = int(self.shown.currentData() or 0)
        if number != self.stem.settings.region_shown:
            self.stem.show_region(number)
        self._show_form()

    def _phase(self) -> RegionParams:
        number = self.stem.settings.region_shown
        known = (phase for phase in self.stem.settings.strain_params.phases if phase.label == number)
        return next(known, RegionParams(label=max(1, number)))

    def _show_form(self) -> None:
        self.form.setVisible(bool(self.stem.settings.region_shown))
        if self.stem.settings.region_shown:
            self.form.put(self._phase())

    def _on_form(self) -> None:
        if self.stem.settings.region_shown:
            self._set_phase(**self.form.values())

    def take_vectors(self, vectors: list[tuple[float, float]]) -> bool:
        """Vectors dragged on the vector map; True when they are of a region."""
        if not self.stem.settings.region_shown:
            return False
        self._set_phase(g1=vectors[0], g2=vectors[1])
        self._show_form()
        return True

    def _set_phase(self, **values: Any) -> None:
        known = self.stem.settings.strain_params
        try:
            phase = RegionParams.model_validate({**dict(self._phase()), **values})
            others = [p for p in known.phases if p.label != phase.label]
            phases = tuple(sorted([*others, phase], key=lambda p: p.label))
            self.stem.set_strain_params(StrainParams.model_validate({**dict(known), "phases": phases}))
        except (EmdlError, ValueError) as error:
            report_error(error, "regions")

    # showing

    def refresh(self) -> None:
        """Tell what there is."""
        stem = self.stem
        there = stem.settings.regions is not None
        self.draw_button.setEnabled(stem.cube is not None)
        self.find_button.setEnabled(stem.found.kept is not None)
        self.take_button.setEnabled(stem.cube is not None)
        self.clear_button.setEnabled(there)
        self.one.setVisible(there)
        numbers = [] if stem.settings.regions is None else [int(n) for n in np.unique(stem.settings.regions) if n]
        wanted = [0, *numbers]
        if [self.shown.itemData(i) for i in range(self.shown.count())] != wanted:
            self.shown.blockSignals(True)
            self.shown.clear()
            for number in wanted:
                self.shown.addItem(f"region {number}" if number else ALL, number)
            self.shown.setCurrentIndex(wanted.index(stem.settings.region_shown) if stem.settings.region_shown in wanted else 0)
            self.shown.blockSignals(False)
        self._show_form()
        self.note.setText("\n".join(self._lines(numbers)) if there else HINT)

    def _lines(self, numbers: list[int]) -> list[str]:
        regions, strain = self.stem.settings.regions, self.stem.found.strain
        assert regions is not None
        fitted = strain.attrs.get("regions", {}) if strain is not None and strain.region is not None else {}
        lines = []
        for number in numbers:
            facts = fitted.get(str(number))
            count = int((regions == number).sum())
            if facts is None:
                lines.append(f"Region {number}: {count:,} positions")
                continue
            lengths = np.linalg.norm(np.asarray(facts["reference_g"]), axis=1)
            name = f" {facts['name']}" if facts["name"] else ""
            lines.append(
                f"Region {number}{name}: {facts['fitted']:,} of {facts['positions']:,} fitted, g1 {lengths[0]:.2f} and "
                f"g2 {lengths[1]:.2f} px, {100 * facts['indexed_fraction']:.0f} % indexed"
            )
        left = int((regions == 0).sum())
        return [*lines, f"{left:,} positions in none"] if left else lines


def _segment(control: Any, kept: Any, number: int, params: StrainParams) -> NDArray[np.uint8]:
    from napari_emdl.diffraction.fit.segment import segment_positions

    params = params.model_copy(update={"min_score": 0.0})  # what is kept has passed the limits already
    if number > 1:
        return segment_positions(kept, number, params, control)
    from napari_emdl.diffraction.fit.several import find_lattices

    return find_lattices(kept, params, control=control).labels
