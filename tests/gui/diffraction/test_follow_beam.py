"""Virtual detectors in the window go with a beam that moves, and say so."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.workspace import run_all, show
from napari_emdl.base.signals import Datacube, in_memory
from napari_emdl.gui.diffraction.canvas import VIEWS

pytestmark = pytest.mark.gui


@pytest.fixture(scope="module")
def moving(small_sample) -> Datacube:
    """The small sample with its patterns moved along a plane over the scan."""
    data = np.asarray(small_sample[0].data)
    moved = np.zeros_like(data)
    for r in range(data.shape[0]):
        for c in range(data.shape[1]):
            step = (round(8 * (2 * r / (data.shape[0] - 1) - 1)), round(5 * (2 * c / (data.shape[1] - 1) - 1)))
            moved[r, c] = np.roll(data[r, c], step, (0, 1))
    return in_memory(moved, "datacube", small_sample[0].calibration, name="moving")


def test_detectors_follow_are_drawn_where_they_lie_and_can_be_told_to_stay(make_napari_viewer, moving, wait_until):
    panel = show(make_napari_viewer(show=True), moving)
    wait_until(lambda: panel.state.found.live is not None and not panel.detectors.busy, what="live disks")
    assert "follow the direct beam" in panel.title.text()
    said: list[str] = []
    panel.state.message.connect(said.append)
    panel.virtual.add_bright_field()
    layer = panel.detectors.layers()[0]
    wait_until(lambda: panel.maps.layer("virtual 1") is not None)
    image = panel.maps.layer("virtual 1")
    wait_until(lambda: np.isfinite(image.data).all() and not panel.detectors.busy)
    assert any("follow the direct beam" in line for line in said)
    followed = np.array(image.data)
    places = {}
    for position in ((0, 0), (moving.scan_shape[0] - 1, moving.scan_shape[1] - 1)):
        panel.cross.move_to(*position)
        wait_until(lambda p=position: panel.state.settings.position == p)
        places[position] = np.array(layer.translate[-2:]) / layer.scale[-2:]
    first, last = places.values()
    np.testing.assert_allclose(last - first, (16, 10), atol=1.5)
    panel.canvas.view.setCurrentText(VIEWS[1])
    np.testing.assert_allclose(layer.translate[-2:], 0)
    panel.canvas.view.setCurrentText(VIEWS[0])
    panel.virtual.follow.setChecked(False)
    wait_until(lambda: not panel.detectors.busy and not np.allclose(image.data, followed))
    np.testing.assert_allclose(layer.translate[-2:], 0)
    assert image.data.mean() < 0.9 * followed.mean()  # a detector that stays loses the beam
    wait_until(lambda: "follow" not in panel.title.text())
    panel.virtual.follow.setChecked(True)
    wait_until(lambda: not panel.detectors.busy and np.allclose(image.data, followed, rtol=1e-4))
    run_all(panel, wait_until)
    wait_until(
        lambda: not panel.detectors.busy and "fitted lattices" in panel.title.text(), what="the lattices to tell the way"
    )
    assert np.corrcoef(image.data.ravel(), followed.ravel())[0, 1] > 0.9
