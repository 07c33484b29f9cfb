"""Limits of the disks: undo and redo of all that is set by hand, and presets that are kept between starts."""

from __future__ import annotations

from qtpy.QtWidgets import QWidget

from napari_emdl.base.params import DiskLimits
from napari_emdl.gui.diffraction.history import History
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit.presets import PresetTools
from napari_emdl.workflow.settings import Presets

LIMITS: Presets[DiskLimits] = Presets("thresholds", DiskLimits)


class ThresholdTools(PresetTools):
    """Undo, redo and the menu of presets, for the row below the histogram."""

    history: History

    def __init__(self, state: StemState, parent: QWidget | None = None):
        super().__init__(
            LIMITS,
            History(state),
            lambda: state.limits,
            state.set_limits,
            lambda: state.settings.default_min_score,
            parent,
            "limits, g1 and g2, axis or reference",
        )
        self.history.setParent(self)
