"""Scores in doubt follow the places that the crystal makes equivalent; nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.equivalent import find_translations, pooled_scores

A, B = np.array([1.0, 20.0]), np.array([17.0, 3.0])


def lattice(rows: int = 7, cols: int = 7, offset: tuple[float, float] = (0.0, 0.0), seed: int = 0) -> np.ndarray:
    ij = np.array([(i, j) for i in range(rows) for j in range(cols)])
    noise = np.random.default_rng(seed).normal(0, 0.4, (len(ij), 2))
    return ij @ np.stack([A, B]) + 20 + np.array(offset) + noise


def halfway(rows: int = 7, cols: int = 7) -> np.ndarray:
    return lattice(rows, cols, tuple(A / 2), 1)


def test_the_vectors_are_those_of_the_lattice() -> None:
    found = find_translations(lattice())
    assert found is not None
    away = [min(np.linalg.norm(v - s * w) for s in (1, -1) for w in (A, B)) for v in found.vectors]
    assert max(away) < 0.5


@pytest.mark.parametrize("parts", [2, 3])
def test_a_step_along_a_chain_is_no_vector_of_the_lattice(parts: int) -> None:
    """Of columns and chains of them only the whole period leads from each column to another."""
    down, across = np.array([30.0, 0.4]), np.array([0.3, 43.0])
    cells = np.array([(i, j) for i in range(9) for j in range(8)]) @ np.stack([down, across]) + 10
    chains = [cells + across / 2 + down * k / parts for k in range(parts)]
    columns = np.concatenate([cells, *chains])
    found = find_translations(columns + np.random.default_rng(parts).normal(0, 0.3, columns.shape), whole=True)
    assert found is not None
    area = abs(np.linalg.det(found.vectors))
    assert area == pytest.approx(30 * 43, rel=0.03)


def test_chance_finds_half_way_fall_and_a_sublattice_stands() -> None:
    rng = np.random.default_rng(2)
    strong, weak = lattice(), halfway()
    positions = np.concatenate([strong, weak])
    by_chance = np.concatenate([np.full(len(strong), 0.95), rng.uniform(0.05, 0.8, len(weak))])
    pooled = pooled_scores(positions, by_chance)
    assert (by_chance[len(strong) :] >= 0.5).sum() > 15
    assert (pooled[len(strong) :] >= 0.5).sum() <= 2
    assert np.array_equal(pooled[: len(strong)], by_chance[: len(strong)])
    seen = np.concatenate([np.full(len(strong), 0.95), np.where(rng.random(len(weak)) < 0.15, 0.4, 0.9)])
    pooled = pooled_scores(positions, seen)
    inside = pooled[len(strong) : len(strong) + 42]  # the last row lies outside the crystal of the strong ones
    assert (inside >= 0.5).mean() > 0.95


def test_a_vacancy_stays_empty_and_an_odd_atom_stays() -> None:
    strong = lattice()
    odd = strong[24] + A / 2
    positions = np.concatenate([strong, odd[None]])
    scores = np.full(len(positions), 0.95)
    scores[17] = 0.2  # a vacancy
    scores[-1] = 0.9  # clearly seen where no other is
    np.testing.assert_array_equal(pooled_scores(positions, scores), scores)


@pytest.mark.parametrize("count", [10, 80])
def test_without_a_lattice_nothing_changes(count: int) -> None:
    rng = np.random.default_rng(5)
    positions, scores = rng.uniform(0, 200, (count, 2)), rng.uniform(0, 1, count)
    np.testing.assert_array_equal(pooled_scores(positions, scores), scores)


def test_two_grains_are_judged_by_their_own_vectors() -> None:
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    other = lattice(seed=3) @ turn.T + (0, 260)
    places = [lattice(), halfway(), other, halfway() @ turn.T + (0, 260)]
    positions = np.concatenate(places)
    rng = np.random.default_rng(6)
    scores = np.concatenate([np.full(49, 0.95), rng.uniform(0.05, 0.8, 49), np.full(49, 0.95), np.full(49, 0.84)])
    scores[[157, 164, 172]] = 0.4
    pooled = pooled_scores(positions, scores)
    assert (pooled[49:98] >= 0.5).sum() <= 3
    assert (pooled[147:] >= 0.5).sum() >= 48  # but for a corner, where there is little to compare with


def test_doubt_away_from_the_lattice_is_left_alone() -> None:
    strong = lattice()
    far = np.array([[900.0, 900.0], [930.0, 880.0]])
    positions = np.concatenate([strong, far])
    scores = np.r_[np.full(len(strong), 0.95), 0.5, 0.6]
    for amorphous in (np.zeros((0, 2)), np.random.default_rng(3).uniform(600, 1000, (40, 2))):
        at, score = np.concatenate([positions, amorphous]), np.r_[scores, np.full(len(amorphous), 0.9)]
        np.testing.assert_array_equal(pooled_scores(at, score), score)


def test_many_columns_have_the_lattice_of_a_part_of_them() -> None:
    ij = np.stack(np.meshgrid(np.arange(90), np.arange(90), indexing="ij"), -1).reshape(-1, 2)
    columns = ij @ np.stack([A, B]) + np.random.default_rng(4).normal(0, 0.4, (len(ij), 2))
    found = find_translations(columns)
    assert found is not None
    away = [min(np.linalg.norm(v - s * w) for s in (1, -1) for w in (A, B)) for v in found.vectors]
    assert max(away) < 0.2 and len(found.columns.data) == len(columns)
