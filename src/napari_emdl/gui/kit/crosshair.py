"""Cross-hair on a napari viewer: click to jump, drag to follow, arrow keys to step."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_emdl.gui.kit import units
from napari_emdl.gui.kit.session import camera_of, not_chosen, role_of, tag
from napari_emdl.gui.kit.styles import CROSS_COLOR

GRAB_PX = 14  # how near to the cross a press must be to drag it, in pixels of the screen
CLICK_PX = 4  # a press that moves less than this is a click
NAME = "Position"


class Crosshair(QObject):
    """Position on a map of the viewer, kept on whole pixels.

    Parameters
    ----------
    viewer
        napari viewer.
    shape
        (rows, cols) of the map.
    space
        Keywords of :func:`napari_emdl.gui.kit.styles.space` of the map.
    position
        (row, col) at first; the middle when None.
    soon
        ``soon(name, function)`` calls a function when there is time: the first cross is made then.
    """

    moved = Signal(int, int)

    def __init__(
        self,
        viewer: Any,
        shape: tuple[int, int],
        space: dict[str, Any],
        parent: QObject | None = None,
        position: tuple[int, int] | None = None,
        soon: Callable[[str, Callable[[], Any]], None] | None = None,
    ):
        super().__init__(parent)
        self.viewer = viewer
        self.shape = shape
        self.space = space
        self._closed = False
        self.position = position or (shape[0] // 2, shape[1] // 2)
        self._scale = np.asarray(space["scale"][-2:], float)
        viewer.mouse_drag_callbacks.append(self._on_drag)
        self._keys = self._bind_keys()
        self._take_over()
        if soon is None or self.layer() is not None:
            self._draw()
        else:
            soon("crosshair", self._draw_first)

    def _bind_keys(self) -> list[str]:
        steps = {"Up": (-1, 0), "Down": (1, 0), "Left": (0, -1), "Right": (0, 1)}
        bound = []
        for key, step in steps.items():
            for modifier, length in (("", 1), ("Shift-", 10)):
                if bind(self.viewer, modifier + key, self._stepper(step[0] * length, step[1] * length)):
                    bound.append(modifier + key)
        return bound

    def _stepper(self, rows: int, cols: int) -> Callable[[Any], None]:
        def step(_viewer: Any) -> None:
            self.move_to(self.position[0] + rows, self.position[1] + cols)

        return step

    def move_to(self, row: float, col: float) -> None:
        """Go to the pixel nearest to (row, col) inside the map."""
        position = (
            int(np.clip(np.rint(row), 0, self.shape[0] - 1)),
            int(np.clip(np.rint(col), 0, self.shape[1] - 1)),
        )
        if position != self.position:
            self.position = position
            self._draw()
            self.moved.emit(*position)

    def layer(self) -> Any:
        """Layer of the cross, or None when the user deleted it."""
        return next((layer for layer in self.viewer.layers if role_of(layer) == "crosshair"), None)

    def _draw(self) -> None:
        layer = self.layer()
        lines = hair_lines(self.position, self.shape)
        if layer is not None:
            layer.data = lines
            return
        self._add(lines)

    def _draw_first(self) -> None:
        if not self._closed:
            self._draw()

    def _take_over(self) -> None:
        """Use the cross of the map that was shown before: napari takes long to remove a layer."""
        layer = self.layer()
        if layer is None:
            return
        layers = self.viewer.layers
        layers.move(layers.index(layer), len(layers))
        layer.edge_width = max(self.shape) / 250
        units.forget(layer)
        for name, value in self.space.items():
            setattr(layer, name, value)
        layer.visible = True

    def _add(self, lines: np.ndarray) -> None:
        with not_chosen(self.viewer):
            layer = self.viewer.add_vectors(
                lines,
                name=NAME,
                edge_width=max(self.shape) / 250,
                edge_color=CROSS_COLOR,
                vector_style="line",
                opacity=0.9,
                metadata=tag("crosshair"),
                **self.space,
            )
        layer.editable = False

    def _pixel(self, event: Any) -> np.ndarray:
        return np.asarray(event.position[-2:], float) / self._scale

    def _on_drag(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        active = viewer.layers.selection.active
        if event.button != 1 or viewer.dims.ndisplay != 2 or event.modifiers:
            return
        if active is not None and not _lets_through(active, event):
            return  # the user draws or edits
        camera = camera_of(viewer)
        pressed = self._pixel(event)
        zoom = camera.zoom * self._scale  # screen pixels per map pixel
        grabbed = bool(np.hypot(*((pressed - self.position) * zoom)) < GRAB_PX)
        pan = camera.mouse_pan
        if grabbed:
            camera.mouse_pan = False
        travelled = 0.0
        start_centre = np.asarray(camera.center)
        yield
        while event.type == "mouse_move":
            now = self._pixel(event)
            travelled = max(travelled, float(np.hypot(*((now - pressed) * zoom))))
            if grabbed:
                self.move_to(*now)
            yield
        if grabbed:
            camera.mouse_pan = pan
        elif travelled < CLICK_PX and np.allclose(camera.center, start_centre):
            self.move_to(*pressed)

    def close(self, for_good: bool = True) -> None:
        """Take the bindings off the viewer, and the cross too unless another map comes."""
        self._closed = True
        if self._on_drag in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._on_drag)
        unbind(self.viewer, self._keys)
        layer = self.layer()
        if layer is not None and for_good:
            self.viewer.layers.remove(layer)
        elif layer is not None:
            layer.visible = False


def _lets_through(active: Any, event: Any) -> bool:
    """True when a press is not for the layer that is chosen: it pans, or its shapes are elsewhere."""
    mode = str(active.mode)
    if mode == "pan_zoom":
        return True
    if mode not in ("select", "direct") or active._type_string != "shapes":
        return False
    shape, corner = active.get_value(event.position, world=True) or (None, None)
    return shape is None and corner is None


def hair_lines(position: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """(4, 2, 2) vectors (start, direction) from the edges of the map to the pixel, which stays free."""
    (row, col), (rows, cols), gap = position, shape, 0.6
    low, high = -0.5, (rows - 0.5, cols - 0.5)
    return np.array(
        [
            [[row, low], [0, max(0.0, col - gap - low)]],
            [[row, high[1]], [0, min(0.0, col + gap - high[1])]],
            [[low, col], [max(0.0, row - gap - low), 0]],
            [[high[0], col], [min(0.0, row + gap - high[0]), 0]],
        ]
    )


def bind(viewer: Any, key: str, function: Callable[[Any], Any]) -> bool:
    """Bind a key on this viewer unless somebody else has it already; True when it was bound."""
    try:
        viewer.bind_key(key, function, overwrite=False)
    except ValueError:
        return False
    return True


def unbind(viewer: Any, keys: list[str]) -> None:
    """Take keys bound with :func:`bind` off again."""
    for key in keys:
        viewer.bind_key(key, None, overwrite=True)
