"""Heights of spots at given places: exact where the tails of neighbours are given, the same on one thread and on two."""

from __future__ import annotations

import numpy as np

from napari_emdl.atoms.find.heights import SpotHeights


def picture(places: np.ndarray, heights: np.ndarray, width: float, shape: tuple[int, int]) -> np.ndarray:
    row, col = np.mgrid[: shape[0], : shape[1]]
    image = np.full(shape, 3.0)
    for (r, c), height in zip(places, heights, strict=True):
        image += height * np.exp(-0.5 * ((row - r) ** 2 + (col - c) ** 2) / width**2)
    return image


def test_heights_are_those_of_the_spots_under_the_tails_of_their_neighbours() -> None:
    width, rng = 5.0, np.random.default_rng(1)
    places = np.array([(i, j) for i in range(4, 120, 13) for j in range(6, 120, 14)], float) + rng.uniform(-1, 1, (81, 2))
    heights = np.where(np.arange(81) % 2 == 0, 1.0, 0.2)
    image = picture(places, heights, width, (124, 126))
    found, error, shift = SpotHeights(image, places, np.eye(2) * width**2).fits(heights)
    # the image is read between its pixels, which lowers peaks by a percent
    assert np.abs(found - heights).max() < 0.04 and error.max() < 0.02 and np.linalg.norm(shift, axis=1).max() < 0.4
    moved = SpotHeights(image, places + np.array([0.4, -0.3]), np.eye(2) * width**2).fits(heights)[2][heights == 1]
    assert np.abs(moved - [-0.4, 0.3]).max() < 0.15


def test_an_empty_place_has_no_height_and_threads_change_nothing() -> None:
    width = 4.0
    places = np.array([(i, j) for i in range(3, 1000, 11) for j in range(3, 700, 11)], float)  # more than one part
    heights = np.ones(len(places))
    heights[::7] = 0.0
    image = picture(places[:0], heights[:0], width, (1003, 703))
    spot = picture(np.array([[16.0, 16.0]]), np.ones(1), width, (33, 33)) - 3.0
    padded = np.pad(image, 16)
    for (r, c), height in zip(places.astype(int), heights, strict=True):
        padded[r : r + 33, c : c + 33] += height * spot
    image = padded[16:-16, 16:-16]
    one = SpotHeights(image, places, np.eye(2) * width**2, unit=2.0)
    found = one.heights(heights / 2)
    assert np.abs(found - heights / 2).max() < 0.02
    two = SpotHeights(image, places, np.eye(2) * width**2, unit=2.0, threads=2)
    np.testing.assert_allclose(two.heights(heights / 2), found)
    np.testing.assert_allclose(one.fits(heights / 2)[0], found)


def test_no_places() -> None:
    none = SpotHeights(np.zeros((20, 20)), np.zeros((0, 2)), np.eye(2))
    assert none.heights(np.zeros(0)).shape == (0,) and none.fits(np.zeros(0))[2].shape == (0, 2)
