"""Noise in wide vacuum falls; the fading rim of a crystal, clear single atoms and images without a lattice stay."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.equivalent import DOUBT
from napari_emdl.atoms.find.strays import without_strays

A, B = np.array([1.0, 20.0]), np.array([17.0, 3.0])


def crystal(rows: int = 8, cols: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Positions in px and scores, clear but for the last four columns of the lattice, which fade."""
    ij = np.array([(i, j) for i in range(rows) for j in range(cols)])
    noise = np.random.default_rng(0).normal(0, 0.5, (len(ij), 2))
    return ij @ np.stack([B, A]) + 20 + noise, np.where(ij[:, 1] < cols - 4, 0.95, 0.6)


def vacuum(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform([200, 10], [420, 300], (count, 2))


def test_noise_beside_a_crystal_falls_and_its_fading_rim_stays() -> None:
    columns, score = crystal()
    noise = vacuum(110, 1)
    assert np.median(cKDTree(noise).query(noise, k=2)[0][:, 1]) < np.linalg.norm(A)  # as dense as the columns
    found = without_strays(np.r_[columns, noise], np.r_[score, np.full(len(noise), 0.6)])
    assert np.array_equal(found[: len(columns)], score)
    assert np.mean(found[len(columns) :] == DOUBT) > 0.9


def test_clear_atoms_on_a_support_and_weak_candidates_stay_as_they_are() -> None:
    columns, score = crystal()
    noise = vacuum(20, 2)
    some = np.where(np.arange(20) < 10, 0.9, 0.1)
    found = without_strays(np.r_[columns, noise], np.r_[score, some])
    assert np.array_equal(found, np.r_[score, some])


def test_without_a_lattice_nothing_changes() -> None:
    noise = vacuum(80, 3)
    score = np.random.default_rng(4).uniform(0.3, 1.0, 80)
    assert np.array_equal(without_strays(noise, score), score)
    assert without_strays(np.zeros((0, 2)), np.zeros(0)).shape == (0,)


def test_columns_beside_chains_of_twice_the_period_stay() -> None:
    """A perovskite along [110]: B sites and oxygen make chains of half the period, which is no step between the A sites."""
    rng = np.random.default_rng(5)
    down, across = np.array([29.5, 0.3]), np.array([0.2, 42.0])
    cells = np.array([(i, j) for i in range(13) for j in range(9)]) @ np.stack([down, across]) + 20
    rim = (cells[:, 1] > 300) & (cells[:, 0] < 160)  # no chain was seen there, and the A sites are in doubt
    chain = np.concatenate([cells[~rim] + across / 2, cells[~rim] + across / 2 + down / 2])
    position = np.concatenate([cells, chain])
    position += rng.normal(0, 0.3, position.shape)
    score = np.r_[np.where(rim, 0.8, 0.95), np.full(len(chain), 0.95)]
    assert np.array_equal(without_strays(position, score), score)
