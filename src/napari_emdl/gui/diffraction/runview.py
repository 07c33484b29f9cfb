"""What is shown while a scan runs, and what is unfolded with its first map."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QObject

from napari_emdl.gui.diffraction.openset import OpenSet, OpenSets
from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.kit import responsive

COUNTS = "count"  # role of the map of the disks in each pattern


class RunView(QObject):
    """Follows the run of the datacube that is shown.

    Parameters
    ----------
    panel, sets
        The workspace, and the datacubes that are open in it.
    """

    def __init__(self, panel: Panel, sets: OpenSets):
        super().__init__(panel)
        self._panel, self._sets = panel, sets
        self._last: OpenSet | None = None
        sets.shown_changed.connect(self._on_shown)
        state = panel.state
        state.block_found.connect(self._on_block)
        state.strain_changed.connect(self._on_first_strain)
        state.strain_failed.connect(self._on_no_strain)
        for signal in (state.cube_changed, state.disks_changed, state.job_started, state.job_ended):
            signal.connect(lambda *_: panel.frame.show_results(state.found.disks is not None))
        state.job_started.connect(lambda *_: panel.run_all_button.setEnabled(False))
        state.job_ended.connect(lambda *_: panel.run_all_button.setEnabled(state.cube is not None))

    def _on_shown(self, chosen: OpenSet) -> None:
        """Steps are unfolded as they were for this datacube; for a new one as in a new panel."""
        panel, last, self._last = self._panel, self._last, chosen
        if last is None:
            return
        last.unfolded = tuple(step.arrow.isChecked() for step in panel.steps)
        for number, step in enumerate(panel.steps):
            step.unfold(chosen.unfolded[number] if chosen.unfolded is not None else step is panel.disks_step)

    def _on_block(self, block: Any, table: Any) -> None:
        """Map of the disks in each pattern, which fills in."""
        maps = self._panel.maps
        if maps is not None:
            counts = table.filter(min_score=self._panel.state.settings.min_score).counts().ravel()
            maps.begin_filling(COUNTS, "Disks in each pattern", colormap="viridis")
            maps.fill(COUNTS, block.start, block.stop, counts)

    def _on_no_strain(self, _line: str) -> None:
        """A map of counts that are all alike shows less than the image below it."""
        counts = self._panel.maps.layer(COUNTS) if self._panel.maps is not None else None
        if counts is not None and self._panel.state.found.strain is None and np.ptp(counts.data) == 0:
            counts.visible = False

    def _on_first_strain(self) -> None:
        """With the first map of a datacube, what tells whether to trust it and how to keep it is unfolded."""
        panel, shown = self._panel, self._sets.shown
        if panel.state.found.strain is None or shown is None or shown.had_strain:
            return
        shown.had_strain = True
        counts = shown.maps.layer(COUNTS)
        if counts is not None:
            counts.visible = False  # it was there to see the scan fill in
        panel.disks_step.unfold(False)
        (panel.lattice_step if panel.state.data.lone else panel.strain_step).unfold()
        panel.export_step.unfold()
        responsive.more()  # what the first run brought is there to stay
