"""Spots in doubt far from the crystal: columns of its fading rim repeat with the crystal's vectors, noise does not.

A network sees a part of an image at a time, and in wide vacuum, where the local normalisation raises the noise, smooth noise
looks like faint columns. The whole image says more: where a crystal is clear, what is in doubt beside it either continues its
lattice or is no column. Spots beyond doubt stay wherever they are, so that single atoms on a support are kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.equivalent import CLEAR, DOUBT, Translations, find_translations, steps_obeyed

Floats = NDArray[np.float64]

#: A spot belongs to the crystal within so many nearest spacings of one of its clear columns.
_NEAR = 1.6
#: Score from which a spot carries others, how far off a step may end, in nearest spacings, and how many of the eight steps by
#: the lattice vectors, their sum and their difference have to lead to another spot.
_CARRIES, _OFF, _LEAST_STEPS = 0.5, 0.25, 3
#: Lattices looked for in one frame.
_MOST_LATTICES = 4


def without_strays(position_px: Floats, score: Floats) -> Floats:
    """Scores (n,) of candidates (n, 2) of one frame, stray ones lowered below any threshold that is chosen.

    Frames without a lattice come back as they are.
    """
    doubt = (score >= DOUBT) & (score < CLEAR)
    stray, left = doubt.copy(), position_px[score >= CLEAR]
    lattices = 0
    while stray.any() and lattices < _MOST_LATTICES and (lattice := find_translations(left, whole=True)) is not None:
        stray &= ~_carried(position_px, score, lattice)
        left = left[steps_obeyed(lattice) < 2]
        lattices += 1
    return np.where(stray, DOUBT, score) if lattices else score


def _carried(position_px: Floats, score: Floats, lattice: Translations) -> NDArray[np.bool_]:
    """Spots (n,) that are clear, near to clear columns, or continue the lattice together with such spots."""
    near = np.isfinite(lattice.columns.query(position_px, distance_upper_bound=_NEAR * lattice.spacing_px)[0])
    fixed, carried = near | (score >= CLEAR), near | (score >= _CARRIES)
    first, second = lattice.vectors
    steps = [sign * step for step in (first, second, first + second, first - second) for sign in (1, -1)]
    while True:
        index = np.flatnonzero(carried)
        tree, own = cKDTree(position_px[index]), position_px[index[~fixed[index]]]
        ends = [tree.query(own + step, distance_upper_bound=_OFF * lattice.spacing_px)[0] for step in steps]
        few = np.sum(np.isfinite(ends), axis=0) < _LEAST_STEPS
        if not few.any():
            return carried
        carried[index[~fixed[index]][few]] = False
