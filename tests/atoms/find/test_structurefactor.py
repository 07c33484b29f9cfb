"""A lattice of which many columns are missed is told from spots at random, in rows, and on stripes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.structurefactor import LATTICE, MOST_PLACES, lattice_places, second_direction

SPACING_PX = 14.0


def honeycomb(seed: int, kept: float, scatter_px: float) -> np.ndarray:
    """Columns of graphene, some of them missed at random."""
    rng = np.random.default_rng(seed)
    a1, a2 = SPACING_PX * np.sqrt(3) * np.array([1, 0]), SPACING_PX * np.sqrt(3) * np.array([0.5, np.sqrt(3) / 2])
    i, j = (x.ravel()[:, None] for x in np.mgrid[-25:26, -25:26])
    cells = i * a1 + j * a2
    points = np.concatenate([cells, cells + (a1 + a2) / 3]) + 250
    points = points[np.all((points > 0) & (points < 500), axis=1)]
    points = points[rng.random(len(points)) < kept]
    return points + rng.normal(0, scatter_px, points.shape)


def apart(seed: int) -> np.ndarray:
    """Spots at random, none nearer than the columns of a crystal."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 500, (1, 2))
    for point in rng.uniform(0, 500, (1500, 2)):
        if np.min(np.linalg.norm(points - point, axis=1)) > SPACING_PX:
            points = np.append(points, point[None], axis=0)
    return points


@pytest.mark.parametrize("kept", [0.5, 0.7, 1.0])
def test_half_of_a_honeycomb_is_a_lattice(kept: float) -> None:
    points = honeycomb(3, kept, 1.5)
    assert lattice_places([(points, np.ones(len(points)))], 0.5) >= 0.9


def test_spots_at_random_and_rows_of_letters_are_none() -> None:
    rng = np.random.default_rng(5)
    rows = np.concatenate([np.c_[np.full(40, y), np.cumsum(rng.uniform(8, 20, 40))] for y in np.arange(10, 500, 18.0)])
    for points in (apart(1), apart(2), rows):
        assert lattice_places([(points, np.ones(len(points)))], 0.5) < MOST_PLACES / 2


def test_structure_factor_of_a_lattice_is_its_number_of_columns() -> None:
    points = SPACING_PX * np.stack(np.mgrid[0:9, 0:9], -1).reshape(-1, 2).astype(float)
    assert second_direction(points, SPACING_PX) == pytest.approx(81, rel=0.1)
    turned = points @ np.array([[0.8, -0.6], [0.6, 0.8]])
    assert second_direction(turned, SPACING_PX) == pytest.approx(81, rel=0.15)
    line = np.c_[np.arange(80) * SPACING_PX, np.random.default_rng(0).uniform(0, 400, 80)]
    assert second_direction(line, SPACING_PX) < LATTICE * 80


def test_few_spots_are_not_judged() -> None:
    points = honeycomb(1, 1.0, 0.0)[:60]
    assert np.isnan(lattice_places([(points, np.ones(len(points)))], 0.5))
