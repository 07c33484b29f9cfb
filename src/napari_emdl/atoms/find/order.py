"""Do the spots repeat as the columns of a crystal do? Text, photographs and amorphous films give spots as well."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.equivalent import find_translations, steps_obeyed

#: neighbours whose vectors are compared, and the nearest ones they are compared with
NEIGHBOURS, COMPARED = 8, 3
#: two vectors are the same within this share of the distance to the nearest neighbour
SAME = 0.2
#: candidates from this score on count as neighbours, so that a lattice of which only some columns pass is seen as well
SUSPECTED = 0.2
#: turns of the neighbours' vectors that tell how often vectors agree by chance
TURNS_RAD = (0.9, 1.9, 2.8, 4.1, 5.3)
#: fewer spots are not judged; more than so many are judged by a part of them
LEAST_SPOTS, MOST_SPOTS = 30, 2000
#: Order below which spots are no crystal, with `LEAST_SPOTS` of them and with many. On simulated held-out images crystals have
#: .25 to .9 and what is no crystal has -.02 to .1, the more spots the nearer to 0.
NO_ORDER, NO_ORDER_MANY = 0.06, 0.12
#: Spots around a place that make a lattice or not, places tried in a frame, and the least number of spots that are judged so.
#: Found at .75 to 1 of the places of crystals, and at no more than .28 in printed text, whose letters stand in rows and repeat
#: along them (order up to .4). Where the order is above `ORDERLY` nobody needs to look.
AROUND, TRIED, LEAST_AROUND, ORDERLY, NO_LATTICE = 40, 24, 120, 0.45, 0.35
#: below it the user is told
LITTLE_ORDER = 0.15
#: spots of a frame whose order can be told at all
LEAST_TOLD = 12


@dataclass(frozen=True)
class Order:
    """Order of the spots of some frames (0 as by chance, 1 in a perfect lattice, NaN when there are too few), and how many."""

    value: float
    spots: int

    @property
    def none(self) -> bool:
        """Whether so many spots of a crystal would show more order."""
        limit = min(NO_ORDER_MANY, NO_ORDER * (self.spots / LEAST_SPOTS) ** 0.5)
        return self.spots >= LEAST_SPOTS and self.value < limit

    @property
    def little(self) -> bool:
        """Whether the user should look at the result."""
        return self.spots >= LEAST_SPOTS and self.value < LITTLE_ORDER

    @property
    def unknown(self) -> bool:
        """Whether there are spots, but too few to tell columns from anything else that is round."""
        return 0 < self.spots < LEAST_TOLD


def order_of(frames: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]], threshold: float) -> Order:
    """Order of the spots that pass, over frames of (points (n, 2), scores (n,))."""
    values, counts, total = [], [], 0
    for points, score in frames:
        passing = int(np.count_nonzero(score >= threshold))
        total += passing
        value = lattice_order(points, score, threshold)
        if np.isfinite(value):
            values.append(value)
            counts.append(passing)
    return Order(float(np.average(values, weights=counts)) if values else float("nan"), total)


def lattice_share(frames: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]], threshold: float) -> float:
    """Share of places around which the spots that pass repeat by two vectors, as in a grain; NaN where there are few spots."""
    found = []
    for points, score in frames:
        passing = np.asarray(points[score >= threshold], np.float64)
        if len(passing) < LEAST_AROUND:
            continue
        tree = cKDTree(passing)
        for middle in passing[:: -(-len(passing) // TRIED)]:
            around = passing[tree.query(middle, k=AROUND)[1]]
            lattice = find_translations(around)
            found.append(lattice is not None and bool(np.mean(steps_obeyed(lattice) >= 2) > 0.6))
    return float(np.mean(found)) if found else float("nan")


def lattice_order(points: NDArray[np.floating], score: NDArray[np.floating], threshold: float) -> float:
    """How much oftener than by chance the vectors to a spot's neighbours are those of its neighbours to theirs.

    In a lattice, whatever its basis, orientation and extent, nearly all of them repeat from spot to spot; where spots lie at
    random they repeat as often as after a turn.

    Parameters
    ----------
    points
        (n, 2) candidates.
    score
        (n,) their scores; neighbours count from `SUSPECTED` on.
    threshold
        Spots from this score on are judged.

    Returns
    -------
    float
        0 as by chance to 1 in a perfect lattice; NaN with fewer than a dozen spots.
    """
    suspected = score >= min(SUSPECTED, threshold)
    p = np.asarray(points, np.float64)[suspected]
    judged = np.flatnonzero(score[suspected] >= threshold)
    if len(judged) < LEAST_TOLD:
        return float("nan")
    judged = judged[:: -(-len(judged) // MOST_SPOTS)]
    tree = cKDTree(p)
    distance, index = tree.query(p[judged], k=NEIGHBOURS + 1)
    own, reach = p[index[:, 1:]] - p[judged][:, None], SAME * distance[:, 1:2]
    near = p[index[:, 1 : COMPARED + 1]]
    vectors = p[tree.query(near, k=NEIGHBOURS + 1)[1][..., 1:]] - near[:, :, None]

    def agreement(turn_rad: float) -> float:
        cos, sin = np.cos(turn_rad), np.sin(turn_rad)
        shares = []
        for k in range(1, COMPARED + 1):
            theirs = vectors[:, k - 1] @ np.array([[cos, sin], [-sin, cos]])
            gap = np.linalg.norm(own[:, :, None] - theirs[:, None], axis=-1).min(axis=2)
            shares.append(np.mean(gap < reach))
        return float(np.mean(shares))

    chance = float(np.mean([agreement(turn) for turn in TURNS_RAD]))
    return (agreement(0.0) - chance) / max(1.0 - chance, 1e-6)
