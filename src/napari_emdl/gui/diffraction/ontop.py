"""Which images of a datacube can be seen, where one lies over another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject

from napari_emdl.gui.kit.session import role_of, tag_of

#: Roles of images that let through what lies below them.
SEE_THROUGH = ("reason",)
HIDING = ("opaque", "translucent", "translucent_no_depth")


class OnTop(QObject):
    """Follows the images of one datacube on a viewer.

    Parameters
    ----------
    viewer
        napari viewer.
    signal
        Datacube whose images count.
    changed
        Called when others can be seen than before, perhaps.
    """

    def __init__(self, viewer: Any, signal: Any, changed: Callable[[], Any], parent: QObject | None = None):
        super().__init__(parent)
        self.viewer, self.signal, self._changed = viewer, signal, changed
        self._events = viewer.layers.events
        self._events.inserted.connect(self._on_inserted)
        self._events.removed.connect(self._on_change)
        self._events.reordered.connect(self._on_change)
        for layer in viewer.layers:
            self._follow(layer)

    def seen(self) -> list[Any]:
        """Images that are shown and lie below no other that hides them, the topmost first."""
        found = []
        for layer in reversed(self.viewer.layers):
            if layer.visible and self._mine(layer):
                found.append(layer)
                if role_of(layer) not in SEE_THROUGH and layer.opacity >= 1 and str(layer.blending) in HIDING:
                    break
        return found

    def over(self, layer: Any) -> list[Any]:
        """Images that are shown above `layer`, those that let it through left out."""
        layers = list(self.viewer.layers)
        above = layers[layers.index(layer) + 1 :] if layer in layers else []
        return [one for one in above if one.visible and self._mine(one) and role_of(one) not in SEE_THROUGH]

    def _mine(self, layer: Any) -> bool:
        return layer._type_string == "image" and tag_of(layer).get("signal") is self.signal

    def _follow(self, layer: Any) -> None:
        if self._mine(layer):
            for event in (layer.events.visible, layer.events.opacity, layer.events.blending):
                event.connect(self._on_change)

    def _on_inserted(self, event: Any) -> None:
        self._follow(event.value)
        self._on_change()

    def _on_change(self, _event: Any = None) -> None:
        self._changed()

    def close(self) -> None:
        """Follow no longer."""
        self._changed = lambda: None
        for event in (self._events.inserted, self._events.removed, self._events.reordered):
            for slot in (self._on_inserted, self._on_change):
                event.disconnect(slot)
