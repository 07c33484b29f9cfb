"""Guided tour of the 4D-STEM workspace: from the sample to a strain figure in three steps."""

from __future__ import annotations

from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.kit.tour import TourStep


def tour_steps(panel: Panel) -> list[TourStep]:
    """Steps on the sample; each can be watched or done by hand."""

    def open_sample() -> None:
        panel.viewer.open_sample("napari-emdl", "strained_datacube")

    def figure() -> None:
        panel.export_step.open_figure()

    return [
        TourStep(
            "Open a datacube: your own with Open, or the sample. The scan appears on the left, the pattern under the orange "
            "cross-hair beside it, with a ring around each disk found. Click on the scan to see other patterns.",
            panel.open_button,
            open_sample,
            "Open sample",
        ),
        TourStep(
            "Run all finds the disks of every pattern and maps the strain. Then drag the line in the histogram of scores: "
            "disks below it are left out, and rings, lattice and strain follow at once.",
            panel.run_all_button,
            panel.run_all,
            "Run all",
            lambda: panel.state.cube is not None and panel.state.job is None,
        ),
        TourStep(
            "Say what is unstrained: in step 4 choose the reference 'drawn region' and put the box where the crystal is "
            "relaxed. 'Fit to: pattern' makes the map flatter and says how long it takes. Strain figure in step 5 makes the "
            "figure to print.",
            panel.strain_step.reference,
            figure,
            "Figure…",
            lambda: panel.state.found.strain is not None,
        ),
    ]
