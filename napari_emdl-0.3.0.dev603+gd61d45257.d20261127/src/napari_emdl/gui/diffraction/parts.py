"""Parts of the 4D-STEM workspace that compare and judge, put into its steps in one place."""

from __future__ import annotations

from dataclasses import dataclass

from napari_emdl.gui.diffraction.arrows import PatternArrows
from napari_emdl.gui.diffraction.compare import CompareBox
from napari_emdl.gui.diffraction.judge import MapHistogram
from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.diffraction.regions import RegionsBox
from napari_emdl.gui.diffraction.strain import MAP_TITLES
from napari_emdl.gui.diffraction.trust import TrustBox
from napari_emdl.gui.kit.steps import Fold


@dataclass(frozen=True)
class Parts:
    """What :func:`add_parts` added."""

    compare: CompareBox
    histogram: MapHistogram
    arrows: PatternArrows
    regions: RegionsBox
    trust: TrustBox

    def release(self) -> None:
        """Let go of the viewer and end the check."""
        self.regions.release()
        self.trust.cancel()

    def verdict(self) -> list[str]:
        """What is to be known about the map shown, for the corner of the main canvas."""
        return [f"⚠ {self.histogram.line}"] if "not quantitative" in self.histogram.line else []


def add_parts(panel: Panel) -> Parts:
    """Add the parts to the steps of a workspace."""
    state, strain_step = panel.state, panel.strain_step
    compare = CompareBox(state, panel.canvas, lambda: panel.maps)
    panel.disks_step.content.addWidget(Fold("Compare two methods", compare))
    histogram = MapHistogram(state, panel.viewer, lambda: panel.maps)
    arrows = PatternArrows(state, panel.canvas)
    strain_step.content.addWidget(Fold("Histogram", histogram))
    strain_step.content.addWidget(Fold("Arrows on the pattern", arrows))
    trust = TrustBox(state)
    strain_step.content.addWidget(Fold("Trust", trust))
    strain_step.show_map.currentTextChanged.connect(
        lambda text: histogram.show_component(MAP_TITLES[text]) if text in MAP_TITLES else None
    )
    arrows.axis_dragged.connect(lambda angle: strain_step.turn_axis(angle))
    regions = RegionsBox(state, panel.viewer, lambda: panel.maps)
    lattice_step = panel.lattice_step
    lattice_step.content.addWidget(Fold("Several lattices", regions))
    lattice_step.vectors_dragged = lambda g: None if regions.take_vectors(g) else lattice_step.take_vectors(g)
    return Parts(compare, histogram, arrows, regions, trust)
