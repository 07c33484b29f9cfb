"""The HRTEM columns panel in a real window."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Calibration, in_memory
from napari_emdl.gui import layers
from napari_emdl.gui.atoms.columns import ColumnsPanel
from napari_emdl.gui.kit.session import DIFFUSION, dock_of, open_panel, tag_of
from napari_emdl.samples.atoms import blinking_movie

pytestmark = pytest.mark.gui


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("napari-emdl")]


class Slow:
    """Frames that take their time, so that a run can be stopped in the middle."""

    def __init__(self, data, seconds):
        self.data, self.seconds, self.shape, self.dtype = np.asarray(data), seconds, data.shape, data.dtype

    def __getitem__(self, index):
        part = self.data[index]
        time.sleep(self.seconds * (len(part) if part.ndim == 3 else 1))
        return part


@pytest.fixture(scope="module")
def sample():
    return blinking_movie((16, 128, 128), seed=1)


@pytest.fixture
def show(make_napari_viewer):
    """Open a movie as the reader does, with the panel beside it and the classical finder chosen."""

    def make(movie):
        viewer = make_napari_viewer(show=True)
        panel = ColumnsPanel(viewer)
        viewer.window.add_dock_widget(panel)
        panel.model_box.setCurrentIndex(panel.model_box.findData("log"))
        for data in layers.signal_layers(movie):
            viewer._add_layer_from_data(*data)
        return panel

    return make


@pytest.fixture
def panel(show, sample, wait_until):
    made = show(sample[0])
    wait_until(lambda: made.columns_layer.layer is not None and len(made.columns_layer.layer.data), what="first columns")
    wait_until(lambda: not made._debounce.isActive() and not made.finding.latest.busy)
    return made


def test_current_frame_is_found_first_and_follows_slider_and_plot(panel, sample, wait_until):
    movie, truth = sample
    session = panel.session
    assert session.candidates.n_done < movie.n_frames
    panel.viewer.dims.set_current_step(0, 5)
    wait_until(lambda: session.candidates.rows(5) is not None, what="columns of frame 5")
    layer = panel.columns_layer.layer
    assert session.frame == 5 and {"score", "sigma_px", "species", "intensity"} <= set(layer.features)
    here = truth.sites_px[truth.occupied[5]] + truth.drift_px[5]
    distance = np.hypot(*(here[:, None] - layer.data[None]).transpose(2, 0, 1)).min(1)
    assert np.mean(distance * movie.pixel_A < 0.5) > 0.9
    assert sum(tag_of(other).get("role") == "columns" for other in panel.viewer.layers) == 1
    np.testing.assert_allclose(layer.scale, session.layer.scale[-2:])
    panel.counts.seek.emit(7)
    assert session.frame == 7 and panel.viewer.dims.current_step[0] == 7
    assert panel.counts.line.value() == 7


def test_a_second_movie_is_followed_and_the_first_comes_back_as_it_was(panel, sample, wait_until, tmp_path):
    session, viewer, first = panel.session, panel.viewer, panel.session.layer
    history = panel.limits.history
    panel.threshold.slider.setValue(60)
    history.settle()
    found, limits = session.candidates, session.data.settings.limits
    assert viewer.scale_bar.visible and history.can_undo
    np.save(tmp_path / "stack.npy", np.asarray(sample[0].data)[:3, :64, :64])
    panel.project_row.open_button.open(tmp_path / "stack.npy")
    wait_until(lambda: session.layer is not first, what="the second movie")
    assert session.movie.frame_shape == (64, 64) and panel.movie_box.currentText() == session.layer.name
    assert not first.visible and session.layer.visible and viewer.layers.selection.active is session.layer
    assert "unknown" in panel.hint.text() and panel.pixel.editors["pixel_size_A"].get() is None
    assert panel.status.text() == "" and not history.can_undo, "steps of the first do not act on the second"
    assert session.candidates.n_done == 0 and panel.edit_bar.legend.text() == ""
    second = session.layer
    panel.movie_box.setCurrentIndex(panel.movie_box.findData(first))
    panel.movie_box.activated.emit(panel.movie_box.currentIndex())
    assert session.candidates is found and session.data.settings.limits == limits
    assert first.visible and not second.visible and len(panel.columns_layer.layer.data) > 0
    history.undo()
    assert session.data.settings.limits.min_score is None
    cube = np.zeros((2, 3, 8, 9), np.uint8)
    np.save(tmp_path / "cube.npy", cube)
    panel.project_row.open_button.open(tmp_path / "cube.npy")
    wait_until(lambda: panel.notices.lines, what="the advice")
    dialog = panel.project_row.open_button.dialog
    assert "datacube" in panel.notices.lines[0] and dialog.reason.text() == panel.notices.lines[0]
    dialog.editor("kind").put("focal_series")
    dialog.refresh()
    wait_until(lambda: not dialog.busy)
    assert "focal series: 2 x 3" in dialog.line.text()
    dialog.accept_when_ready()
    wait_until(lambda: session.movie.kind == "focal_series", what="the focal series")
    assert not panel.notices.lines


def test_threshold_is_a_view_of_all_frames(panel, wait_until, sample):
    panel.run_button.click()
    wait_until(lambda: panel.finding.job is None, what="the run")
    session = panel.session
    assert session.candidates.n_done == sample[0].n_frames
    shown = len(panel.columns_layer.layer.data)
    before = session.candidates
    panel.threshold.slider.setValue(20)
    wait_until(lambda: len(panel.columns_layer.layer.data) > shown)
    wait_until(lambda: panel.counts._curve.yData.min() > shown)
    assert session.candidates is before
    counts = session.data.counts()
    assert counts[session.frame] == len(panel.columns_layer.layer.data)
    panel.threshold.default_button.click()
    wait_until(lambda: len(panel.columns_layer.layer.data) == shown)


def test_cancel_keeps_what_is_done_and_resume_goes_on(show, sample, wait_until):
    slow = replace(sample[0], data=Slow(sample[0].data, 0.1))
    panel = show(slow)
    wait_until(
        lambda: panel.session.candidates.n_done >= 1 and not panel._debounce.isActive() and not panel.finding.latest.busy
    )
    panel.run()
    wait_until(lambda: panel.session.candidates.n_done >= 4, what="some frames")
    panel.bar.cancel()
    wait_until(lambda: panel.finding.job is None, 5, "the end of the job")
    done = panel.session.candidates.n_done
    assert 4 <= done < slow.n_frames
    assert panel.run_button.text().startswith("Resume") and not panel.restart_button.isHidden()
    panel.run()
    wait_until(lambda: panel.finding.job is None, what="the rest")
    assert panel.session.candidates.n_done == slow.n_frames
    wait_until(lambda: not threads(), 5, "the threads")


def test_edits_by_hand_with_undo(panel, wait_until):
    layer = panel.columns_layer.layer
    count = len(layer.data)
    panel.edit_bar.buttons["add"].click()
    assert str(layer.mode) == "add"
    layer.add([[11.0, 12.0]])
    wait_until(lambda: "1 by hand" in panel.edit_bar.legend.text())
    assert len(layer.data) == count + 1
    layer.selected_data = {0, 1}
    panel.edit_bar.delete_button.click()
    edits = panel.session.edits
    wait_until(lambda: len(edits.of(panel.session.frame).removed) == 2)
    assert len(layer.data) == count - 1
    moved = layer.data.copy()
    moved[0] += 3.0
    first = moved[0].copy()
    layer.data = moved
    wait_until(lambda: "2 by hand" in panel.edit_bar.legend.text())
    assert np.isclose(layer.data, first).all(axis=1).any()
    for expected in (count - 1, count + 1, count):
        panel.edit_bar.undo_button.click()
        wait_until(lambda expected=expected: len(layer.data) == expected)
    assert not panel.edit_bar.undo_button.isEnabled()
    panel.edit_bar.redo_button.click()
    wait_until(lambda: len(layer.data) == count + 1)


def test_edits_are_saved(panel, wait_until, tmp_path):
    from napari_emdl.io import load

    panel.run()
    wait_until(lambda: panel.finding.job is None)
    frame = panel.session.frame
    shown = len(panel.columns_layer.layer.data)
    panel.columns_layer.layer.add([[11.0, 12.0]])
    wait_until(lambda: panel.session.edits.can_undo)
    panel.save_to(str(tmp_path / "columns.h5"))
    wait_until(lambda: "saved" in panel.project_row.note.text())
    table = load(tmp_path / "columns.h5")
    assert table.counts()[frame] == shown + 1
    opened = layers.read_path(str(tmp_path / "columns.h5"))
    assert len(opened) == 1


def test_unknown_pixel_size_is_guessed_on_demand(show, sample, wait_until):
    movie, _ = sample
    panel = show(in_memory(np.asarray(movie.data), "movie", Calibration(), name="no pixel size"))
    wait_until(lambda: "pixel size is unknown" in panel.hint.text())
    box = panel.pixel_box
    assert box.guess_button.isVisibleTo(box)
    box.guess_button.click()
    wait_until(lambda: panel.session.movie.pixel_A is not None, what="a guess of the pixel size")
    assert 0.6 < panel.session.movie.pixel_A / movie.pixel_A < 1.6
    assert "guessed" in box.source.text() and not box.guess_button.isVisibleTo(box)
    wait_until(lambda: panel.session.candidates.n_done >= 1, what="columns with the guessed pixel size")


def test_unknown_pixel_size_is_said_and_measured(show, sample, wait_until):
    movie, _ = sample
    panel = show(in_memory(np.asarray(movie.data), "movie", Calibration(), name="no pixel size"))
    wait_until(lambda: "pixel size is unknown" in panel.hint.text())
    assert not panel.run_button.isEnabled() and not panel.hint.isHidden()
    from napari_emdl.gui.atoms.pixelsize import PixelSizeDialog

    dialog = PixelSizeDialog(panel.session.movie, 0, panel)
    dialog.measured.connect(lambda pixel_A: panel.session.use_pixel_A(pixel_A, "measured"))
    wait_until(lambda: dialog._spectrum is not None)
    spectrum = dialog._spectrum
    rows, cols = np.indices(spectrum.shape)
    ring = np.hypot(rows - 64, cols - 64)
    spot = np.unravel_index(np.argmax(np.where((ring > 4.5) & (ring < 12), spectrum, 0)), spectrum.shape)
    dialog.choose(float(spot[0]) + 1, float(spot[1]))
    assert dialog.pixel_A is not None, dialog.result_label.text()
    dialog.spacing.setValue(dialog.spacing.value() * movie.pixel_A / dialog.pixel_A)
    dialog.accept()
    assert panel.session.movie.pixel_A == pytest.approx(movie.pixel_A, rel=1e-3)
    np.testing.assert_allclose(panel.session.layer.scale[-2:], movie.pixel_A / 10, rtol=1e-3)
    wait_until(lambda: panel.session.candidates.n_done >= 1, what="columns with the measured pixel size")
    assert "measured" in panel.pixel_box.source.text()


def test_settings_find_the_frame_again(panel, wait_until):
    before = panel.session.candidates
    panel.conditions.editors["contrast"].put("dark")
    wait_until(lambda: panel.session.candidates is not before and panel.session.candidates.n_done == 1)
    assert panel.session.candidates.attrs["contrast"] == "dark"
    assert panel.session.data.settings.columns == ColumnParams(model="log", contrast="dark")


def test_of_two_readings_a_click_takes_one(panel, wait_until):
    panel.readings.follow({})
    assert not panel.readings.isVisible()
    panel.readings.follow({"readings": {"bright": 40.0, "dark": 3.0}})
    bright, dark = panel.readings.buttons["bright"], panel.readings.buttons["dark"]
    assert panel.readings.isVisible() and bright.text() == "bright: 40 columns"
    wait_until(lambda: not dark.icon().isNull(), what="the pictures of both readings")
    dark.click()
    assert not panel.readings.isVisible()
    wait_until(lambda: panel.session.candidates.attrs.get("contrast") == "dark", what="columns of the reading that was clicked")
    assert panel.session.data.settings.columns.contrast == "dark"


def test_nothing_open_says_what_to_do(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    panel = ColumnsPanel(viewer)
    viewer.window.add_dock_widget(panel)
    assert "Open a movie" in panel.hint.text() and not panel.run_button.isEnabled()
    viewer.add_image(np.zeros((8, 8, 3), np.uint8), rgb=True)
    assert panel.session.movie is None
    assert panel.minimumSizeHint().height() < 650 and panel.minimumSizeHint().width() < 450


def test_bad_model_is_one_line_and_the_window_goes_on(panel, wait_until, monkeypatch):
    from napari_emdl.base.errors import EmdlError
    from napari_emdl.gui.atoms import finding

    def broken(*_):
        raise EmdlError("this network does not fit the movie")

    panel.finding.latest._function = broken
    panel.viewer.dims.set_current_step(0, 9)
    wait_until(lambda: panel.status.text() == "this network does not fit the movie")
    panel.finding.latest._function = finding.find_frame
    panel.viewer.dims.set_current_step(0, 10)
    wait_until(lambda: panel.session.candidates.rows(10) is not None)


def test_closing_leaves_no_thread(show, sample, wait_until):
    panel = show(replace(sample[0], data=Slow(sample[0].data, 0.05)))
    wait_until(lambda: panel.session.movie is not None)
    panel.run()
    panel.close()
    wait_until(lambda: not threads(), 5, "the threads")


def test_a_hidden_layer_is_filled_when_it_is_shown_again(panel, wait_until):
    layer, session = panel.columns_layer.layer, panel.session
    layer.visible = False
    for frame in (2, 3, 4):
        session.seek(frame)
        wait_until(lambda frame=frame: session.candidates.rows(frame) is not None)
    layer.visible = True
    rows, _ = session.edits.merge(4, session.candidates.rows(4), session.min_score)
    np.testing.assert_allclose(layer.data, np.stack([rows["row"], rows["col"]], -1))
    assert len(layer.border_color) == len(rows)
    inserted, layers = [], panel.viewer.layers
    layers.remove(layer)
    layers.events.inserted.connect(lambda event: inserted.append(event.value.name))
    layers.remove(session.layer)  # its axes go, and the frame with them
    assert session.movie is None and not inserted, "nothing is added while a layer is taken off: Qt's list would stumble"


def test_a_panel_that_opens_later_keeps_what_was_found(panel, wait_until):
    """Opening the panel used to forget the columns and occupancy that a file or another panel had brought."""
    panel.run()
    wait_until(lambda: panel.finding.job is None and panel.session.candidates.complete)
    found = panel.session.candidates
    again = ColumnsPanel(panel.viewer)
    panel.viewer.window.add_dock_widget(again)
    wait_until(lambda: not again._debounce.isActive() and len(again.columns_layer.layer.data) > 0)
    assert again.session.candidates is found and found.complete
    viewer, window = panel.viewer, panel.viewer.window._qt_window
    window.resize(1366, 740)
    diffusion = open_panel(viewer, DIFFUSION)
    wait_until(lambda: window.tabifiedDockWidgets(dock_of(diffusion)), what="the tab beside the columns")
    wait_until(
        lambda: diffusion._area.viewport().width() >= diffusion._holder.minimumSizeHint().width(), 10, "all of the panel"
    )
