"""Sliders go with the layers that have their axes: napari keeps those of a hidden movie beneath the maps of a scan."""

from __future__ import annotations

from typing import Any
from weakref import ref


class Sliders:
    """Follows the layers of a viewer with a window until :meth:`close`."""

    def __init__(self, viewer: Any):
        self._viewer = ref(viewer)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._look)
        for layer in viewer.layers:
            layer.events.visible.connect(self._look)
        self._look()

    def _on_inserted(self, event: Any) -> None:
        event.value.events.visible.connect(self._look)
        self._look()

    def _look(self, _event: Any = None) -> None:
        viewer = self._viewer()
        if viewer is not None:
            deep = [layer for layer in viewer.layers if layer.ndim > 2]
            self._show(not deep or any(layer.visible for layer in deep))

    def _show(self, wanted: bool) -> None:
        qt_viewer = getattr(getattr(self._viewer(), "window", None), "_qt_viewer", None)
        if qt_viewer is not None and qt_viewer.dims.isHidden() == wanted:
            qt_viewer.dims.setVisible(wanted)

    def close(self) -> None:
        """Follow no longer; the sliders are napari's again."""
        viewer = self._viewer()
        if viewer is not None:
            viewer.layers.events.inserted.disconnect(self._on_inserted)
            viewer.layers.events.removed.disconnect(self._look)
            for layer in viewer.layers:
                layer.events.visible.disconnect(self._look)
            self._show(True)
