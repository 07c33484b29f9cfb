"""The 4D-STEM workspace in a real window."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from helpers.workspace import run_all, show
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.navigation import navigation
from napari_emdl.gui import layers
from napari_emdl.gui.diffraction.canvas import VIEWS
from napari_emdl.gui.kit import session
from napari_emdl.gui.kit.session import role_of

pytestmark = pytest.mark.gui


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("napari-emdl")]


@pytest.fixture
def workspace(make_napari_viewer, small_sample, wait_until):
    viewer = make_napari_viewer(show=True)
    panel = show(viewer, small_sample[0])
    wait_until(lambda: panel.state.found.live is not None and panel.cross.layer() is not None, what="live disks")
    return panel


class SlowCube:
    """Datacube that takes its time, so that a run can be stopped in the middle."""

    def __init__(self, cube, seconds: float):
        self.data, self.seconds = np.asarray(cube.data), seconds
        self.shape, self.dtype = self.data.shape, self.data.dtype

    def __getitem__(self, index):
        part = self.data[index]
        time.sleep(self.seconds * max(1, part.size // (self.shape[-1] * self.shape[-2])))
        return part


def slow(cube, seconds: float = 0.02) -> Datacube:
    return Datacube(SlowCube(cube, seconds), "datacube", cube.calibration, name="slow")


def test_the_sample_opens_with_pattern_probe_and_disks(workspace, small_sample, wait_until):
    cube, truth = small_sample
    state, canvas = workspace.state, workspace.canvas
    assert state.cube is cube
    assert abs(state.found.probe.radius_px - truth["probe_radius_px"]) < 1
    wait_until(lambda: canvas.layer("disks") is not None and len(canvas.layer("disks").data) > 5)
    row, col = state.settings.position
    shown = np.asarray(canvas.layer("pattern").data)
    np.testing.assert_allclose(shown, np.log1p(np.asarray(cube.data[row, col], np.float32)), rtol=1e-5)
    canvas.log.setChecked(False)
    wait_until(lambda: np.array_equal(canvas.layer("pattern").data, np.asarray(cube.data[row, col], np.float32)))


def test_the_navigation_image_fills_in(workspace, small_sample, wait_until):
    cube, _ = small_sample
    layer = workspace.maps.layer("navigation")
    wait_until(lambda: np.isfinite(layer.data).all())
    wait_until(lambda: "navigation image: " in workspace.title.text(), what="the name of the image")
    image, name = navigation(cube)
    assert name in workspace.title.text() and name != "sum of the pattern", "the sum of a thin foil is nothing but noise"
    np.testing.assert_allclose(layer.data, image, rtol=1e-4)
    low, high = layer.contrast_limits
    assert low < np.median(image) < high


def test_all_layers_have_units(workspace, wait_until):
    run_all(workspace, wait_until)
    for layer in workspace.viewer.layers:
        assert [str(unit) for unit in layer.units] == ["nanometer", "nanometer"], layer.name
        np.testing.assert_allclose(layer.scale, (1.5, 1.5))
    for layer in workspace.canvas.model.layers:
        assert "angstrom" in str(layer.units[0]), layer.name


def test_arrow_keys_move_the_cross_hair(workspace, qtbot, wait_until):
    row, col = workspace.state.settings.position
    native = workspace.viewer.window._qt_viewer.canvas.native
    native.setFocus()
    QTest.keyClick(native, Qt.Key.Key_Right)
    QTest.keyClick(native, Qt.Key.Key_Up)
    wait_until(lambda: workspace.state.settings.position == (row - 1, col + 1), 5)
    wait_until(lambda: workspace.state.found.live.position == (row - 1, col + 1), 10)
    for _ in range(30):
        workspace.step(0, 1)
    assert workspace.state.settings.position == (row - 1, workspace.state.cube.scan_shape[1] - 1)  # stays inside the scan


def drag(viewer, start, stop, steps=6):
    """Press, move and release on the main canvas, in pixels of the map."""
    from napari.utils._test_utils import read_only_mouse_event
    from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

    scale = np.asarray(viewer.layers[0].scale)

    def event(kind, place):
        return read_only_mouse_event(
            type=kind, position=tuple(np.asarray(place) * scale), button=1, is_dragging=kind == "mouse_move"
        )

    mouse_press_callbacks(viewer, event("mouse_press", start))
    for part in np.linspace(0, 1, steps)[1:] if tuple(start) != tuple(stop) else ():
        mouse_move_callbacks(viewer, event("mouse_move", np.asarray(start) + part * (np.asarray(stop) - np.asarray(start))))
    mouse_release_callbacks(viewer, event("mouse_release", stop))


def test_the_cross_hair_is_dragged_and_a_click_jumps(workspace, wait_until):
    viewer = workspace.viewer
    seen = []
    workspace.state.position_changed.connect(lambda r, c: seen.append((r, c)))
    row, col = workspace.state.settings.position
    drag(viewer, (row, col), (1, 1))
    assert workspace.state.settings.position == (1, 1)
    assert len(seen) > 2  # followed the mouse
    drag(viewer, (4, 6), (4, 6))
    assert workspace.state.settings.position == (4, 6)


def test_dragging_elsewhere_pans_and_leaves_the_cross_hair(workspace):
    workspace.cross.move_to(0, 0)
    drag(workspace.viewer, (5, 7), (3, 3))
    assert workspace.state.settings.position == (0, 0)


def test_run_all_gives_strain_maps_with_diverging_colours(workspace, wait_until):
    run_all(workspace, wait_until)
    maps = workspace.maps
    workspace.strain_step.show_map.setCurrentText("ε xx")
    if maps.layer("theta_rad") is None:  # a map nobody looked at has no layer, which takes napari its time
        workspace.strain_step.show_map.setCurrentText("θ")
        workspace.strain_step.show_map.setCurrentText("ε xx")
        maps.finish()
    exx, theta = maps.layer("exx"), maps.layer("theta_rad")
    assert exx.name == "ε xx [%]" and theta.name == "θ [°]"
    np.testing.assert_allclose(exx.data, workspace.state.found.strain.exx * 100, rtol=1e-5)
    low, high = exx.contrast_limits
    assert low == -high and exx.visible and not theta.visible
    wait_until(lambda: exx.colorbar.visible, 5)
    middle = exx.colormap.map(np.array([0.5]))[0]
    assert middle[:3].min() > 0.9  # white at zero
    exx.contrast_limits = (-0.5, 0.5)
    assert maps.layer("exy") is None
    workspace.strain_step.show_map.setCurrentText("ε xy")
    wait_until(lambda: maps.settled, 5)  # it has its layer in a moment
    assert tuple(maps.layer("exy").contrast_limits) == (-0.5, 0.5) and maps.layer("axes").visible
    assert [layer.visible for layer in (exx, theta, maps.layer("exy"))] == [False, False, True]
    wait_until(lambda: [step.state in ("done", "warning") for step in workspace.steps[:4]] == [True] * 4)
    assert "Fitted at" in workspace.strain_step.evidence.text()


def test_errors_and_reasons_are_made_when_asked_for_and_masked_positions_say_why(workspace, wait_until):
    run_all(workspace, wait_until, fit="peaks")
    strain, maps = workspace.state.found.strain, workspace.maps
    assert maps.layer("sigma_exy") is None and maps.layer("residual") is None
    workspace.strain_step.show_map.setCurrentText("residual")
    workspace.strain_step.show_map.setCurrentText("error of ε xy")
    sigma, residual = maps.layer("sigma_exy"), maps.layer("residual")
    assert sigma.name == "Error of ε xy [%]" and sigma.visible and not residual.visible and not maps.layer("exx").visible
    np.testing.assert_allclose(sigma.data, 100 * strain.sigma[..., 2], rtol=1e-5)
    theta = maps.show_extra("sigma_theta_rad")
    np.testing.assert_allclose(theta.data, np.degrees(strain.sigma[..., 3]), rtol=1e-5)
    workspace.strain_step.show_map.setCurrentText("masked: why")
    reason = maps.layer("reason")
    assert reason.visible and np.array_equal(np.nan_to_num(reason.data), strain.reason)
    np.testing.assert_allclose(residual.data, strain.residual_px, rtol=1e-5)
    assert 0 < sigma.contrast_limits[0] < sigma.contrast_limits[1]

    workspace.strain_step.show_map.setCurrentText("ε xx")  # masked positions are transparent and say why
    fifth = [np.sort(peaks["score"])[-5] for peaks in workspace.state.found.disks if len(peaks) >= 5]
    workspace.histogram.spin.setValue(float(np.median(fifth)))  # half of the positions keep too few disks
    wait_until(lambda: workspace.state.found.strain is not None and not workspace.state.found.strain.mask.all(), 20)
    where = tuple(np.argwhere(~workspace.state.found.strain.mask)[0])
    wait_until(lambda: np.isnan(workspace.maps.layer("exx").data[where]))
    assert workspace.maps.layer("exx").colormap.nan_color[3] == 0
    workspace.cross.move_to(*where)
    wait_until(lambda: "masked:" in workspace.status.text())


def test_threshold_and_limits_act_at_once_without_a_new_run(workspace, wait_until):
    run_all(workspace, wait_until, fit="peaks")
    state = workspace.state
    table, before = state.found.disks, state.found.kept.n_peaks
    scores = np.sort(state.data.here()["score"])
    workspace.histogram.spin.setValue(float(scores[-4:-2].mean()))
    QApplication.processEvents()
    assert len(workspace.canvas.layer("disks").data) == 3  # without waiting for a worker
    wait_until(lambda: state.found.kept.n_peaks < before)
    assert state.found.disks is table
    workspace.histogram.reset.click()
    wait_until(lambda: state.found.kept.n_peaks == before and not state.busy)

    form, strain = workspace.limits.form, state.found.strain
    least = float(np.median(state.found.kept.column("intensity")))
    form.editors["min_intensity"].put(least)
    here = state.data.kept_here()
    assert len(here) < len(state.data.here()) and here["intensity"].min() >= least
    QApplication.processEvents()
    assert len(workspace.canvas.layer("disks").data) == len(here)
    wait_until(lambda: state.found.kept.n_peaks < before and state.found.strain is not strain)
    assert state.found.kept.column("intensity").min() >= least * (1 - 1e-5) and state.found.disks is table
    form.editors["min_intensity"].put(None)
    wait_until(lambda: state.found.kept.n_peaks == before)
    largest = float(np.median(state.found.kept.column("sigma_px")))
    form.editors["max_sigma_px"].put(largest)
    wait_until(lambda: state.found.kept.n_peaks < before)
    assert state.found.kept.column("sigma_px").max() <= largest * (1 + 1e-3)
    assert state.settings.strain_params.max_sigma_px == pytest.approx(largest, abs=1e-3)


def test_brackets_step_the_threshold(workspace):
    native = workspace.viewer.window._qt_viewer.canvas.native
    native.setFocus()
    before = workspace.state.settings.min_score
    QTest.keyClick(native, Qt.Key.Key_BracketRight)
    raised = workspace.state.settings.min_score
    assert raised > before
    QTest.keyClick(native, Qt.Key.Key_BracketLeft)
    assert workspace.state.settings.min_score == pytest.approx(before, rel=1e-6)


def test_a_dragged_detector_gives_a_virtual_image(workspace, small_sample, wait_until):
    cube, _ = small_sample
    workspace.virtual.add_bright_field()
    layer = workspace.detectors.layers()[0]
    wait_until(lambda: workspace.maps.layer("virtual 1") is not None)
    image = workspace.maps.layer("virtual 1")
    wait_until(lambda: np.isfinite(image.data).all() and not workspace.detectors.busy)
    centre = layer.data[0].mean(axis=0)
    radius = np.ptp(layer.data[0][:, 0]) / 2
    rows, cols = np.indices(cube.detector_shape)
    inside = np.hypot(rows - centre[0], cols - centre[1]) <= radius
    expected = np.asarray(cube.data, float)[..., inside].sum(axis=-1)
    assert np.corrcoef(image.data.ravel(), expected.ravel())[0, 1] > 0.99
    before = np.array(image.data)
    layer.data = [layer.data[0] + np.array([12.0, 0.0])]
    wait_until(lambda: not workspace.detectors.busy and not np.allclose(image.data, before), 10)


def test_an_annular_detector_leaves_the_centre_out(workspace, small_sample, wait_until):
    workspace.virtual.add_annular()
    wait_until(lambda: workspace.maps.layer("virtual 1") is not None)
    image = workspace.maps.layer("virtual 1")
    wait_until(lambda: np.isfinite(image.data).all() and not workspace.detectors.busy)
    assert (image.data < np.asarray(small_sample[0].data, float).sum(axis=(2, 3))).all()
    assert (image.data > 0).any()


def test_cancel_keeps_what_is_done_and_resume_goes_on(make_napari_viewer, tiled_cube, wait_until):
    panel = show(make_napari_viewer(show=True), slow(tiled_cube))
    state = panel.state
    wait_until(lambda: state.found.live is not None)
    panel.disks_step.run_button.click()
    wait_until(lambda: state.found.done is not None and state.found.done.any(), 30, "a first block")
    assert panel.disks_step.bar.isVisible()
    panel.disks_step.bar.cancel_button.click()
    wait_until(lambda: state.job is None, 30)
    wait_until(lambda: state.found.disks is not None)
    done = int(state.found.done.sum())
    assert 0 < done < tiled_cube.n_patterns
    assert panel.disks_step.state == "warning"
    assert panel.disks_step.resume_button.isEnabled()
    was_done = state.found.done.copy()
    kept = state.found.disks.counts()[was_done]
    panel.disks_step.resume_button.click()
    wait_until(lambda: state.job is None and state.found.done.all(), 60)
    assert state.found.disks.shape == tiled_cube.scan_shape
    assert np.array_equal(state.found.disks.counts()[was_done], kept) and not state.can_resume()


def test_results_are_kept_and_open_again(workspace, wait_until, tmp_path):
    run_all(workspace, wait_until, fit="peaks")
    found, strain = workspace.state.found.disks, workspace.state.found.strain
    target = tmp_path / "strain.h5"
    workspace.export_step.save("strain", target)
    wait_until(lambda: target.exists())
    opened = {data[2] + ":" + data[1]["name"]: data for data in layers.read_path(str(target))}
    exx = opened["image:ε xx [%]"]
    np.testing.assert_allclose(exx[0], strain.exx * 100, rtol=1e-5)
    assert exx[1]["units"] == ("nm", "nm") and exx[1]["scale"] == (1.5, 1.5)
    target = tmp_path / "disks.h5"
    workspace.export_step.save("disks", target)
    wait_until(lambda: target.exists() and "saved" in workspace.export_step.note.text())
    workspace.state.found.disks = workspace.state.found.kept = None
    workspace.export_step.load(target)
    wait_until(lambda: workspace.state.found.disks is not None)
    assert workspace.state.found.disks.n_peaks == found.n_peaks
    assert Path(workspace.state.settings.output).exists()


def test_the_lattice_is_drawn_and_can_be_dragged(workspace, wait_until):
    run_all(workspace, wait_until)
    wait_until(lambda: workspace.state.found.lattice is not None and workspace.state.found.lattice.basis is not None)
    workspace.canvas.view.setCurrentText(VIEWS[1])
    wait_until(lambda: workspace.canvas.layer("lattice") is not None)
    layer = workspace.canvas.layer("lattice")
    assert layer.visible and len(layer.data) == 2 and not workspace.canvas.layer("pattern").visible
    g = np.array(workspace.state.found.lattice.basis.g)
    lines = [np.array(line) for line in layer.data]
    lines[0][1] += g[1]  # g1 + g2 spans the same lattice
    layer.data = lines
    wait_until(lambda: workspace.state.settings.strain_params.g1 is not None, 5)
    np.testing.assert_allclose(workspace.state.settings.strain_params.g1, g[0] + g[1], atol=0.5)
    wait_until(lambda: workspace.state.found.lattice.basis.source == "given")
    workspace.lattice_step.find_button.click()
    assert workspace.state.settings.strain_params.g1 is None
    wait_until(lambda: workspace.state.found.lattice.basis.source == "found")


def test_the_profile_follows_its_line_and_the_map_shown(workspace, wait_until):
    run_all(workspace, wait_until)
    profile, strain = workspace.strain_step.profile, workspace.state.found.strain
    profile.draw_button.click()
    layer = profile.layer()
    cols = strain.shape[1]
    assert len(profile.shown.value) == cols and profile.shown.distance[-1] == pytest.approx((cols - 1) * 1.5)
    layer.data = [np.array([[2.0, 0.0], [2.0, cols - 1.0]])]
    np.testing.assert_allclose(profile.shown.value, strain.exx[2])
    np.testing.assert_allclose(profile.shown.sigma, strain.sigma[2, :, 0])
    workspace.strain_step.show_map.setCurrentText("ε yy")
    np.testing.assert_allclose(profile.shown.value, strain.eyy[2])
    layer.data = [np.array([[90.0, 90.0], [99.0, 99.0]])]
    assert profile.shown is None and "outside the scan" in profile.note.text()
    workspace.viewer.layers.remove(layer)
    profile.refresh()
    assert "Draw a line" in profile.note.text()


def test_a_reference_region_shifts_the_strain(workspace, wait_until):
    run_all(workspace, wait_until)
    before = workspace.state.found.strain
    workspace.strain_step.reference.setCurrentText("drawn region")
    wait_until(lambda: workspace.state.found.strain is not before)
    region = workspace.strain_step.region_layer()
    rows, cols = workspace.state.cube.scan_shape
    mask = workspace.state.settings.reference
    assert mask.shape == (rows, cols) and 0 < mask.sum() < rows * cols
    inside = workspace.state.found.strain.exx[mask & workspace.state.found.strain.mask]
    assert abs(np.median(inside)) < 1e-3
    second = workspace.state.found.strain
    region.data = [region.data[0] + np.array([0.0, cols / 2])]
    wait_until(lambda: workspace.state.found.strain is not second)
    assert not np.array_equal(workspace.state.settings.reference, mask)


def test_a_job_file_has_every_setting_and_loads_again(workspace, wait_until, tmp_path, told):
    from napari_emdl.workflow.jobfile import read_job

    run_all(workspace, wait_until)
    state = workspace.state
    assert workspace.export_step.save_job(tmp_path / "job.yaml") is None  # a datacube in memory has no file to name
    assert "not a file" in told[0]
    state.data.cube = Datacube(state.cube.data, "datacube", state.cube.calibration, str(tmp_path / "cube.h5"), "c")
    workspace.strain_step.form.editors["axis_deg"].put(30.0)
    workspace.strain_step.apply()
    file = workspace.export_step.save_job(tmp_path / "job.yaml")
    job = read_job(file)
    assert [stage.stage for stage in job.stages] == ["open", "find", "fit"] and job.input == str(tmp_path / "cube.h5")
    disks, strain = job.section("disks"), job.section("strain")
    assert disks.method == "template" and disks.min_score == pytest.approx(state.settings.min_score)
    assert strain.axis_deg == 30.0 and strain.min_score == pytest.approx(state.settings.min_score)
    workspace.strain_step.form.editors["axis_deg"].put(0.0)
    workspace.strain_step.apply()
    workspace.export_step.load_job(file)
    assert state.settings.strain_params.axis_deg == 30.0
    (tmp_path / "bad.yaml").write_text("command: fly")
    workspace.export_step.load_job(tmp_path / "bad.yaml")
    assert "the job file" in told[-1] and "bad.yaml" in told[-1]


# things that go wrong


def test_closing_in_the_middle_of_a_run_leaves_no_thread(make_napari_viewer, tiled_cube, wait_until):
    viewer = make_napari_viewer(show=True)
    panel = show(viewer, slow(tiled_cube))
    wait_until(lambda: panel.state.found.live is not None)
    panel.disks_step.run_button.click()
    wait_until(lambda: panel.state.found.done is not None and panel.state.found.done.any(), 30)
    viewer.close()
    wait_until(lambda: not threads(), 5)


def test_closing_the_panel_gives_the_viewer_back(workspace, qtbot, wait_until):
    viewer = workspace.viewer
    callbacks = len(viewer.mouse_drag_callbacks)
    docks = list(viewer.window.dock_widgets)
    assert any("4D-STEM" in name for name in docks) and "Diffraction" in docks
    dock = workspace.docks.of_panel()
    dock.destroyOnClose()
    wait_until(lambda: workspace.closed, 5)
    assert len(viewer.mouse_drag_callbacks) == callbacks - 1
    assert "Diffraction" not in viewer.window.dock_widgets
    assert not [layer for layer in viewer.layers if role_of(layer) == "crosshair"]
    wait_until(lambda: not threads(), 5)


def test_layers_the_user_deletes_come_back_or_stay_away(workspace, wait_until):
    viewer = workspace.viewer
    viewer.layers.remove(workspace.cross.layer())
    workspace.step(0, 1)
    assert workspace.cross.layer() is not None
    workspace.canvas.model.layers.clear()
    workspace.step(0, -1)
    run_all(workspace, wait_until)
    viewer.layers.remove(workspace.maps.layer("exx"))
    workspace.histogram.step(1)
    wait_until(lambda: workspace.maps.layer("exx") is not None)
    viewer.layers.clear()
    workspace.step(1, 0)
    workspace.virtual.add_bright_field()


def test_two_viewers_keep_apart(make_napari_viewer, small_sample, tiled_cube, wait_until):
    first = show(make_napari_viewer(show=True), small_sample[0])
    second = show(make_napari_viewer(show=True), tiled_cube)
    wait_until(lambda: first.state.found.live is not None and second.state.found.live is not None)
    first.step(0, 1)
    assert second.state.settings.position == (tiled_cube.scan_shape[0] // 2, tiled_cube.scan_shape[1] // 2)
    run_all(first, wait_until)
    assert second.state.found.disks is None and second.maps.layer("exx") is None


def test_opening_another_file_starts_over(workspace, tiled_cube, wait_until):
    run_all(workspace, wait_until)
    for data in layers.signal_layers(tiled_cube):
        workspace.viewer._add_layer_from_data(*data)
    wait_until(lambda: workspace.state.cube is tiled_cube)
    assert workspace.state.found.disks is None and workspace.state.found.strain is None
    wait_until(lambda: workspace.state.found.live is not None)
    assert workspace.cross.shape == tiled_cube.scan_shape


def notices(caught) -> list[str]:
    return [str(note.message) for note in caught]


@pytest.fixture
def told(monkeypatch):
    """Error lines shown to the user."""
    lines: list[str] = []
    monkeypatch.setattr("napari_emdl.gui.kit.worker.show_error", lines.append)
    return lines


def test_no_file_open_says_what_to_do(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    panel = session.open_panel(viewer, session.WORKSPACE)
    assert not panel.run_all_button.isEnabled()
    assert "Open Sample" in panel.hint.text()
    assert {step.state for step in panel.steps} == {"missing"}


def test_a_wrong_probe_gives_one_line_and_the_window_lives(workspace, told, wait_until, tmp_path):
    np.save(tmp_path / "probe.npy", np.ones((7, 9)))
    workspace.probe_step.source.setCurrentText("from a file")
    workspace.probe_step.file.setText(str(tmp_path / "probe.npy"))
    workspace.probe_step.apply()
    wait_until(lambda: told, 10)
    assert "7 x 9" in told[0] and "\n" not in told[0]
    workspace.probe_step.source.setCurrentText("measured from the data")
    run_all(workspace, wait_until)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1)])
def test_scans_of_one_row_or_one_position(make_napari_viewer, small_sample, wait_until, shape):
    from napari_emdl.base.signals import in_memory

    data = (
        np.asarray(small_sample[0].data)[: shape[0], 1 : 1 + shape[1]]
        if shape[1] > 1
        else np.asarray(small_sample[0].data)[: shape[0], 3:4]
    )
    panel = show(make_napari_viewer(show=True), in_memory(data, "datacube", small_sample[0].calibration, name="narrow"))
    wait_until(lambda: panel.state.found.live is not None)
    panel.step(1, 1)
    run_all(panel, wait_until)


def test_patterns_without_disks_are_told(make_napari_viewer, wait_until):
    from napari_emdl.base.signals import in_memory

    empty = in_memory(np.zeros((3, 4, 64, 64), np.uint16), "datacube", name="empty")
    panel = show(make_napari_viewer(show=True), empty)
    wait_until(lambda: "⚠ the patterns are empty: check the file and the axes" in panel.disks_step.ran.text(), 30)
    panel.step(0, 1)
    assert panel.disks_step.ran.isVisible()
    panel.run_all_button.click()
    wait_until(lambda: panel.strain_step.state == "warning" and panel.lattice_step.state == "warning", 30)
    assert not panel.maps.layer("count").visible and panel.disks_step.badge.text().startswith("nothing ran")
    assert panel.disks_step.state == "warning" and "the patterns are empty" in panel.disks_step.line.toolTip()
    assert panel.lattice_step.note.text() and "no disk to fit: the patterns are empty" in panel.strain_step.evidence.text()


def test_a_threshold_that_leaves_no_lattice_is_told(workspace, told, wait_until):
    run_all(workspace, wait_until)
    workspace.histogram.spin.setValue(float(workspace.state.found.disks.column("score").max()) + 1)
    wait_until(lambda: workspace.strain_step.state == "warning" and told)
    assert "not fitted" in workspace.strain_step.line.text() and workspace.disks_step.line.text() == "none kept"
    wait_until(lambda: workspace.lattice_step.line.text() == "no lattice found")
    workspace.histogram.reset.click()
    wait_until(lambda: workspace.strain_step.line.text().endswith("of the scan"))


def test_presets_undo_and_redo_of_the_limits(workspace, wait_until):
    run_all(workspace, wait_until)
    state, tools = workspace.state, workspace.thresholds
    begin, default = state.limits, state.found.kept.n_peaks
    positions = np.linspace(begin.min_score, 3 * begin.min_score, 8)[1:]
    for value in positions:  # a drag of the line
        workspace.histogram.line.setValue(np.log10(value))
    tools.history.settle()
    dragged = state.limits
    workspace.limits.form.editors["min_spacing_px"].put(25.0)
    QApplication.processEvents()
    assert len(workspace.canvas.layer("disks").data) == len(state.data.kept_here())
    tools.history.settle()
    wait_until(lambda: state.found.kept.n_peaks < default)
    tools.undo_button.click()
    assert state.limits == dragged and workspace.limits.form.editors["min_spacing_px"].get() is None
    tools.undo_button.click()  # the whole drag is one step
    assert state.limits == begin and not tools.undo_button.isEnabled()
    tools.redo_button.click()
    assert state.limits == dragged and workspace.histogram.value == pytest.approx(dragged.min_score)
    workspace.limits.form.editors["edge_px"].put(9.0)
    tools.save("mine")
    tools.use("everything")
    wait_until(lambda: state.found.kept.n_peaks == state.found.disks.n_peaks)
    tools.use("strict")
    assert state.settings.min_score == 2 * state.settings.default_min_score and state.settings.strain_params.edge_px is None
    tools.use("mine")
    assert state.limits == dragged.model_copy(update={"edge_px": 9.0})
    tools.fill_menu()
    assert [action.text() for action in tools.menu.actions() if action.text()][3:] == ["mine", "Save as preset…", "Delete"]
    tools.delete("mine")
    tools.use("default")
    wait_until(lambda: state.found.kept.n_peaks == default)
    assert state.limits == begin
