"""Points on a canvas that are dragged whatever layer is chosen."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.gui.kit.session import camera_of

GRAB_PX = 14  # how near to a handle a press must be, in pixels of the screen


class Handles:
    """Handles of a viewer.

    Parameters
    ----------
    viewer
        napari viewer or ViewerModel.
    places
        Gives the (n, 2) places of the handles as they are now, in pixels of the image; none while they are not shown.
    moved
        ``moved(index, place, finished)``: a handle was dragged to `place` (row, col).
    scale
        Gives the size of a pixel of the image in units of the viewer.
    """

    def __init__(
        self,
        viewer: Any,
        places: Callable[[], NDArray[Any]],
        moved: Callable[[int, tuple[float, float], bool], None],
        scale: Callable[[], Any],
    ) -> None:
        self.viewer, self._places, self._moved, self._scale = viewer, places, moved, scale
        viewer.mouse_drag_callbacks.append(self._on_drag)

    def grabbed(self, place: NDArray[Any]) -> int | None:
        """Number of the handle within reach of a place (row, col), None when there is none."""
        places = np.asarray(self._places(), float).reshape(-1, 2)
        if not len(places):
            return None
        distance = np.linalg.norm((places - place) * np.asarray(self._scale(), float), axis=1) * camera_of(self.viewer).zoom
        nearest = int(np.argmin(distance))
        return nearest if distance[nearest] < GRAB_PX else None

    def _place(self, event: Any) -> NDArray[Any]:
        return np.asarray(event.position[-2:], float) / np.asarray(self._scale(), float)

    def _on_drag(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        index = self.grabbed(self._place(event)) if event.button == 1 and not event.modifiers else None
        if index is None:
            return
        camera, active = camera_of(viewer), viewer.layers.selection.active
        pan, mode = camera.mouse_pan, getattr(active, "mode", None)
        if mode is not None:
            active.mode = "pan_zoom"  # the layer that is chosen does not draw meanwhile
        camera.mouse_pan = False
        try:
            yield
            while event.type == "mouse_move":
                self._moved(index, tuple(self._place(event).tolist()), False)
                yield
            self._moved(index, tuple(self._place(event).tolist()), True)
        finally:
            camera.mouse_pan = pan
            if mode is not None:
                active.mode = mode

    def close(self) -> None:
        """Let go of the viewer."""
        if self._on_drag in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._on_drag)
