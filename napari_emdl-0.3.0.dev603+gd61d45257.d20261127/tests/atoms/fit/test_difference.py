"""Evidence learned from the movie: a kernel that is there is found, one that is not is not imagined."""

from __future__ import annotations

import numpy as np
import pytest
from tests.atoms.conftest import match

from napari_emdl.atoms.find.columns import find_columns
from napari_emdl.atoms.fit.alignedframes import AlignedFrames
from napari_emdl.atoms.fit.difference import learn_kernel, learned_evidence
from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.atoms.fit.occupancy import fit_occupancy
from napari_emdl.samples.atoms import Conditions, blinking_movie

PIXEL_A = 0.15


def planted(frames=40, dose=250.0, blink=True, seed=0):
    """Gaussian columns on a square lattice, 6 x 6, the outermost of which come and go; neighbours overlap, the view drifts."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(6), indexing="ij"), -1).reshape(-1, 2)
    sites = 30 + grid * 2.0 / PIXEL_A
    rim = np.any((grid == 0) | (grid == 5), axis=1)
    occupied = np.ones((frames, 36), bool)
    if blink:
        occupied[:, rim] = random.random((frames, int(rim.sum()))) < 0.6
    drift = np.cumsum(random.normal(0, 1, (frames, 2)), axis=0)
    drift -= drift[0]
    rows, cols = np.mgrid[:128, :128]
    movie = np.empty((frames, 128, 128))
    for t in range(frames):
        image = np.ones((128, 128))
        for r, c in (sites + drift[t])[occupied[t]]:
            image += 0.35 * np.exp(-((rows - r) ** 2 + (cols - c) ** 2) / (2 * (0.7 / PIXEL_A) ** 2))
        movie[t] = random.poisson(image * dose * PIXEL_A**2)
    where = Alignment(drift, np.zeros(frames, np.uint8), np.ones(frames), np.tile(np.eye(2), (frames, 1, 1)))
    return movie, sites, occupied, rim, where


def aligned_of(movie, sites, where):
    return AlignedFrames(lambda t: movie[t], sites, np.ones((len(movie), len(sites)), bool), where, PIXEL_A)


def test_the_kernel_is_that_of_one_column():
    movie, sites, occupied, rim, where = planted(dose=2000)
    aligned = aligned_of(movie, sites, where)
    kernel = learn_kernel(aligned, occupied.astype(float), rim.astype(float))
    r = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in kernel.shape), indexing="ij")) * aligned.sampling_A
    expected = np.exp(-(r**2) / (2 * 0.7**2))
    inner = r < 2.0
    assert np.corrcoef(kernel[inner], expected[inner])[0, 1] > 0.97
    # the next column is 2 Å away: it must not leak into the kernel
    assert np.abs(kernel[(r > 1.8) & (r < 2.2)]).max() < 0.15 * kernel.max()


def test_a_poor_start_ends_in_good_evidence():
    movie, sites, occupied, rim, where = planted()
    random = np.random.default_rng(1)
    poor = np.where(occupied, 1.0, -1.0) + random.standard_t(3, occupied.shape) * 0.6
    evidence = learned_evidence(aligned_of(movie, sites, where), poor, poor > 0).evidence
    on, off = evidence[:, rim][occupied[:, rim]], evidence[:, rim][~occupied[:, rim]]
    assert (on.mean() - off.mean()) / np.sqrt((on.var() + off.var()) / 2) > 5
    # steady columns look occupied, and noise counts one
    assert evidence[:, ~rim].mean() > (on.mean() + off.mean()) / 2
    assert off.std() == pytest.approx(1.0, abs=0.3)


def test_where_nothing_changes_nothing_is_learned():
    movie, sites, occupied, _, where = planted(blink=False)
    random = np.random.default_rng(2)
    imagined = random.random(occupied.shape) < 0.6
    one = np.zeros(36)
    one[:3] = 1.0  # three sites that are said to blink at random
    assert learn_kernel(aligned_of(movie, sites, where), imagined.astype(float), one) is None


def test_the_kind_of_evidence_is_a_choice():
    movie, truth = blinking_movie((24, 160, 160), 12, conditions=Conditions(dose_e_per_A2=100))
    columns = find_columns(movie, model="log", contrast="bright")
    for kind, told in (("image", "matched filter learned from the movie"), ("finder", "logit at the site")):
        found = fit_occupancy(columns, movie, evidence=kind)
        assert found.attrs["evidence"] == told
        i, j = match(truth.sites_px, found.sites_px + np.median(found.shift_px - truth.drift_px, axis=0), 0.8 / 0.12)
        assert (truth.occupied[:, i] != found.occupied[:, j]).mean() < 0.01


def test_frames_out_of_view_do_not_disturb():
    movie, sites, occupied, rim, where = planted()
    valid = np.ones(occupied.shape, bool)
    valid[5:9] = False  # blank frames
    valid[10:, :6] = False  # one row of sites leaves
    movie[5:9] = 0
    aligned = AlignedFrames(lambda t: movie[t], sites, valid, where, PIXEL_A)
    start = np.where(occupied, 2.0, -2.0) + np.random.default_rng(1).normal(0, 0.7, occupied.shape)
    evidence = learned_evidence(aligned, np.where(valid, start, np.nan), (start > 0) & valid).evidence
    assert evidence is not None
    assert np.isnan(evidence[~valid]).all() and np.isfinite(evidence[valid]).all()
    use = valid & rim
    assert ((evidence > evidence[use & occupied].mean() / 2) == occupied)[use].mean() > 0.97


def test_a_finder_that_tells_far_better_keeps_its_evidence():
    """Counts of hardly an electron a column beside evidence that is certain: what is learned from them must not replace it."""
    movie, sites, occupied, _, where = planted(dose=20)
    random = np.random.default_rng(2)
    certain = (np.where(occupied, 8.0, -8.0) + random.normal(0, 0.5, occupied.shape)).astype(np.float32)
    assert learned_evidence(aligned_of(movie, sites, where), certain, certain > 0) is None
