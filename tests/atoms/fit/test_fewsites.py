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


def test_none_of_many():
    for seed in (1, 2, 3):
        movie, sites, there = planted(seed, {})
        valid = np.ones(there.shape, bool)
        aligned = AlignedFrames(lambda t, movie=movie: movie[t], sites, valid, identity(np.zeros((FRAMES, 2))), PIXEL_A)
        logit = finder(there, seed)
        assert learned_evidence(aligned, logit, logit > 0, shown=np.ones(len(sites), bool)) is None
        model = fit_site_classes(logit, logit > 0, shown=np.ones(len(sites), bool))
        assert not (model.site_class == BLINKING).any() and model.note == "no site was seen to come and go"


def test_sites_where_no_column_was_ever_seen_do_not_blink():
    """They look just like empty blinking ones; taken for such, they pull the rate of arrivals towards nothing."""
    random = np.random.default_rng(4)
    there = np.zeros((40, 60), bool)
    there[:, :40] = True
    there[:, 0], there[:, 1] = np.arange(40) % 10 < 7, np.arange(40) % 8 < 5
    y = np.where(there, 8.0, 0.0) + random.normal(0, 1, there.shape)
    model = fit_site_classes(y, there, start=there)
    assert set(np.flatnonzero(model.site_class == BLINKING)) == {0, 1}
    assert model.p_on > 0.2
