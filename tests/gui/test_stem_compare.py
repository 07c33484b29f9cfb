"""Two methods, several lattices and what tells whether to trust a map, in a real window."""

from __future__ import annotations

import numpy as np
import pytest
from test_stem_workspace import run_all, show

from napari_emdl.gui.stem_compare import KEPT
from napari_emdl.gui.stem_marks import AGREED_COLOR, DASHES

pytestmark = pytest.mark.gui


@pytest.fixture
def workspace(make_napari_viewer, small_sample, wait_until):
    panel = show(make_napari_viewer(show=True), small_sample[0])
    wait_until(lambda: panel.state.live is not None, what="live disks")
    return panel


def test_a_second_method_is_drawn_and_told_apart(workspace, wait_until):
    box, state = workspace.parts.compare, workspace.state
    box.choice.setCurrentText("light")
    wait_until(lambda: box.pairing is not None, what="the second method")
    pairs, layer = box.pairing, workspace.canvas.layer("second disks")
    agreed, alone = len(pairs.first), len(pairs.only_first) + len(pairs.only_second)
    assert agreed > 5 and len(layer.data) == DASHES * (agreed + alone)
    green = np.array([int(AGREED_COLOR[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert (np.abs(layer.edge_color[:, :3] - green).max(axis=1) < 0.01).sum() == DASHES * agreed
    assert f"{agreed} agree" in box.here_text.text()
    workspace.histogram.spin.setValue(float(np.sort(state.here()["score"])[-3]))
    assert len(box.pairing.first) + len(box.pairing.only_first) == len(state.kept_here()) == 3
    workspace.step(0, 1)
    wait_until(lambda: box.pairing is not None and box.second.here() is not None)
    box.choice.setCurrentText("nothing")
    assert not len(workspace.canvas.layer("second disks").data) and box.here_text.text() == ""


def test_a_run_that_was_kept_gives_maps_of_agreement(workspace, wait_until, tmp_path):
    run_all(workspace, wait_until)
    box, state = workspace.parts.compare, workspace.state
    box.keep_button.click()
    wait_until(lambda: box.second.agreement is not None)
    assert box.second.agreement.total_share == 1.0
    before = box.second.agreement
    scores = np.sort(state.kept.column("score"))
    workspace.histogram.spin.setValue(float(scores[len(scores) // 4]))
    wait_until(lambda: box.second.agreement is not before and box.second.agreement.total_share < 1)
    layer = workspace.maps.layer("compare")
    np.testing.assert_allclose(layer.data, box.second.agreement.share, rtol=1e-6)
    assert int(box.second.agreement.only_first.sum()) == 0
    wait_until(lambda: box.second.difference is not None)
    box.map.setCurrentIndex(1)
    wait_until(lambda: "ε xx" in layer.name)
    np.testing.assert_allclose(layer.data, 100 * box.second.difference[..., 0], rtol=1e-5)
    box.choice.setCurrentText(KEPT)
    assert box.pairing is not None and f"only {box.second.kept_name}" in box.here_text.text()
