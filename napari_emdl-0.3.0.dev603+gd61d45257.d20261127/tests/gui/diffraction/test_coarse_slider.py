"""The slider on a scan of 16,384 positions: a coarse map at once, which says so, and the whole one when the slider rests."""

from __future__ import annotations

import time

import numpy as np
import pytest

from helpers.disks_made import G, lattice_scan
from napari_emdl.diffraction.fit.coarse import CoarseScan
from napari_emdl.gui.diffraction.layers import disk_layers
from napari_emdl.gui.kit import session

pytestmark = pytest.mark.gui

SHAPE = (128, 128)


def test_a_coarse_map_then_the_whole_one(make_napari_viewer, wait_until):
    viewer = make_napari_viewer(show=True)
    panel = session.open_panel(viewer, session.WORKSPACE)
    for data in disk_layers(lattice_scan(SHAPE)):
        viewer._add_layer_from_data(*data)
    state = panel.state
    wait_until(lambda: state.found.kept is not None and not state.busy)
    state.fit()
    wait_until(lambda: state.found.strain is not None and not state.busy)
    before, layer = state.found.strain, panel.maps.layer(panel.maps.chosen)
    fine = np.array(layer.data)
    seen: list[tuple[float, str]] = []
    state.coarse_changed.connect(lambda: seen.append((time.monotonic(), viewer.text_overlay.text)))

    state.set_threshold(0.6)
    wait_until(lambda: state.coarse is not None, what="a coarse map")
    assert state.found.strain is before, "the whole map was faster"
    coarse, step = np.array(layer.data), state.coarse.step
    assert coarse.shape == SHAPE and np.array_equal(coarse[0], np.repeat(coarse[0, ::step], step)[: SHAPE[1]])
    wait_until(lambda: f"coarse map: every {step}th position" in viewer.text_overlay.text)

    wait_until(lambda: state.found.strain is not before and not state.busy)
    assert state.coarse is None
    wait_until(lambda: "coarse" not in viewer.text_overlay.text)
    whole = np.array(layer.data)
    assert not np.array_equal(whole, fine) and np.unique(whole[0]).size > SHAPE[1] / 2
    assert np.nanmedian(np.abs(coarse - whole)) < 0.3  # per cent: what changes within a block


def test_a_fit_that_was_asked_before_the_slider_moved_on_is_not_shown(make_napari_viewer, wait_until):
    viewer = make_napari_viewer(show=True)
    panel = session.open_panel(viewer, session.WORKSPACE)
    for data in disk_layers(lattice_scan(SHAPE)):
        viewer._add_layer_from_data(*data)
    state = panel.state
    wait_until(lambda: state.found.kept is not None and not state.busy)
    state.fit()
    wait_until(lambda: state.found.strain is not None and not state.busy)
    before = state.found.strain
    state.set_threshold(0.5)
    state._rest.start()
    state._on_strain("an old fit", (state.data, state.found.disks))
    assert state.found.strain is before


def test_what_is_fitted_coarsely_is_what_the_whole_scan_has_there():
    from napari_emdl.base.params import DiskLimits, StrainParams
    from napari_emdl.diffraction.fit.strain import fit_strain

    table = lattice_scan((70, 66))
    params = StrainParams(g1=tuple(G[0]), g2=tuple(G[1]))
    whole = fit_strain(table, reference="lattice", params=params.model_copy(update={"min_score": 0.6}))
    scan = CoarseScan(table)
    found = scan.strain(whole, params, DiskLimits(min_score=0.6), "lattice")
    here = np.ix_(scan.rows, scan.cols)
    assert scan.step == 3 and found.shape == (24, 22)
    assert found.mask.all() and scan.whole(found.exx).shape == (70, 66)
    for name in ("exx", "eyy", "exy", "theta_rad"):
        # a hundredth of the error: the weights follow the spread of the disks that are fitted
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name)[here], atol=5e-6)
