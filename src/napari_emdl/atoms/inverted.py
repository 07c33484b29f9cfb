"""Parts of a crystal whose contrast turns over: thick there, it shows spots between its columns and none at them.

The lattice goes on through such a part, so its columns are known to be there although no frame shows them as it shows the
others. A spot between the columns is no column: a second sublattice would have it in cells whose own columns are shown, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from napari_emdl.atoms.lattices import Lattice, asked_for, links_of

#: a crystal of fewer shown columns does not enclose anything; spots and places are at most this part of them
LEAST_SHOWN, MOST_PART = 20, 0.4
#: in spacings: how far columns that enclose a place are looked for, and the widest angle between two of them
REACH, WIDEST_RAD = 5.0, np.deg2rad(110)
#: in spacings: spots nearer to a place of the lattice are its own, places and spots nearer to each other are of one part
OWN, TOGETHER = 0.25, 1.15
#: in spacings: width of the rim of a part in which there is no contrast
RIM = 2.5
#: in spacings: how well columns are linked; columns that tell where the places next to a point are
LINKED, NEAREST = 0.2, 5
#: least spots and unseen places of a part, and least and most unseen places a spot
LEAST_SPOTS, LEAST_PLACES, FEWEST_PLACES, MOST_PLACES = 2, 2, 1 / 3, 2.0
#: a place that is this often seen is shown
SEEN = 0.5


@dataclass(frozen=True)
class Inverted:
    """Inverted parts.

    Attributes
    ----------
    spots
        (n,) bool, sites between the columns: no columns.
    places
        (n,) bool, sites of the lattice that are not shown.
    missing_px, crystal
        (k, 2) more such places, and (k,) their lattice.
    """

    spots: NDArray[np.bool_]
    places: NDArray[np.bool_]
    missing_px: NDArray[np.float64]
    crystal: NDArray[np.int8]


def inverted_parts(
    position_px: NDArray[np.float64],
    seen: NDArray[np.float64],
    shown: NDArray[np.bool_],
    crystal: NDArray[np.int8],
    lattices: tuple[Lattice, ...],
    most_places: float = MOST_PLACES,
) -> Inverted:
    """Parts of crystals with spots between the columns, enclosed by columns that are shown.

    Parameters
    ----------
    position_px, seen, shown
        (n, 2) sites, (n,) share of frames in which each is detected, and (n,) whether the mean of all frames shows it.
    crystal, lattices
        (n,) lattice of each site, -1 for none; the lattices.
    most_places
        Most places of a part for each of its spots; a hole has places alone.
    """
    spots, places = np.zeros(len(position_px), bool), np.zeros(len(position_px), bool)
    missing, owner = [np.zeros((0, 2))], [np.zeros(0, np.int8)]
    for number, lattice in enumerate(lattices):
        solid = (crystal == number) & ((seen >= SEEN) | shown)
        if solid.sum() < LEAST_SHOWN:
            continue
        solid[solid] = _largest_piece(position_px[solid], lattice)
        around = _Around(position_px[solid], lattice)
        inside = ~solid & _alike_or_none(crystal, lattices, number)
        inside[inside] = around.encloses(position_px[inside])
        index = np.flatnonzero(inside)
        off = around.off_lattice(position_px[index])
        grown = _grown(np.concatenate([position_px[solid], position_px[index[~off]]]), lattice, around)
        if off.sum() > MOST_PART * solid.sum():  # another sublattice
            continue
        points = np.concatenate([position_px[index], grown])
        is_spot = np.r_[off, np.zeros(len(grown), bool)]
        good = _inverted(points, is_spot, lattice.spacing_px, most_places)
        if not good.any() or good[~is_spot].sum() > MOST_PART * solid.sum():
            continue
        kept = good[: len(index)]
        spots[index[kept & is_spot[: len(index)]]] = True
        places[index[kept & ~is_spot[: len(index)]]] = True
        more = grown[good[len(index) :]]
        missing.append(more)
        owner.append(np.full(len(more), number, np.int8))
    return Inverted(spots, places & ~spots, np.concatenate(missing), np.concatenate(owner))


def _largest_piece(position_px: NDArray[np.float64], lattice: Lattice) -> NDArray[np.bool_]:
    """(n,) sites of the largest piece linked by lattice vectors: spots between columns are linked to each other alone."""
    links = links_of(position_px, lattice, LINKED)
    start, way = np.nonzero(links >= 0)
    piece = _pieces(np.c_[start, links[start, way]], len(position_px))
    return np.asarray(piece == np.argmax(np.bincount(piece)))


def _pieces(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(count,) connected piece of each of `count` points."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


class _Around:
    """Columns of one lattice that are shown."""

    def __init__(self, solid_px: NDArray[np.float64], lattice: Lattice) -> None:
        self.solid_px, self.lattice, self.tree = solid_px, lattice, cKDTree(solid_px)

    def encloses(self, points_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(k,) whether there are columns all around."""
        out = np.zeros(len(points_px), bool)
        for k, near in enumerate(self.tree.query_ball_point(points_px, REACH * self.lattice.spacing_px)):
            if len(near) >= 4:
                way = self.solid_px[near] - points_px[k]
                angle = np.sort(np.arctan2(way[:, 0], way[:, 1]))
                out[k] = np.diff(np.r_[angle, angle[0] + 2 * np.pi]).max() < WIDEST_RAD
        return out

    def off_lattice(self, points_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(k,) whether points lie between the places that the columns nearest to them ask for."""
        if not len(points_px):
            return np.zeros(0, bool)
        cell = np.stack([self.lattice.a_px, self.lattice.b_px])
        _, near = self.tree.query(points_px, k=NEAREST)
        steps = (points_px[:, None] - self.solid_px[near]) @ np.linalg.inv(cell)
        apart = np.hypot(*np.moveaxis((steps - np.round(steps)) @ cell, -1, 0))
        return np.asarray(np.median(apart, axis=1) > OWN * self.lattice.spacing_px)


def _alike_or_none(crystal: NDArray[np.int8], lattices: tuple[Lattice, ...], number: int) -> NDArray[np.bool_]:
    """(n,) sites of no lattice, of this one, or of one with the same vectors: spots between columns repeat as these do."""
    vectors = cKDTree(lattices[number].neighbours_px)
    reach = OWN * lattices[number].spacing_px
    alike = [k for k, one in enumerate(lattices) if np.all(vectors.query(np.stack([one.a_px, one.b_px]))[0] < reach)]
    return np.isin(crystal, [-1, *alike])


def _grown(own_px: NDArray[np.float64], lattice: Lattice, around: _Around) -> NDArray[np.float64]:
    """Enclosed places of a lattice that no site holds, filled in from the rim."""
    grown = np.zeros((0, 2))
    for _ in range(8):
        every = np.concatenate([own_px, grown])
        new = asked_for(every, every, lattice)
        new = new[around.encloses(new)] if len(new) else new
        if not len(new):
            break
        grown = np.concatenate([grown, new])
    return grown


def _inverted(
    points_px: NDArray[np.float64], is_spot: NDArray[np.bool_], spacing_px: float, most_places: float
) -> NDArray[np.bool_]:
    """(k,) members of parts with enough spots and enough places that are not shown."""
    if not is_spot.any() or is_spot.all():
        return np.zeros(len(points_px), bool)
    part = _pieces(cKDTree(points_px).query_pairs(TOGETHER * spacing_px, output_type="ndarray"), len(points_px))
    of_spots, of_places = np.bincount(part, is_spot), np.bincount(part, ~is_spot)
    enough = of_places >= np.maximum(LEAST_PLACES, FEWEST_PLACES * of_spots)
    good = (of_spots >= LEAST_SPOTS) & enough & (of_places <= most_places * np.maximum(of_spots, 1))
    member = good[part]
    if member.any():  # between the two contrasts there is none: places next to a part belong to it
        member |= ~is_spot & (cKDTree(points_px[member]).query(points_px)[0] < RIM * spacing_px)
    return np.asarray(member)
