"""A scan of patterns too faint to tell each for itself shows its crystal as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl import find_disks
from napari_emdl.base.params import RunParams
from napari_emdl.diffraction.find.wholescan import shows_crystal
from napari_emdl.samples.nothing import KINDS, patterns_of


def faint_scan(rows: int, cols: int, electrons: float = 300.0, beam: bool = True) -> np.ndarray:
    """Patterns of two grains, 64 x 64 px, spots of 1.5 px."""
    random = np.random.default_rng(31)
    r, c = np.ogrid[:64, :64]
    scan = np.zeros((rows, cols, 64, 64), np.uint16)
    for at in np.ndindex(rows, cols):
        angle = np.deg2rad(8 if at[1] < cols // 2 else 33)
        g = 11 * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        mean = 1e-3 * np.ones((64, 64))
        for h, k in np.ndindex(5, 5):
            row, col = np.array([h - 2, k - 2]) @ g + random.normal(32, 0.2, 2)
            height = (float(beam) * 3.0 if h == k == 2 else 1.0) * random.uniform(0.2, 1)
            mean += height * np.exp(-((r - row) ** 2 + (c - col) ** 2) / (2 * 1.2**2))
        scan[at] = random.poisson(mean * electrons / mean.sum())
    return scan


def test_no_faint_pattern_of_a_scan_is_refused() -> None:
    scan = faint_scan(6, 8)
    whole = find_disks(scan, run=RunParams(workers=1))
    assert "no crystal" not in whole.attrs["note"]
    shown = whole.filter(min_score=whole.attrs["default_min_score"]).compact()
    assert np.mean(np.diff(shown.offset) >= 2) > 0.95


@pytest.mark.parametrize("beam", [True, False])
def test_pairs_tell_a_crystal_with_and_without_its_direct_beam(beam: bool) -> None:
    images = list(faint_scan(4, 8, 600.0, beam).reshape(-1, 64, 64).astype(float))
    assert shows_crystal(images, 1.5)
    assert not shows_crystal(images[:3], 1.5)  # too few to say more than one does


@pytest.mark.parametrize("kind", list(KINDS))
def test_patterns_without_a_crystal_have_no_pairs(kind: str) -> None:
    made = [np.asarray(p, float) for p in patterns_of(kind, 24, seed=41)]
    shape = made[0].shape
    assert not shows_crystal([p for p in made if p.shape == shape], 4.0)
