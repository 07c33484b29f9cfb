"""Species by sublattice: in a 2H monolayer (MoS2 type) one of the honeycomb's two sublattices is all metal.

A network judges every column for itself. Metal and chalcogen pair scatter almost alike (at 2.7 A the pair of sulphurs is
12 % stronger than molybdenum), so at low dose it often errs; the sum of its evidence over a lattice hardly ever does. So
detected columns are split into the two sublattices by the directions of their bonds, and each connected piece of crystal is
labelled as a whole: the labelling with the higher summed log-likelihood wins. Columns whose surroundings are not a piece of
honeycomb keep the species the network gave them. Which species of its sublattice a column is (a pair or a single chalcogen)
stays the network's judgement.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from napari_emdl.base.errors import ModelError
from napari_emdl.models.registry import Model

#: bonds are up to this many times the median distance to the nearest neighbour; the next distance of a honeycomb is 1.73
REACH = 1.35
#: least |mean of exp(3 i angle)| over a column's bonds (1 for a perfect honeycomb, 0 for the centre of a hexagon)
ORDER = 0.5
#: the crystal's orientation is averaged over this many bond lengths around a column
SMOOTH = 4.0
#: a single column's evidence counts up to this (natural logarithm), so that a few wild ones don't outvote the rest
MOST_EVIDENCE = 3.0
#: smaller pieces keep what the network said
LEAST_COLUMNS = 6
#: side of the window over which a species' probability is averaged, map pixels
MASS_WINDOW = 5


def two_colour(points: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a honeycomb into its two sublattices.

    All bonds of one sublattice's columns share exp(3 i angle), the other's have its negative; its square is the same for
    both and changes slowly, so its local mean gives the crystal's orientation, and that the sublattice of every column. A
    bond counts between columns of unlike sublattices, and what hangs together by such bonds is one piece. Columns that look
    disordered then join by the colour of their neighbours.

    Parameters
    ----------
    points
        (n, 2) row, col, any unit.

    Returns
    -------
    colour, piece
        (n,) 0 or 1, and the number of the connected piece; both -1 for columns without ordered surroundings.
    """
    n = len(points)
    colour, piece = np.full(n, -1), np.full(n, -1)
    if n < LEAST_COLUMNS:
        return colour, piece
    tree = cKDTree(points)
    bond = float(np.median(tree.query(points, k=2)[0][:, 1]))
    i, j = tree.query_pairs(REACH * bond, output_type="ndarray").reshape(-1, 2).T
    step = points[j] - points[i]
    turn = np.exp(3j * np.arctan2(step[:, 0], step[:, 1]))
    ends, value = np.r_[i, j], np.r_[turn, -turn]
    number = np.bincount(ends, minlength=n)
    total = np.bincount(ends, value.real, n) + 1j * np.bincount(ends, value.imag, n)
    order = np.asarray(total / np.maximum(number, 1), np.complex128)
    ordered = (np.abs(order) >= ORDER) & (number <= 4)
    among = ordered[i] & ordered[j]
    orientation = _orientation(points, order, ordered, _graph(i[among], j[among], n), SMOOTH * bond)
    side = (order * orientation.conj()).real > 0
    good = among & (side[i] != side[j])
    _, label = connected_components(_graph(i[good], j[good], n), directed=False)
    for number_of_piece, which in enumerate(np.flatnonzero(np.bincount(label) >= LEAST_COLUMNS)):
        members = label == which
        colour[members], piece[members] = side[members], number_of_piece
    _extend(colour, piece, np.r_[i, j], np.r_[j, i])
    return colour, piece


def _graph(i: NDArray[np.int64], j: NDArray[np.int64], n: int) -> Any:
    return coo_matrix((np.ones(len(i)), (i, j)), shape=(n, n)).tocsr()


def _orientation(
    points: NDArray[np.floating], order: NDArray[np.complex128], ordered: NDArray[np.bool_], graph: Any, radius: float
) -> NDArray[np.complex128]:
    """Unit complex (n,): exp(3 i angle) of the bonds of one sublattice, continuous over all that hangs together."""
    index = np.flatnonzero(ordered)
    pairs = cKDTree(points[index]).query_pairs(radius, output_type="ndarray").reshape(-1, 2)
    square = order[index] ** 2
    mean = square.copy()
    np.add.at(mean, pairs[:, 0], square[pairs[:, 1]])
    np.add.at(mean, pairs[:, 1], square[pairs[:, 0]])
    root = np.ones(len(points), complex)
    root[index] = np.sqrt(mean / np.maximum(np.abs(mean), 1e-9))
    _, label = connected_components(graph, directed=False)
    for which in np.unique(label[index]):
        walk, before = breadth_first_order(graph, np.flatnonzero(label == which)[0], directed=False)
        for column in walk[1:]:  # the root's sign is free: take the one that agrees with the neighbour's
            if (root[column] * root[before[column]].conj()).real < 0:
                root[column] = -root[column]
    return root


def _extend(colour: NDArray[np.int64], piece: NDArray[np.int64], column: NDArray[np.int64], near: NDArray[np.int64]) -> None:
    """Colour, in place, the columns left over whose neighbours are clearly of one colour, from the pieces outwards.

    `column` and `near` are the pairs of neighbours, either way round. What lies in a hexagon has as many neighbours of
    either colour and stays out.
    """
    while True:
        count = np.stack([np.bincount(column[colour[near] == c], minlength=len(colour)) for c in (0, 1)])
        many, few = count.max(0), count.min(0)
        new = (colour < 0) & (many > 2 * few)
        if not new.any():
            return
        best = count.argmax(0)
        joins = new[column] & (colour[near] == best[column])
        piece[column[joins]] = piece[near[joins]]
        colour[new] = 1 - best[new]


def assign_species(
    points: NDArray[np.floating], likelihood: NDArray[np.floating], groups: list[list[int]], voters: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give every connected piece of honeycomb the labelling that the sum of its columns' evidence favours.

    Parameters
    ----------
    points
        (n, 2) row, col of the columns, any unit.
    likelihood
        (n, species) what the network thinks of each species at each column, any positive scale.
    groups
        Species of the two sublattices, such as ``[[0], [1, 2]]``.
    voters
        (n,) columns that are certain enough to be part of the lattice; the others keep the network's species.

    Returns
    -------
    species, evidence
        (n,) species after labelling, and the summed log-likelihood by which the labelling of a column's piece beats the
        other one, NaN where none was chosen and the network's species stays.
    """
    species = likelihood.argmax(1).astype(np.int64)
    evidence = np.full(len(points), np.nan)
    chosen = np.flatnonzero(voters)
    colour, piece = two_colour(points[chosen])
    mine = likelihood[chosen]
    first, second = (np.maximum(mine[:, g].sum(1), 1e-6) for g in groups)
    ratio = np.clip(np.log(first) - np.log(second), -MOST_EVIDENCE, MOST_EVIDENCE)
    within = [np.asarray(g)[mine[:, g].argmax(1)] for g in groups]
    for number in range(int(piece.max(initial=-1)) + 1):
        members = piece == number
        lead = float(np.where(colour[members] == 0, ratio[members], -ratio[members]).sum())
        is_first = (colour[members] == 0) == (lead >= 0)
        species[chosen[members]] = np.where(is_first, within[0][members], within[1][members])
        evidence[chosen[members]] = abs(lead)
    return species, evidence


def species_mass(logit: NDArray[np.floating], points: NDArray[np.floating], stride: int) -> NDArray[np.float32]:
    """Mean probability (n, species) around points (n, 2) in input pixels, from a map (species, rows, cols) of logits."""
    probability = 1 / (1 + np.exp(-np.clip(np.asarray(logit, np.float32), -30, 30)))
    smooth = ndi.uniform_filter(probability, (0, MASS_WINDOW, MASS_WINDOW), mode="constant")
    row, col = np.round((points - (stride - 1) / 2) / stride).astype(int).T
    return smooth[:, np.clip(row, 0, logit.shape[1] - 1), np.clip(col, 0, logit.shape[2] - 1)].T


class SublatticeStep:
    """The step as a model's card describes it under ``config.emdl.sublattices``.

    ``groups`` names the species of the two sublattices; ``factors`` (optional) multiply the likelihood of species that are
    so rare that the network hardly dares to name them.
    """

    def __init__(self, species: tuple[str, ...], groups: list[list[str]], factors: dict[str, float] | None = None) -> None:
        self.groups = [[species.index(name) for name in group] for group in groups]
        self.factors = np.array([(factors or {}).get(name, 1.0) for name in species], np.float32)
        self.description = f"one sublattice is {groups[0][0]}, the other {' or '.join(groups[1])}: labelled as a whole"

    @classmethod
    def of(cls, model: Model) -> SublatticeStep | None:
        """The step of a model, None if its card has none.

        Raises
        ------
        ModelError
            When the entry does not fit the species.
        """
        entry: Any = (model.card.emdl.model_extra or {}).get("sublattices")
        if entry is None:
            return None
        species = tuple(model.card.emdl.species or ())
        groups: list[list[str]] = entry.get("groups", []) if isinstance(entry, dict) else []
        if len(groups) != 2 or sorted(name for group in groups for name in group) != sorted(species):
            raise ModelError(f"{model.name}: sublattices.groups of the card must split its species in two")
        return cls(species, groups, entry.get("factors"))

    def __call__(
        self, points: NDArray[np.floating], likelihood: NDArray[np.floating], voters: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Species and evidence, see `assign_species`."""
        return assign_species(points, likelihood * self.factors, self.groups, voters)
