"""Limits on the disks beside the least score: intensity, sigma, spacing and edge."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskLimits, StrainParams
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit.forms import ParamsForm
from napari_emdl.gui.kit.steps import Fold
from napari_emdl.gui.kit.worker import report_error

#: All limits but the score, which has its histogram.
OTHERS = [name for name in DiskLimits.model_fields if name != "min_score"]


class Limits(QWidget):
    """Foldable limits below the histogram; like the least score they act on rings, vector map and strain at once."""

    def __init__(self, state: StemState, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("limits")
        self.stem = state
        self.form = ParamsForm(state.settings.strain_params, include=tuple(OTHERS))
        for editor in self.form.editors.values():
            editor.setSpecialValueText("no limit")
        self.box = Fold("More limits", self.form)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.box)
        self.form.changed.connect(self.apply)
        state.limits_changed.connect(self.show_limits)

    def show_limits(self) -> None:
        """Show limits that were set elsewhere: a preset, undo."""
        if self.form.values() != {name: getattr(self.stem.settings.strain_params, name) for name in OTHERS}:
            with QSignalBlocker(self.form):
                self.form.put(self.stem.settings.strain_params)

    def apply(self) -> None:
        """Use the limits as they stand."""
        try:
            params = StrainParams.model_validate({**dict(self.stem.settings.strain_params), **self.form.values()})
        except (EmdlError, ValueError) as error:
            report_error(error, "limits")
            return
        self.stem.set_strain_params(params)
