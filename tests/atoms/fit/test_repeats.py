"""Frames that repeat the one before are told from frames that look like it."""

from __future__ import annotations

import numpy as np

from napari_emdl.atoms.fit.frames import frame_reader
from napari_emdl.atoms.fit.repeats import repeated_frames
from napari_emdl.io.opening import open_movie


def movie(noise, frames=24):
    """(frames, 90, 90), columns under noise that changes."""
    r, c = np.mgrid[:90, :90]
    clean = 200 + 60 * np.cos(2 * np.pi * r / 18) * np.cos(2 * np.pi * c / 18)
    return (clean + np.random.default_rng(3).normal(0, noise, (frames, 90, 90))).astype(np.float32)


def test_repeats_are_found_exact_and_after_a_codec():
    data = movie(30.0)
    again = np.zeros(len(data), bool)
    again[2::3] = True
    data[again] = data[1::3][: again.sum()]
    assert np.array_equal(repeated_frames(data.__getitem__, len(data)), again)
    data[again] += np.random.default_rng(0).normal(0, 2, data[again].shape).astype(np.float32)
    assert np.array_equal(repeated_frames(data.__getitem__, len(data)), again)


def test_without_noise_or_with_frames_alike_nothing_is_said():
    assert not repeated_frames(movie(30.0).__getitem__, 24).any()
    assert not repeated_frames(movie(0.0).__getitem__, 24).any()
    still = movie(0.0)
    still[::2] += 1.0 * (np.mgrid[:90, :90][0] > 70)  # a model of a movie: nothing changes in every other frame
    assert not repeated_frames(still.__getitem__, 24).any()


def test_torn_frames_and_spikes_are_not_measured():
    data = movie(30.0).round().astype(np.uint16)
    data[5, 50:] = 0
    data[7, :40] = 65535
    data[9, 33, 44] = 60000
    read = frame_reader(open_movie(data, kind="movie"))
    for _ in range(2):  # from what was remembered as well
        assert np.isnan(read(5)[50:]).all() and np.isfinite(read(5)[:48]).all()
        assert np.isnan(read(7)[:40]).all() and np.isfinite(read(7)[42:]).all()
        assert read(9).max() < 500 and np.isfinite(read(9)).all()
    assert np.isfinite(frame_reader(open_movie(data, kind="movie"), mended=False)(9)).all()  # pictures show what was recorded
