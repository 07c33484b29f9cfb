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
#: Disks in pairs that it takes, and by how many standard deviations they must be more than chance makes.
_LEAST_PAIRED, _SIGMAS = 6, 4.0


def likely_beams(sure: Found, beam_px: Floats, radius_px: float) -> Floats:
    """(k, 2) what may be the direct beam of one pattern: some of its sure disks, and the place where it is in most patterns."""
    if not len(sure.which):
        return np.atleast_2d(beam_px).astype(np.float64)
    brightest = np.argsort(-sure.intensity)[:_BRIGHTEST]
    middle = np.argsort(np.linalg.norm(sure.position - sure.position.mean(axis=0), axis=1))[:_MIDDLE]
    picked = sure.position[np.unique(np.r_[brightest, middle])]
    own = np.linalg.norm(picked - beam_px, axis=1).min() > radius_px
    return np.concatenate([picked, beam_px[None]]) if own else picked


def paired_patterns(sure: Found, n: int, beam_px: Floats, radius_px: float) -> NDArray[np.bool_]:
    """(n,) patterns whose sure disks lie in more pairs about what may be the direct beam than chance makes.

    Parameters
    ----------
    sure
        Disks beyond reasonable doubt.
    n
        Patterns.
    beam_px
        (2,) where the direct beam of all patterns may be.
    radius_px
        Of the disks.
    """
    out = np.zeros(n, bool)
    counts = np.bincount(sure.which, minlength=n)
    for i in np.flatnonzero(counts >= _LEAST_PAIRED):
        own = sure.pick(sure.which == i)
        out[i] = any(_is_paired(own.position - beam, radius_px) for beam in likely_beams(own, beam_px, radius_px))
    return out


def _is_paired(around: Floats, radius_px: float) -> bool:
    around = around[np.linalg.norm(around, axis=1) > _OF_BEAM * radius_px]
    if len(around) < _LEAST_PAIRED:
        return False
    tree = cKDTree(around)
    near = max(1.0, _NEAR * radius_px)
    places = np.concatenate([-around, *(turned(-around, angle) for angle in TURNS_DEG)])
    hits = (tree.query(places, distance_upper_bound=near)[0] < np.inf).reshape(-1, len(around)).sum(axis=1)
    chance = float(hits[1:].mean())
    return bool(hits[0] >= _LEAST_PAIRED and hits[0] > chance + _SIGMAS * np.sqrt(chance + 1))
