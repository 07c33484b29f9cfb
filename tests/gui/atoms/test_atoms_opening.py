"""From a file to the panels without a menu."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_emdl.gui.kit import session
from napari_emdl.samples.atoms import blinking_movie

pytestmark = pytest.mark.gui


@pytest.mark.parametrize(("frames", "names"), [(6, {session.COLUMNS, session.DIFFUSION}), (1, {session.COLUMNS})])
def test_a_movie_opens_its_panels(make_napari_viewer, wait_until, tmp_path, frames, names):
    """Columns in front, and for a movie the diffusion behind them; for an image the columns alone."""
    movie = np.asarray(blinking_movie((6, 128, 128), seed=1)[0].data)[:frames]
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, movie.squeeze().astype(np.float32), metadata={"axes": "TYX" if frames > 1 else "YX"})
    viewer = make_napari_viewer(show=True)
    viewer.open(path, plugin="napari-emdl")
    known = (session.COLUMNS, session.DIFFUSION, session.WORKSPACE)
    wait_until(lambda: {name for name in known if session.registered(viewer, name) is not None} == names)
    panel = session.registered(viewer, session.COLUMNS)
    wait_until(lambda: panel.isVisible(), what="the columns in front")
    if frames > 1:  # also when the window places the second panel late
        diffusion = session.registered(viewer, session.DIFFUSION)
        session.tabify(viewer, diffusion, session.COLUMNS, behind=diffusion.behind)
        wait_until(lambda: not panel.visibleRegion().isEmpty(), what="the columns in front")
        return
    # what is opened after it comes to the front, in whatever order
    np.save(tmp_path / "scan.npy", np.random.default_rng(1).poisson(2, (2, 3, 32, 32)).astype(np.uint16))
    viewer.open(tmp_path / "scan.npy", plugin="napari-emdl")
    wait_until(lambda: session.registered(viewer, session.WORKSPACE) is not None)
    workspace = session.registered(viewer, session.WORKSPACE)
    wait_until(lambda: not workspace.visibleRegion().isEmpty() and panel.visibleRegion().isEmpty(), what="the scan in front")
    docks = viewer.window._qt_window.tabifiedDockWidgets(session.dock_of(workspace))
    assert session.dock_of(panel) in docks and not viewer.layers["movie"].visible and workspace.canvas.isVisible()
    viewer.open(path, plugin="napari-emdl")
    wait_until(lambda: not panel.visibleRegion().isEmpty(), what="the image in front")
    assert viewer.layers["movie [1]"].visible and not viewer.layers["scan"].visible
    viewer.open(tmp_path / "scan.npy", plugin="napari-emdl")
    wait_until(lambda: not workspace.visibleRegion().isEmpty() and viewer.layers["scan [1]"].visible, what="the second scan")
    assert not viewer.layers["movie [1]"].visible


def test_a_panel_that_was_closed_does_nothing_any_more(make_napari_viewer, wait_until):
    """Opened again it draws its columns once: the one before does not follow."""
    from napari_emdl.gui.kit.signals import signal_layers

    viewer = make_napari_viewer(show=True)
    first = session.open_panel(viewer, session.COLUMNS)
    session.remove_dock(viewer, first)
    assert first.closed and session.registered(viewer, session.COLUMNS) is None
    second = session.open_panel(viewer, session.COLUMNS)
    assert second is not first
    for data in signal_layers(blinking_movie((1, 128, 128), seed=1)[0]):
        viewer._add_layer_from_data(*data)
    wait_until(lambda: second.session.candidates.n_done > 0 and len(viewer.layers) > 1, what="columns")
    assert [layer.name for layer in viewer.layers].count("columns") == 1 and len(viewer.layers) == 2
