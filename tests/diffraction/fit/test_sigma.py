"""Errors of a strain map against the map: lessened where it is flat, widened where neighbours differ, else left alone."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.disks_made import G, table_of
from napari_emdl.diffraction.fit.sigma import difference_ratio, scale_of, shared_among_disks
from napari_emdl.diffraction.lattice import fit_lattices

SHAPE = (16, 20, 3)


def maps_of(noise: float, seed: int = 0) -> np.ndarray:
    row, col = np.mgrid[:16, :20]
    smooth = 1e-3 * np.stack([row / 16, np.sin(col / 9), row * col / 320], axis=-1)
    return smooth + np.random.default_rng(seed).normal(0, noise, SHAPE)


@pytest.mark.parametrize("lag", [1, 2])
def test_second_differences_see_the_noise_and_not_the_slope(lag: int) -> None:
    ratio, n = difference_ratio(maps_of(1e-3), np.full(SHAPE, 1e-3), lag)
    assert n > 500
    assert ratio == pytest.approx(1, abs=0.12)


def test_errors_twice_too_large_are_lessened_on_a_flat_map_alone() -> None:
    noise = np.random.default_rng(1).normal(0, 1e-3, SHAPE)
    assert scale_of(noise, np.full(SHAPE, 2e-3)).factor == pytest.approx(0.55, abs=0.08)
    row = np.arange(16)[:, None, None]
    bent = noise + 4e-3 * np.sin(row / 3.0)  # real structure over some positions: nothing is known against the errors
    assert scale_of(bent, np.full(SHAPE, 2e-3)).factor == 1.0


def test_errors_too_small_are_widened_but_structure_is_no_error() -> None:
    assert scale_of(maps_of(1.5e-3), np.full(SHAPE, 1e-3)).factor == pytest.approx(1.65, abs=0.2)
    apart = np.random.default_rng(2).normal(0, 1e-2, SHAPE)  # every position its own crystal
    told = scale_of(apart, np.full(SHAPE, 1e-3))
    assert told.factor == 1.0 and "structure" not in told.how and "position to the next" in told.how


def test_what_neighbours_err_alike_their_differences_do_not_show() -> None:
    noise = maps_of(1.5e-3)
    apart = scale_of(noise, np.full(SHAPE, 1e-3)).factor
    assert scale_of(noise, np.full(SHAPE, 1e-3), 0.36).factor == pytest.approx(apart / 0.8, rel=1e-6)


def test_too_few_positions_change_nothing_and_gaps_are_left_out() -> None:
    assert scale_of(np.zeros((1, 3, 3)), np.ones((1, 3, 3))).factor == 1.0
    assert scale_of(np.zeros((1, 3, 3)), np.ones((1, 3, 3))).to_json()["neighbours"] is None
    maps = maps_of(1e-3)
    maps[3:7, 4:9] = np.nan
    assert np.isfinite(scale_of(maps, np.full(SHAPE, 1e-3)).neighbours)


def test_disks_that_a_network_is_unsure_of_err_alike():
    table = table_of(np.tile(np.eye(2), (2, 2, 1, 1)), noise_px=0.05)
    table.attrs |= {"method": "fcunet", "probe_radius_px": 5.0}
    variance = {}
    for sigma_px in (0.1, 0.5):
        known = table.with_columns(sigma_px=np.full(table.n_peaks, sigma_px))
        fit = fit_lattices(known.positions_px(), np.ones(known.n_peaks), known.offset, np.array([128.0, 128.0]), G)
        variance[sigma_px] = shared_among_disks(known, fit)
        assert (fit.n_indexed > 50).all()
    # residuals are a half of what the disks say, then a tenth, below which nothing counts
    np.testing.assert_allclose(variance[0.1], 0.85 * (0.25 / 0.55) ** 0.6, rtol=0.15)
    np.testing.assert_allclose(variance[0.5], (0.85 + 0.05 * fit.n_indexed) * (0.1 / 0.55) ** 0.6)
    known.attrs["method"] = "template"
    assert (shared_among_disks(known, fit) == 1).all()
