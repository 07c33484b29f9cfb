"""Scores of sites that the crystal makes equivalent: all of them are columns, or none is.

A network judges each place by itself. Half-way between two columns whose tails overlap it is in doubt at every such place, and
passes some of them by chance; of a weak sublattice it misses some. The other places a whole number of lattice vectors away say
more: where they are no columns, this one is none; where they are, a candidate in doubt is one. Only candidates in doubt are
changed, so that a vacancy stays empty and an atom in an odd place that is clearly seen stays.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def pooled_scores(position_px: Floats, score: Floats) -> Floats:
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
        peers, count = _mean_of_peers(position_px, score, doubt[mine], lattice)
        for i, mean, n in zip(doubt[mine], peers, count, strict=True):
            if n >= _LEAST_PEERS and mean < _NONE:
                out[i] = min(score[i], mean)
            elif n >= _LEAST_PEERS and mean > _ALL:
                out[i] = max(score[i], mean)
        doubt, left = doubt[~mine], left[obeyed < 2]
    return out


def find_translations(columns_px: Floats) -> Translations | None:
    """Shortest two independent vectors by which columns (n, 2) of one crystal repeat, or None."""
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
    hull = _hull(columns_px)
    _, cell, counts = np.unique(np.rint(steps / (0.2 * spacing)).astype(int), axis=0, return_inverse=True, return_counts=True)
    tried: list[tuple[Floats, NDArray[np.bool_]]] = []
    for k in np.argsort(-counts)[:_MOST_TRIED]:
        middle = steps[cell.ravel() == k].mean(axis=0)
        vector = steps[np.linalg.norm(steps - middle, axis=1) < 0.2 * spacing].mean(axis=0)
        through = _leads(tree, asked, vector, spacing) & _leads(tree, asked, -vector, spacing)
        most = max(_LEAST_CLEAR // 2, _THROUGH * len(asked))
        if through.sum() >= most or _fills(hull, tree, asked, vector, spacing):
            tried.append((vector, through))
    tried.sort(key=lambda found: float(np.linalg.norm(found[0])))
    for i, (first, one) in enumerate(tried):
        for second, other in tried[i + 1 :]:
            area = abs(first[0] * second[1] - first[1] * second[0])
            both = (one & other).sum()
            if area > 0.3 * np.linalg.norm(first) * np.linalg.norm(second) and both >= 0.5 * min(one.sum(), other.sum()):
                return Translations(np.stack([first, second]), tree, spacing)
    return None


def _hull(columns_px: Floats) -> Delaunay:
    """Triangles over all columns; of many only those at the corners of the outline are needed."""
    return Delaunay(columns_px if len(columns_px) <= _MOST_ASKED else columns_px[ConvexHull(columns_px).vertices])


def _fills(hull: Delaunay, tree: cKDTree, columns_px: Floats, vector: Floats, spacing: float) -> bool:
    """Whether a vector and its opposite lead to columns wherever they stay inside the crystal.

    In a small particle few columns have others on either side. The step within a dumbbell leads to nothing from every second
    one.
    """
    steps = (vector, -vector)
    inside = np.concatenate([hull.find_simplex(columns_px + step) >= 0 for step in steps])
    leads = np.concatenate([_leads(tree, columns_px, step, spacing) for step in steps])
    return bool(inside.sum() >= _LEAST_INSIDE and (leads & inside).sum() >= _FILLED * inside.sum())


def _leads(tree: cKDTree, columns_px: Floats, vector: Floats, spacing: float) -> NDArray[np.bool_]:
    """(n,) True where a vector leads from a column to another."""
    return np.isfinite(tree.query(columns_px + vector, distance_upper_bound=_OFF * spacing)[0])


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
    position_px: Floats, score: Floats, of: NDArray[np.intp], lattice: Translations
) -> tuple[Floats, NDArray[np.int64]]:
    """Mean score at the equivalents of candidates `of` inside the crystal (0 where nothing was seen), and their number."""
    steps = [(i, j) for i in range(-_REACH, _REACH + 1) for j in range(-_REACH, _REACH + 1) if (i, j) != (0, 0)]
    place = position_px[of][:, None] + np.array(steps) @ lattice.vectors
    flat = place.reshape(-1, 2)
    third = lattice.columns.query(flat, k=3)[0][:, 2]
    low, high = position_px.min(axis=0), position_px.max(axis=0)
    inside = (third < 1.6 * lattice.spacing_px) & np.all((flat >= low) & (flat <= high), axis=1)
    which = cKDTree(position_px).query(flat, distance_upper_bound=_OFF * lattice.spacing_px)[1]
    seen = np.append(score, 0.0)[which]  # where nothing is near, the index is the number of candidates
    inside, seen = inside.reshape(len(of), len(steps)), seen.reshape(len(of), len(steps))
    count = inside.sum(axis=1)
    return np.where(inside, seen, 0).sum(axis=1) / np.maximum(count, 1), count
