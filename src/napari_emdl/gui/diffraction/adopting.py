"""Which layer of the viewer becomes the datacube of the 4D-STEM workspace, and what follows when a layer goes."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QTimer

from napari_emdl.base.signals import Datacube
from napari_emdl.gui.diffraction.openset import OpenSets
from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.kit import pace, session, units


class Adopting:
    """Follows the layers of the viewer until :meth:`release`."""

    def __init__(self, panel: Panel, sets: OpenSets):
        self.panel, self.sets = panel, sets
        self._events = panel.viewer.layers.events
        self._events.inserted.connect(self._make_way, position="first")
        self._events.inserted.connect(self._on_inserted)
        self._events.removed.connect(self._on_removed)

    def newest(self) -> None:
        """Open the datacube that was put into the viewer last, unless it is open."""
        if self.panel.closed:
            return
        known = [one.cube for one in self.sets.all]
        layers = [layer for layer, _ in session.layers_with_signal(self.panel.viewer, "datacube")]
        new = [
            layer
            for layer in layers
            if session.role_of(layer) == "navigation" and all(session.signal_of(layer) is not cube for cube in known)
        ]
        if new:
            self._adopt(new[-1])

    def _adopt(self, layer: Any) -> None:
        """Open the datacube behind a layer, with the disks a result file brought along."""
        signal, found = session.signal_of(layer), session.tag_of(layer)
        disks, file, opened, notice = (found.pop(name, None) for name in ("disks", "disks_file", "project", "notice"))
        if notice:
            self.panel.notices.tell(str(notice))
        if opened is not None:
            self.panel.take_project(opened)
        elif isinstance(signal, Datacube):
            self.panel.open(signal)
            if disks is not None:
                self.panel.state.take_disks(disks, file=file)
        session.when_idle(lambda: session.bring_forward(self.panel.viewer, session.WORKSPACE))  # it may lie behind another tab

    def _make_way(self, event: Any) -> None:
        """Before napari shows it."""
        signal = session.signal_of(event.value)
        if signal is not None and signal is not self.panel.state.cube:
            units.make_way(self.panel.viewer, event.value)

    def _on_inserted(self, event: Any) -> None:
        signal = session.signal_of(event.value)
        new = isinstance(signal, Datacube) and signal is not self.panel.state.cube
        if session.role_of(event.value) == "navigation" and new:
            QTimer.singleShot(pace.SLICE_MS, self.newest)  # its image is painted first
        elif signal is not None and not isinstance(signal, Datacube):
            self.sets.put_aside()
        elif signal is None:
            layer = event.value  # maybe found in a movie meanwhile
            session.when_idle(lambda: None if self.panel.closed else self.sets.give_way(layer))

    def _on_removed(self, event: Any) -> None:
        role, signal = session.role_of(event.value), session.tag_of(event.value).get("signal")
        if role == "reference" and signal is self.panel.state.cube:
            self.panel.strain_step.forget_region()
        elif role == "navigation" and signal is not self.panel.state.cube:
            self.sets.forget(signal)

    def release(self) -> None:
        """Let go of the viewer."""
        self._events.inserted.disconnect(self._make_way)
        self._events.inserted.disconnect(self._on_inserted)
        self._events.removed.disconnect(self._on_removed)
