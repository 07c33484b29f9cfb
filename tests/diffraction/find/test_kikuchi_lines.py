"""Bands and lines of Kikuchi under a direct beam are no disks."""

import numpy as np
import pytest

from napari_emdl.diffraction.find.disks import find_disks


def kikuchi(seed: int, side: int = 256) -> np.ndarray:
    """Counts of pairs of lines, bright and dark, some with a band between them, on a diffuse background, and a direct beam."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:side, :side]
    away = np.hypot(rows - 0.4 * side, cols - 0.5 * side)
    pole, shown = rng.uniform(0.2, 0.8, 2) * side, np.ones((side, side))
    for _ in range(10):
        turn, width = rng.uniform(0, np.pi), rng.uniform(0.03, 0.12) * side
        across = (rows - pole[0]) * np.cos(turn) + (cols - pole[1]) * np.sin(turn) - rng.normal(0, 0.02) * side
        height, soft = rng.uniform(0.3, 0.6), rng.uniform(1, 2.5)
        band = 0.5 * (np.tanh((across + width / 2) / soft) - np.tanh((across - width / 2) / soft))
        shown *= 1 + height * band * rng.choice([0.5, 1, 0])
        line = np.exp(-0.5 * ((across - width / 2) / soft) ** 2) - 0.7 * np.exp(-0.5 * ((across + width / 2) / soft) ** 2)
        shown *= 1 + height * line
    expected = (np.exp(-away / (0.4 * side)) + 0.1) * shown.clip(0.1)
    expected *= 300 / expected.mean()
    return rng.poisson(expected + 8 * expected.max() * np.clip(4.5 - away, 0, 1)).astype(np.uint16)


@pytest.mark.parametrize("seed", [1, 4, 8])
def test_places_on_kikuchi_lines_are_no_disks_and_a_line_says_so(seed: int) -> None:
    table = find_disks(kikuchi(seed)[None, None])
    assert table.filter(min_score=table.attrs["default_min_score"]).n_peaks == 0
    assert "Kikuchi lines" in table.attrs["note"]
