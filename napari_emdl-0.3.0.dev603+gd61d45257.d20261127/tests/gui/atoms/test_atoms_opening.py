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
