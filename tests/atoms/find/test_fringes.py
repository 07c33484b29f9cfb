"""Lattice fringes, Moiré and gratings in noise are no columns; a few faint spots are not either. Each says so in one line."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.find.fringes import fringe_share

PIXEL_A = 0.13


def planes(size: int, spacing_A: float, turn_rad: float) -> np.ndarray:
    """Lattice planes, -1 to 1."""
    rows, cols = np.mgrid[:size, :size]
    return np.cos(2 * np.pi * PIXEL_A / spacing_A * (rows * np.cos(turn_rad) + cols * np.sin(turn_rad)))


def noisy(scene: np.ndarray, counts: float, depth: float, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 31]).poisson(counts * (1 + depth * scene)).astype(np.float32)


def scene_of(kind: str, size: int) -> np.ndarray:
    one = planes(size, 2.6, 0.4)
    if kind == "fringes":
        return one
    if kind == "grating":
        return np.sign(one)
    return ((1 + one) * (1 + planes(size, 2.8, 0.44)) - 1) / 3


@pytest.mark.parametrize("kind", ["fringes", "grating", "moire"])
@pytest.mark.parametrize("size", [96, 128, 200])
def test_fringes_have_no_columns(kind: str, size: int) -> None:
    table = find_columns(noisy(scene_of(kind, size), 12, 0.35, size), pixel_size_A=PIXEL_A)
    assert not len(table.filter(min_score=table.attrs["default_min_score"]).positions_px())
    assert "no columns" in table.attrs["note"]


def test_planes_in_two_directions_are_a_lattice() -> None:
    points = np.random.default_rng(3).uniform(20, 236, (40, 2))
    one, other = planes(256, 2.6, 0.4), planes(256, 2.6, 0.4 + np.pi / 3)
    assert fringe_share(noisy(one, 12, 0.35, 1), points, PIXEL_A) == 1
    assert fringe_share(noisy(one + 0.5 * other, 12, 0.2, 2), points, PIXEL_A) == 0
    assert np.isnan(fringe_share(noisy(0 * one, 12, 0.35, 4), points, PIXEL_A))


def test_a_noisy_lattice_keeps_its_columns() -> None:
    lattice = sum(planes(160, 2.6, 0.4 + k * np.pi / 3) for k in range(3)) / 3
    table = find_columns(noisy(lattice, 12, 0.35, 5), pixel_size_A=PIXEL_A)
    assert len(table.filter(min_score=table.attrs["default_min_score"]).positions_px()) > 20


@pytest.mark.parametrize("seed", range(4))
def test_a_few_faint_spots_of_noise_are_no_columns(seed: int) -> None:
    image = np.random.default_rng([seed, 97]).poisson(0.3, (200, 200)).astype(np.float32)
    table = find_columns(image, pixel_size_A=0.2)
    assert not len(table.filter(min_score=table.attrs["default_min_score"]).positions_px())
    assert "no columns" in table.attrs["note"]
