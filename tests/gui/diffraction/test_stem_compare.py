"""Two methods, several lattices and what tells whether to trust a map, in a real window."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.workspace import run_all, show
from napari_emdl.gui.diffraction.canvas import VIEWS
from napari_emdl.gui.diffraction.compare import KEPT
from napari_emdl.gui.diffraction.marks import AGREED_COLOR, DASHES
from napari_emdl.gui.kit.session import role_of

pytestmark = pytest.mark.gui


@pytest.fixture
def workspace(make_napari_viewer, small_sample, wait_until):
    panel = show(make_napari_viewer(show=True), small_sample[0])
    wait_until(lambda: panel.state.found.live is not None, what="live disks")
    return panel


@pytest.fixture
def told(monkeypatch):
    """Error lines shown to the user."""
    lines: list[str] = []
    monkeypatch.setattr("napari_emdl.gui.kit.worker.show_error", lines.append)
    return lines


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
    workspace.histogram.spin.setValue(float(np.sort(state.data.here()["score"])[-4:-2].mean()))
    assert len(box.pairing.first) + len(box.pairing.only_first) == len(state.data.kept_here()) == 3
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
    scores = np.sort(state.found.kept.column("score"))
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


def test_the_histogram_judges_the_map_that_is_shown(workspace, wait_until):
    run_all(workspace, wait_until)
    histogram, strain = workspace.parts.histogram, workspace.state.found.strain
    assert histogram.shown.n == strain.mask.sum()
    assert histogram.shown.mean == pytest.approx(100 * np.nanmean(strain.exx))
    workspace.strain_step.show_map.setCurrentText("θ")
    assert histogram.shown.median == pytest.approx(np.degrees(np.nanmedian(strain.theta_rad)))
    workspace.strain_step.show_map.setCurrentText("ε yy")
    histogram.within.setCurrentText("a region drawn on it")
    layer = histogram.layer()
    layer.data = [np.array([[-0.5, -0.5], [-0.5, 3.5], [1.5, 3.5], [1.5, -0.5]])]
    inside = strain.eyy[:2, :4][strain.mask[:2, :4]]
    assert histogram.shown.n == inside.size and histogram.shown.mean == pytest.approx(100 * inside.mean())
    where = tuple(np.argwhere(strain.mask)[0])
    workspace.cross.move_to(*where)
    low, high = histogram.shown.edges[[0, -1]]
    assert histogram.here.value() == pytest.approx(np.clip(100 * strain.eyy[where], low, high))


def test_a_map_that_is_not_quantitative_is_labelled(workspace, wait_until):
    run_all(workspace, wait_until)
    wait_until(lambda: workspace.state.found.lattice is not None)
    assert "not quantitative" not in workspace.viewer.text_overlay.text
    workspace.strain_step.reference.setCurrentText("ideal lattice (g1, g2)")
    wait_until(lambda: "ε xx is not quantitative" in workspace.viewer.text_overlay.text)
    assert "camera length" in workspace.strain_step.evidence.text()
    workspace.strain_step.show_map.setCurrentText("θ")
    wait_until(lambda: "not quantitative" not in workspace.viewer.text_overlay.text, 5)


def test_arrows_on_the_pattern_and_the_axis_to_drag(workspace, wait_until):
    run_all(workspace, wait_until)
    arrows, state = workspace.parts.arrows, workspace.state
    where = tuple(np.argwhere(state.found.strain.mask)[0])
    workspace.cross.move_to(*where)
    arrows.choice.setCurrentText("disk to fit")
    layer = workspace.canvas.layer("arrows")
    assert len(layer.data) == state.found.strain.n_indexed[where]
    longest = np.linalg.norm(layer.data[:, 1], axis=1).max()
    arrows.factor.setValue(40)
    assert np.linalg.norm(workspace.canvas.layer("arrows").data[:, 1], axis=1).max() == pytest.approx(2 * longest)
    arrows.choice.setCurrentText("reference to fit")
    assert len(workspace.canvas.layer("arrows").data) > len(layer.data)
    before = state.found.strain
    arrows.axis.setChecked(True)
    line = np.array(arrows.axis_layer().data[0])
    np.testing.assert_allclose(line[0], before.origin_px[where])
    arrows.axis_layer().data = [np.array([line[0], line[0] + [20.0, 20.0]])]
    wait_until(lambda: state.found.strain is not before)
    assert state.found.strain.attrs["fit"] == before.attrs["fit"]  # turned, not fitted anew to the peaks
    assert state.found.strain.axis_deg == 45.0 and workspace.strain_step.form.editors["axis_deg"].get() == 45.0
    u = np.array([[before.exx[where], before.exy[where]], [before.exy[where], before.eyy[where]]])
    assert state.found.strain.exx[where] == pytest.approx(np.ones(2) @ u @ np.ones(2) / 2, abs=1e-9)
    workspace.canvas.view.setCurrentText("Vector map")
    assert not workspace.canvas.layer("arrows").visible and not arrows.axis_layer().visible


def test_two_lattices_are_found_painted_and_fitted_by_region(make_napari_viewer, small_sample, wait_until, told, tmp_path):
    from napari_emdl.base.signals import in_memory

    data = np.array(small_sample[0].data)
    data[:, 4:] = np.swapaxes(data[:, 4:], 2, 3)  # another crystal: rows and cols of the pattern change places
    panel = show(make_napari_viewer(show=True), in_memory(data, "datacube", small_sample[0].calibration, name="two"))
    wait_until(lambda: panel.state.found.live is not None)
    run_all(panel, wait_until)
    box, state, found = panel.parts.regions, panel.state, panel.state.found.strain
    assert found.region is not None and found.mask.mean() > 0.9  # by themselves, with nothing set
    wait_until(lambda: box.layer() is not None, what="the outlines of the regions")
    assert box.layer().contour and np.array_equal(box.layer().data, found.region) and state.settings.regions_found
    assert panel.lattice_step.line.text() == "2 lattices"
    assert any("2 lattices were found" in text for text in found.evidence.warnings)
    box.clear_button.click()
    wait_until(lambda: state.found.strain.region is None, what="one lattice for all")
    one = state.found.strain
    assert box.layer() is None and (one.mask[:, 4:].mean() < 0.5 or one.mask[:, :4].mean() < 0.5)
    assert panel.lattice_step.form.editors["lattices"].get() == "one"
    box.find_button.click()
    wait_until(lambda: state.found.strain.region is not None, what="strain by region")
    assert len(np.unique(state.settings.regions[:, :4])) == len(np.unique(state.settings.regions[:, 4:])) == 1
    strain = state.found.strain
    assert strain.mask.mean() > 0.9 and "Region 2" in box.note.text() and "indexed" in box.note.text()
    layer = box.layer()
    assert role_of(layer) == "regions" and np.array_equal(layer.data, state.settings.regions)

    right = int(state.settings.regions[0, 5])
    box.shown.setCurrentIndex(right)
    panel.canvas.view.setCurrentText(VIEWS[1])
    wanted = np.abs(np.asarray(strain.attrs["regions"][str(right)]["reference_g"]))
    wait_until(lambda: state.found.lattice is not None and state.found.lattice.basis is not None, what="a lattice")
    wait_until(lambda: np.allclose(np.abs(state.found.lattice.basis.g), wanted, atol=0.5), what="the lattice of the region")
    wait_until(lambda: panel.canvas.layer("lattice") is not None)
    lines = [np.array(line) for line in panel.canvas.layer("lattice").data]
    g = np.array(state.found.lattice.basis.g)
    lines[0][1] += g[1]
    panel.canvas.layer("lattice").data = lines
    wait_until(lambda: state.settings.strain_params.phases and state.found.strain is not strain)
    assert state.settings.strain_params.phases[0].label == right and state.settings.strain_params.g1 is None
    np.testing.assert_allclose(state.settings.strain_params.phases[0].g1, g[0] + g[1], atol=0.5)

    panel.state.data.cube = type(state.cube)(state.cube.data, "datacube", state.cube.calibration, str(tmp_path / "c.h5"), "c")
    assert panel.export_step.save_job(tmp_path / "job.yaml")
    assert np.array_equal(np.load(tmp_path / "job_regions.npy"), state.settings.regions)

    layer.data_setitem((np.array([0, 0]), np.array([0, 1])), np.array([0, 0]))
    wait_until(lambda: (state.settings.regions[0, :2] == 0).all() and not state.found.strain.mask[0, :2].any())
    panel.cross.move_to(0, 0)
    wait_until(lambda: "outside the regions" in panel.status.text())
    panel.viewer.layers.remove(layer)
    wait_until(lambda: state.settings.regions is None and state.found.strain.region is None)
    assert "One lattice" in box.note.text()
    panel.viewer.layers.selection.active = panel.maps.layer("navigation")
    box.take_button.click()
    assert "Labels layer" in told[-1]


def test_the_trust_box_checks_and_is_stopped_with_the_window(workspace, wait_until):
    run_all(workspace, wait_until)
    box = workspace.parts.trust
    box.number.setValue(2)
    box.button.click()
    wait_until(lambda: box.found is not None, what="the check")
    assert box.found.gain.mean == pytest.approx(1, abs=0.1) and "Gain " in box.text.text() and "agree on" in box.text.text()
    box.number.setValue(100)
    box.button.click()
    job = box.job
    workspace.shut_down()
    assert not job.running
