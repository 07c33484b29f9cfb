"""From a file to a finished figure by real clicks, six at most, for each kind of file: scripts/walk.py on small ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_emdl.gui.kit import session
from napari_emdl.gui.kit.signals import signal_layers
from napari_emdl.samples.atoms import blinking_movie

pytestmark = pytest.mark.gui
MOST_CLICKS = 6


@pytest.fixture
def walk(make_napari_viewer, monkeypatch, tmp_path):
    """Walks from a file to its figure and returns the way."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    from walk import Walk, walk

    def go(path: Path, pixel_A: float = 0.2) -> Walk:
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1366, 768)
        (tmp_path / "out").mkdir()
        way = Walk(viewer, tmp_path / "out", pixel_A=pixel_A, still_s=0.05)
        walk(way, path)
        assert len(way.clicks) <= MOST_CLICKS, way.clicks
        return way

    return go


def test_a_pattern_in_a_tiff_is_recognised_and_becomes_a_figure(walk, small_sample, tmp_path):
    tifffile.imwrite(tmp_path / "pattern.tif", np.asarray(small_sample[0].data)[2, 3])
    way = walk(tmp_path / "pattern.tif")
    assert "Open as 4D-STEM" in way.clicks
    panel = session.registered(way.viewer, session.WORKSPACE)
    assert panel.state.cube.shape == (1, 1, 64, 64) and panel.state.cube.path.endswith("pattern.tif")
    assert session.registered(way.viewer, session.COLUMNS) is None, "nothing is left for the HRTEM panel"
    assert all(panel.maps.layer(name) is None for name in ("exx", "eyy", "exy", "theta_rad")), "one pattern is no map"
    assert "±" not in way.viewer.text_overlay.text and "nothing to be compared" in panel.strain_step.evidence.text()
    assert not any("out of sight" in remark for remark in way.remarks)


def test_an_image_without_pixel_size_asks_for_it_in_the_panel(walk, tmp_path):
    movie, _ = blinking_movie((1, 128, 128), seed=1)
    np.save(tmp_path / "image.npy", np.asarray(movie.data)[0])
    way = walk(tmp_path / "image.npy", movie.pixel_A)
    panel = session.registered(way.viewer, session.COLUMNS)
    assert "pixel size" in way.clicks and panel.session.movie.pixel_A == pytest.approx(movie.pixel_A)
    assert not panel.notices.lines, "an image of atoms is no pattern"
    assert panel.run_button.isHidden(), "its columns are there already"


def test_a_movie_without_pixel_size_asks_in_the_panel_of_diffusion_too(make_napari_viewer, wait_until):
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    from napari_emdl.base.signals import in_memory

    movie, _ = blinking_movie((3, 128, 128), seed=1)
    viewer = make_napari_viewer(show=True)
    panel = session.open_panel(viewer, session.DIFFUSION)
    for data in signal_layers(in_memory(np.asarray(movie.data), "movie", name="bare")):
        viewer._add_layer_from_data(*data)
    wait_until(lambda: panel.session.movie is not None)
    assert panel.pixel_box.isVisible() and not panel.fit_button.isEnabled()
    editor = panel.pixel_box.form.editors["pixel_size_A"]
    QTest.mouseClick(editor.lineEdit(), Qt.MouseButton.LeftButton)
    QTest.keyClicks(editor, str(movie.pixel_A))
    QTest.keyClick(editor, Qt.Key.Key_Return)
    assert panel.session.movie.pixel_A == pytest.approx(movie.pixel_A, abs=1e-4)
    assert panel.fit_button.isEnabled() and panel.pixel_box.isHidden()


def test_a_datacube_becomes_a_strain_figure(walk, small_sample, tmp_path):
    np.save(tmp_path / "cube.npy", np.asarray(small_sample[0].data)[:3, :3])
    way = walk(tmp_path / "cube.npy")
    assert way.clicks[-3:] == ["Figure", "Save", "file dialog: Save"]


def test_an_image_opened_as_a_pattern_goes_to_its_own_panel(make_napari_viewer, wait_until, tmp_path):
    from qtpy.QtWidgets import QPushButton

    np.save(tmp_path / "image.npy", np.asarray(blinking_movie((1, 128, 128), seed=1)[0].data)[0])
    viewer = make_napari_viewer(show=True)
    panel = session.open_panel(viewer, session.WORKSPACE)
    panel.disks_step.form.editors["method"].put("template")
    panel.open_button.open(tmp_path / "image.npy")
    wait_until(lambda: panel.notices.lines)
    assert "looks like an image" in panel.notices.lines[0]
    panel.notices.findChild(QPushButton, "notice_action").click()
    wait_until(lambda: session.registered(viewer, session.COLUMNS) is not None)
    columns = session.registered(viewer, session.COLUMNS)
    wait_until(lambda: columns.session.movie is not None)
    assert columns.session.movie.kind == "image" and not panel.notices.lines


def test_a_stack_of_patterns_asks_for_its_scan(make_napari_viewer, wait_until, small_sample, tmp_path):
    from qtpy.QtWidgets import QPushButton

    from napari_emdl.gui.kit.open_dialog import OpenDialog

    np.save(tmp_path / "stack.npy", np.asarray(small_sample[0].data)[0])
    viewer = make_napari_viewer(show=True)
    panel = session.open_panel(viewer, session.COLUMNS)
    panel.project_row.open_button.open(tmp_path / "stack.npy")
    wait_until(lambda: panel.notices.lines)
    panel.notices.findChild(QPushButton, "notice_action").click()
    dialog = viewer.window._qt_window.findChild(OpenDialog)
    dialog.editor("shape").setText("2x4")
    dialog.refresh()
    dialog.accept_when_ready()
    wait_until(lambda: session.registered(viewer, session.WORKSPACE) is not None)
    workspace = session.registered(viewer, session.WORKSPACE)
    wait_until(lambda: workspace.state.cube is not None)
    assert workspace.state.cube.shape == (2, 4, 64, 64)
