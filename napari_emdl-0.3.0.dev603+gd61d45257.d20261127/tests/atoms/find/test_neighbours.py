"""Neighbouring frames: which, how far they moved, what their means hold."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.neighbours import Aligner, NeighbourReader, counts_for, nearest_frames, with_neighbours
from napari_emdl.samples.atoms import Conditions, blinking_movie


@pytest.mark.parametrize(
    ("frames", "available", "counts"),
    [(1, 40, (0, 0)), (3, 40, (2, 0)), (9, 40, (2, 6)), (9, 2, (1, 0)), (9, 5, (2, 2)), (9, 1, (0, 0))],
)
def test_numbers_of_neighbours(frames, available, counts):
    assert counts_for(frames, available) == counts


def test_nearest_frames_stay_in_the_movie():
    assert nearest_frames(5, 20, 4) == [4, 6, 3, 7]
    assert nearest_frames(0, 20, 3) == [1, 2, 3]
    assert nearest_frames(19, 20, 2) == [18, 17]
    assert nearest_frames(1, 3, 8) == [0, 2]


@pytest.fixture(scope="module")
def movie():
    movie, truth = blinking_movie((12, 224, 224), 1, conditions=Conditions(pixel_A=0.1, dose_e_per_A2=40))
    return np.asarray(movie.data), truth


def test_drift_is_measured_to_a_fraction_of_a_column(movie):
    frames, truth = movie
    aligner = Aligner(frames.shape[1:], 0.1)
    found = aligner.shifts(aligner.spectra(list(frames)), 5)
    error = found - (truth.drift_px - truth.drift_px[0])
    assert np.abs(error - error.mean(0)).max() < 2.0  # 0.2 A


def test_jumps_far_beyond_a_lattice_spacing_are_followed(movie):
    frames, _ = movie
    jumped = np.stack([frames[0], np.roll(frames[0], (31, -44), (0, 1)), np.roll(frames[1], (31, -44), (0, 1))])
    aligner = Aligner(frames.shape[1:], 0.1)
    found = aligner.shifts(aligner.spectra(list(jumped)))
    assert np.abs(found[1] - [31, -44]).max() < 2


def test_a_blank_frame_is_taken_where_the_last_one_was(movie):
    frames, _ = movie
    aligner = Aligner(frames.shape[1:], 0.1)
    shifts = aligner.shifts(aligner.spectra([frames[0], np.roll(frames[0], 3, 0), np.zeros_like(frames[0])]))
    assert np.allclose(shifts[2], shifts[1], atol=0.1)


def test_means_are_of_the_moved_frames_and_pass_over_missing_pixels():
    scene = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    steps = np.array([[0, 0], [2, -3], [4, 1], [-1, 5]])
    frames = [np.roll(scene, tuple(s), (0, 1)) for s in steps]
    frames[3][10:20] = np.nan
    out = with_neighbours(frames, steps.astype(float), 1, (2, 1))
    inner = (slice(8, -8), slice(8, -8))
    assert np.array_equal(out[0], frames[1])
    for channel in (1, 2):
        np.testing.assert_allclose(out[channel][inner], frames[1][inner], atol=1e-6)


def test_without_neighbours_the_channels_are_empty():
    frame = np.ones((20, 20), np.float32)
    out = with_neighbours([frame], np.zeros((1, 2)), 0, (0, 0))
    assert np.array_equal(out[0], frame) and not out[1:].any()


def test_a_frame_is_the_same_in_whatever_block_it_is_read(movie):
    frames, _ = movie
    reader = NeighbourReader(lambda a, b: frames[a:b], len(frames), (2, 6), 0.1)
    whole = reader.read(0, 12)
    assert whole.shape == (12, 3, 224, 224)
    for t in (0, 5, 11):
        assert np.array_equal(reader.read(t, t + 1)[0], whole[t])
    # means of 2 and 6 frames have that much less noise
    noise = [np.std(whole[5, k][:20, :20]) for k in range(3)]
    assert noise[1] < 0.85 * noise[0] and noise[2] < 0.65 * noise[1]
