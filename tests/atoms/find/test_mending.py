"""Dead and hot lines, missing pixels and slopes do not bury the columns."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.clean import cleaned
from napari_emdl.atoms.find.frames import Frames
from napari_emdl.atoms.find.mending import levelled, standing_out
from napari_emdl.base.signals import Movie
from napari_emdl.io.opening import open_movie


def image(seed=0):
    """(rows, cols) float32 with columns 22 pixels apart."""
    r, c = np.mgrid[:200, :200]
    clean = 1000 + 200 * np.cos(2 * np.pi * r / 22) * np.cos(2 * np.pi * c / 22)
    return (clean + np.random.default_rng(seed).normal(0, 40, clean.shape)).astype(np.float32)


@pytest.mark.parametrize("value", [0, 65535])
def test_lines_of_a_camera_are_filled_from_both_sides(value):
    good = image()
    bad = good.copy()
    bad[61] = value
    bad[:, 120:124] = value
    clean = cleaned(bad)
    assert clean is not None and clean.hidden is None and clean.flaws == ("lined_frames",)
    assert np.abs(clean.image - good).max() < 400  # of noise of 40 and columns of 200
    assert np.array_equal(
        np.delete(np.delete(clean.image, 61, 0), range(120, 124), 1), np.delete(np.delete(good, 61, 0), range(120, 124), 1)
    )


def test_rows_of_a_lattice_and_noisy_lines_stay():
    r = np.mgrid[:200, :200][0]
    fringes = (100 + 80 * np.cos(2 * np.pi * r / 9)).astype(np.float32)
    assert standing_out(fringes, None) is None
    noisy = image() + np.random.default_rng(1).normal(0, 150, (200, 1)).astype(np.float32)
    assert standing_out(noisy, None) is None


def test_strong_slopes_and_vignettes_go_and_others_stay():
    good = image()
    r, c = (v / 200 - 0.5 for v in np.mgrid[:200, :200])
    for uneven in (good + 3000 * r + 2000 * c, good - 6000 * (r**2 + c**2)):
        flat = levelled(uneven.astype(np.float32), None)
        assert np.corrcoef(flat.ravel(), good.ravel())[0, 1] > 0.97
    slight = (good + 100 * r).astype(np.float32)
    assert levelled(slight, None) is slight


def test_finders_do_not_see_pixels_that_the_signal_knows_to_be_missing():
    frames = np.stack([image(seed) for seed in range(4)]).round().astype(np.uint16)
    good = frames.copy()
    frames[:, 40] = 65535  # no value
    movie = open_movie(frames, kind="movie")
    assert isinstance(movie, Movie)
    read = Frames(movie).read(0, 4)
    assert read.dtype == np.uint16
    assert read[:, 40].max() < 1600 and np.array_equal(np.delete(read, 40, 1), np.delete(good, 40, 1))
