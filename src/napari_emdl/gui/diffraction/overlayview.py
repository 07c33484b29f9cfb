"""When the overlay of the position under the cross-hair is drawn again, and where its words go."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QTimer

from napari_emdl.gui.diffraction.overlay import axes_note, outlook_line, show_overlay
from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.diffraction.parts import Parts


class OverlayView(QTimer):
    """Rings, lattice, histogram and the line of values, drawn again when something they show has changed.

    Parameters
    ----------
    panel, parts
        The workspace, and the parts that judge its maps.
    """

    def __init__(self, panel: Panel, parts: Parts):
        super().__init__(panel)
        self.panel, self._parts = panel, parts
        self._drawn_at = (0, 0)  # position whose disks are drawn
        self.setSingleShot(True)
        self.setInterval(0)
        self.timeout.connect(self.draw)
        state = panel.state
        parts.histogram.judged.connect(self.show)
        for signal in (state.overlay_changed, state.kept_changed, state.strain_changed, state.coarse_changed):
            signal.connect(self.show)
        for signal in (state.outlook_changed, state.disks_changed, state.job_started, state.job_ended):
            signal.connect(self.show_outlook)
        state.cube_changed.connect(self._on_cube)
        panel.canvas.display_changed.connect(self._on_display)
        state.probe_changed.connect(self._on_probe)

    def show(self, *_: Any) -> None:
        """At once at another position; else when all that changed is told: a fit tells it of disks, map and verdict."""
        if self.panel.state.settings.position != self._drawn_at:
            self.draw()
        else:
            self.start()

    def draw(self) -> None:
        """Draw it now."""
        panel, state = self.panel, self.panel.state
        if panel.closed:
            return
        self.stop()
        self._drawn_at = state.settings.position
        text = show_overlay(state, panel.canvas, panel.histogram)
        if text and panel.maps is not None:
            shown = panel.strain_step.show_map.currentText()
            values = [part for part in text[2:] if part.startswith((f"{shown} ", "masked"))]  # the map's corner has them all
            panel.say(" · ".join([*text[:2], *values, panel.disks_step.badge.device]))
            if state.data.lone:
                return  # there is no map to write on
            panel.maps.say([" · ".join(text[:2]), *text[2:], *axes_note(state.found.strain), *self._parts.verdict()])

    def show_outlook(self, *_: Any) -> None:
        """What a run would give, until there is one."""
        state = self.panel.state
        found = state.found
        line = outlook_line(found.outlook) if found.disks is None and state.job is None else ""
        self.panel.frame.show_outlook(line)

    def _on_cube(self) -> None:
        """Nothing stays of the datacube before."""
        self.panel.say("")
        self.draw()

    def _on_display(self) -> None:
        self.panel.state.log = self.panel.canvas.log.isChecked()
        self.panel.state.show_pattern()

    def _on_probe(self) -> None:
        probe = self.panel.state.found.probe
        if probe is not None:
            self.panel.canvas.radius_px = float(probe.radius_px)
