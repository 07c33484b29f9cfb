"""A ring beneath a crystal's disks makes no disks, disks on it and polycrystal rings stay; pairs about the beam are seen."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl import find_disks
from napari_emdl.diffraction.find.candidates import Found
from napari_emdl.diffraction.find.friedel import in_pairs
from napari_emdl.diffraction.find.rings import Rings

RADIUS, BEAM = 4.0, np.array([97.0, 94.0])
ROW, COL = np.mgrid[:192, :192]


def lattice() -> np.ndarray:
    """(n, 2) disks of a square lattice about the beam, which is among them."""
    index = np.stack(np.meshgrid(np.arange(-3, 4), np.arange(-3, 4), indexing="ij"), axis=-1).reshape(-1, 2)
    place = BEAM + 25.0 * index @ np.array([[0.96, 0.28], [-0.28, 0.96]])
    return place[np.all((place > 10) & (place < 181), axis=1)]


def on_circle(radius: float, count: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(count) / count + 0.1
    return BEAM + radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)


def pattern(disks: np.ndarray, ring: tuple[float, float, float] = (0.0, 1.0, 0.0), beam: float = 400.0) -> np.ndarray:
    """Poisson counts of disks of 40 electrons a pixel, the direct beam, and a ring of (radius, width, height)."""
    image = np.full(ROW.shape, 0.5)
    for place in disks:
        height = beam if np.allclose(place, BEAM) else 40.0
        image += height * np.clip(RADIUS + 0.5 - np.hypot(ROW - place[0], COL - place[1]), 0, 1)
    away = np.hypot(ROW - BEAM[0], COL - BEAM[1])
    image += ring[2] * np.exp(-0.5 * np.square((away - ring[0]) / ring[1]))
    return np.random.default_rng(5).poisson(image).astype(np.float32)


def found_at(place: np.ndarray, intensity: np.ndarray | None = None) -> Found:
    ones = np.ones(len(place))
    return Found(np.zeros(len(place), np.intp), place, 0.1 * ones, ones, ones if intensity is None else intensity, ones)


@pytest.mark.parametrize("width", [1.5, 4.0])
@pytest.mark.parametrize("hidden", [False, True])
def test_places_of_a_ring_are_told_from_disks_on_it(width: float, hidden: bool) -> None:
    disks, places = lattice(), on_circle(61.0, 40)
    disks = np.concatenate([disks, places[:1]])  # one lies on the ring
    places = places[2:-1]
    places = places[np.linalg.norm(places[:, None] - disks, axis=2).min(axis=1) > 2 * RADIUS]
    image = pattern(disks, (61.0, width, 12.0))
    intensity = np.where(np.linalg.norm(disks - BEAM, axis=1) < 1, 10.0, 1.0)
    all_places, all_intensity = np.concatenate([disks, places]), np.r_[intensity, np.full(len(places), 0.5)]
    if hidden:  # behind a stop: only the pairs tell where the beam is
        image[np.hypot(ROW - BEAM[0], COL - BEAM[1]) < 9] = 0
        seen = np.linalg.norm(all_places - BEAM, axis=1) > 1
        all_places, all_intensity, disks = all_places[seen], all_intensity[seen], disks[1:]
    ring = Rings(image[None], np.array([40.0, 150.0]), RADIUS, 0.6).hold(found_at(all_places, all_intensity))
    assert not ring[: len(disks)].any()
    assert ring[len(disks) :].mean() > 0.95


def test_spots_of_many_grains_on_one_circle_are_no_ring() -> None:
    spots = np.concatenate([BEAM[None], on_circle(30.0, 9), on_circle(60.0, 20)])
    image = pattern(spots)
    assert not Rings(image[None], BEAM, RADIUS, 0.6).hold(found_at(spots)).any()


@pytest.mark.parametrize("method", ["light", "template"])
def test_a_ring_beneath_a_crystal_makes_no_disks(method: str) -> None:
    disks = lattice()
    image = pattern(disks, (61.0, 1.6, 12.0))
    table = find_disks(image[None, None], method=method)
    shown = table.filter(min_score=table.attrs["default_min_score"]).positions_px()
    distance = np.linalg.norm(shown[:, None] - disks, axis=2)
    assert (distance.min(axis=1) > 1.5).sum() <= 1
    assert (distance.min(axis=0) < 1.5).mean() > 0.95


def test_pairs_are_those_of_a_crystal_and_not_of_chance() -> None:
    random = np.random.default_rng(8)
    disks, scattered = lattice(), random.uniform(15, 177, (25, 2))
    place = np.concatenate([disks, [[20.0, 33.0]], scattered])
    found = found_at(place)
    found.which = np.r_[np.zeros(len(disks) + 1, np.intp), np.ones(25, np.intp)]
    pattern_has, disk_has = in_pairs(found, np.ones(len(place), bool), 2, BEAM, RADIUS)
    np.testing.assert_array_equal(pattern_has, [True, False])
    both = np.linalg.norm((2 * BEAM - disks)[:, None] - disks, axis=2).min(axis=1) < 0.1
    np.testing.assert_array_equal(disk_has[: len(disks)], both)
    assert not disk_has[len(disks) :].any()
