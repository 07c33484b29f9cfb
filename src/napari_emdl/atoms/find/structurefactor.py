"""Structure factor of the spots around a place: a lattice shows in two directions, however many of its columns are missed.

Of spots at random, S(k) is 1 on average and stays below about 10 in a few hundred directions; of `n` columns of one lattice it
is `n` at its reciprocal vectors, whichever of them were found.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

#: spots around a place that are looked at together, and places tried in a frame
AROUND, TRIED = 80, 24
#: S(k) against the number of spots that a lattice has in two directions at least this far apart. Found at .75 to 1 of the
#: places of crystals of which half of the columns are missed, and at .08 or less in text, brick walls and spots at random.
LATTICE, APART_DEG = 0.25, 25.0
#: share of the places from which on the spots are a crystal's
MOST_PLACES = 0.5
#: wave vectors looked at, against one over the distance to the nearest neighbour, and points across a peak's width
_SHORTEST, _LONGEST, _POINTS = 0.25, 1.35, 2


def lattice_places(frames: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]], threshold: float) -> float:
    """Share of places around which the spots that pass have the structure factor of a lattice; NaN where there are few spots.

    Parameters
    ----------
    frames
        Candidates (n, 2) and their scores (n,) of each frame.
    threshold
        Spots from this score on are looked at.
    """
    found: list[bool] = []
    for points, score in frames:
        passing = np.asarray(points[score >= threshold], np.float64)
        if len(passing) < AROUND:
            continue
        tree = cKDTree(passing)
        spacing = float(np.median(tree.query(passing, k=2)[0][:, 1]))
        middles = passing[:: -(-len(passing) // TRIED)]
        found += [second_direction(passing[near], spacing) > LATTICE * AROUND for near in tree.query(middles, k=AROUND)[1]]
    return float(np.mean(found)) if found else float("nan")


def second_direction(points_px: NDArray[np.float64], spacing_px: float) -> float:
    """Largest structure factor of points (n, 2) in a direction away from that of the largest one of all."""
    centred = points_px - points_px.mean(axis=0)
    step = np.pi / (_POINTS * max(float(np.ptp(centred, axis=0).max()) / 2, spacing_px))
    count = int(2 * np.pi * _LONGEST / spacing_px / step)
    along = np.arange(-count, count + 1) * step
    half = along[count:]
    # exp(i k.r) is a product of its two axes
    rows = np.exp(1j * np.multiply.outer(half, centred[:, 0]))
    cols = np.exp(1j * np.multiply.outer(along, centred[:, 1]))
    strength = np.abs(rows @ cols.T) ** 2 / len(centred)
    k = np.stack(np.meshgrid(half, along, indexing="ij"), -1)
    length = np.linalg.norm(k, axis=-1) * spacing_px / (2 * np.pi)
    strength = np.where((length > _SHORTEST) & (length < _LONGEST), strength, 0)
    first = k.reshape(-1, 2)[int(strength.argmax())]
    cosine = np.abs(k @ first) / np.maximum(np.linalg.norm(k, axis=-1) * np.linalg.norm(first), 1e-12)
    return float(np.where(cosine < np.cos(np.radians(APART_DEG)), strength, 0).max())
