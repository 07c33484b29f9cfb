"""Spikes, missing pixels and empty borders do not reach a network; resampling; thresholds from probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.find.clean import cleaned, empty_border, without_spikes
from napari_emdl.atoms.find.expected import ThresholdRule, always, expected_f1
from napari_emdl.atoms.find.normalise import local_normalise
from napari_emdl.atoms.find.resample import Grid


def spots(background=100.0, height=60.0, seed=0):
    r, c = np.mgrid[:160, :160]
    image = background + height * sum(
        np.exp(-((r - y) ** 2 + (c - x) ** 2) / (2 * 4.5**2)) for y in range(12, 160, 22) for x in range(12, 160, 22)
    )
    return np.random.default_rng(seed).poisson(image).astype(np.float32)


def test_hot_pixels_go_and_columns_stay():
    image = spots()
    hot = image.copy()
    hot[60, 71] = 4000
    hot[3, 150] = 60000
    clean = without_spikes(hot)
    assert np.array_equal(np.flatnonzero(clean != image), np.flatnonzero(hot != image)) or np.abs(clean - image).max() < 60
    assert clean.max() < 300
    assert np.array_equal(without_spikes(image), image)


def test_single_electrons_and_sharp_bright_spots_are_no_spikes():
    counts = np.random.default_rng(1).poisson(0.05, (200, 200)).astype(np.float32)
    assert np.array_equal(without_spikes(counts), counts)
    r, c = np.mgrid[:64, :64]
    sharp = 10 + 5000 * np.exp(-((r - 30.3) ** 2 + (c - 20.6) ** 2) / (2 * 1.1**2)).astype(np.float32)
    assert np.array_equal(without_spikes(sharp), sharp)


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_borders_of_an_aligned_movie_are_left_out(fill):
    image = spots()
    shifted = np.full_like(image, fill)
    shifted[14:, :-9] = image[:-14, 9:]
    result = cleaned(shifted)
    assert result is not None
    filled, hidden = result.image, result.hidden
    assert hidden is not None and np.isfinite(filled).all()
    assert hidden[:14].all() and hidden[:, -9:].all() and hidden[20:, :-15].mean() < 0.01
    normal = local_normalise(filled, 0.1, hidden)
    assert not normal[hidden].any()
    # the image is scaled as if there were no border
    whole = local_normalise(image, 0.1)[:-14, 9:]
    np.testing.assert_allclose(normal[40:, :-40], whole[26:, :-31], rtol=0.15, atol=0.35)


def test_vacuum_of_a_counted_movie_is_no_border():
    counts = np.random.default_rng(2).poisson(0.01, (128, 128)).astype(np.float32)
    assert empty_border(counts) is None


def test_constant_and_missing_frames_are_nothing():
    assert cleaned(np.full((30, 30), 7)) is None
    assert cleaned(np.full((30, 30), np.nan)) is None


@pytest.mark.parametrize("shape", [(90, 120), (200, 231)])
def test_resampling_is_that_of_the_training(shape):
    torch = pytest.importorskip("torch", reason="torch is not installed (extra: train)")
    x = np.random.default_rng(0).normal(size=(150, 160)).astype(np.float32)
    ours = Grid((150, 160), shape).resample(x)
    theirs = torch.nn.functional.interpolate(torch.as_tensor(x)[None, None], size=shape, mode="bicubic", antialias=True)[0, 0]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=5e-4)


def test_expected_f1_is_what_happens():
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.5, 20000)
    right = rng.random(len(p)) < p
    threshold, f1 = expected_f1(p)
    taken = p >= threshold
    assert f1 == pytest.approx(2 * right[taken].sum() / (taken.sum() + right.sum()), abs=0.01)
    for other in (threshold - 0.15, threshold + 0.15):
        taken = p >= other
        assert 2 * right[taken].sum() / (taken.sum() + right.sum()) < f1 + 0.005


def test_threshold_follows_the_scores_where_there_is_something():
    rule = ThresholdRule(limits=(0.4, 0.5), from_f1=0.75, otherwise=(0.6, 0.5))
    clear, faint = np.r_[np.full(50, 0.95), np.full(50, 0.03)], np.full(100, 0.38)
    # what is hardly a candidate does not count
    assert rule.choose(clear) == (pytest.approx(0.475), pytest.approx(2 * 47.5 / (50 + 47.5)))
    assert rule.choose(faint)[0] == 0.6 and rule.choose(faint, neighbours=True)[0] == 0.5
    assert rule.choose(np.zeros(0)) == (0.6, 0.0) and always(0.3).choose(clear)[0] == 0.3
