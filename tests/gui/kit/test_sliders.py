"""Sliders go with the layers that have their axes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.gui.kit import session

pytestmark = pytest.mark.gui


def test_a_hidden_movie_keeps_no_slider_under_the_maps(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    early = viewer.add_image(np.zeros((3, 4, 4)))
    early.visible = False
    session.register(viewer, "a panel", object())
    dims = viewer.window._qt_viewer.dims
    assert dims.isHidden()
    viewer.add_image(np.zeros((4, 4)))
    movie = viewer.add_image(np.zeros((5, 4, 4)))
    assert dims.isVisible()
    movie.visible = False
    assert dims.isHidden()
    early.visible = True  # whoever shows it, also by its eye in the list
    assert dims.isVisible()
    early.visible = False
    viewer.layers.remove(early)
    viewer.layers.remove(movie)
    assert dims.isVisible(), "there is nothing to slide, and nothing to hide"
    viewer.layers.append(movie)
    assert dims.isHidden()
    session.unregister(viewer, "a panel")
    assert dims.isVisible(), "napari is left as it was"
