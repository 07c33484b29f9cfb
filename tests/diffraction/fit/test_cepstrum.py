"""Lattices from cepstra: they follow a strain without a single disk being measured, and say what they do not know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import napari_emdl as emdl
from helpers.disks_made import lattice_points
from napari_emdl.base.errors import Cancelled, EmdlError, JournalError
from napari_emdl.base.params import RunParams
from napari_emdl.base.signals import in_memory
from napari_emdl.diffraction.fit.cepstrum import choose_peaks, edges, lattices_from, measure_peaks
from napari_emdl.diffraction.fit.disagree import widened
from napari_emdl.diffraction.fit.pattern import Aperture
from napari_emdl.diffraction.fit.tensor import strain_components
from napari_emdl.jobs.control import Control

LATTICE = np.array([[21.0, 2.0], [-1.5, 20.0]])
SHAPE, RADIUS = (128, 128), 5.0


def pattern_of(f: np.ndarray, random: np.random.Generator) -> np.ndarray:
    origin = np.array([64.0, 64.0]) + random.uniform(-2, 2, 2)
    place, hk = lattice_points(LATTICE @ np.linalg.inv(f), origin, SHAPE, RADIUS)
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    expected = np.full(SHAPE, 0.4)
    for (row, col), index in zip(place, hk, strict=True):
        height, _ = Aperture(RADIUS, 0.6).at(rows - row, cols - col)
        expected += random.uniform(20, 80) * np.exp(-0.15 * np.hypot(*index)) * height
    return random.poisson(expected).astype(np.uint16)


@pytest.fixture(scope="module")
def strained() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(8)
    truth = random.uniform(-0.01, 0.01, (4, 6, 3))
    counts = np.empty((4, 6, *SHAPE), np.uint16)
    for i in np.ndindex(4, 6):
        exx, eyy, exy = truth[i]
        counts[i] = pattern_of(np.array([[1 + exx, exy], [exy, 1 + eyy]]), random)
    return counts, truth


def test_strain_is_followed_with_an_error_that_is_no_smaller_than_it_is(strained):
    counts, truth = strained
    cube = in_memory(counts, "datacube")
    disks = emdl.find_disks(cube, method="template")
    known = {"g1": tuple(LATTICE[0]), "g2": tuple(LATTICE[1]), "reference": "lattice"}
    strain = emdl.fit_strain(disks, cube=cube, fit="cepstrum", **known)
    got = np.stack([strain.exx, strain.eyy, strain.exy], axis=-1)
    error = got - truth
    assert np.corrcoef(got.ravel(), truth.ravel())[0, 1] > 0.98
    assert np.sqrt(np.mean(np.square(error - np.median(error, axis=(0, 1))))) < 0.002
    assert np.sqrt(np.mean(np.square(error / strain.sigma[..., :3]))) < 1.5


def test_errors_of_the_lattice_are_propagated_from_those_of_the_peaks(strained):
    counts, _ = strained
    images = edges(counts.reshape(-1, *SHAPE))
    g = np.broadcast_to(LATTICE, (len(images), 2, 2))
    peaks = choose_peaks(images, g, RADIUS)
    exact = np.broadcast_to(peaks.mn @ np.linalg.inv(LATTICE).T, (400, len(peaks.mn), 2))
    noisy = exact + np.random.default_rng(1).normal(0, 0.02 / 128, exact.shape)
    found, covariance = lattices_from(noisy, peaks, SHAPE)
    assert np.allclose(found.mean(axis=0), LATTICE, atol=0.02)
    ratio = found.reshape(-1, 4).std(axis=0) / np.sqrt(np.median(covariance, axis=0)[range(4), range(4)])
    assert ratio == pytest.approx(np.full(4, 1 / 3.2), rel=0.25)  # peaks share errors: sigma is widened by that factor
    place = measure_peaks(images[0], LATTICE, peaks)
    one = lattices_from(np.broadcast_to(place, (3, *place.shape)), peaks, SHAPE)[0]
    assert np.abs(strain_components(one[:1], LATTICE)[0]).max() < 0.02


def test_patterns_without_periods_are_refused():
    noise = np.random.default_rng(0).poisson(4.0, (6, *SHAPE))
    with pytest.raises(EmdlError, match="cepstrum of these patterns shows"):
        choose_peaks(edges(noise), np.broadcast_to(LATTICE, (6, 2, 2)), RADIUS)


@pytest.mark.parametrize(("fit", "regions"), [("cepstrum", False), ("pattern", False), ("pattern", True)])
def test_a_fit_to_patterns_goes_on_where_it_was_stopped(strained, tmp_path, fit, regions):
    counts, _ = strained
    cube = in_memory(counts, "datacube")
    disks = emdl.find_disks(cube, method="template")
    run = RunParams(max_memory="6MB", workers=1)
    labels = 1 + (np.indices(disks.shape)[1] >= disks.shape[1] // 2) if regions else None

    def stop(progress) -> None:
        if progress.done and (regions or progress.done < progress.total) and progress.message in ("cepstra", "patterns"):
            control.cancel()

    control = Control(stop)
    output = tmp_path / "strain.h5"
    with pytest.raises(Cancelled):
        emdl.fit_strain(disks, cube=cube, fit=fit, run=run, output=output, control=control, regions=labels)
    kept = tmp_path / ("strain.h5.region1.part" if regions else "strain.h5.part")
    assert kept.exists()
    for asked in (fit, "auto") if fit == "pattern" else (fit,):
        # what lies there is no reason to fit something else
        with pytest.raises(JournalError, match=r"resume=True|resume=False"):
            emdl.fit_strain(disks, cube=cube, fit=asked, run=run, output=output, regions=labels)
    again = run.model_copy(update={"resume": True})
    before = set(tmp_path.iterdir()), kept.stat().st_size
    resumed = emdl.fit_strain(disks, cube=cube, fit=fit, run=again, output=output, regions=labels)
    assert (set(tmp_path.iterdir()), kept.stat().st_size) != before  # of one lattice further blocks, or another's
    whole = emdl.fit_strain(disks, cube=cube, fit=fit, regions=labels)
    np.testing.assert_allclose(resumed.exx, whole.exx, rtol=0, atol=1e-8)  # other blocks round otherwise


def test_other_fits_widen_the_errors_only_where_they_differ_beyond_their_own(strained, tmp_path):
    counts, _ = strained
    cube = in_memory(counts, "datacube")
    disks = emdl.find_disks(cube, method="template")
    plain = emdl.fit_strain(disks, cube=cube)
    checked = emdl.fit_strain(disks, cube=cube, check="cepstrum")
    assert np.array_equal(checked.exx, plain.exx)
    assert np.all(checked.sigma >= plain.sigma)
    assert checked.disagreement.shape == (4, 6, 4)
    assert checked.attrs["disagreement"]["cepstrum"]["rms"][0] < 0.003
    wrong = replace(plain, exx=plain.exx + 0.01 * np.arange(6)[None, :], sigma=np.full_like(plain.sigma, 1e-4))
    told = widened(plain, {"other": wrong})
    assert np.median(told.sigma[:, 0, 0]) > 0.015 and np.median(told.sigma[:, 0, 1]) < 0.002
    emdl.save(told, tmp_path / "strain.h5")
    assert np.allclose(emdl.load(tmp_path / "strain.h5").disagreement, told.disagreement)
