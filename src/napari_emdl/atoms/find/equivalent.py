"""Scores of sites that the crystal makes equivalent: all of them are columns, or none is.

A network judges each place by itself. Half-way between two columns whose tails overlap it is in doubt at every such place, and
passes some of them by chance; of a weak sublattice it misses some. The other places a whole number of lattice vectors away say
more: where they are no columns, this one is none; where they are, a candidate in doubt is one. Only candidates in doubt are
changed, so that a vacancy stays empty and an atom in an odd place that is clearly seen stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, Delaunay, cKDTree

Floats = NDArray[np.float64]

#: Columns that are clear beyond doubt; so many of them make a lattice.
CLEAR, _LEAST_CLEAR = 0.85, 24
#: Frequent steps from column to column that are tried as lattice vectors.
_MOST_TRIED = 32
#: Share of the clear columns that have another on either side, one vector away, and how far off it may be in nearest spacings.
#: The step within a dumbbell leads to a column on one side alone, and a grain may hold a third of all columns.
_THROUGH, _OFF = 0.3, 0.25
#: A step from A site to oxygen to A site, or along a chain of columns, leads through some columns only, and twice or thrice the
#: step, where it stays inside the crystal, through so many times as many. What leads through this share is a whole step.
_LONGER, _PLENTY = 1.2, 0.8
#: A small crystal has few columns on either side: of so many steps that end inside it, this share leads to columns.
_LEAST_INSIDE, _FILLED = 12, 0.85
#: Share of the clear columns next to a place that must obey a lattice; lattices looked for in one frame.
_AROUND, _MOST_LATTICES = 0.6, 4
#: Of more clear columns than this the lattice is looked for from a part, spread over all.
_MOST_ASKED = 4000
#: Lattice vectors to each side that equivalent places are looked up, and how many must lie inside the crystal.
_REACH, _LEAST_PEERS = 2, 4
#: Mean score of the equivalent places below which a candidate is lowered, and above which it is raised.
_NONE, _ALL = 0.5, 0.7
#: Candidates below are left alone: an empty site must stay empty.
DOUBT = 0.3


@dataclass(frozen=True)
class Translations:
    """Two lattice vectors (px) and the clear columns they were found from."""

    vectors: Floats
    columns: cKDTree
    spacing_px: float


def pooled_scores(position_px: Floats, score: Floats, threads: int = 1) -> Floats:
    """Scores (n,) of candidates (n, 2) of one frame, those in doubt replaced by what their equivalents say.

    Frames without a lattice that most clear columns share come back as they are.
    """
    doubt = np.flatnonzero((score >= DOUBT) & (score < CLEAR))
    left = position_px[score >= CLEAR]
    out = score.copy()
    for _ in range(_MOST_LATTICES):
        lattice = find_translations(left) if len(doubt) else None
        if lattice is None:
            break
        obeyed = steps_obeyed(lattice)
        mine = _in_lattice(position_px[doubt], lattice, obeyed)
        peers, count = _mean_of_peers(position_px, score, doubt[mine], lattice, threads)
        for i, mean, n in zip(doubt[mine], peers, count, strict=True):
            if n >= _LEAST_PEERS and mean < _NONE:
                out[i] = min(score[i], mean)
            elif n >= _LEAST_PEERS and mean > _ALL:
                out[i] = max(score[i], mean)
        doubt, left = doubt[~mine], left[obeyed < 2]
    return out


def find_translations(columns_px: Floats, whole: bool = False) -> Translations | None:
    """Shortest two independent vectors by which columns (n, 2) of one crystal repeat, or None.

    With `whole` a step that leads through a part of the columns only, as along a chain of B sites and oxygen, is none where a
    multiple leads through far more. Otherwise it stands: where a sublattice is half seen, it is the period of the others.
    """
    if len(columns_px) < _LEAST_CLEAR:
        return None
    tree = cKDTree(columns_px)
    asked = columns_px[:: -(-len(columns_px) // _MOST_ASKED)]
    away, near = tree.query(asked, k=min(17, len(columns_px)))
    spacing = float(np.median(away[:, 1]))
    steps = (columns_px[near[:, 1:]] - asked[:, None]).reshape(-1, 2)
    steps = steps[(steps[:, 0] > 0) | ((steps[:, 0] == 0) & (steps[:, 1] > 0))]
    if len(steps) < _LEAST_CLEAR:
        return None
    tries = _Tries(tree, columns_px, asked, spacing, _frequent(steps, spacing), whole)
    for i, (first, one) in enumerate(tries):
        for second, other in itertools.islice(tries, i + 1, None):
            area = abs(first[0] * second[1] - first[1] * second[0])
            both = (one & other).sum()
            if area > 0.3 * np.linalg.norm(first) * np.linalg.norm(second) and both >= 0.5 * min(one.sum(), other.sum()):
                return Translations(np.stack([first, second]), tree, spacing)
    return None


def _frequent(steps: Floats, spacing: float) -> list[Floats]:
    """The most frequent steps, shortest first."""
    cells = np.rint(steps / (0.2 * spacing)).astype(np.int64)
    low = cells.min(axis=0)
    key = (cells[:, 0] - low[0]) * (int(cells[:, 1].max() - low[1]) + 1) + cells[:, 1] - low[1]
    _, cell, counts = np.unique(key, return_inverse=True, return_counts=True)
    found = []
    for k in np.argsort(-counts)[:_MOST_TRIED]:
        middle = steps[cell == k].mean(axis=0)
        found.append(steps[np.linalg.norm(steps - middle, axis=1) < 0.2 * spacing].mean(axis=0))
    return sorted(found, key=lambda vector: float(np.linalg.norm(vector)))


class _Tries:
    """Those of some vectors that lead through the crystal, each with the columns (n,) that have another on either side.

    They are looked at when they are asked for: the first two mostly are the lattice.
    """

    def __init__(
        self, tree: cKDTree, columns_px: Floats, asked: Floats, spacing: float, vectors: list[Floats], whole: bool = False
    ) -> None:
        self.whole = whole
        self.tree, self.columns_px, self.asked, self.spacing = tree, columns_px, asked, spacing
        self._left = iter(vectors)
        self._found: list[tuple[Floats, NDArray[np.bool_]]] = []

    def __iter__(self) -> Iterator[tuple[Floats, NDArray[np.bool_]]]:
        for number in itertools.count():
            while len(self._found) <= number:
                if (vector := next(self._left, None)) is None:
                    return
                self._look(vector)
            yield self._found[number]

    def _look(self, vector: Floats) -> None:
        forth, back = (_leads(self.tree, self.asked, step, self.spacing) for step in (vector, -vector))
        through = forth & back
        enough = through.sum() >= max(_LEAST_CLEAR // 2, _THROUGH * len(self.asked))
        if self.whole and enough and self._part_of_one(vector, through):
            return
        if enough or self._fills(vector, np.r_[forth, back]):
            self._found.append((vector, through))

    def _part_of_one(self, vector: Floats, through: NDArray[np.bool_]) -> bool:
        """Whether a vector is a half or a third of one by which far more columns repeat."""
        if through.sum() >= _PLENTY * len(through):
            return False
        for times in (2, 3):
            ends = [self.asked + times * sign * vector for sign in (1, -1)]
            inside = np.all([self._hull.find_simplex(end) >= 0 for end in ends], axis=0)
            longer = np.all([_near_one(self.tree, end[inside], self.spacing) for end in ends], axis=0)
            if longer.sum() > max(_LEAST_CLEAR // 2, _LONGER * (through & inside).sum()):
                return True
        return False

    def _fills(self, vector: Floats, leads: NDArray[np.bool_]) -> bool:
        """Whether a vector and its opposite lead to columns wherever they stay inside the crystal.

        In a small particle few columns have others on either side. The step within a dumbbell leads to nothing from every
        second one.
        """
        inside = np.concatenate([self._hull.find_simplex(self.asked + step) >= 0 for step in (vector, -vector)])
        return bool(inside.sum() >= _LEAST_INSIDE and (leads & inside).sum() >= _FILLED * inside.sum())

    @cached_property
    def _hull(self) -> Delaunay:
        """Triangles over all columns; of many only those at the corners of the outline are needed."""
        points = self.columns_px
        return Delaunay(points if len(points) <= _MOST_ASKED else points[ConvexHull(points).vertices])


def _leads(tree: cKDTree, columns_px: Floats, vector: Floats, spacing: float) -> NDArray[np.bool_]:
    """(n,) True where a vector leads from a column to another."""
    return _near_one(tree, columns_px + vector, spacing)


def _near_one(tree: cKDTree, places_px: Floats, spacing: float) -> NDArray[np.bool_]:
    """(n,) True where a column stands at a place."""
    return np.isfinite(tree.query(places_px, distance_upper_bound=_OFF * spacing)[0])


def steps_obeyed(lattice: Translations) -> NDArray[np.int64]:
    """(n,) how many of the four steps from each clear column lead to another."""
    columns = np.asarray(lattice.columns.data)
    steps = (*lattice.vectors, *-lattice.vectors)
    return np.sum([_leads(lattice.columns, columns, step, lattice.spacing_px) for step in steps], axis=0)


def _in_lattice(position_px: Floats, lattice: Translations, obeyed: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True where the clear columns around a place obey the lattice: another grain has vectors of its own."""
    _, near = lattice.columns.query(position_px, k=6)
    return np.asarray(np.mean(obeyed[near] >= 2, axis=1) >= _AROUND)


def _mean_of_peers(
    position_px: Floats, score: Floats, of: NDArray[np.intp], lattice: Translations, threads: int = 1
) -> tuple[Floats, NDArray[np.int64]]:
    """Mean score at the equivalents of candidates `of` inside the crystal (0 where nothing was seen), and their number."""
    steps = [(i, j) for i in range(-_REACH, _REACH + 1) for j in range(-_REACH, _REACH + 1) if (i, j) != (0, 0)]
    place = position_px[of][:, None] + np.array(steps) @ lattice.vectors
    flat = place.reshape(-1, 2)
    reach = 1.6 * lattice.spacing_px
    third = lattice.columns.query(flat, k=[3], distance_upper_bound=reach, workers=threads)[0][:, 0]
    low, high = position_px.min(axis=0), position_px.max(axis=0)
    inside = (third < reach) & np.all((flat >= low) & (flat <= high), axis=1)
    which = cKDTree(position_px).query(flat, distance_upper_bound=_OFF * lattice.spacing_px, workers=threads)[1]
    seen = np.append(score, 0.0)[which]  # where nothing is near, the index is the number of candidates
    inside, seen = inside.reshape(len(of), len(steps)), seen.reshape(len(of), len(steps))
    count = inside.sum(axis=1)
    return np.where(inside, seen, 0).sum(axis=1) / np.maximum(count, 1), count
