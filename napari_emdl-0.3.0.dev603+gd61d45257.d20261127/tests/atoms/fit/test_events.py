"""Events, rates with intervals, dwell times, comparison of movies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_emdl.atoms.fit.drift import identity
from napari_emdl.atoms.fit.events import dwell_times, find_events, kaplan_meier, poisson_interval, rate_posterior, raw_rates
from napari_emdl.atoms.fit.occupancy import decode
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.fit.siteclasses import fit_site_classes
from napari_emdl.atoms.fit.sites import FACET, Sites
from napari_emdl.atoms.judge.compare import compare
from napari_emdl.base.errors import EmdlError
from napari_emdl.samples.atoms import _blink


def test_events_are_changes_between_frames_in_view():
    path = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    valid = np.ones((4, 2), bool)
    valid[1, 0] = False
    events = find_events(path, valid, path.astype(float))
    assert events["frame"].tolist() == [2, 2]
    assert events["site"].tolist() == [0, 1]
    assert events["arrives"].tolist() == [False, True]
    assert events["gap"].tolist() == [1, 0]
    np.testing.assert_allclose(events["certainty"], 1)


@given(st.integers(2, 12), st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_number_of_events_is_that_of_the_path(frames, sites, random):
    path = np.array([[random.random() < 0.5 for _ in range(sites)] for _ in range(frames)])
    events = find_events(path, np.ones_like(path), path.astype(float))
    assert len(events) == (path[1:] != path[:-1]).sum()
    assert (np.diff(events["frame"]) >= 0).all()


def test_raw_rates_count_pairs_in_view_only():
    occupied = np.array([[1], [0], [0], [1]], bool)
    off, on = raw_rates(occupied, np.ones_like(occupied))
    assert (off, on) == (1.0, 0.5)
    assert np.isnan(raw_rates(occupied, np.zeros_like(occupied))).all()


def test_exact_poisson_interval():
    # tables of Garwood: 3 counts at 90 % give 0.818 to 7.754
    low, high = poisson_interval(3, 1.0)
    assert (low, high) == pytest.approx((0.818, 7.754), abs=2e-3)
    assert poisson_interval(0, 10.0)[0] == 0
    assert np.isnan(poisson_interval(1, 0.0)[0])


def test_kaplan_meier_by_hand():
    # 6 stays: ended after 1, 2, 2, 4; cut off after 2 and 3
    curve = kaplan_meier(np.array([1, 2, 2, 4, 2, 3]), np.array([1, 1, 1, 1, 0, 0], bool))
    assert curve.frames.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(curve.survival, [5 / 6, 5 / 6 * 3 / 5, 0.5, 0.0])
    assert (curve.n_ended, curve.n_censored) == (4, 2)
    assert (curve.low <= curve.survival).all() and (curve.survival <= curve.high).all()
    assert len(kaplan_meier(np.zeros(0, int), np.zeros(0, bool)).frames) == 0


def test_dwell_times_of_a_chain_are_geometric():
    path = _blink(400, 100, 0.1, 0.2, np.random.default_rng(0))
    curve = dwell_times(path, np.ones_like(path), True)
    at = {int(f): s for f, s in zip(curve.frames, curve.survival, strict=True)}
    assert at[5] == pytest.approx(0.9**5, abs=0.03)
    assert at[10] == pytest.approx(0.9**10, abs=0.03)


def test_intervals_hold_the_truth_in_nine_of_ten_repeats():
    held = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        occupied = _blink(60, 25, 0.1, 0.2, random)
        y = np.where(occupied, 4.0, 0.0) + random.normal(size=occupied.shape)
        model = fit_site_classes(y, y > 2)
        posterior = rate_posterior(model.log_ratio, model.class_probability[:, 1], (model.p_off, model.p_on))
        held.append(posterior.p_off_interval[0] <= 0.1 <= posterior.p_off_interval[1])
        held.append(posterior.p_on_interval[0] <= 0.2 <= posterior.p_on_interval[1])
    # 120 trials at 90 %: standard deviation 2.7 %
    assert 0.82 <= np.mean(held) <= 0.98


def occupancy_of(p_off, p_on, noise, seed, sites=60, frames=120, dose=None) -> Occupancy:
    random = np.random.default_rng(seed)
    occupied = np.ones((frames, 3 * sites), bool)
    occupied[:, :sites] = _blink(frames, sites, p_off, p_on, random)
    occupied[:, 2 * sites :] = False
    y = (np.where(occupied, 4.0, 0.0) + random.normal(0, noise, occupied.shape)).astype(np.float32)
    count = 3 * sites
    where = np.stack([np.arange(count) * 20.0, np.zeros(count)], -1)
    zeros = np.zeros(count)
    table = Sites(where, zeros, zeros.astype(bool), np.full(count, FACET, np.uint8), zeros.astype(np.uint8))
    attrs = {"method": "hmm", "frame_interval_s": 0.5, "dose_e_per_A2": dose}
    valid = np.ones_like(occupied)
    return decode(table, identity(np.zeros((frames, 2))), y, y > 2, valid, attrs)


def test_equal_rates_at_unequal_doses_are_found_equal():
    false_alarms, raw_ratio = [], []
    for seed in range(8):
        rich, poor = occupancy_of(0.05, 0.1, 0.7, seed, dose=200.0), occupancy_of(0.05, 0.1, 1.6, seed + 100, dose=50.0)
        result = compare(rich, poor)
        false_alarms += [row.different for row in result.rows if row.group == "all"]
        raw_ratio.append(poor.rates[0]["raw_p_off"] / rich.rates[0]["raw_p_off"])
        assert any("doses differ" in w for w in result.warnings)
        assert any("detection quality differs" in w for w in result.warnings)
    assert np.mean(raw_ratio) > 2  # what the detections alone would have said
    assert np.mean(false_alarms) <= 0.25


def test_unequal_rates_are_found_unequal():
    result = compare(occupancy_of(0.05, 0.1, 0.8, 1), occupancy_of(0.10, 0.1, 0.8, 2))
    row = next(r for r in result.rows if r.group == "all" and r.rate == "p_off")
    assert row.different and row.low < 2 < row.high
    assert row.p_value < 0.01


def test_threshold_rates_are_not_compared():
    one = occupancy_of(0.05, 0.1, 0.8, 1)
    other = replace(one, attrs={**one.attrs, "method": "threshold"})
    with pytest.raises(EmdlError, match="cannot be compared"):
        compare(one, other)
