"""The live panel in a real window: frames appear in a folder, are analysed, and stopping loses nothing."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tifffile

from napari_emdl.gui.atoms.live import LivePanel
from napari_emdl.gui.kit.session import role_of
from napari_emdl.samples.atoms import blinking_movie

pytestmark = pytest.mark.gui


@pytest.fixture
def panel(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    made = LivePanel(viewer)
    viewer.window.add_dock_widget(made)
    return made


def test_watch_stop_and_go_on(panel, tmp_path, wait_until):
    movie, _ = blinking_movie((12, 128, 128), seed=2)
    frames = np.asarray(movie.data)
    camera = tmp_path / "camera"
    camera.mkdir()

    def write(first, last):
        for t in range(first, last):
            tifffile.imwrite(camera / f"frame_{t:03d}.tif", frames[t])

    assert "Choose what to watch" in panel.hint.text() and not panel.start_button.isEnabled()
    panel.place.setText(str(camera))  # typed: the result file is proposed and shown
    assert panel.output.text() == str(tmp_path / "camera_live.h5")
    panel.model_box.setCurrentIndex(panel.model_box.findData("log"))
    panel.column_form.editors["pixel_size_A"].put(movie.pixel_A)
    panel.occupancy_form.editors["frame_interval_s"].put(0.5)
    panel.start_button.click()
    write(0, 8)
    wait_until(lambda: panel.state is not None and panel.state.done == 8, 60, "eight frames")
    assert panel.done_label.text() == "8" and panel.backlog_label.text() == "0"
    wait_until(lambda: panel.image is not None and panel.image in panel.viewer.layers, what="the newest frame")
    panel.stop_button.click()
    wait_until(lambda: panel.job is None, 60, "the end of the watch")
    assert (tmp_path / "camera_live.h5").is_file() and panel.start_button.text() == "Go on"
    assert not panel.restart_button.isHidden()
    panel.start_button.click()
    write(8, 12)
    wait_until(lambda: panel.state is not None and panel.state.done == 12, 60, "the other four")
    panel.stop()
    wait_until(lambda: panel.job is None, 60)
    assert "12 frames" in panel.note.text() and str(tmp_path / "camera_live.h5") in panel.note.text()
    assert panel.viewer.scale_bar.visible
    assert panel.rates.table.columnCount() > 1
    assert sum(role_of(layer) == "sites" for layer in panel.viewer.layers) == 1
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("napari-emdl")], 5, "the threads")


def test_a_folder_that_is_not_there_is_one_line(panel, tmp_path, wait_until):
    panel.watch_place(str(tmp_path / "elsewhere"))
    panel.watch_place(str(tmp_path / "nowhere"))
    assert panel.output.text() == str(tmp_path / "nowhere_live.h5"), "a proposal follows; what was typed stays"
    panel.output.setText("")
    panel.start_button.click()
    wait_until(lambda: panel.job is None)
    assert "there is no folder" in panel.note.text()
    assert panel.output.text() == str(tmp_path / "nowhere_live.h5"), "a watch always has a file"
    assert panel.start_button.isEnabled()
    assert panel.minimumSizeHint().height() < 650 and panel.minimumSizeHint().width() < 450
