"""Peaks and patterns together: the weights, what stands alone, and which fit a user gets who sets nothing."""

from __future__ import annotations

import numpy as np
import pytest

import napari_emdl as emdl
from diffraction.fit.test_pattern import LATTICE, RADIUS, SHAPE, lit_inside
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.signals import in_memory
from napari_emdl.diffraction.fit import through
from napari_emdl.diffraction.fit.both import merged, weigh
from napari_emdl.diffraction.fit.patternmodel import Aperture
from napari_emdl.diffraction.lattice import LatticeFit

LARGE, N = Aperture(8.0, 0.6), 400


def lattices(g: np.ndarray, sigma: float) -> LatticeFit:
    """Lattices with independent errors of `sigma` px in every number of g1 and g2."""
    n = len(g)
    covariance = np.broadcast_to(np.diag([1e-6, 1e-6, *[sigma**2] * 4]), (n, 6, 6)).copy()
    counts, nothing = np.full(n, 20), np.zeros((0, 2), int)
    return LatticeFit(np.zeros((n, 2)), g, covariance, np.full(n, 0.1), counts, counts, counts > 0, nothing, nothing[:, 0] > 0)


def two_fits(sigma_peaks: float, sigma_patterns: float, alike: float, said: float = 1.0) -> tuple[LatticeFit, LatticeFit]:
    random = np.random.default_rng(5)
    common, own = random.normal(size=(N, 2, 2)), random.normal(size=(2, N, 2, 2))
    errors = np.sqrt(alike) * common + np.sqrt(1 - alike) * own
    return (
        lattices(LATTICE + sigma_peaks * errors[0], sigma_peaks),
        lattices(LATTICE + sigma_patterns * errors[1], said * sigma_patterns),
    )


def rms(fit: LatticeFit) -> float:
    return float(np.sqrt(np.mean(np.square(fit.g - LATTICE))))


def test_both_together_are_better_than_the_better_one_and_their_error_is_right():
    peaks, patterns = two_fits(0.04, 0.03, 0.25)
    good = np.ones(N, bool)
    weights = weigh(peaks, patterns, good, good, LARGE, None)
    # the least variance of a mean of two with correlation c: (a^2 - c a b) / (a^2 + b^2 - 2 c a b)
    assert weights.share == pytest.approx((16 - 3) / (16 + 9 - 6), abs=0.01)
    assert weights.apart == pytest.approx(np.sqrt(1 - 2 * 0.25 * 12 / 25), abs=0.08) and not weights.contradict
    mean = merged(peaks, patterns, weights, good)
    assert rms(mean) < 0.93 * min(rms(peaks), rms(patterns))
    said = np.sqrt(np.mean(mean.covariance[:, [2, 3, 4, 5], [2, 3, 4, 5]]))
    assert rms(mean) / said == pytest.approx(1, abs=0.1)


def test_the_worse_fit_hardly_counts():
    peaks, patterns = two_fits(0.01, 0.1, 0.0)
    good = np.ones(N, bool)
    assert weigh(peaks, patterns, good, good, LARGE, None).share == 0
    assert weigh(patterns, peaks, good, good, LARGE, None).share == 1


def test_small_and_ragged_disks_count_less():
    peaks, patterns = two_fits(0.03, 0.03, 0.25)
    good = np.ones(N, bool)
    share = [
        weigh(peaks, patterns, good, good, aperture, None).share
        for aperture in (LARGE, Aperture(8.0, 0.6, 0.1), Aperture(3.0, 0.6))
    ]
    assert share[0] == pytest.approx(0.5, abs=0.01) and share[0] > share[1] > share[2] > 0.1


def test_fits_that_contradict_each_other_are_told():
    peaks, patterns = two_fits(0.03, 0.09, 0.0, said=1 / 4)
    good = np.ones(N, bool)
    assert weigh(peaks, patterns, good, good, LARGE, None).contradict


def test_a_position_where_one_fit_went_astray_keeps_its_peaks():
    peaks, patterns = two_fits(0.03, 0.03, 0.25)
    patterns.g[7] += 0.4
    there = np.ones(N, bool)
    there[11] = False
    good = np.ones(N, bool)
    weights = weigh(peaks, patterns, good, there, LARGE, None)
    assert {7, 11} <= set(np.flatnonzero(weights.alone)) and weights.alone.sum() <= 4
    mean = merged(peaks, patterns, weights, good)
    assert np.array_equal(mean.g[[7, 11]], peaks.g[[7, 11]]) and not np.array_equal(mean.g[6], peaks.g[6])


@pytest.fixture(scope="module")
def scan():
    random = np.random.default_rng(2)
    truth = random.uniform(-0.004, 0.004, (4, 6, 3))
    counts = np.empty((4, 6, *SHAPE), np.uint16)
    for i in np.ndindex(4, 6):
        exx, eyy, exy = truth[i]
        counts[i] = lit_inside(np.array([[1 + exx, exy], [exy, 1 + eyy]]), random)
    cube = in_memory(counts, "datacube")
    disks = emdl.find_disks(cube, method="template")
    return cube, disks, truth


def test_nothing_set_takes_peaks_and_patterns_and_says_so(scan, tmp_path):
    cube, disks, truth = scan
    known = {"g1": tuple(LATTICE[0]), "g2": tuple(LATTICE[1]), "reference": "lattice", "cube": cube}
    strain = emdl.fit_strain(disks, **known)
    how = strain.attrs["fit"]
    assert how["wanted"] == "auto" and how["fit"] == "both" and 0.5 < how["share"] <= 1
    assert how["text"].startswith(f"fitted to peaks and patterns, which count {100 * how['share']:.0f} %")
    error = {
        name: np.sqrt(np.mean((np.stack([found.exx, found.eyy, found.exy], -1) - truth) ** 2))
        for name, found in {"auto": strain, "peaks": emdl.fit_strain(disks, fit="peaks", **known)}.items()
    }
    assert error["auto"] < 0.8 * error["peaks"]
    relative = {}
    for what, found in {"ideal": strain, "scan": emdl.fit_strain(disks, cube=cube)}.items():
        off = np.stack([found.exx, found.eyy, found.exy], axis=-1) - truth
        off = off if what == "ideal" else off - np.median(off, axis=(0, 1))
        relative[what] = np.sqrt(np.mean((off / found.sigma[..., :3]) ** 2))
    # against an ideal lattice the shift that all peaks share is in the error; a reference of the scan takes it out
    assert 0.3 < relative["ideal"] < 1.2 and 0.6 < relative["scan"] < 1.4
    emdl.save(strain, tmp_path / "strain.h5")
    again = emdl.load(tmp_path / "strain.h5")
    assert np.array_equal(again.peaks_alone, strain.peaks_alone) and again.attrs["fit"]["text"] == how["text"]


def test_peaks_stay_where_the_patterns_cannot_be_had(scan, monkeypatch):
    cube, disks, _ = scan
    alone = emdl.fit_strain(disks)  # they were found in an array
    peaks = emdl.fit_strain(disks, fit="peaks")
    assert np.array_equal(alone.exx, peaks.exx) and alone.peaks_alone is None
    assert alone.attrs["fit"]["fit"] == "peaks" and "not at hand" in alone.attrs["fit"]["text"]
    assert not any("patterns" in text for text in alone.evidence.warnings), "it is no fault of the map"
    with pytest.raises(EmdlError, match="datacube"):
        emdl.fit_strain(disks, fit="both")
    small = disks.compact()
    small.attrs = {**disks.attrs, "probe_radius_px": 2.0}
    assert "2.5 px" in emdl.fit_strain(small, cube=cube).attrs["fit"]["text"]
    monkeypatch.setattr(through, "_LONGEST_S", 0.01)
    long = emdl.fit_strain(disks, cube=cube).attrs["fit"]
    assert long["fit"] == "peaks" and "minutes of a core" in long["text"] and "'both'" in long["text"]
    assert emdl.fit_strain(disks, cube=cube, fit="both").attrs["fit"]["fit"] == "both", "asked for, it takes its time"


def test_a_large_scan_is_tried_on_some_positions_first(scan, monkeypatch):
    cube, disks, _ = scan
    monkeypatch.setattr(through, "_LARGE", 8)
    monkeypatch.setattr(through, "_TRIAL", 6)
    whole = emdl.fit_strain(disks, cube=cube)
    assert whole.attrs["fit"]["fit"] == "both"
    monkeypatch.setattr(through, "LEAST_SHARE", 1.1)
    monkeypatch.setattr("napari_emdl.diffraction.fit.pattern.measure_on_patterns", None)  # the trial is enough
    tried = emdl.fit_strain(disks, cube=cube)
    assert tried.attrs["fit"]["fit"] == "peaks" and "times as much" in tried.attrs["fit"]["text"]
    assert abs(tried.attrs["provenance"]["aperture"]["radius_px"] - RADIUS) < 0.1


def test_regions_say_what_they_were_fitted_to(scan):
    cube, disks, _ = scan
    labels = np.repeat([[1], [1], [2], [2]], 6, axis=1)
    strain = emdl.fit_strain(disks, cube=cube, regions=labels)
    assert strain.attrs["fit"]["fit"] == "both" and strain.peaks_alone.shape == labels.shape
    assert {facts["fit"]["fit"] for facts in strain.attrs["regions"].values()} == {"both"}
    assert "peaks and patterns" in strain.attrs["fit"]["text"]


def test_large_clear_disks_whose_peaks_err_more_than_they_say_follow_the_patterns():
    random = np.random.default_rng(6)
    peaks, patterns = two_fits(0.03, 0.03, 0.0)
    bands = 0.06 * random.normal(size=(N, 2, 2))  # as inner contrast pulls, in no sigma
    biased = lattices(peaks.g + bands, 0.03)
    good = np.ones(N, bool)
    clear = weigh(biased, patterns, good, good, LARGE, None)
    assert not clear.contradict and clear.share > 0.8
    mean = merged(biased, patterns, clear, good)
    said = np.sqrt(np.mean(mean.covariance[:, [2, 3, 4, 5], [2, 3, 4, 5]]))
    assert rms(mean) < 1.1 * rms(patterns) and rms(mean) / said == pytest.approx(1, abs=0.15)
    assert weigh(biased, patterns, good, good, Aperture(8.0, 0.45), None).contradict, "a sharp edge tells less"


def test_what_both_differ_by_away_from_the_reference_is_an_error():
    peaks, patterns = two_fits(0.03, 0.03, 0.25)
    good, zero = np.ones(N, bool), np.arange(N) < N // 4
    shifted = lattices(peaks.g + np.where(zero, 0.0, 0.08)[:, None, None], 0.03)
    assert (
        weigh(shifted, patterns, good, good, LARGE, None, zero).share > weigh(shifted, patterns, good, good, LARGE, None).share
    )
    assert weigh(shifted, patterns, good, good, LARGE, None, zero).share > 0.75
