"""The HRTEM panels in a real window: projects, restore after a kill, presets, undo, jobs, remembered parameters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_emdl.base.params import ColumnLimits, OccupancyParams
from napari_emdl.gui import layers
from napari_emdl.gui.atoms.columns import ColumnsPanel
from napari_emdl.gui.atoms.diffusion import DiffusionPanel
from napari_emdl.gui.kit import session as kit
from napari_emdl.samples.atoms import Conditions, blinking_movie
from napari_emdl.workflow.autosave import crashed_sessions, sessions_folder
from napari_emdl.workflow.jobfile import read_job

pytestmark = pytest.mark.gui


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    movie, _ = blinking_movie((12, 112, 112), seed=3, conditions=Conditions(p_off=0.15, p_on=0.25, dose_e_per_A2=400.0))
    return np.asarray(movie.data)


@pytest.fixture
def movie_file(frames: np.ndarray, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "movie.npy", frames)
    return folder / "movie.npy"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("napari_emdl.gui.kit.worker.show_error", lines.append)
    return lines


def panels(viewer, path: Path | None = None) -> tuple[ColumnsPanel, DiffusionPanel]:
    """Both panels, with the classical finder and the movie opened as the reader does."""
    columns, diffusion = ColumnsPanel(viewer), DiffusionPanel(viewer)
    viewer.window.add_dock_widget(columns)
    viewer.window.add_dock_widget(diffusion)
    if path is not None:
        columns.model_box.setCurrentIndex(columns.model_box.findData("log"))
        columns.conditions.editors["contrast"].put("bright")
        for data in layers.read_path(str(path)):
            viewer._add_layer_from_data(*data)
    return columns, diffusion


def run_all(columns: ColumnsPanel, diffusion: DiffusionPanel, wait_until) -> None:
    """Pixel size by hand, columns, an edit, occupancy, and a threshold."""
    session = columns.session
    wait_until(lambda: session.movie is not None, what="the movie")
    columns.pixel.editors["pixel_size_A"].put(0.2)
    columns.pixel.changed.emit()
    wait_until(lambda: session.movie.pixel_A == pytest.approx(0.2) and session.candidates.n_done, what="the first columns")
    columns.run()
    wait_until(lambda: columns.finding.job is None and session.candidates.complete, what="the columns")
    columns.columns_layer.layer.add([[11.0, 12.0]])
    wait_until(lambda: session.edits.can_undo)
    diffusion.form.editors["min_site_fraction"].put(0.2)
    diffusion.form.changed.emit()
    diffusion.fit()
    wait_until(lambda: diffusion.fitting.job is None and session.occupancy is not None, what="the occupancy")
    columns.threshold.slider.setValue(140)
    wait_until(lambda: session.occupancy.attrs["min_score"] == 0.7 and not diffusion.fitting.latest.busy, what="the threshold")
    diffusion.heatmap.setCurrentText("Transitions")
    session.seek(4)
    session.viewer.add_points([[1.0, 2.0]], name="mine", units=("nm", "nm"))


def same_state(before, after) -> None:
    """Two sessions have the same settings and results."""
    assert after.data.settings == before.data.settings
    assert after.movie.pixel_A == before.movie.pixel_A and after.frame == before.frame
    assert after.edits.to_json() == before.edits.to_json() != []
    old, new = before.data.columns(), after.data.columns()
    np.testing.assert_array_equal(new.column("row"), old.column("row"))
    np.testing.assert_array_equal(new.offset, old.offset)
    np.testing.assert_array_equal(after.occupancy.p_occupied, before.occupancy.p_occupied)
    np.testing.assert_array_equal(after.occupancy.sites_px, before.occupancy.sites_px)


def test_a_project_reopens_as_it_was_also_when_it_moved(make_napari_viewer, movie_file, wait_until, monkeypatch):
    columns, diffusion = panels(make_napari_viewer(show=True), movie_file)
    run_all(columns, diffusion, wait_until)
    target = movie_file.with_name("work.emdl-project")
    columns.keeper.save(target)
    wait_until(lambda: columns.keeper.path == target and "saved work" in columns.project_row.note.text())
    moved = movie_file.parent.rename(movie_file.parent.with_name("elsewhere"))

    viewer = make_napari_viewer(show=True)
    again, fits = panels(viewer)
    again.keeper.open(moved / target.name)
    wait_until(lambda: again.session.occupancy is not None, what="the project")
    wait_until(lambda: not fits.fitting.latest.busy and fits.layers.mean is not None and again.session.frame == 4)
    same_state(columns.session, again.session)
    assert again.session.movie.path == str(moved / "movie.npy") and again.keeper.path == moved / target.name
    assert again.model_box.currentData() == "log" and again.conditions.value().contrast == "bright"
    assert fits.form.value().min_site_fraction == 0.2 and fits.heatmap.currentText() == "Transitions"
    assert again.threshold.slider.value() == 140 and "mine" in viewer.layers
    assert "measured" not in again.pixel_box.source.text() and "typed" in again.pixel_box.source.text()

    viewer = make_napari_viewer(show=True)  # File > Open shows the movie and opens the panels that were used
    viewer.open(str(moved / target.name), plugin="napari-emdl")
    wait_until(lambda: kit.registered(viewer, kit.DIFFUSION) is not None, what="the panels")
    third = kit.registered(viewer, kit.COLUMNS).session
    wait_until(lambda: third.occupancy is not None and third.occupancy.attrs["min_score"] == 0.7 and third.frame == 4)
    same_state(columns.session, third)

    np.save(moved / "other.npy", np.load(moved / "movie.npy")[:5])  # without a pixel size, so its units are pixels
    viewer.open(str(moved / "other.npy"), plugin="napari-emdl")
    wait_until(lambda: third.movie.n_frames == 5, what="another movie")
    warned: list[str] = []
    monkeypatch.setattr("napari._vispy.canvas.show_warning", warned.append)
    kit.registered(viewer, kit.COLUMNS).keeper.open(moved / target.name)
    wait_until(lambda: third.movie.n_frames == 12 and third.occupancy is not None, what="the project again")
    wait_until(lambda: not viewer.window._qt_viewer.canvas._needs_world_units_update)
    assert not warned, "nm and pixels side by side"

    viewer.close()
    viewer = make_napari_viewer(show=True)  # a project opened from the other panel opens all the same
    workspace = kit.open_panel(viewer, kit.WORKSPACE)
    workspace.project.open(moved / target.name)
    wait_until(lambda: kit.registered(viewer, kit.DIFFUSION) is not None, what="the panels of the movie")
    last = kit.registered(viewer, kit.COLUMNS).session
    wait_until(lambda: last.occupancy is not None and last.frame == 4)
    assert not workspace.notices.lines and last.data.settings == columns.session.data.settings


def test_a_project_of_a_movie_that_is_put_aside_goes_back_to_it(make_napari_viewer, movie_file, frames, wait_until):
    viewer = make_napari_viewer(show=True)
    columns, diffusion = panels(viewer, movie_file)
    session = columns.session
    wait_until(lambda: session.movie is not None, what="the movie")
    first, target = session.layer, movie_file.with_name("work.emdl-project")
    columns.keeper.save(target)
    wait_until(lambda: columns.keeper.path == target)
    diffusion.layers.image = first  # as after a fit, whose sites lie over it
    np.save(movie_file.with_name("other.npy"), frames[:5])
    for data in layers.read_path(str(movie_file.with_name("other.npy"))):
        viewer._add_layer_from_data(*data)
    wait_until(lambda: session.movie.n_frames == 5 and not first.visible)
    columns.keeper.open(target)
    wait_until(lambda: session.layer is first and first.visible, what="the project")
    movies = session.movie_layers()
    assert len(movies) == 2 and [layer.visible for layer in movies] == [True, False]


def test_what_cannot_be_saved_or_opened(make_napari_viewer, movie_file, frames, wait_until, told, tmp_path):
    from napari_emdl.base.signals import Calibration, in_memory

    columns, _ = panels(make_napari_viewer(show=True))
    assert columns.keeper.save(tmp_path / "x") is None and "open a movie" in told[-1]
    for data in layers.signal_layers(in_memory(frames, "movie", Calibration(), name="no file")):
        columns.viewer._add_layer_from_data(*data)
    wait_until(lambda: columns.session.movie is not None)
    assert columns.keeper.save(tmp_path / "x") is None and "is not a file" in told[-1]
    (tmp_path / "bad.emdl-project").write_bytes(b"PK\x03\x04 not a project")
    columns.keeper.open(tmp_path / "bad.emdl-project")
    wait_until(lambda: "not a readable project file" in told[-1])
    assert columns.session.movie is not None and not (tmp_path / "x.emdl-project").exists()


KILLED = """
import sys, time
from pathlib import Path
import napari
from napari_emdl.gui.kit import projects
projects.AUTOSAVE_S = 0.2
from napari_emdl.gui import layers
from napari_emdl.gui.atoms.columns import ColumnsPanel
from napari_emdl.workflow.project import read_project
viewer = napari.Viewer(show=True)
panel = ColumnsPanel(viewer)
viewer.window.add_dock_widget(panel)
panel.model_box.setCurrentIndex(panel.model_box.findData("log"))
panel.conditions.editors["contrast"].put("bright")
for data in layers.read_path(sys.argv[1]):
    viewer._add_layer_from_data(*data)
from qtpy.QtCore import QTimer
def go():
    panel.pixel.editors["pixel_size_A"].put(0.2)
    panel.pixel.changed.emit()
    QTimer.singleShot(2500, panel.run)
def look():
    if panel.session.candidates.complete and panel.finding.job is None:
        panel.threshold.slider.setValue(150)
def written():
    if read_project(panel.keeper.session.path, {})[0].atoms.min_score == 0.75:
        Path(sys.argv[2]).touch()
panel.keeper.written.connect(written)
QTimer.singleShot(500, go)
timer = QTimer(); timer.timeout.connect(look); timer.start(100)
napari.run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_session_is_restored_after_a_kill(make_napari_viewer, movie_file, wait_until, tmp_path):
    ready = tmp_path / "ready"
    words = [sys.executable, "-c", KILLED, str(movie_file), str(ready)]
    process = subprocess.Popen(words, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + 180
    while not ready.exists():
        assert time.monotonic() < end and process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    assert crashed_sessions("atoms") == []  # it runs
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(crashed_sessions("atoms")) == 1

    panel, _ = panels(make_napari_viewer(show=True))
    offer = panel.project_row.offer
    assert not offer.isHidden() and "Restore" in offer.restore_button.text()
    offer.restore_button.click()
    session = panel.session
    wait_until(lambda: session.movie is not None and session.candidates.complete, what="the session")
    assert session.min_score == 0.75 and session.movie.pixel_A == pytest.approx(0.2)
    assert session.data.settings.columns.model == "log" and session.data.settings.columns.contrast == "bright"
    assert panel.keeper.path is None  # a session that crashed is not the user's project
    panel.keeper.check()
    wait_until(lambda: not crashed_sessions("atoms") and offer.isHidden(), what="the session to be this window's")
    panel.keeper.close()
    assert not list(sessions_folder().glob("*.emdl-project"))


def test_presets_undo_and_jobs(make_napari_viewer, movie_file, wait_until, told):
    columns, diffusion = panels(make_napari_viewer(show=True), movie_file)
    run_all(columns, diffusion, wait_until)
    session, tools = columns.session, columns.limits
    history = tools.history
    history.settle()
    columns.columns_layer.layer.visible = True  # the fit hid it
    assert history.can_undo and tools.undo_button.isEnabled() and diffusion.limits.undo_button.isEnabled()
    shown = len(columns.columns_layer.layer.data)
    tools.use("everything")
    wait_until(lambda: len(columns.columns_layer.layer.data) > shown, what="all candidates")
    assert session.min_score == 0.0 and diffusion.threshold.slider.value() == 0
    tools.undo_button.click()
    assert session.min_score == 0.7 and len(columns.columns_layer.layer.data) == shown
    diffusion.limits.redo_button.click()
    assert session.min_score == 0.0
    tools.use("default")
    assert session.data.settings.limits == ColumnLimits() and session.min_score == session.data.settings.default_min_score
    columns.threshold.slider.setValue(160)
    history.settle()
    tools.save("mine")
    tools.use("strict")
    assert session.min_score == pytest.approx((1 + session.data.settings.default_min_score) / 2)
    tools.fill_menu()
    assert "mine" in [entry.text() for entry in tools.menu.actions()]
    tools.use("mine")
    assert session.min_score == 0.8
    wait_until(lambda: session.occupancy.attrs["min_score"] == 0.8, what="the occupancy at the preset")
    job_gives_the_same(columns, diffusion, movie_file, wait_until, told)


def job_gives_the_same(columns, diffusion, movie_file, wait_until, told) -> None:
    """One threshold from slider to job to result: the job gives the occupancy that the panel shows, and loads again."""
    from napari_emdl import load
    from napari_emdl.cli import main

    session, tmp_path = columns.session, movie_file.parent
    session.set_limits(ColumnLimits(min_score=0.7))
    columns.edit_bar.undo_button.click()  # edits by hand are not part of a job
    diffusion.fit()
    wait_until(lambda: diffusion.fitting.job is None and session.occupancy.attrs["min_score"] == 0.7, what="the fit")
    wait_until(lambda: not diffusion.fitting.latest.busy)
    saved = columns.project_row.save_job(movie_file.with_name("job.yaml"))
    job = read_job(saved)
    assert [stage.stage for stage in job.stages] == ["open", "find", "fit"]
    assert job.section("occupancy").min_score == 0.7 and job.section("columns").pixel_size_A == pytest.approx(0.2)
    assert main(["run", str(saved)]) == 0
    result = load(movie_file.with_name("job.h5"))
    np.testing.assert_array_equal(result.sites_px, session.occupancy.sites_px)
    np.testing.assert_allclose(result.p_occupied, session.occupancy.p_occupied, atol=1e-6)
    assert result.attrs["provenance"]["params"]["occupancy"]["min_score"] == result.attrs["min_score"] == 0.7

    columns.project_row.use_defaults()
    wait_until(lambda: session.data.settings.occupancy == OccupancyParams())
    session.set_limits(ColumnLimits())
    diffusion.project_row.load_job(saved)
    assert session.min_score == 0.7 and diffusion.form.value().min_site_fraction == 0.2
    assert columns.model_box.currentData() == "log" and session.data.settings.columns.contrast == "bright"
    wait_until(lambda: session.candidates.n_done >= 1, what="the frame that is shown")
    (tmp_path / "disks.yaml").write_text("command: disks\ninput: a\noutput: b\ndisks: {}\n")
    columns.project_row.load_job(tmp_path / "disks.yaml")
    assert "4D-STEM workspace" in told[-1]
    (tmp_path / "bad.yaml").write_text("command: fly")
    columns.project_row.load_job(tmp_path / "bad.yaml")
    assert "bad.yaml" in told[-1]


def test_parameters_are_remembered(make_napari_viewer, movie_file, wait_until):
    columns, diffusion = panels(make_napari_viewer(show=True), movie_file)
    wait_until(lambda: columns.session.movie is not None and not columns._debounce.isActive())
    diffusion.form.editors["max_distance_A"].put(0.6)
    diffusion.form.changed.emit()
    columns.run_form.editors["workers"].put(1)
    columns.run_form.changed.emit()
    wait_until(lambda: columns.session.data.settings.run.workers == 1)
    columns.close()
    diffusion.close()
    again, fits = panels(make_napari_viewer(show=True))
    assert again.model_box.currentData() == "log" and again.run_form.value().workers == 1
    assert fits.form.value().max_distance_A == 0.6
    assert again.conditions.value().contrast == "auto"  # belongs to the movie
    again.project_row.use_defaults()
    assert again.model_box.currentData() is None and fits.form.value() == OccupancyParams()


def test_help(make_napari_viewer):
    columns, _ = panels(make_napari_viewer(show=True))
    columns.project_row.help_button.click()
    from qtpy.QtWidgets import QMessageBox

    boxes = columns.findChildren(QMessageBox)
    assert boxes and "Run on movie" in boxes[0].text()
    boxes[0].close()
