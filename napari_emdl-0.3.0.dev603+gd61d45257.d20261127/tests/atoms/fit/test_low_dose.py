"""Very low dose: what comes and goes is found from the frames, whatever the finder sees in a single one."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.atoms.fit.alignedframes import AlignedFrames
from napari_emdl.atoms.fit.difference import learned_evidence
from napari_emdl.atoms.fit.drift import Alignment, identity, refine_with_sites
from napari_emdl.atoms.fit.emissions import BLINKING
from napari_emdl.atoms.fit.firstkernel import first_look
from napari_emdl.atoms.fit.siteclasses import fit_site_classes
from napari_emdl.base.peaks import PeakTable

PIXEL_A, P_OFF, P_ON = 0.2, 0.18, 0.26


def faint_movie(frames=48, dose=12.0, blink=True, seed=0):
    """8 x 8 Gaussian columns of which the rim blinks, in frames of 96 x 96 with half an electron a pixel."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2)
    sites = 12 + grid * 2.0 / PIXEL_A
    rim = np.any((grid == 0) | (grid == 7), axis=1)
    occupied = np.ones((frames, len(sites)), bool)
    for t in range(1, frames if blink else 0):
        change = random.random(len(sites)) < np.where(occupied[t - 1], P_OFF, P_ON)
        occupied[t] = np.where(rim, occupied[t - 1] ^ change, True)
    rows, cols = np.mgrid[:96, :96]
    spots = np.exp(-((rows - sites[:, :1, None]) ** 2 + (cols - sites[:, 1:, None]) ** 2) / (2 * (0.55 / PIXEL_A) ** 2))
    image = 1 + 0.6 * np.tensordot(occupied.astype(float), spots, 1)
    return random.poisson(image * dose * PIXEL_A**2).astype(np.float32), sites, occupied, rim


def aligned_of(movie, sites):
    return AlignedFrames(
        lambda t: movie[t], sites, np.ones((len(movie), len(sites)), bool), identity(np.zeros((len(movie), 2))), PIXEL_A
    )


def test_a_finder_that_sees_nothing_does_not_keep_sites_from_blinking():
    movie, sites, occupied, rim = faint_movie()
    blind = np.random.default_rng(1).normal(-3, 1, occupied.shape)
    shown = np.ones(len(sites), bool)
    learned = learned_evidence(aligned_of(movie, sites), blind, blind > 0, shown=shown, surface=rim)
    assert learned is not None
    model = fit_site_classes(learned.evidence, blind > 0, start=learned.occupied, shown=shown)
    assert (model.class_probability[rim, BLINKING] > 0.5).mean() > 0.95
    assert (model.path != occupied)[:, rim].mean() < 0.15
    assert (model.path != occupied)[:, ~rim].mean() < 0.02
    assert model.p_off == pytest.approx(P_OFF, abs=0.04)
    assert model.p_on == pytest.approx(P_ON, abs=0.05)


def test_nothing_stands_out_of_the_noise_of_a_still_specimen():
    looks = []
    for seed in range(6):
        movie, sites, _, rim = faint_movie(blink=False, seed=seed)
        looks.append(first_look(aligned_of(movie, sites), rim.astype(float)))
    assert sum(look is not None and (look.changes > 3).sum() > 6 for look in looks) == 0


def test_columns_placed_badly_do_not_spoil_a_good_correlation():
    random = np.random.default_rng(3)
    sites = random.uniform(20, 180, (40, 2))
    drift = random.normal(0, 2, (30, 2))
    measured = drift + random.normal(0, 0.1, drift.shape)
    found = [sites + shift + random.normal(0, 3.0, sites.shape) for shift in drift]
    table = PeakTable.from_lists(
        [
            {"row": p[:, 0].astype(np.float32), "col": p[:, 1].astype(np.float32), "score": np.ones(40, np.float32)}
            for p in found
        ]
    )
    start = Alignment(measured, np.zeros(30, np.uint8), np.ones(30), np.tile(np.eye(2), (30, 1, 1)))
    refined = refine_with_sites(table, sites, start, 8.0)

    def error(shift):
        off = shift - drift
        return float((off - np.median(off, axis=0)).std())

    by_columns = np.array([(p - sites).mean(0) for p in found])
    assert error(refined.shift_px) < 0.5 * error(by_columns)
