"""Parts of the 4D-STEM workspace that compare and judge, put into its steps in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_emdl.gui.stem_compare import CompareBox
from napari_emdl.gui.steps import Fold

if TYPE_CHECKING:
    from napari_emdl.gui.stem_workspace import StemWorkspace


@dataclass(frozen=True)
class Parts:
    """What :func:`add_parts` added."""

    compare: CompareBox


def add_parts(panel: StemWorkspace) -> Parts:
    """Add the parts to the steps of a workspace."""
    compare = CompareBox(panel.state, panel.canvas, lambda: panel.maps)
    panel.disks_step.content.addWidget(Fold("Compare two methods", compare))
    return Parts(compare)
