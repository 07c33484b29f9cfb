"""Virtual detectors: every detector is a Shapes layer on the diffraction canvas and an image on the main canvas.

Shapes inside each other make holes (even-odd rule), so an annular detector is a circle inside a circle. Moving a shape with
napari's own tools computes the image anew; it fills in block by block.

Where the direct beam moves over the scan, detectors go with it: they are kept as they lie where it is most of the time, and
drawn where it is in the pattern that is shown.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_emdl.base.signals import Datacube
from napari_emdl.gui.diffraction.canvas import FLAT, VIEWS, DiffractionCanvas
from napari_emdl.gui.diffraction.maps import ScanMaps
from napari_emdl.gui.diffraction.virtualjobs import BeamWay, virtual_image
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.drawing import DrawOnce
from napari_emdl.gui.kit.session import role_of, tag
from napari_emdl.gui.kit.worker import Job, report_error

SETTLE_MS = 120


class Detectors(QObject):
    """Detectors of one datacube.

    Parameters
    ----------
    canvas, maps
        Where they are drawn and where their images go.
    cube
        Datacube.

    Signals
    -------
    navigation_named
        The navigation image is complete: what it is, and how its detector goes with the beam.
    followed
        An image is complete whose detector goes with the beam: how.
    """

    navigation_named = Signal(str, str)
    followed = Signal(str)

    def __init__(self, canvas: DiffractionCanvas, maps: ScanMaps, cube: Datacube, parent: QObject | None = None):
        super().__init__(parent)
        self.canvas, self.maps, self.cube = canvas, maps, cube
        self.way = BeamWay(cube)
        self._position = (0, 0)
        self._jobs: dict[str, Job] = {}
        self._old: list[Job] = []
        self._pending: dict[str, Any] = {}
        self._count = self._serial = 0
        self._drawing: DrawOnce | None = None
        self._current: dict[str, int] = {}
        self._filling: set[int] = set()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self._start_pending)

    def navigation(self) -> None:
        """Image to find the way by: the sum of the pattern, its bright or its dark field, whichever shows most."""
        self.maps.begin_filling("navigation", f"{self.cube.name or 'datacube'}", colormap="gray")
        self._start("navigation", None)

    def add_bright_field(self, centre_px: tuple[float, float], radius_px: float) -> Any:
        """Disk on the central beam."""
        return self._add("Bright field", [circle(centre_px, radius_px)], "ellipse")

    def add_annular(self, centre_px: tuple[float, float], inner_px: float, outer_px: float) -> Any:
        """Ring between two radii."""
        return self._add("Annular dark field", [circle(centre_px, outer_px), circle(centre_px, inner_px)], "ellipse")

    def add_drawn(self) -> Any:
        """Empty detector for the user to draw into: rectangle, ellipse or polygon."""
        layer = self._add("Detector", [], "rectangle")
        self._drawing = DrawOnce(self.canvas.model, layer, "add_ellipse", self)
        return layer

    def add_saved(self, shapes: list[np.ndarray], attributes: dict[str, Any], key: str) -> Any:
        """Detector from a project: its shapes, attributes of its layer, and the key its image goes by."""
        layer = self.canvas.model.add_shapes(
            shapes or None, **{**attributes, "metadata": tag("detector", self.cube, key=key), "blending": FLAT}
        )
        self._count = max(self._count, int(key.rpartition(" ")[2]))
        self.place(self._position)
        layer.events.data.connect(partial(self._on_data, layer))
        if len(shapes):
            self._want(layer)
        return layer

    def follow(self, on: bool) -> None:
        """Let detectors go with the beam or stay; their images are made anew where that changes them."""
        if on != self.way.on:
            self.way.on = on
            self._again()

    def take_strain(self, strain: Any) -> None:
        """The lattices of a strain map tell where the beam is."""
        if self.way.take(strain):
            self._again()

    def _again(self) -> None:
        self.place(self._position)
        if "navigation" in self._jobs:
            self.navigation()
        for layer in self.layers():
            self._want(layer)

    def place(self, position: tuple[int, int]) -> None:
        """Draw the detectors where they lie in the pattern of a position."""
        self._position = position
        step = np.asarray(self.canvas.space["scale"], float) * self.offset_px
        for layer in self.layers():
            if not np.allclose(layer.translate[-2:], step):
                layer.translate = step

    @property
    def offset_px(self) -> np.ndarray:
        """(2,) where detectors are drawn in the pattern that is shown, from where they are kept."""
        path = self.way.known if self.way.on else None
        pattern = self.canvas.view.currentText() == VIEWS[0]
        return np.zeros(2) if path is None or not pattern else np.asarray(path.offset_px[self._position])

    def _add(self, title: str, shapes: list[np.ndarray], kind: str) -> Any:
        self._count += 1
        names = {layer.name for layer in self.canvas.model.layers}
        name = title if title not in names else f"{title} {self._count}"
        color = styles.DETECTOR_COLORS[(self._count - 1) % len(styles.DETECTOR_COLORS)]
        layer = self.canvas.model.add_shapes(
            shapes or None,
            shape_type=kind,
            name=name,
            edge_color=color,
            face_color=[0, 0, 0, 0],
            edge_width=max(self.cube.detector_shape) / 100,
            opacity=1.0,
            blending=FLAT,
            metadata=tag("detector", self.cube, key=f"virtual {self._count}"),
            **self.canvas.space,
        )
        self.place(self._position)
        layer.current_edge_color = color
        layer.current_face_color = "transparent"
        self.canvas.model.layers.selection.active = layer
        layer.mode = "select"
        layer.selected_data = set(range(len(shapes)))
        layer.events.data.connect(partial(self._on_data, layer))
        if shapes:
            self._want(layer)
        return layer

    def _on_data(self, layer: Any, event: Any = None) -> None:
        self.maps.looks.pop(layer.metadata[styles.METADATA_KEY]["key"], None)  # another image, another contrast
        self._want(layer)

    def _want(self, layer: Any) -> None:
        self._pending[layer.metadata[styles.METADATA_KEY]["key"]] = layer
        self._timer.start()

    def _start_pending(self) -> None:
        pending, self._pending = self._pending, {}
        for key, layer in pending.items():
            if layer in self.canvas.model.layers and len(layer.data):
                shapes = [
                    (kind, np.asarray(vertices, float)[:, -2:])
                    for kind, vertices in zip(layer.shape_type, layer.data, strict=True)
                ]
                self.maps.begin_filling(key, layer.name, colormap="gray")
                self._start(key, shapes)

    def _start(self, key: str, shapes: list[tuple[str, np.ndarray]] | None) -> None:
        running = self._jobs.pop(key, None)
        if running is not None:
            running.cancel()
            self._old = [job for job in self._old if job.running] + [running]
        cube, way = self.cube, self.way

        def work(control: Any, on_block: Any) -> Any:
            return virtual_image(control, cube, shapes, on_block, way)

        job = Job(work, "virtual image")
        self._serial += 1
        self._current[key] = self._serial
        self._filling.add(self._serial)
        job.finished.connect(partial(self._on_finished, self._serial))
        job.block.connect(partial(self._on_block, key, self._serial))
        job.failed.connect(partial(self._on_failed, key))
        job.returned.connect(partial(self._on_returned, key))
        self._jobs[key] = job
        job.start()

    def _on_block(self, key: str, serial: int, block: Any, values: Any) -> None:
        if self._current.get(key) == serial:
            self.maps.fill(key, block.start, block.stop, values)

    def _on_returned(self, key: str, said: Any) -> None:
        if key not in self._current:  # closed meanwhile
            return
        what, how = said
        self.place(self._position)  # the way of the beam may have been measured just now
        if key == "navigation":
            self.navigation_named.emit(what, how)
        elif how:
            self.followed.emit(how)

    def _on_failed(self, key: str, error: BaseException) -> None:
        report_error(error, "navigation image" if key == "navigation" else "virtual image")

    def _on_finished(self, serial: int) -> None:
        self._filling.discard(serial)

    @property
    def busy(self) -> bool:
        """True until the last image is whole on the canvas; its worker ends before its last blocks are drawn."""
        return bool(self._pending or self._filling)

    def layers(self) -> list[Any]:
        """Shapes layers of the detectors."""
        return [layer for layer in self.canvas.model.layers if role_of(layer) == "detector"]

    def close(self, timeout_s: float = 2.0) -> bool:
        """Cancel everything; True when all threads have ended."""
        self._timer.stop()
        self._current.clear()
        self._filling.clear()
        running = [*self._jobs.values(), *self._old]
        for job in running:
            job.cancel()
        ended = [job.wait(timeout_s) for job in running]
        return all(ended)


def circle(centre: tuple[float, float], radius: float) -> np.ndarray:
    """Corners of the box around a circle, as napari wants ellipses."""
    row, col = centre
    return np.array(
        [[row - radius, col - radius], [row - radius, col + radius], [row + radius, col + radius], [row + radius, col - radius]]
    )
