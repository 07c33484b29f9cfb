"""Weak sublattices and dumbbells are completed from the mean unit cell; empty places and tails stay what they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.find.completing import completed
from napari_emdl.atoms.find.motif import find_motifs, read_places
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.base.signals import Calibration, in_memory

PIXEL_A, WIDTH_PX = 0.1, 4.5


def spots(shape: tuple[int, int], places: np.ndarray, heights: np.ndarray, width_px: float = WIDTH_PX) -> np.ndarray:
    """Gaussian columns."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for (row, col), height in zip(places, heights, strict=True):
        image += height * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * width_px**2))
    return image


def field(second: tuple[float, float] = (0.5, 0.5), height: float = 0.25, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Strong and weak places of an 8 x 8 lattice of 30 x 34 px, and the heights of the weak ones."""
    cells = np.array([(i, j) for i in range(8) for j in range(8)], float)
    strong = 20 + cells * (30, 34)
    weak = strong + np.array(second) * (30, 34)
    return strong, weak, np.full(64, height)


def noisy(image: np.ndarray, seed: int = 0, sigma: float = 0.02) -> np.ndarray:
    return image + np.random.default_rng(seed).normal(0, sigma, image.shape)


def test_the_cell_shows_its_sublattices_and_their_heights() -> None:
    strong, weak, heights = field()
    motif = find_motifs(noisy(spots((280, 300), np.r_[strong, weak], np.r_[np.ones(64), heights])), strong)[0]
    assert len(motif.at) == 2
    np.testing.assert_allclose(motif.at[1], 0.5, atol=0.03)
    assert motif.height[1] / motif.height[0] == pytest.approx(0.25, abs=0.02)
    assert motif.width_px == pytest.approx(WIDTH_PX, rel=0.05)


def test_weak_columns_are_added_and_empty_places_stay_empty() -> None:
    strong, weak, heights = field()
    gone = np.random.default_rng(3).random(64) < 0.2
    image = noisy(spots((280, 300), np.r_[strong, weak], np.r_[np.ones(64), np.where(gone, 0, heights)]))
    for single in (True, False):
        found = completed(image, image, strong, np.full(64, 0.95), single)
        away, at = cKDTree(weak).query(found.position_px)
        assert away.max() < 0.6
        assert set(at) == set(np.flatnonzero(~gone))
        assert found.added_score.min() >= 0.5


def test_a_displaced_weak_column_is_marked_where_it_is() -> None:
    strong, weak, heights = field()
    moved = weak + np.array([1.5, -1.0])
    image = noisy(spots((280, 300), np.r_[strong, moved], np.r_[np.ones(64), heights]))
    found = completed(image, image, strong, np.full(64, 0.95), True)
    assert len(found.position_px) == 64
    assert cKDTree(moved).query(found.position_px)[0].max() < 0.6


def test_tails_and_ringing_are_no_columns() -> None:
    strong, weak, _ = field()
    low = noisy(spots((280, 300), np.r_[strong, weak], np.r_[np.ones(64), np.full(64, 0.06)]), sigma=0.005)
    assert not len(completed(low, low, strong, np.full(64, 0.95), True).position_px)
    # fringes of a phase-contrast image are no sum of round spots: what they show between columns is left to the network
    rows, cols = np.mgrid[:280, :300]
    waves = np.cos(2 * np.pi * (rows - 20) / 30) + np.cos(2 * np.pi * (cols - 20) / 34)
    waves += 0.8 * np.cos(4 * np.pi * (rows - 20) / 30) * np.cos(4 * np.pi * (cols - 20) / 34)
    assert not find_motifs(noisy(waves), strong)


def test_a_sublattice_that_is_mostly_empty_is_lowered_in_images_alone() -> None:
    strong, weak, heights = field()
    here = np.arange(64) % 4 == 0
    image = noisy(spots((280, 300), np.r_[strong, weak], np.r_[np.ones(64), np.where(here, heights * 2, 0)]))
    position, score = np.r_[strong, weak], np.r_[np.full(64, 0.95), np.full(64, 0.6)]
    single, movie = (completed(image, image, position, score, kind) for kind in (True, False))
    assert (single.score[64:] <= 0.3).mean() > 0.7
    assert np.all(movie.score >= score)


def test_the_second_column_of_a_dumbbell_is_found() -> None:
    strong, partner, _ = field((0.0, 0.4), 0.9)
    image = noisy(spots((280, 310), np.r_[strong, partner], np.r_[np.ones(64), np.full(64, 0.9)]), sigma=0.05)
    half = np.r_[strong, partner[::2]]
    found = completed(image, image, half, np.full(len(half), 0.95), True)
    assert len(found.position_px) == 32
    assert cKDTree(partner[1::2]).query(found.position_px)[0].max() < 1.0


def test_places_that_the_image_does_not_tell_are_neither_full_nor_empty() -> None:
    strong, weak, heights = field()
    image = noisy(spots((280, 300), np.r_[strong, weak], np.r_[np.ones(64), heights]), sigma=0.8)
    for motif in find_motifs(image, strong):
        read = read_places(image, motif)
        assert np.isnan(read.p_column[read.sublattice > 0]).mean() > 0.5


def weak_movie(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six frames of a particle whose every second column has a fifth of the height, six of these being empty."""
    step = np.array([22.0, 19.0])
    cells = np.array([(i, j) for i in range(-4, 5) for j in range(-4, 5) if i**2 + j**2 < 18])
    places, weak = 112 + cells * step, (cells.sum(1) % 2).astype(bool)
    rng = np.random.default_rng(seed)
    there = np.ones(len(cells), bool)
    there[rng.choice(np.flatnonzero(weak), 6, replace=False)] = False
    clean = 100 + spots((224, 224), places[there], np.where(weak, 120.0, 600.0)[there])
    return rng.poisson(clean, (6, 224, 224)).astype(np.uint16), places, there


def test_static_columns_of_a_weak_sublattice_are_occupied_and_empty_sites_are_not() -> None:
    frames, places, there = weak_movie()
    movie = in_memory(frames, "movie", Calibration(pixel_nm=(PIXEL_A / 10, PIXEL_A / 10)))
    columns = find_columns(movie, contrast="bright")
    passing = columns.filter(min_score=columns.attrs["default_min_score"])
    for t in range(len(frames)):
        peaks = passing.at(t)
        away = cKDTree(np.c_[peaks["row"], peaks["col"]]).query(places)[0]
        np.testing.assert_array_equal(away < 4, there)
    found = fit_occupancy(columns, movie)
    away, at = cKDTree(found.sites_px).query(places[there])
    assert away.max() < 4
    assert found.occupied[:, at].all()
    for place in places[~there]:
        near = np.linalg.norm(found.sites_px - place, axis=1) < 4
        assert not found.occupied[:, near].any()
