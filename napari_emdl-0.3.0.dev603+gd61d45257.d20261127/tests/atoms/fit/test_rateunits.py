"""Rates a frame and a second."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.fit.events import RATE
from napari_emdl.atoms.fit.rateunits import UNITS, rate_line, rates_in_units


def row(**values):
    table = np.zeros(1, RATE)
    table["group"] = "all"
    for name, value in values.items():
        table[name] = value
    return table


def test_the_rates_of_the_process_are_those_behind_the_chances():
    k_off, k_on, dt = 0.4, 0.9, 0.5
    changed = 1 - np.exp(-(k_off + k_on) * dt)
    table = row(p_off=k_off / 1.3 * changed, p_on=k_on / 1.3 * changed, events_off=6, site_frames=200, off_per_site_s=0.06)
    units = rates_in_units(table, dt)
    assert set(units) == {"group", *UNITS}
    assert units["k_off_per_s"][0] == pytest.approx(k_off)
    assert units["k_on_per_s"][0] == pytest.approx(k_on)
    assert units["off_per_site_frame"][0] == pytest.approx(0.03)
    assert units["off_per_site_s"][0] == pytest.approx(0.06)


def test_nothing_is_known_a_second_without_the_interval():
    units = rates_in_units(row(p_off=0.1, p_on=0.2, off_per_site_s=np.nan), None)
    assert np.isnan(units["k_off_per_s"]).all() and units["p_off"][0] == 0.1


def test_the_line_tells_both_units_or_says_what_is_missing():
    table = row(n_sites=4, events_off=6, events_on=2, site_frames=200, off_per_site_s=0.06, on_per_site_s=0.02)
    assert rate_line(table, 0.5) == ("0.03 columns leave and 0.01 arrive per site and frame, 0.06 and 0.02 per site and second")
    assert rate_line(table, None).endswith("rates per second need the frame interval")
    assert rate_line(row(), 0.5) == ""


def test_chances_that_sum_to_one_tell_no_rate():
    assert np.isnan(rates_in_units(row(p_off=0.6, p_on=0.5), 1.0)["k_on_per_s"]).all()
