"""The shipped networks in the 4D-STEM workspace, in a real window."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.workspace import show
from napari_emdl.gui import layers
from napari_emdl.gui.kit import session

pytestmark = pytest.mark.gui


@pytest.fixture
def workspace(make_napari_viewer, small_sample, wait_until):
    """Workspace on the sample with the default settings, once the network has found the disks of one pattern."""
    viewer = make_napari_viewer(show=True)
    for data in layers.signal_layers(small_sample[0]):
        viewer._add_layer_from_data(*data)
    panel = session.open_panel(viewer, session.WORKSPACE)
    wait_until(lambda: panel.state.found.live is not None, 120, "live disks")
    return panel


def test_the_default_network_is_live_and_maps_the_strain(workspace, wait_until):
    state, step = workspace.state, workspace.disks_step
    assert state.found.live.info.method == "fcunet"
    wait_until(lambda: step.badge.provider.startswith(("CPU", "CUDA")))
    assert "fcunet" in step.ran.text() and "disk_refiner" in step.ran.text()
    row, col = state.settings.position
    workspace.step(0, 1)
    wait_until(lambda: state.found.live.position == (row, col + 1) and workspace.canvas.turns.settled, 30, "disks there")
    assert len(workspace.canvas.layer("disks").data) == len(state.data.kept_here()) > 5
    workspace.run_all_button.click()
    wait_until(lambda: state.found.strain is not None, 180, "a strain map")
    assert state.found.disks.attrs["method"] == "fcunet" and state.found.strain.mask.mean() > 0.5
    assert workspace.disks_step.badge.provider == state.found.disks.attrs["provenance"]["provider"]


def test_the_structure_factor_image_is_switched_and_follows(workspace, wait_until):
    state, canvas = workspace.state, workspace.canvas
    assert canvas.layer("structure factor") is None
    canvas.structure.setChecked(True)
    wait_until(lambda: canvas.layer("structure factor") is not None, 60, "the image")
    layer = canvas.layer("structure factor")
    assert layer.visible and layer.data.shape == state.cube.detector_shape
    found = state.data.kept_here()
    strong = found[np.argsort(found["score"])[-5:]]
    at = layer.data[np.rint(strong["row"]).astype(int), np.rint(strong["col"]).astype(int)]
    assert at.mean() > 5 * layer.data.mean()  # bright at the disks
    before = layer.data
    workspace.step(1, -2)
    wait_until(lambda: canvas.layer("structure factor").data is not before, 30, "the image of the new pattern")
    canvas.structure.setChecked(False)
    assert not canvas.layer("structure factor").visible
    canvas.structure.setChecked(True)
    wait_until(lambda: canvas.layer("structure factor").visible, 30)
    workspace.disks_step.form.editors["method"].put("light")
    assert not canvas.structure.isEnabled() and not canvas.layer("structure factor").visible
    wait_until(lambda: state.found.live.info.method == "light", 60, "the light network")
    assert "fcunet" not in workspace.disks_step.ran.text()


def test_disks_outside_the_training_range_are_told_in_the_panel(make_napari_viewer, small_sample, wait_until):
    cube = small_sample[0]
    cube = type(cube)(cube.data, "datacube", cube.calibration.override("user", semiangle_mrad=0.1), name="narrow")
    workspace = show(make_napari_viewer(show=True), cube)
    assert "⚠" not in workspace.disks_step.ran.text()  # template matching was trained on nothing
    workspace.disks_step.form.editors["method"].put("light")
    told = "⚠ the convergence semiangle of 0.1 mrad is outside what the network"
    wait_until(lambda: told in workspace.disks_step.ran.text(), 60, "the warning beside the live disks")
    workspace.disks_step.run_button.click()
    wait_until(lambda: workspace.state.found.disks is not None and workspace.state.job is None, 90, "the disks of the scan")
    assert told in workspace.disks_step.ran.text()


def test_the_demo_opens_its_window_and_maps_the_strain(make_napari_viewer, small_sample, wait_until, monkeypatch):
    import napari

    from napari_emdl import demo
    from napari_emdl.samples import diffraction as samples

    opened = []

    def run():
        panel = session.registered(opened[0], session.WORKSPACE)
        wait_until(lambda: panel.state.found.strain is not None and panel.maps.settled, 180, "a strain map")
        maps = [panel.maps.layer(name) for name in ("exx", "eyy", "exy", "theta")]
        assert sum(layer is not None and layer.visible for layer in maps) == 1  # the one with most to see
        assert panel.state.found.disks.attrs["method"] == "fcunet"

    def viewer(title):
        opened.append(make_napari_viewer(show=True, title=title))
        return opened[0]

    monkeypatch.setattr(napari, "Viewer", viewer)
    monkeypatch.setattr(napari, "run", run)
    monkeypatch.setattr(samples, "strained_datacube", lambda **_: small_sample)
    demo.open_window()
    assert opened and opened[0].title == "napari-emdl demo"
