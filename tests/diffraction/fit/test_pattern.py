"""Fit to the patterns: unbiased where disks are lit on one side, with an error that is what it says."""

from __future__ import annotations

import numpy as np
import pytest

import napari_emdl as emdl
from helpers.disks_made import lattice_points
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.signals import in_memory
from napari_emdl.diffraction.fit.pattern import _fit_patterns, _Waiting
from napari_emdl.diffraction.fit.patternmodel import Aperture, PatternModel

LATTICE = np.array([[21.0, 2.0], [-1.5, 20.0]])
SHAPE, RADIUS, EDGE = (128, 128), 6.4, 0.58


def lit_inside(f: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Counts of disks that are bright towards the direct beam, by an amount of their own, as near a zone axis."""
    place, hk = lattice_points(LATTICE @ np.linalg.inv(f), np.array([64.0, 64.0]), SHAPE, RADIUS)
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    expected = np.full(SHAPE, 0.4)
    for (row, col), index in zip(place, hk, strict=True):
        height, _ = Aperture(RADIUS, EDGE).at(rows - row, cols - col)
        order = max(1.0, float(np.hypot(*index)))
        outward = np.array([row - 64.0, col - 64.0]) / (np.hypot(row - 64.0, col - 64.0) + 1e-6)
        along = ((rows - row) * outward[0] + (cols - col) * outward[1]) / RADIUS
        slope = random.uniform(0.2, 1.0) if index.any() else 0.0
        expected += 60 / order**2 * height * np.clip(1 - slope * along, 0, None)
    return random.poisson(expected)


def test_one_sided_disks_make_no_strain():
    random = np.random.default_rng(2)
    truth = random.uniform(-0.004, 0.004, (4, 6, 3))
    counts = np.empty((4, 6, *SHAPE), np.uint16)
    for i in np.ndindex(4, 6):
        exx, eyy, exy = truth[i]
        counts[i] = lit_inside(np.array([[1 + exx, exy], [exy, 1 + eyy]]), random)
    cube = in_memory(counts, "datacube")
    disks = emdl.find_disks(cube, method="template")
    known = {"g1": tuple(LATTICE[0]), "g2": tuple(LATTICE[1]), "reference": "lattice"}
    error = {}
    for how in ("peaks", "pattern"):
        strain = emdl.fit_strain(disks, cube=cube, fit=how, **known)
        got = np.stack([strain.exx, strain.eyy, strain.exy], axis=-1)
        error[how] = np.sqrt(np.mean((got - truth) ** 2))
        if how == "pattern":
            assert 0.6 < np.sqrt(np.mean(((got - truth) / strain.sigma[..., :3]) ** 2)) < 1.4
            found = strain.attrs["provenance"]["aperture"]
            assert [found["radius_px"], found["edge_px"]] == pytest.approx([RADIUS, EDGE], abs=0.1)
            assert found["ripple"] < 0.05
            assert not any("ragged" in text for text in strain.evidence.warnings)
    assert error["pattern"] < 0.0012
    assert error["pattern"] < 0.7 * error["peaks"]


def test_patterns_fitted_together_are_those_fitted_alone():
    random = np.random.default_rng(8)
    hk = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3)])
    model, coarse = (PatternModel(Aperture(RADIUS, EDGE), least_share=share) for share in (3e-4, 1e-2))
    starts = [(np.array([64.0, 64.0]) + shift, LATTICE * (1 + shift)) for shift in (0.0, 0.004, 0.3)]  # the last is far off
    waiting = [
        _Waiting(k, hk[k:], lit_inside(np.eye(2), random).astype(float), origin, g) for k, (origin, g) in enumerate(starts)
    ]
    together = _fit_patterns(model, coarse, waiting)
    alone = [_fit_patterns(model, coarse, [one]) for one in waiting]
    for found, expected in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-7, atol=1e-9)


def test_apertures_cut_on_whole_pixels_are_fitted_to_peaks_and_that_is_said():
    random = np.random.default_rng(4)
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    counts = np.empty((2, 3, *SHAPE), np.uint16)
    for i in np.ndindex(2, 3):
        place, _ = lattice_points(LATTICE, np.array([64.2, 63.7]) + random.uniform(-0.5, 0.5, 2), SHAPE, RADIUS)
        inside = sum(np.hypot(rows - row, cols - col) < RADIUS for row, col in place)
        counts[i] = random.poisson(0.3 + 400.0 * inside)
    cube = in_memory(counts, "datacube")
    disks = emdl.find_disks(cube, method="template")
    asked = emdl.fit_strain(disks, cube=cube, fit="pattern")
    assert any("ragged" in text for text in asked.evidence.warnings)
    assert np.array_equal(asked.exx, emdl.fit_strain(disks, fit="peaks").exx)


def test_derivatives_of_the_aperture_are_its_slopes():
    row, col = np.array([4.0, -3.0, 6.1]), np.array([3.0, 5.5, 0.4])
    aperture, step = Aperture(RADIUS, EDGE), 1e-5
    _, slopes = aperture.at(row, col)
    moved = [
        (aperture.at(row - step, col)[0] - aperture.at(row + step, col)[0]) / (2 * step),
        (aperture.at(row, col - step)[0] - aperture.at(row, col + step)[0]) / (2 * step),
        (Aperture(RADIUS + step, EDGE).at(row, col)[0] - Aperture(RADIUS - step, EDGE).at(row, col)[0]) / (2 * step),
        (Aperture(RADIUS, EDGE + step).at(row, col)[0] - Aperture(RADIUS, EDGE - step).at(row, col)[0]) / (2 * step),
    ]
    assert np.allclose(slopes, moved, atol=1e-6)


def test_pixels_that_a_neighbour_reaches_are_not_used():
    model = PatternModel(Aperture(RADIUS, EDGE))
    counts = np.zeros(SHAPE)
    hk = np.array([[0, 0]])
    quiet = model.measure(counts + 1, hk, np.array([64.0, 64.0]), LATTICE)[0]
    beside = counts + 1
    beside[80:92, 60:72] = 1000  # the disk at g1
    assert np.allclose(model.measure(beside, hk, np.array([64.0, 64.0]), LATTICE)[0], quiet)


def test_score_and_information_are_those_of_the_whole_least_squares():
    """The normal equations from products made once, against the design written out."""
    model = PatternModel(Aperture(RADIUS, EDGE, 0.05))
    counts = lit_inside(np.eye(2), np.random.default_rng(4)).astype(float)
    hk = np.array([[0, 0], [1, 0], [-1, 2]])
    seen = model.look(counts, hk, np.array([64.1, 63.8]), LATTICE, parameters=4)
    variance = seen.variance.copy()
    score, information = model.told(seen, 1)
    for n in range(len(hk)):
        design = np.concatenate([seen.lit[n][:, None] * model._inner, model._plane], axis=1)
        inside = model._inner.shape[1]
        tilt = (2 / max(seen.background[n], 0.05)) ** 2
        prior = np.r_[0.01, np.ones(inside - 1), 0.0, tilt, tilt]
        weight = seen.used[n] / variance[n]
        normal = (design * weight[:, None]).T @ design + np.diag(prior)
        solution = np.linalg.solve(normal, design.T @ (weight * seen.counts[n]) + prior * (np.arange(len(prior)) == 0))
        left = seen.counts[n] - design @ solution
        even = np.maximum(model._inner @ solution[:inside], 0) * seen.mean[n]
        slope = np.stack([one[n] * even for one in seen.slope], axis=1)
        weight = seen.used[n] / seen.variance[n]
        shared = (design * weight[:, None]).T @ slope
        expected = (slope * weight[:, None]).T @ slope - shared.T @ np.linalg.solve(normal, shared)
        np.testing.assert_allclose(information[n], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
        np.testing.assert_allclose(score[n], slope.T @ (weight * left), rtol=1e-6, atol=1e-6)


def test_without_patterns_the_reason_is_said():
    disks = emdl.find_disks(lit_inside(np.eye(2), np.random.default_rng(1))[None, None], method="template")
    disks.attrs.pop("provenance")
    with pytest.raises(EmdlError, match="datacube"):
        emdl.fit_strain(disks, fit="pattern")


def test_what_the_detector_did_not_see_counts_for_nothing():
    """A gap through disks, in zeros and in a code for no value: as exact as what is left of the disks allows."""
    random = np.random.default_rng(6)
    truth = random.uniform(-0.004, 0.004, (3, 4, 3))
    counts = np.empty((3, 4, *SHAPE), np.uint16)
    for i in np.ndindex(3, 4):
        exx, eyy, exy = truth[i]
        counts[i] = lit_inside(np.array([[1 + exx, exy], [exy, 1 + eyy]]), random)
    known = {"g1": tuple(LATTICE[0]), "g2": tuple(LATTICE[1]), "reference": "lattice", "fit": "pattern"}
    cut, coded = counts.copy(), counts.copy()
    cut[..., 82:86, :] = 0
    coded[..., 82:86, :] = 65535
    disks = emdl.find_disks(in_memory(counts, "datacube"), method="template")
    error = {}
    for name, values in (("whole", counts), ("cut", cut), ("coded", coded)):
        strain = emdl.fit_strain(disks, cube=in_memory(values, "datacube"), **known)
        apart = np.stack([strain.exx, strain.eyy, strain.exy], axis=-1) - truth
        error[name] = np.sqrt(np.mean(apart**2))
        assert 0.6 < np.sqrt(np.mean((apart / strain.sigma[..., :3]) ** 2)) < 1.4, name
    assert error["cut"] == pytest.approx(error["coded"], rel=1e-3)
    assert error["cut"] < 1.3 * error["whole"]
