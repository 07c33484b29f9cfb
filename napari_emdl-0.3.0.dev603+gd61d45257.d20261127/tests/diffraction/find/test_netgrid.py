"""The network's grid over any detector: positions go there and back exactly, counts stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_emdl.diffraction.find.netgrid import Grid, choose_centre, choose_scale


def disk(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    """Anti-aliased uniform disk on a dark detector."""
    sub = (np.arange(8) + 0.5) / 8 - 0.5
    row = (np.arange(shape[0])[:, None] + sub).ravel() - centre[0]
    col = (np.arange(shape[1])[:, None] + sub).ravel() - centre[1]
    fine = np.hypot(row[:, None], col[None, :]) <= radius
    return fine.reshape(shape[0], 8, shape[1], 8).mean(axis=(1, 3)).astype(np.float32) * 100


def centroid(image: np.ndarray) -> np.ndarray:
    grid = np.indices(image.shape)
    return np.array([(axis * image).sum() / image.sum() for axis in grid])


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(60, 400), st.integers(60, 400)),
    st.floats(0.35, 3.0),
    st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)),
)
def test_positions_are_exact(shape: tuple[int, int], scale: float, shift: tuple[float, float]) -> None:
    """A disk's centroid on the grid, taken back to the detector, is where the disk is, to 0.01 px."""
    middle = (float(shape[0] // 2), float(shape[1] // 2))
    grid = Grid(256, scale, middle, shape)
    reach = min(shape[0], shape[1], 256 / scale)
    centre = (middle[0] + shift[0] * reach, middle[1] + shift[1] * reach)
    pattern = disk(shape, centre, 0.12 * reach)
    image = grid.resample(pattern[None])[0]
    assert image.sum() == pytest.approx(pattern.sum(), rel=2e-3)
    np.testing.assert_allclose(grid.to_detector(centroid(image)), centroid(pattern), atol=0.01)
    np.testing.assert_allclose(grid.to_detector(grid.to_grid(centre)), centre, atol=1e-9)


def test_same_size_is_the_same_image() -> None:
    patterns = np.random.default_rng(0).random((2, 256, 256), np.float32)
    grid = Grid(256, 1.0, (128.0, 128.0), (256, 256))
    np.testing.assert_array_equal(grid.resample(patterns), patterns)


@pytest.mark.parametrize("shape", [(128, 192), (256, 256), (300, 256), (257, 255), (515, 512)])
def test_whole_pixel_shifts_keep_every_count(shape: tuple[int, int]) -> None:
    patterns = np.random.default_rng(1).poisson(3, (1, *shape)).astype(np.float32)
    centre = (float(shape[0] // 2 + 3), float(shape[1] // 2 - 5))
    image = Grid(256, 1.0, centre, shape).resample(patterns)[0]
    at = np.array([shape[0] // 2, shape[1] // 2])
    row, col = (np.array([128, 128]) + at - np.array(centre)).astype(int)
    assert image[row, col] == patterns[0, at[0], at[1]]


def test_beyond_the_detector_lies_its_border() -> None:
    patterns = np.full((1, 100, 100), 7.0, np.float32)
    np.testing.assert_allclose(Grid(256, 1.0, (50.0, 50.0), (100, 100)).resample(patterns), 7.0)
    np.testing.assert_allclose(Grid(256, 2.0, (50.0, 50.0), (100, 100)).resample(patterns), 7.0 / 4, rtol=1e-5)


def test_scale_follows_the_radius_first() -> None:
    trained = (2.2, 16.0)
    assert choose_scale(6.0, (256, 256), 256, trained) == 1.0
    assert choose_scale(6.0, (250, 256), 256, trained) == 1.0
    assert choose_scale(12.0, (512, 512), 256, trained) == 0.5
    assert choose_scale(60.0, (512, 512), 256, trained) < 0.26  # too large for the network: coarser, padded
    assert choose_scale(2.5, (1024, 1024), 256, trained) > 0.9  # too small: cut at the edge rather than lost
    assert choose_scale(3.0, (64, 64), 256, trained) == 4.0


def test_centre_moves_only_when_it_must() -> None:
    assert choose_centre((131.0, 124.0), 1.0, (256, 256)) == (128.0, 128.0)
    assert choose_centre((150.2, 124.0), 1.0, (256, 256)) == (150.0, 124.0)
