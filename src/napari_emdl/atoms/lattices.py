"""Lattices of the specimen: particle and support, twins, grains, each with the columns that are its own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

#: range in which lattice vectors are looked for
LONGEST_VECTOR_A = 6.5
#: vectors that are tried in pairs
MOST_VECTORS = 8
#: a crystal of fewer columns is not told from chance; no more crystals than this are looked for
LEAST_COLUMNS, MOST_LATTICES = 8, 6


@dataclass(frozen=True)
class Lattice:
    """Two shortest vectors (row, col) in pixels of the projected lattice."""

    a_px: NDArray[np.float64]
    b_px: NDArray[np.float64]

    @property
    def neighbours_px(self) -> NDArray[np.float64]:
        """(6, 2) shortest lattice vectors."""
        third = self.a_px - self.b_px if self.a_px @ self.b_px > 0 else self.a_px + self.b_px
        half = np.stack([self.a_px, self.b_px, third])
        return np.concatenate([half, -half])

    @property
    def spacing_px(self) -> float:
        """Length of the shortest vector."""
        return float(np.hypot(*self.neighbours_px.T).min())


def find_lattice(position_px: NDArray[np.float64], seen: NDArray[np.float64], pixel_A: float) -> Lattice | None:
    """Two shortest lattice vectors from the differences between neighbours; None when nothing repeats.

    Parameters
    ----------
    position_px
        (n, 2) sites.
    seen
        (n,) share of frames, the weight of a site.
    pixel_A
        Pixel size.
    """
    solid = position_px[seen >= min(0.5, float(np.median(seen)))]
    if len(solid) < 6:
        return None
    pairs = cKDTree(solid).query_pairs(LONGEST_VECTOR_A / pixel_A, output_type="ndarray")
    if len(pairs) < 6:
        return None
    difference = solid[pairs[:, 0]] - solid[pairs[:, 1]]
    both = np.concatenate([difference, -difference])
    tree = cKDTree(both)
    radius_px = 0.3 / pixel_A
    votes = np.array([len(ids) for ids in tree.query_ball_point(both, radius_px)])
    half = (both[:, 0] > 0) | ((both[:, 0] == 0) & (both[:, 1] > 0))
    candidates: list[tuple[float, NDArray[np.float64], int]] = []
    remaining = np.where(half, votes, 0)
    while remaining.max() >= max(3, 0.3 * votes.max()):
        best = int(np.argmax(remaining))
        members = tree.query_ball_point(both[best], radius_px)
        vector = np.median(both[members], axis=0)
        candidates.append((float(np.hypot(*vector)), vector, int(votes[best])))
        remaining[np.hypot(*(both - vector).T) < 2 * radius_px] = 0
        remaining[np.hypot(*(both + vector).T) < 2 * radius_px] = 0
    candidates.sort(key=lambda c: -c[2])
    return _best_pair([vector for _, vector, _ in candidates[:MOST_VECTORS]], solid, radius_px)


def _best_pair(vectors: list[NDArray[np.float64]], solid: NDArray[np.float64], reach_px: float) -> Lattice | None:
    """Lattice of the smallest cell that surrounds many sites with neighbours on at least five of six sides.

    Vectors of two crystals, or a cell that two twins share, link sites as well, but with a larger cell; the difference between
    the columns of one cell has a neighbour on one side only.
    """
    found: list[tuple[float, int, int, Lattice]] = []
    for a, b in itertools.combinations(vectors, 2):
        if abs(a[0] * b[1] - a[1] * b[0]) <= 0.5 * np.hypot(*a) * np.hypot(*b):
            continue
        lattice = Lattice(*_reduced(a, b))
        linked = (links_of(solid, lattice, reach_px / lattice.spacing_px) >= 0).sum(1)
        cell = abs(float(lattice.a_px[0] * lattice.b_px[1] - lattice.a_px[1] * lattice.b_px[0]))
        found.append((cell, int((linked >= 5).sum()), int(linked[linked >= 3].sum()), lattice))
    if not found:
        return None
    inner, links = max(item[1] for item in found), max(item[2] for item in found)
    # thin crystals have no site with neighbours all around: there the number of links decides
    good = [item for item in found if item[1] >= 0.3 * inner] if inner >= 4 else [i for i in found if i[2] >= 0.9 * links]
    return _refined(min(good, key=lambda item: item[0])[3], solid)


def find_lattices(
    position_px: NDArray[np.float64], seen: NDArray[np.float64], pixel_A: float
) -> tuple[tuple[Lattice, ...], NDArray[np.int8]]:
    """All lattices of the specimen, and which one each site is of.

    What one lattice does not hold is searched for another one, and so on; that of most sites comes first. A site where two
    crystals meet is of the one that gives it more neighbours.

    Parameters
    ----------
    position_px, seen, pixel_A
        As for :func:`find_lattice`.

    Returns
    -------
    lattices
        Those found.
    crystal
        (n,) int8, index into `lattices`, -1 for sites of none.
    """
    lattices: list[Lattice] = []
    crystal = np.full(len(position_px), -1, np.int8)
    for number in range(MOST_LATTICES):
        rest = np.flatnonzero(crystal < 0)
        lattice = find_lattice(position_px[rest], seen[rest], pixel_A) if len(rest) else None
        if lattice is None:
            break
        own = _on_lattice(position_px[rest], lattice)
        if number:
            own &= _solid(position_px[rest], own, lattice)
        if not own.any():
            break
        lattices.append(lattice)
        crystal[rest[own]] = number
    crystal = _settled(position_px, crystal, lattices)
    order = np.argsort(-np.bincount(crystal[crystal >= 0], minlength=len(lattices)), kind="stable")
    place = np.append(np.argsort(order), -1).astype(np.int8)  # the last entry is for sites of no lattice
    return tuple(lattices[k] for k in order), place[crystal]


def _solid(position_px: NDArray[np.float64], own: NDArray[np.bool_], lattice: Lattice) -> NDArray[np.bool_]:
    """Sites of connected pieces that are crystals: enough columns, some with four neighbours or more."""
    links = links_of(position_px, lattice)
    links = np.where((links >= 0) & own[links] & own[:, None], links, -1)
    start, way = np.nonzero(links >= 0)
    graph = coo_array((np.ones(len(start)), (start, links[start, way])), shape=(len(own), len(own)))
    _, piece = connected_components(graph, directed=False)
    inner = (links >= 0).sum(1) >= 4
    return np.asarray(own & (np.bincount(piece, own)[piece] >= LEAST_COLUMNS) & (np.bincount(piece, inner)[piece] >= 4))


def _settled(position_px: NDArray[np.float64], crystal: NDArray[np.int8], lattices: list[Lattice]) -> NDArray[np.int8]:
    """Sites at a boundary given to the crystal in which they have more neighbours, those it owns counted alone."""
    if len(lattices) < 2:
        return crystal
    count = np.zeros((len(lattices), len(position_px)), int)
    for number, lattice in enumerate(lattices):
        links = links_of(position_px, lattice)
        count[number] = ((links >= 0) & (crystal[links] == number)).sum(1)
    best = np.argmax(count, axis=0)  # the larger crystal where equal
    here = np.arange(len(position_px))
    better = (crystal >= 0) & (count[best, here] > count[np.maximum(crystal, 0), here]) & (count[best, here] >= 2)
    return np.where(better, best, crystal).astype(np.int8)


def surface_sites(
    position_px: NDArray[np.float64], crystal: NDArray[np.int8], lattices: tuple[Lattice, ...]
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Empty sites that at least two neighbours of a crystal ask for, none where another crystal stands; with their crystal."""
    position, owner = [np.zeros((0, 2))], [np.zeros(0, np.int8)]
    for number, lattice in enumerate(lattices):
        own = position_px[crystal == number]
        new = asked_for(own, position_px, lattice) if len(own) else np.zeros((0, 2))
        others = np.concatenate([position_px[crystal != number], *position])
        if len(others) and len(new):
            new = new[cKDTree(others).query(new)[0] > 0.65 * lattice.spacing_px]
        position.append(new)
        owner.append(np.full(len(new), number, np.int8))
    return np.concatenate(position), np.concatenate(owner)


def _reduced(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss reduction to the two shortest vectors."""
    for _ in range(10):
        if a @ a > b @ b:
            a, b = b, a
        steps = np.round(a @ b / (a @ a))
        if steps == 0:
            break
        b = b - steps * a
    return a, b


def _refined(lattice: Lattice, position_px: NDArray[np.float64]) -> Lattice:
    """Mean of the differences between sites that are one lattice vector apart."""
    tree = cKDTree(position_px)
    refined = []
    for vector in (lattice.a_px, lattice.b_px):
        distance, index = tree.query(position_px + vector, distance_upper_bound=0.2 * lattice.spacing_px)
        own = np.isfinite(distance)
        refined.append((position_px[index[own]] - position_px[own]).mean(0) if own.sum() >= 3 else vector)
    return Lattice(*refined)


def links_of(position_px: NDArray[np.float64], lattice: Lattice, tolerance: float = 0.25) -> NDArray[np.int64]:
    """(n, 6) index of the neighbour along each lattice vector, -1 where there is none."""
    out = np.full((len(position_px), 6), -1, np.int64)
    tree = cKDTree(position_px)
    for k, vector in enumerate(lattice.neighbours_px):
        distance, index = tree.query(position_px + vector, distance_upper_bound=tolerance * lattice.spacing_px)
        out[:, k] = np.where(np.isfinite(distance), index, -1)
    return out


def _on_lattice(position_px: NDArray[np.float64], lattice: Lattice) -> NDArray[np.bool_]:
    """Sites linked along at least two directions, one of the neighbours as well: pairs of film grains support each other, and
    a row is common to two twins."""
    links = links_of(position_px, lattice)
    strong = ((links[:, :3] >= 0) | (links[:, 3:] >= 0)).sum(1) >= 2
    support = np.where(links >= 0, strong[links], False).sum(1)
    return np.asarray(strong & (support >= 1))


def asked_for(own_px: NDArray[np.float64], every_px: NDArray[np.float64], lattice: Lattice) -> NDArray[np.float64]:
    """Empty places of a crystal that at least two of its sites ask for."""
    wanted = (own_px[:, None, :] + lattice.neighbours_px[None]).reshape(-1, 2)
    spacing = lattice.spacing_px
    distance, _ = cKDTree(every_px).query(wanted)
    wanted = wanted[distance > 0.5 * spacing]
    found = []
    while len(wanted):
        near = np.hypot(*(wanted - wanted[0]).T) < 0.35 * spacing
        if near.sum() >= 2:
            found.append(wanted[near].mean(0))
        wanted = wanted[~near]
    return np.array(found).reshape(-1, 2)
