"""A dark level left in the counts is known by their noise, taken off and told; without one nothing changes."""

from __future__ import annotations

import numpy as np
import pytest

import napari_emdl as emdl
from helpers.disks_made import G, lattice_points, pattern
from napari_emdl.diffraction.find.darklevel import dark_level, without_dark_level
from napari_emdl.diffraction.find.patterns import count_defects, fill_missing


def counts(background: float = 0.5, height: float = 40.0, seed: int = 0) -> np.ndarray:
    place, _ = lattice_points(G, np.array([64.0, 64.0]), (128, 128))
    mean = pattern(place, (128, 128), height=height, background=background)
    return np.random.default_rng(seed).poisson(mean, (3, 128, 128)).astype(np.float32)


@pytest.mark.parametrize(("gain", "level", "readout"), [(1, 1000, 0), (1, 20, 0), (37, 1000, 0), (1, 300, 3), (0.001, 0.4, 0)])
def test_a_level_is_known_to_what_its_noise_leaves(gain: float, level: float, readout: float) -> None:
    data = gain * counts() + level
    data = data + np.random.default_rng(1).normal(0, max(readout, 1e-9), data.shape)
    found = dark_level(data.astype(np.float32))
    # half an electron of background and the readout's variance stay
    assert np.all(found <= level + gain * 1.5) and np.all(found > level - gain * (1.0 + 2.2 * readout**2))


def test_patterns_without_a_level_come_back_as_they_are() -> None:
    for data in (counts(), counts(30.0, 400.0), np.sqrt(counts(30.0, 400.0)), counts() / 400):
        assert without_dark_level(data) is data
    flat = np.full((2, 64, 64), 7.0)
    assert not dark_level(flat).any() and not dark_level(np.ones((2, 4, 4))).any()


def test_dead_pixels_and_missing_ones_do_not_hide_a_level() -> None:
    data = counts() + 500
    data[:, 40:42, 10:60] = np.nan
    data[:, 3, 3] = 0
    filled = fill_missing(data)
    assert np.median(filled) < 3
    assert count_defects(data)["n_lowered"] == 3 and count_defects(counts())["n_lowered"] == 0
    assert np.array_equal(fill_missing(filled), filled)


@pytest.mark.parametrize("method", ["template", "light"])
def test_disks_on_a_dark_level_are_those_without_it(method: str) -> None:
    data = counts(height=6.0)[None].astype(np.uint16)
    plain, raised = (emdl.find_disks(x, method=method) for x in (data, data + np.uint16(1000)))
    shown = [t.filter(min_score=t.attrs["default_min_score"]) for t in (plain, raised)]
    assert shown[0].n_peaks > 30 and abs(shown[1].n_peaks - shown[0].n_peaks) <= 2
    assert "with a dark level in the counts" in raised.attrs["note"] and "dark level" not in plain.attrs["note"]
    assert raised.attrs["probe_radius_px"] == pytest.approx(plain.attrs["probe_radius_px"], rel=0.05)
