"""What blinks is found where one or two sites do, and nothing where none does."""

from __future__ import annotations

import numpy as np

from napari_emdl.atoms.fit.alignedframes import AlignedFrames
from napari_emdl.atoms.fit.difference import learned_evidence
from napari_emdl.atoms.fit.drift import identity
from napari_emdl.atoms.fit.emissions import BLINKING
from napari_emdl.atoms.fit.siteclasses import fit_site_classes

PIXEL_A, FRAMES, NOISE = 0.2, 24, 4.0


def planted(seed: int, blinking: dict[int, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Movie of 49 columns, where they are, and when: those of `blinking` are away in some frames."""
    random = np.random.default_rng(seed)
    sites = np.stack(np.meshgrid(np.arange(7), np.arange(7), indexing="ij"), -1).reshape(-1, 2) * 13.0 + 25
    there = np.ones((FRAMES, len(sites)), bool)
    for site, frames in blinking.items():
        there[frames, site] = False
    rows, cols = np.meshgrid(np.arange(128), np.arange(128), indexing="ij")
    spots = np.exp(-((rows - sites[:, :1, None]) ** 2 + (cols - sites[:, 1:, None]) ** 2) / (2 * 2.2**2))
    movie = np.einsum("ti,ijk->tjk", there * 6.0, spots) + random.normal(0, NOISE, (FRAMES, 128, 128))
    return movie, sites, there


def finder(there: np.ndarray, seed: int) -> np.ndarray:
    """Logit that saturates above and has a long tail below, as a network's: at all sites alike."""
    random = np.random.default_rng([seed, 1])
    tail = np.minimum(random.normal(0, 0.3, there.shape), 0.6) - random.exponential(0.8, there.shape)
    return np.where(there, 2.2, -2.0) + tail


def test_two_sites_of_many():
    for seed in (1, 2, 3):
        movie, sites, there = planted(seed, {3: slice(5, 8), 27: slice(14, 17)})
        valid = np.ones(there.shape, bool)
        aligned = AlignedFrames(lambda t, movie=movie: movie[t], sites, valid, identity(np.zeros((FRAMES, 2))), PIXEL_A)
        logit = finder(there, seed)
        learned = learned_evidence(aligned, logit, logit > 0, shown=np.ones(len(sites), bool))
        assert learned is not None
        model = fit_site_classes(learned.evidence, logit > 0, start=learned.occupied, shown=np.ones(len(sites), bool))
        assert set(np.flatnonzero(model.site_class == BLINKING)) == {3, 27}
        assert np.array_equal(model.path, there)


def test_a_network_that_fails_now_and_then_makes_nothing_blink():
    """One site in eight loses its column in a fifth of the frames, each frame by itself: no column comes and goes like that."""
    notes = []
    for seed in (1, 2, 3):
        random = np.random.default_rng(seed)
        logit = np.full((FRAMES, 90), 2.2) + np.minimum(random.normal(0, 0.3, (FRAMES, 90)), 0.4)
        failing = random.random(90) < 0.12
        logit[:, failing] -= np.where(random.random((FRAMES, failing.sum())) < 0.2, random.uniform(1, 3, (FRAMES, 1)), 0)
        logit = np.c_[logit, random.normal(-3, 1, (FRAMES, 26))]
        model = fit_site_classes(logit, logit > 0, shown=np.arange(116) < 90)
        assert not (model.site_class == BLINKING).any() and model.path[:, :90].all() and not model.path[:, 90:].any()
        notes.append(model.note)
    assert any("without memory" in note for note in notes), "what was taken for failures is said"


def test_a_column_that_clearly_goes_for_some_frames_blinks_without_the_movie():
    for seed in (0, 1, 3):
        random = np.random.default_rng(seed)
        there = np.ones((FRAMES, 90), bool)
        there[9:12, 5] = False
        logit = np.where(there, 2.2, -3.0) + np.minimum(random.normal(0, 0.3, there.shape), 0.6)
        logit -= random.exponential(0.3, there.shape)
        model = fit_site_classes(logit, logit > 0, shown=np.ones(90, bool))
        assert model.site_class[5] == BLINKING and np.array_equal(model.path[:, 5], there[:, 5])


def test_sites_where_no_column_was_ever_seen_do_not_blink():
    """They look just like empty blinking ones; taken for such, they pull the rate of arrivals towards nothing."""
    for seed in (0, 1, 2):
        random = np.random.default_rng(seed)
        there = np.zeros((FRAMES, 110), bool)
        there[:, :80] = True
        there[9:, 0], there[14:, 1], there[4:7, 2], there[:, 3] = False, False, False, np.arange(FRAMES) == 5
        y = np.where(there, 12.0, 0.0) + random.normal(0, 1, there.shape) + random.normal(0, 0.3, 110)
        model = fit_site_classes(y, there, start=there)
        assert set(np.flatnonzero(model.site_class == BLINKING)) == {0, 1, 2, 3}
        assert model.p_on > 0.02  # two arrivals in about 60 empty frames
