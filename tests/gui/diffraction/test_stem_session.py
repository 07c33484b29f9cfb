"""Projects, autosave and what is remembered, in a real window."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from qtpy.QtWidgets import QToolButton

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams, StrainParams
from napari_emdl.gui.diffraction.canvas import VIEWS
from napari_emdl.gui.diffraction.strain import DRAWN
from napari_emdl.gui.diffraction.workspace import StemWorkspace
from napari_emdl.gui.kit import session
from napari_emdl.gui.kit.session import role_of
from napari_emdl.workflow.autosave import crashed_sessions, sessions_folder

pytestmark = pytest.mark.gui


@pytest.fixture
def cube_file(small_sample, tmp_path) -> Path:
    """The sample as a file, in a folder of its own."""
    cube = small_sample[0]
    path = tmp_path / "data" / "cube.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["data"] = np.asarray(cube.data)
    return path


@pytest.fixture
def told(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr("napari_emdl.gui.kit.worker.show_error", lines.append)
    return lines


def opened(viewer, path, wait_until):
    viewer.open(str(path), plugin="napari-emdl")
    wait_until(lambda: session.registered(viewer, session.WORKSPACE) is not None)
    panel = session.registered(viewer, session.WORKSPACE)
    wait_until(lambda: panel.state.cube is not None)
    return panel


def set_everything(panel, wait_until) -> None:
    """Change something of every kind a project keeps."""
    panel.disks_step.form.editors["method"].put("template")
    panel.probe_step.source.setCurrentText("radius")
    panel.probe_step.radius.setValue(5.5)
    panel.run_all_button.click()
    wait_until(
        lambda: panel.state.found.strain is not None and panel.state.found.lattice is not None, what="strain and lattice"
    )
    panel.step(1, 2)
    panel.histogram.step(2)
    panel.limits.form.editors["max_sigma_px"].put(2.0)
    g = np.round(np.asarray(panel.state.found.lattice.basis.g), 3)
    for name, vector in zip(("g1", "g2"), g, strict=True):
        panel.lattice_step.form.editors[name].put(tuple(vector))
    panel.lattice_step.apply()
    panel.strain_step.form.editors["axis_deg"].put(20.0)
    panel.strain_step.reference.setCurrentText(DRAWN)
    panel.strain_step.profile.draw_button.click()
    panel.strain_step.show_map.setCurrentText("ε yy")
    panel.virtual.add_annular()
    viewer = panel.viewer
    space = panel.maps.space
    viewer.add_points([[1.0, 2.0], [3.0, 4.0]], name="mine", features={"grain": ["a", "b"]}, text="grain", **space)
    viewer.add_labels(np.arange(48).reshape(6, 8) % 3, name="grains", **space)
    panel.parts.regions.use_checked(np.broadcast_to(np.arange(8) // 4 + 1, (6, 8)))
    panel.canvas.model.add_shapes([[[5, 5], [5, 9], [9, 9], [9, 5]]], name="spot", **panel.canvas.space)
    wait_until(lambda: not panel.state.busy and not panel.detectors.busy and panel.maps.settled, what="everything to settle")
    panel.maps.layer("eyy").contrast_limits = (-1.5, 1.5)
    panel.canvas.log.setChecked(False)
    panel.canvas.view.setCurrentText(VIEWS[1])


def test_a_project_reopens_as_it_was(make_napari_viewer, cube_file, wait_until):
    panel = opened(make_napari_viewer(show=True), cube_file, wait_until)
    wait_until(lambda: panel.state.found.probe is not None)
    set_everything(panel, wait_until)
    before, target = panel.state, cube_file.with_name("work.emdl-project")
    panel.project.save(target)
    wait_until(lambda: panel.project.path == target)
    before.settings.output.unlink()  # the cache is emptied, and the folder moves
    moved = cube_file.parent.rename(cube_file.parent.with_name("elsewhere"))

    again = opened(make_napari_viewer(show=True), moved / target.name, wait_until)
    state = again.state
    wait_until(lambda: state.found.strain is not None and not state.busy and not again.detectors.busy, what="the project")
    assert state.cube.path == str(moved / cube_file.name) and again.project.path == moved / target.name
    assert (state.settings.position, state.settings.min_score, state.limits) == (
        before.settings.position,
        before.settings.min_score,
        before.limits,
    )
    assert (state.settings.disk_params, state.settings.strain_params, state.settings.run_params) == (
        before.settings.disk_params,
        before.settings.strain_params,
        before.settings.run_params,
    )
    assert state.found.probe.radius_px == before.found.probe.radius_px == 5.5
    assert state.found.disks.n_peaks == before.found.disks.n_peaks and state.found.kept.n_peaks == before.found.kept.n_peaks
    np.testing.assert_array_equal(state.settings.reference, before.settings.reference)
    np.testing.assert_array_equal(state.settings.regions, before.settings.regions)
    assert state.found.strain.region is not None
    np.testing.assert_allclose(state.found.strain.exx, before.found.strain.exx, atol=1e-9)
    layers = {layer.name: layer for layer in again.viewer.layers}
    assert list(layers["mine"].features["grain"]) == ["a", "b"] and list(layers["mine"].text.values) == ["a", "b"]
    np.testing.assert_array_equal(layers["grains"].data, np.arange(48).reshape(6, 8) % 3)
    assert "spot" in again.canvas.model.layers and len(again.detectors.layers()) == 1
    again.maps.finish()  # maps that are not shown are made one by one
    assert again.maps.layer("eyy").visible and again.maps.layer("exx") is None, "a map has a layer once it is looked at"
    assert tuple(again.maps.layer("eyy").contrast_limits) == (-1.5, 1.5)
    assert again.canvas.view.currentText() == VIEWS[1] and not again.canvas.log.isChecked()
    wait_until(lambda: not again.detectors.busy, what="the virtual image, with the beam's way of the strain map")
    np.testing.assert_allclose(again.maps.layer("virtual 1").data, panel.maps.layer("virtual 1").data, rtol=1e-5)
    assert again.strain_step.profile.shown is not None
    region = again.strain_step.region_layer()
    mask = state.settings.reference
    region.data = [region.data[0] + np.array([0.0, 2.0])]  # what was restored still acts
    wait_until(lambda: not np.array_equal(state.settings.reference, mask))
    again.project.open(moved / target.name)  # once more, over itself: nothing is doubled
    same = lambda: np.array_equal(state.settings.reference, mask) and not (again.restoring or state.busy)  # noqa: E731
    wait_until(same, what="the project again")
    names = [layer.name for layer in again.viewer.layers]
    assert len(names) == len(set(names)) and len(again.detectors.layers()) == 1


def test_a_project_of_a_datacube_that_is_put_aside_goes_back_to_it(make_napari_viewer, cube_file, small_sample, wait_until):
    viewer = make_napari_viewer(show=True)
    panel = opened(viewer, cube_file, wait_until)
    first, target = panel.state.cube, cube_file.with_name("work.emdl-project")
    panel.step(1, 2)
    position = panel.state.settings.position
    panel.project.save(target)
    wait_until(lambda: panel.project.path == target)
    np.save(cube_file.with_name("other.npy"), np.asarray(small_sample[0].data)[:4])
    viewer.open(str(cube_file.with_name("other.npy")), plugin="napari-emdl")
    wait_until(lambda: panel.state.cube is not first)
    panel.project.open(target)
    wait_until(lambda: panel.state.cube is first and not panel.restoring, what="the project")
    assert len(panel.sets.all) == 2 and panel.state.settings.position == position
    shown = [layer.name for layer in viewer.layers if role_of(layer) == "navigation" and layer.visible]
    assert len(shown) == 1 and session.signal_of(viewer.layers[shown[0]]) is first


def test_a_project_whose_datacube_is_gone_says_what_to_do(make_napari_viewer, cube_file, wait_until, told):
    panel = opened(make_napari_viewer(show=True), cube_file, wait_until)
    target = cube_file.parent.parent / "work.emdl-project"
    panel.project.save(target)
    wait_until(lambda: panel.project.path == target)
    cube_file.rename(cube_file.with_name("renamed.h5"))
    from napari_emdl.plugin.reader import read

    with pytest.raises(EmdlError, match=r"missing.*cube\.h5.*put cube\.h5 back") as error:
        read(str(target))
    assert "\n" not in str(error.value)
    cube_file.with_name("renamed.h5").rename(target.with_name("cube.h5"))  # beside the project will do
    assert read(str(target))
    target.write_bytes(target.read_bytes()[:-50])
    panel.project.open(target)
    wait_until(lambda: told, 10)
    assert "damaged" in told[-1] or "cannot" in told[-1]


CRASH = """
import sys, napari
from napari_emdl.gui.kit import session
viewer = napari.Viewer()
viewer.open(sys.argv[1], plugin="napari-emdl")
def move():
    panel = session.registered(viewer, session.WORKSPACE)
    if panel is None or (panel.project._writing is not None and panel.project._writing.running):
        return QTimer.singleShot(50, move)  # what is being written is from before
    panel.disks_step.form.editors["method"].put("template")
    panel.step(2, 1)
    viewer.add_points([[1.0, 1.0]], name="before the crash", **panel.maps.space)
    panel.project.written.connect(lambda: print("written", flush=True))
from qtpy.QtCore import QTimer
QTimer.singleShot(1500, move)
napari.run()
"""


def test_a_killed_session_is_offered_and_comes_back(make_napari_viewer, cube_file, wait_until):
    program = subprocess.Popen([sys.executable, "-c", CRASH, str(cube_file)], stdout=subprocess.PIPE, text=True)
    try:
        line = program.stdout.readline()
        assert line.strip() == "written"
        assert crashed_sessions() == []  # it runs
    finally:
        os.kill(program.pid, signal.SIGKILL)
        program.wait(10)
    viewer = make_napari_viewer(show=True)
    panel = session.open_panel(viewer, session.WORKSPACE)
    wait_until(panel.offer.isVisible, 10)
    assert panel.offer.restore_button.text() == "Restore last session"
    panel.offer.restore_button.click()
    wait_until(lambda: panel.state.cube is not None and "before the crash" in viewer.layers, 20)
    assert panel.state.settings.position == (5, 5) and panel.state.settings.disk_params.method == "template"
    assert not panel.offer.isVisible()
    wait_until(lambda: not crashed_sessions(), 20, "the session to be this window's")
    assert [path for path in sessions_folder().iterdir() if not path.name.startswith(".")] == [panel.project.session.path]
    viewer.close()
    wait_until(lambda: not list(sessions_folder().iterdir()), 10, "a clean close to leave nothing")


def test_nothing_is_written_while_nothing_changes(make_napari_viewer, cube_file, qtbot, wait_until):
    panel = opened(make_napari_viewer(show=True), cube_file, wait_until)
    panel.disks_step.form.editors["method"].put("template")
    wait_until(lambda: panel.state.found.live is not None and not panel.state.busy and not panel.detectors.busy)
    wait_until(lambda: panel.outlook.isVisible(), 60, "the look ahead")
    qtbot.wait(500)  # the navigation image sets its contrast with the last block
    panel.project.check()
    wait_until(lambda: panel.project.session.path.exists())
    written = panel.project.session.path.stat().st_mtime_ns
    time.sleep(0.02)
    panel.project.check()
    wait_until(lambda: not panel.project._writing.running)
    assert panel.project.session.path.stat().st_mtime_ns == written
    panel.step(0, 1)
    panel.project.check()
    wait_until(lambda: panel.project.session.path.stat().st_mtime_ns != written, 10)
    assert [role_of(layer) for layer in panel.viewer.layers].count("crosshair") == 1


def test_parameters_are_remembered_but_not_what_belongs_to_a_file(make_napari_viewer, monkeypatch):
    viewer = make_napari_viewer()
    panel = session.open_panel(viewer, session.WORKSPACE)
    panel.disks_step.form.editors["method"].put("light")
    panel.disks_step.form.editors["max_disks"].put(77)
    panel.disks_step.run_form.editors["max_memory"].setText("500MB")
    panel.disks_step.apply_run()
    panel.strain_step.form.editors["axis_deg"].put(30.0)
    panel.lattice_step.form.editors["g1"].put((10.0, 0.0))
    panel.lattice_step.form.editors["g2"].put((0.0, 10.0))
    panel.lattice_step.apply()
    panel.shut_down()
    again = StemWorkspace(viewer)
    assert (again.state.settings.disk_params.method, again.state.settings.disk_params.max_disks) == ("light", 77)
    assert again.state.settings.run_params.max_memory == "500MB" and again.state.settings.strain_params.axis_deg == 30.0
    assert again.state.settings.strain_params.g1 is None
    assert again.disks_step.form.editors["method"].get() == "light"
    again.frame.findChild(QToolButton, "project_menu").entries["Default parameters"].trigger()
    assert again.state.settings.disk_params == DiskParams() and again.state.settings.strain_params == StrainParams()
    assert again.disks_step.form.editors["method"].get() == "fcunet"
    again.disks_step.form.editors["method"].put("template")
    again.shut_down()
    chosen = {("run", "device"): "cpu", ("live", "enabled"): False}  # the preferences go first
    monkeypatch.setattr(session, "setting", lambda category, name, default: chosen.get((category, name), default))
    third = StemWorkspace(viewer)
    assert third.state.settings.run_params.device == "cpu" and not third.state.live_enabled
    assert third.state.settings.disk_params.method == "template"
    third.shut_down()
