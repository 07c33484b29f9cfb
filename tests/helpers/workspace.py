"""A 4D-STEM workspace in a real window, as the tests use it."""

from __future__ import annotations

from napari_emdl.gui.diffraction.workspace import StemWorkspace
from napari_emdl.gui.kit import session
from napari_emdl.gui.kit.signals import signal_layers


def show(viewer, cube) -> StemWorkspace:
    """Put a datacube into a viewer as the reader does, with the template method so that no network is needed."""
    panel = session.open_panel(viewer, session.WORKSPACE)
    panel.disks_step.form.editors["method"].put("template")
    for data in signal_layers(cube):
        viewer._add_layer_from_data(*data)
    panel.adopting.newest()
    return panel


def run_all(panel, wait_until, fit: str | None = None) -> None:
    """Run to the strain map; `fit` "peaks" spares the fit to the patterns where a test is not about it."""
    if fit is not None:
        panel.strain_step.form.editors["fit"].put(fit)
    panel.run_all_button.click()
    done = lambda: panel.state.found.strain is not None and not panel.state.busy  # noqa: E731
    wait_until(done, 120, "a strain map of peaks, then of peaks and patterns")
    panel.maps.finish()
    panel.strain_step.show_map.setCurrentText("ε xx")  # whichever has most to see
    panel.maps.finish()
    panel.canvas.turns.finish()
