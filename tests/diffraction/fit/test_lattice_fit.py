"""Lattice fits of many positions: the numbers are those of the plain implementation of version 0.1, whatever makes it fast."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.diffraction import lattice
from napari_emdl.diffraction.fit.origin import brightest_of
from napari_emdl.diffraction.lattice import LatticeFit, Segments, fit_lattices

G = np.array([[26.0, 3.0], [-2.0, 24.0]])


def scan(positions: int, directed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Strained lattices with a tenth of stray disks, missing values, empty positions: position, weight, offset, precision."""
    rng = np.random.default_rng(5)
    hk = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3), indexing="ij"), axis=-1).reshape(-1, 2)
    g = G @ (np.eye(2) + rng.normal(0, 0.01, (positions, 2, 2)))
    place = 128 + np.einsum("kh,nhi->nki", hk, g) + rng.normal(0, 0.1, (positions, len(hk), 2))
    keep = rng.random(place.shape[:2]) < 0.7
    keep[::11] = False
    place, counts = place[keep], keep.sum(axis=1)
    stray = rng.random(len(place)) < 0.1
    place[stray] = rng.uniform(0, 256, (int(stray.sum()), 2))
    weight = 1 / rng.uniform(0.05, 0.3, len(place)) ** 2
    place[7], weight[13] = np.nan, np.nan
    precision = np.stack([weight, 0.5 * weight, 0.2 * weight], axis=1) if directed else None
    return place, weight, np.r_[0, np.cumsum(counts)], precision


def fit(positions: int, directed: bool) -> LatticeFit:
    place, weight, offset, precision = scan(positions, directed)
    return fit_lattices(
        place,
        weight,
        offset,
        np.full((positions, 2), 128.0),
        G,
        calibrated=True,
        precision=precision,
        independent=precision is not None,
    )


#: Sums over 40 positions: origin, g, standard errors, residual, disks on the lattice.
EXPECTED = {
    False: (9215.810380112447, 1831.066827074462, 0.6301967335476298, 3.6605523946765466, 579, -26),
    True: (9215.835680006745, 1831.0916914992767, 0.6378346599132088, 3.662400370319201, 578, -26),
}


@pytest.mark.parametrize("directed", [False, True])
def test_numbers_are_those_of_the_plain_fit(directed: bool) -> None:
    found = fit(40, directed)
    errors = np.sqrt(np.nansum(np.diagonal(found.covariance, axis1=1, axis2=2)))
    sums = (np.nansum(found.origin), np.nansum(found.g), errors, np.nansum(found.residual_px), found.used.sum(), found.hk.sum())
    np.testing.assert_allclose(sums, EXPECTED[directed], rtol=1e-9)
    assert np.isnan(found.g[::11]).all() and np.isfinite(np.delete(found.g, np.s_[::11], axis=0)).all()


@pytest.mark.parametrize("directed", [False, True])
def test_parts_change_nothing(directed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(200, directed)
    monkeypatch.setattr(lattice, "_DISKS_AT_ONCE", 100)
    parts = fit(200, directed)
    for name in ("origin", "g", "covariance", "residual_px", "n_indexed", "rank_ok", "hk", "used"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-9, atol=1e-9, err_msg=name)


def test_median_of_known_values() -> None:
    segments = Segments(np.array([0, 3, 3, 5]))
    values = np.array([3.0, 1.0, 9.0, 5.0, 4.0])
    np.testing.assert_allclose(segments.median(values), [3, np.nan, 4])
    np.testing.assert_allclose(segments.median(values, np.array([True, True, False, False, False])), [1, np.nan, np.nan])


def test_brightest_of_each_position_is_of_equals_the_first() -> None:
    bright = np.array([1.0, 5.0, 5.0, np.nan, 2.0, np.nan, 7.0])
    of = np.array([0, 0, 0, 2, 2, 3, 4])
    everything = np.ones(7, bool)
    np.testing.assert_array_equal(brightest_of(of, bright, everything), [1, 4, 5, 6])
    np.testing.assert_array_equal(brightest_of(of, bright, bright < 5), [0, 4])
    assert len(brightest_of(of, bright, ~everything)) == 0
