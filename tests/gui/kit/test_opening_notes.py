"""What opening a file had to say stands in the panel, with the dialog that takes the file otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image
from qtpy.QtWidgets import QPushButton, QToolButton

from napari_emdl.gui.kit import session
from napari_emdl.gui.kit.open_dialog import OpenDialog
from napari_emdl.gui.kit.suggest import proposed

pytestmark = pytest.mark.gui


@pytest.mark.parametrize(
    ("note", "options"),
    [
        ("colours; `kind='movie'` opens its three planes as frames", {"kind": "movie"}),
        (
            "`frames=(4, 28)` or `frames=(0, 24)` leaves out some, `shape=(3, 8)` takes all",
            {"frames": (4, 28), "shape": (3, 8)},
        ),
        ("give `shape=(rows, cols)`, `axes='QKRC'` or `q_pixel_invA`", {"axes": "QKRC"}),
    ],
)
def test_what_a_note_proposes(note, options):
    assert proposed(note) == options


def test_three_frames_that_a_file_calls_colours_are_told_and_opened_as_a_movie(make_napari_viewer, wait_until, tmp_path):
    frames = np.random.default_rng(0).poisson(40, (3, 48, 64)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "three.tif", frames, photometric="rgb", planarconfig="separate")
    viewer = make_napari_viewer(show=True)
    viewer.open(str(tmp_path / "three.tif"), plugin="napari-emdl")
    wait_until(lambda: session.registered(viewer, session.COLUMNS) is not None)
    panel = session.registered(viewer, session.COLUMNS)
    wait_until(lambda: panel.notices.lines, what="the note")
    assert panel.session.movie.kind == "image" and "three: colours were turned into their luminance" in panel.notices.lines[0]
    told = panel.notices.lines[0]
    panel.pixel.editors["pixel_size_A"].put(0.2)
    panel.pixel.changed.emit()
    wait_until(lambda: panel.session.movie.pixel_A is not None)
    assert panel.notices.lines == [told]
    panel.notices.findChild(QPushButton, "notice_action").click()
    (dialog,) = viewer.window._qt_window.findChildren(OpenDialog)
    wait_until(lambda: dialog.open_button.isEnabled(), what="the movie in the dialog")
    assert dialog.params().kind == "movie"
    dialog.open_button.click()
    wait_until(lambda: panel.session.movie is not None and panel.session.movie.n_frames == 3, what="the movie")
    assert not panel.notices.lines and len(panel.session.movie_layers()) == 1
    wait_until(lambda: session.registered(viewer, session.DIFFUSION) is not None, what="the panel for movies")
    assert session.registered(viewer, session.WORKSPACE) is None


def test_a_note_that_was_closed_stays_closed(make_napari_viewer, wait_until, tmp_path):
    frames = np.random.default_rng(0).poisson(40, (3, 48, 64)).astype(np.uint8)
    for name in ("one.tif", "two.tif"):
        tifffile.imwrite(tmp_path / name, frames, photometric="rgb", planarconfig="separate")
    viewer = make_napari_viewer(show=True)
    viewer.open(str(tmp_path / "one.tif"), plugin="napari-emdl")
    wait_until(lambda: session.registered(viewer, session.COLUMNS) is not None)
    panel = session.registered(viewer, session.COLUMNS)
    wait_until(lambda: panel.notices.lines, what="the note")
    first = panel.session.layer
    next(button for button in panel.notices.findChildren(QToolButton) if button.toolTip() == "Dismiss").click()
    assert not panel.notices.lines
    viewer.open(str(tmp_path / "two.tif"), plugin="napari-emdl")
    wait_until(lambda: panel.session.layer is not first and panel.notices.lines, what="the note of the other file")
    panel.session.set_layer(first)
    assert not panel.notices.lines, "it was read"
    panel.session.set_layer(viewer.layers["two"])
    assert [line[:3] for line in panel.notices.lines] == ["two"], "that of the other was not"


def test_a_screenshot_gets_the_panel_and_goes_where_the_user_says(make_napari_viewer, wait_until, tmp_path):
    grey = np.random.default_rng(1).integers(0, 200, (48, 64), dtype=np.uint8)
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "shot.png")
    viewer = make_napari_viewer(show=True)
    viewer.open(str(tmp_path / "shot.png"), plugin="napari-emdl")
    wait_until(lambda: session.registered(viewer, session.COLUMNS) is not None)
    panel = session.registered(viewer, session.COLUMNS)
    np.testing.assert_array_equal(panel.session.movie.frame(0), grey)
    viewer.layers.clear()
    viewer.open(str(tmp_path / "shot.png"), plugin="napari")
    assert viewer.layers[0].rgb
    wait_until(lambda: panel.notices.lines, what="the offer")
    assert "in colours" in panel.notices.lines[0]
    panel.notices.findChild(QPushButton, "notice_action").click()
    wait_until(lambda: panel.session.movie is not None, what="the grey of the picture")
    assert len(viewer.layers) == 1 and not viewer.layers[0].rgb and not panel.notices.lines
    panel.project_row.as_pattern()
    wait_until(lambda: session.registered(viewer, session.WORKSPACE) is not None, what="the workspace")
    workspace = session.registered(viewer, session.WORKSPACE)
    wait_until(lambda: workspace.state.cube is not None and workspace.state.cube.n_patterns == 1)
    assert session.registered(viewer, session.COLUMNS) is None
