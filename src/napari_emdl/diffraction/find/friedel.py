"""Which patterns show their disks in pairs about the direct beam (Friedel), as crystals do, from one grain as from many.

A halo, a ring or noise has places that look like disks as well, but no more of them lie opposite each other than after a turn
about the beam by an angle that no lattice has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.diffraction.find.candidates import Found
from napari_emdl.diffraction.find.wholescan import TURNS_DEG, turned

Floats = NDArray[np.float64]

#: The direct beam is one of so many brightest disks, or, as a thick crystal's reflections may outshine it, of those nearest to
#: the middle of all.
_BRIGHTEST, _MIDDLE = 4, 3
#: Partners lie this near the opposite place, in radii (at least a pixel); disks this near the beam are the beam.
_NEAR, _OF_BEAM = 0.35, 1.2
#: Places nearer than this to each other, in radii, are one; disks of which pairs are looked for, the likeliest.
_SAME, _MOST_PAIRED = 0.5, 40
#: Disks in pairs that it takes, and by how many standard deviations they must be more than chance makes.
_LEAST_PAIRED, _SIGMAS = 6, 4.0


def likely_beams(sure: Found, beam_px: Floats, radius_px: float) -> Floats:
    """(k, 2) what may be the direct beam of one pattern.

    Some of its sure disks, the place about which most of them lie in pairs (a stop may hide the beam), and where it is in most
    patterns.
    """
    if not len(sure.which):
        return np.atleast_2d(beam_px).astype(np.float64)
    brightest = np.argsort(-sure.intensity)[:_BRIGHTEST]
    middle = np.argsort(np.linalg.norm(sure.position - sure.position.mean(axis=0), axis=1))[:_MIDDLE]
    places = [*sure.position[np.unique(np.r_[brightest, middle])], _middle_of_pairs(sure, radius_px), beam_px]
    found = np.array(places, np.float64)
    apart = np.linalg.norm(found[:, None] - found, axis=2) > _SAME * radius_px
    kept: list[int] = []
    for index in range(len(found)):
        if apart[index, kept].all():
            kept.append(index)
    return found[kept]


def _middle_of_pairs(sure: Found, radius_px: float) -> Floats:
    """Mean of the middles of all pairs that lie about the place where most do."""
    best = np.argsort(-sure.score)[:_MOST_PAIRED]
    first, second = np.triu_indices(len(best))
    middles = 0.5 * (sure.position[best[first]] + sure.position[best[second]])
    near = max(1.0, _NEAR * radius_px)
    tree = cKDTree(middles, compact_nodes=False, balanced_tree=False)  # made once for a few questions
    fullest = middles[tree.query_ball_point(middles, near, return_length=True).argmax()]
    return np.asarray(middles[tree.query_ball_point(fullest, near)].mean(axis=0), np.float64)


def in_pairs(
    found: Found, sure: NDArray[np.bool_], n: int, beam_px: Floats, radius_px: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which patterns have more pairs of disks about their likely direct beam than chance makes, and which disks are in one.

    Parameters
    ----------
    found, sure
        Disks, and (m,) those beyond reasonable doubt, which make the pairs.
    n
        Patterns.
    beam_px
        (2,) where the direct beam of all patterns may be.
    radius_px
        Of the disks.

    Returns
    -------
    of_pattern, of_disk
        (n,) and (m,); the beam itself counts as in a pair.
    """
    of_pattern, of_disk = np.zeros(n, bool), np.zeros(len(found.which), bool)
    counts = np.bincount(found.which[sure], minlength=n)
    for i in np.flatnonzero(counts >= _LEAST_PAIRED):
        own = np.flatnonzero((found.which == i) & sure)
        found_pairs = [_partners(found.position[own] - b, radius_px) for b in likely_beams(found.pick(own), beam_px, radius_px)]
        partner, more = max(found_pairs, key=lambda pairs: (pairs[1], pairs[0].sum()))
        if more:
            of_pattern[i], of_disk[own[partner]] = True, True
    return of_pattern, of_disk


def _partners(around: Floats, radius_px: float) -> tuple[NDArray[np.bool_], bool]:
    """(m,) disks with a partner opposite the beam, and whether these are more than chance makes; the beam is its own."""
    beside = np.linalg.norm(around, axis=1) > _OF_BEAM * radius_px
    others = around[beside]
    if len(others) < _LEAST_PAIRED:
        return np.zeros(len(around), bool), False
    tree = cKDTree(others)
    places = np.concatenate([-others, *(turned(-others, angle) for angle in TURNS_DEG)])
    near = tree.query(places, distance_upper_bound=max(1.0, _NEAR * radius_px))[0] < np.inf
    hits = near.reshape(-1, len(others)).sum(axis=1)
    chance = float(hits[1:].mean())
    partner = ~beside
    partner[beside] = near[: len(others)]
    return partner, bool(hits[0] >= _LEAST_PAIRED and hits[0] > chance + _SIGMAS * np.sqrt(chance + 1))
