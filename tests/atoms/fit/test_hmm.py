"""Hidden Markov chains against brute force, and the rates they give at poor detection."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_emdl.atoms.fit import hmm
from napari_emdl.atoms.fit.events import raw_rates
from napari_emdl.atoms.fit.ratespread import rate_spread_of_emissions
from napari_emdl.atoms.fit.siteclasses import BLINKING, EMPTY, OCCUPIED, fit_site_classes
from napari_emdl.base.errors import EmdlError
from napari_emdl.samples.atoms import _blink

rates = st.floats(0.01, 0.9)
evidence = arrays(np.float64, (5, 2), elements=st.floats(-4, 4))


def enumerate_paths(log_ratio, p_off, p_on):
    """Log weight of every path of one chain."""
    paths = np.array(list(product([0, 1], repeat=len(log_ratio))))
    start = p_on / (p_on + p_off)
    weight = np.log(np.where(paths[:, 0] == 1, start, 1 - start)) + (paths * log_ratio).sum(1)
    for t in range(1, len(log_ratio)):
        before, after = paths[:, t - 1], paths[:, t]
        leave = np.where(before == 1, p_off, p_on)
        weight += np.log(np.where(before == after, 1 - leave, leave))
    return paths, weight


@given(evidence, rates, rates)
@settings(max_examples=40, deadline=None)
def test_smoother_likelihood_and_viterbi_agree_with_all_paths(log_ratio, p_off, p_on):
    smoothed = hmm.smooth(log_ratio, p_off, p_on)
    path = hmm.viterbi(log_ratio, p_off, p_on)
    for site in range(log_ratio.shape[1]):
        paths, weight = enumerate_paths(log_ratio[:, site], p_off, p_on)
        p = np.exp(weight - weight.max())
        p /= p.sum()
        np.testing.assert_allclose(smoothed.p_occupied[:, site], p @ paths, atol=1e-9)
        total = np.log(np.exp(weight - weight.max()).sum()) + weight.max()
        np.testing.assert_allclose(smoothed.log_likelihood[site], total, atol=1e-8)
        best = weight[(paths == path[:, site]).all(1)][0]
        assert best == pytest.approx(weight.max(), abs=1e-9)
        steps = {"leaves": (1, 0), "stays_occupied": (1, 1), "arrives": (0, 1), "stays_empty": (0, 0)}
        for name, (before, after) in steps.items():
            expected = p @ ((paths[:, :-1] == before) & (paths[:, 1:] == after)).sum(1)
            np.testing.assert_allclose(getattr(smoothed, name)[site], expected, atol=1e-8)


def test_equilibrium_is_the_share_of_arriving():
    np.testing.assert_allclose(hmm.stationary([0.1, 0.3, 0.0, 0.2], [0.3, 0.1, 0.0, 0.0]), [0.75, 0.25, 0.5, 0.0], atol=1e-9)


def test_the_state_before_the_first_frame_may_be_known():
    log_ratio = np.array([[0.4], [-1.1], [2.0]])
    paths, weight = enumerate_paths(log_ratio[:, 0], 0.3, 0.2)
    weight += np.where(paths[:, 0] == 1, np.log(0.9 / 0.4), np.log(0.1 / 0.6))
    p = np.exp(weight) / np.exp(weight).sum()
    smoothed = hmm.smooth(log_ratio, 0.3, 0.2, first=0.9)
    np.testing.assert_allclose(smoothed.p_occupied[:, 0], p @ paths, atol=1e-9)
    np.testing.assert_allclose(smoothed.log_likelihood, np.log(np.exp(weight).sum()), atol=1e-9)


def test_no_single_frame_counts_for_more_than_exp_30():
    """However sure the evidence is, a state that the rates all but rule out is not believed for one frame."""
    sure = np.array([[-1e3], [1e3], [-1e3]])
    capped = np.clip(sure, -30, 30)
    for name in ("p_occupied", "log_likelihood"):
        np.testing.assert_array_equal(getattr(hmm.smooth(sure, 0.1, 0.1), name), getattr(hmm.smooth(capped, 0.1, 0.1), name))
    np.testing.assert_array_equal(hmm.viterbi(sure, 0.1, 0.1), [[False], [True], [False]])
    assert hmm.smooth(sure, 0.1, 0.1).log_likelihood[0] == pytest.approx(30 + np.log(0.5 * 0.1 * 0.1), abs=1e-6)


@pytest.mark.parametrize(("p_off", "p_on"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, 1.0)])
def test_rates_of_never_and_always_give_finite_chances(p_off, p_on):
    sure = np.array([[40.0, -40.0], [40.0, -40.0], [-40.0, 40.0], [40.0, -40.0]])
    smoothed = hmm.smooth(sure, p_off, p_on)
    for name in ("p_occupied", "log_likelihood", "leaves", "stays_occupied", "arrives", "stays_empty"):
        assert np.isfinite(getattr(smoothed, name)).all(), name
    steps = smoothed.leaves + smoothed.stays_occupied + smoothed.arrives + smoothed.stays_empty
    np.testing.assert_allclose(steps, 3, atol=1e-3)
    assert hmm.viterbi(sure, p_off, p_on).shape == (4, 2)


def test_a_path_has_as_many_events_as_the_posterior_expects():
    random = np.random.default_rng(4)
    truth = _blink(400, 30, 0.12, 0.12, random)
    log_ratio = random.normal(np.where(truth, 0.9, -0.9), 1.35)
    smoothed, blinking = hmm.smooth(log_ratio, 0.12, 0.12), np.arange(30) < 25
    expected = (smoothed.leaves + smoothed.arrives)[blinking].sum()

    def events(path):
        return np.count_nonzero(np.diff(path[:, blinking].astype(int), axis=0))

    plain = hmm.viterbi(log_ratio, 0.12, 0.12)
    path = hmm.path_as_eventful(log_ratio, 0.12, 0.12, smoothed, blinking)
    assert events(plain) < 0.8 * expected
    assert 0.97 * expected < events(path) <= expected
    nothing = hmm.path_as_eventful(log_ratio, 0.12, 0.12, smoothed, np.zeros(30, bool))
    np.testing.assert_array_equal(nothing, plain)


def test_each_rate_stays_its_own_where_a_path_has_events_enough():
    log_ratio = np.random.default_rng(2).normal(size=(60, 8))
    smoothed = hmm.smooth(log_ratio, 0.05, 0.4)
    few = replace(smoothed, leaves=np.zeros(8), arrives=np.zeros(8))
    path = hmm.path_as_eventful(log_ratio, 0.05, 0.4, few, np.ones(8, bool))
    np.testing.assert_array_equal(path, hmm.viterbi(log_ratio, 0.05, 0.4))
    assert (path != hmm.viterbi(log_ratio, 0.4, 0.05)).any()


def test_a_grid_of_rates_gives_the_same_likelihood_as_one_by_one():
    log_ratio = np.random.default_rng(0).normal(size=(40, 3))
    off, on = np.array([0.05, 0.2]), np.array([0.1, 0.3, 0.6])
    grid = hmm.log_likelihood(log_ratio[:, None, None, :], off[:, None, None], on[None, :, None])
    assert grid.shape == (2, 3, 3)
    np.testing.assert_allclose(grid[1, 2], hmm.smooth(log_ratio, 0.2, 0.6).log_likelihood, atol=1e-9)
    together = hmm.log_likelihood(log_ratio, 0.1, 0.2)  # one rate for all chains
    np.testing.assert_allclose(together, hmm.smooth(log_ratio, 0.1, 0.2).log_likelihood, rtol=1e-9)


def test_missing_frames_carry_the_state_on():
    log_ratio = np.zeros((30, 1))
    log_ratio[:10], log_ratio[20:] = 5.0, 5.0
    smoothed = hmm.smooth(log_ratio, 0.01, 0.2)
    assert smoothed.p_occupied[10:20].min() > 0.8
    assert hmm.viterbi(log_ratio, 0.01, 0.2).all()


def simulated(separation, sites=200, frames=500, p=0.02, seed=1):
    random = np.random.default_rng(seed)
    occupied = _blink(frames, sites, p, p, random)
    return occupied, np.where(occupied, separation, 0.0) + random.normal(size=occupied.shape)


@pytest.mark.parametrize(("separation", "raw_at_least", "error_at_most"), [(2, 0.15, 0.03), (3, 0.07, 0.01), (4, 0.03, 0.004)])
def test_rates_are_right_where_raw_ones_are_several_times_too_high(separation, raw_at_least, error_at_most):
    occupied, y = simulated(separation)
    model = fit_site_classes(y, y > separation / 2)
    true_off, _ = raw_rates(occupied, np.ones_like(occupied))
    raw_off, _ = raw_rates(y > separation / 2, np.ones_like(occupied))
    assert raw_off > raw_at_least
    assert model.p_off == pytest.approx(true_off, rel=0.12)
    decoded_off, _ = raw_rates(model.path, np.ones_like(occupied))
    assert decoded_off == pytest.approx(true_off, rel=0.15)
    assert (model.path != occupied).mean() < error_at_most
    assert model.separation == pytest.approx(separation, rel=0.15)


def test_static_sites_are_recognised_and_do_not_bend_the_rates():
    random = np.random.default_rng(3)
    occupied = np.ones((60, 230), bool)
    occupied[:, :50] = _blink(60, 50, 0.1, 0.2, random)
    occupied[:, 200:] = False
    level = np.where(occupied, 4.0, 0.0)
    level[:, 50:200] += random.normal(2.0, 1.0, 150)  # thick columns
    y = level + random.normal(0, 0.4, 230) + random.standard_t(5, level.shape)
    model = fit_site_classes(y, y > 2)
    assert (model.site_class[50:200] == OCCUPIED).mean() > 0.98
    assert (model.site_class[200:] == EMPTY).mean() > 0.9
    assert (model.site_class[:50] == BLINKING).mean() > 0.95
    true_off, true_on = raw_rates(occupied[:, :50], np.ones((60, 50), bool))
    assert model.p_off == pytest.approx(true_off, rel=0.15)
    assert model.p_on == pytest.approx(true_on, rel=0.15)


def test_no_blinking_site_is_said():
    y = np.random.default_rng(0).normal(size=(20, 30)) * 0.3
    y[:, :20] += 6
    model = fit_site_classes(y, y > 3)
    assert "no site" in model.note
    assert model.path[:, :20].all() and not model.path[:, 20:].any()


def test_heavy_tails_are_told_from_gaussian_ones():
    random = np.random.default_rng(5)
    occupied = _blink(300, 60, 0.05, 0.05, random)
    for noise, expected in (
        (random.standard_t(3, occupied.shape) * 0.6, 4.0),
        (random.normal(size=occupied.shape) * 0.8, 30.0),
    ):
        y = np.where(occupied, 4.0, 0.0) + noise
        assert fit_site_classes(y, y > 2).emissions.dof == expected


def test_rates_are_less_sure_where_the_emissions_are():
    spreads = []
    for separation in (1.5, 6.0):
        _, y = simulated(separation, sites=40, frames=48, p=0.15, seed=2)
        model = fit_site_classes(y, y > separation / 2)
        spreads.append(rate_spread_of_emissions(model, y))
    assert min(spreads[0]) > 0.05 > 0.02 > max(spreads[1])


def test_a_thick_site_that_is_always_seen_is_not_empty():
    _, y = simulated(5, sites=40, frames=60, p=0.15, seed=4)
    still = np.random.default_rng(5).normal(size=(60, 20))
    seen = np.concatenate([y > 2.5, np.repeat([[True] * 10 + [False] * 10], 60, axis=0)], axis=1)
    model = fit_site_classes(np.concatenate([y, still], axis=1), seen)
    assert (model.site_class[40:50] == OCCUPIED).all() and (model.site_class[50:] == EMPTY).all()


def test_nothing_in_view_is_an_error():
    with pytest.raises(EmdlError, match="no site is ever in view"):
        fit_site_classes(np.full((5, 3), np.nan))


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 1)])
def test_tiny_input_gives_finite_results(shape):
    model = fit_site_classes(np.random.default_rng(0).normal(size=shape))
    assert np.isfinite(model.p_occupied).all()


@pytest.mark.slow
def test_a_thousand_frames_of_five_hundred_sites():
    import time

    random = np.random.default_rng(0)
    occupied = np.ones((1000, 500), bool)
    occupied[:, :200] = _blink(1000, 200, 0.05, 0.1, random)
    y = np.where(occupied, 3.0, 0.0) + random.standard_t(4, occupied.shape) * 0.7
    start = time.process_time()
    model = fit_site_classes(y, y > 1.5)
    assert time.process_time() - start < 20  # 10 s on two idle cores; tests share theirs
    assert model.p_off == pytest.approx(0.05, rel=0.1)
