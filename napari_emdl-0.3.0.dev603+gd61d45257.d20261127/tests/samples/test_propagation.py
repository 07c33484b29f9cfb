"""The sample's simulator against Bloch waves, its absorption, and what its patterns sum up to."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.samples import propagation
from napari_emdl.samples.bloch import diamond_110, solve

ENERGY_KEV = 300.0


def test_steps_give_what_bloch_waves_give(monkeypatch):
    monkeypatch.setattr(propagation, "absorption_invA2", lambda zone, hk, energy_keV: np.zeros(len(hk)))
    monkeypatch.setattr(propagation, "_FINE_INVA", 1.0)  # one direction a cell, as the other has it
    zone = diamond_110(0.3)
    beams = propagation.propagate(zone, ENERGY_KEV, 0.12, 0.06, [60, 150])
    size = beams.intensity[60].shape[1]
    axis = (np.arange(size) - size / 2 + 0.5) * beams.step_invA
    exact = solve(zone, ENERGY_KEV, axis, np.array([60, 150]) * zone.period_A / 10)
    assert np.array_equal(exact.hk, beams.hk)
    for table, n in zip(exact.intensity, (60, 150), strict=True):
        assert np.abs(table - beams.intensity[n]).max() < 0.004
        assert beams.lost[n] == pytest.approx(0, abs=1e-4)


def test_cells_hold_the_mean_of_finer_directions(monkeypatch):
    usual = propagation.propagate(diamond_110(), ENERGY_KEV, 0.1, 0.03, [160])
    monkeypatch.setattr(propagation, "_FINE_INVA", 0.0014)
    finer = propagation.propagate(diamond_110(), ENERGY_KEV, 0.1, 0.03, [160])
    assert np.abs(usual.intensity[160] - finer.intensity[160]).max() < 1e-3


def test_absorption_grows_with_thickness_and_is_of_the_right_size():
    beams = propagation.propagate(diamond_110(), ENERGY_KEV, 0.1, 0.03, [26, 130])
    # U'_000 alone: 1 - exp(-2 pi wavelength U' t), about 4 % in 10 nm of silicon and 16 % in 50 nm
    assert 0.02 < beams.lost[26] < 0.06
    assert 0.1 < beams.lost[130] < 0.2


def test_a_pattern_sums_to_what_was_not_lost():
    beams = propagation.propagate(diamond_110(), ENERGY_KEV, 0.16, 0.02, [60])
    g_px = diamond_110().g_invA / 0.02
    image = propagation.render(beams, 60, g_px, np.array([100.2, 99.6]), 5.0, np.array([0.01, -0.02]), (200, 200))
    assert image.sum() == pytest.approx(1 - beams.lost[60], abs=0.02)
    assert image.min() >= 0
