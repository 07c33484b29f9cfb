"""Drawing on a Shapes layer that ends by itself: the new shape replaces the old ones and clicks move the cross-hair again."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication

POLL_MS = 30


class DrawOnce(QObject):
    """One drawing on a layer of `viewer`; it lets go once the shape is finished, or when another layer is chosen.

    Parameters
    ----------
    viewer
        napari viewer.
    layer
        Shapes layer.
    mode
        Drawing mode of napari, such as "add_rectangle"; the user may take another one meanwhile.

    Signals
    -------
    finished
        The shape is there.
    """

    finished = Signal()

    def __init__(self, viewer: Any, layer: Any, mode: str, parent: QObject | None = None):
        super().__init__(parent)
        self.viewer, self.layer, self.going = viewer, layer, True
        self._old = len(layer.data)
        self._back_to = viewer.layers.selection.active
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._look)
        viewer.layers.selection.active = layer
        layer.selected_data = set()
        layer.mode = mode
        layer.events.data.connect(self._on_data)

    def _on_data(self, event: Any) -> None:
        if str(getattr(event, "action", "")).endswith("added"):
            self._timer.start()

    def _look(self) -> None:
        """A shape is finished when no button is down and napari adds no corner to it."""
        if QApplication.mouseButtons() != Qt.MouseButton.NoButton or getattr(self.layer, "_is_creating", False):
            return
        self.finish()

    def finish(self) -> None:
        """Keep the newest shape, and give the mouse back."""
        self._timer.stop()
        self.going = False
        self.layer.events.data.disconnect(self._on_data)
        if len(self.layer.data) > self._old > 0:
            self.layer.selected_data = set(range(self._old))
            self.layer.remove_selected()
        give_back(self.viewer, self.layer, self._back_to)
        self.finished.emit()


def give_back(viewer: Any, layer: Any, to: Any = None) -> None:
    """Leave the editing mode of `layer` and choose the layer `to`, where it is still there."""
    layer.selected_data = set()
    layer.mode = "pan_zoom"
    if to is not None and to is not layer and to in viewer.layers:
        viewer.layers.selection.active = to
