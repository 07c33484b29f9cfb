"""Species by sublattice: in a 2H monolayer (MoS2 type) one of the honeycomb's two sublattices is all metal.

A network judges every column for itself. Metal and chalcogen pair scatter almost alike, so at low dose it errs often, and
whole fields may come out swapped; averaged over a lattice the difference is clear. So detected columns are split into the
two sublattices by the directions of their bonds, and each connected piece of crystal is labelled as a whole, by a small
classifier of the mean image around the columns of either sublattice and around the centres of the hexagons, or, where a
model brings none, by the sum of the network's own evidence. Columns whose surroundings are no piece of honeycomb keep the
species the network gave them. Which species of its sublattice a column is (a pair or a single chalcogen) stays the
network's judgement.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from napari_emdl.errors import ModelError
from napari_emdl.models.card import File, file_in
from napari_emdl.models.registry import Model

#: bonds are up to this many times the median distance to the nearest neighbour; the next distance of a honeycomb is 1.73
REACH = 1.35
#: least |mean of exp(3 i angle)| over a column's bonds (1 for a perfect honeycomb, 0 for the centre of a hexagon)
ORDER = 0.5
#: a single column's evidence counts up to this (natural logarithm), so that a few wild ones don't outvote the rest
MOST_EVIDENCE = 3.0
#: smaller pieces keep what the network said
LEAST_COLUMNS = 6
#: the classifier needs this many sites of either kind
LEAST_SITES = 4
#: radii of the profiles around a site, A, and directions averaged over
RADII_A = (0.0, 0.25, 0.5, 0.75, 1.0, 1.3)
DIRECTIONS = 8
#: side of the window over which a species' probability is averaged, map pixels
MASS_WINDOW = 5


@dataclass(frozen=True)
class Honeycomb:
    """Columns split into two sublattices: `colour` (n,) 0 or 1 and `piece` (n,) number of the connected piece, both -1
    without ordered surroundings; `bonds` (m, 2) indices of neighbours within pieces."""

    colour: NDArray[np.int64]
    piece: NDArray[np.int64]
    bonds: NDArray[np.int64]


def two_colour(points: NDArray[np.floating]) -> Honeycomb:
    """Split a honeycomb of points (n, 2), any unit, into its sublattices.

    All bonds of one sublattice's columns share exp(3 i angle), the other's have its negative. A bond counts only between
    columns that both look so; what hangs together by such bonds is one piece, coloured by walking along them.
    """
    n = len(points)
    colour, piece = np.full(n, -1), np.full(n, -1)
    if n < LEAST_COLUMNS:
        return Honeycomb(colour, piece, np.zeros((0, 2), np.int64))
    tree = cKDTree(points)
    reach = REACH * float(np.median(tree.query(points, k=2)[0][:, 1]))
    i, j = tree.query_pairs(reach, output_type="ndarray").reshape(-1, 2).T
    step = points[j] - points[i]
    turn = np.exp(3j * np.arctan2(step[:, 0], step[:, 1]))
    ends, value = np.r_[i, j], np.r_[turn, -turn]
    number = np.bincount(ends, minlength=n)
    order = (np.bincount(ends, value.real, n) + 1j * np.bincount(ends, value.imag, n)) / np.maximum(number, 1)
    ordered = (np.abs(order) >= ORDER) & (number <= 4)
    opposite = (order[i].conj() * order[j]).real < -0.5 * np.abs(order[i] * order[j])
    bonds = np.c_[i, j][ordered[i] & ordered[j] & opposite]
    graph = coo_matrix((np.ones(len(bonds)), bonds.T), shape=(n, n)).tocsr()
    _, label = connected_components(graph, directed=False)
    for number_of_piece, which in enumerate(np.flatnonzero(np.bincount(label) >= LEAST_COLUMNS)):
        members = np.flatnonzero(label == which)
        walk, before = breadth_first_order(graph, members[0], directed=False)
        colour[walk[0]] = 0
        for column in walk[1:]:
            colour[column] = 1 - colour[before[column]]
        piece[members] = number_of_piece
    return Honeycomb(colour, piece, bonds[piece[bonds[:, 0]] >= 0])


def site_profiles(
    images: NDArray[np.floating],
    points: NDArray[np.floating],
    lattice: Honeycomb,
    number: int,
    full: NDArray[np.bool_],
    pixel_A: float,
) -> NDArray[np.float64] | None:
    """Mean radial profiles (3, foci, radii) around sublattice 0, sublattice 1 and the hexagons' centres of one piece.

    Parameters
    ----------
    images
        (foci, rows, cols), normalised.
    points
        (n, 2) row, col of the columns, pixels.
    lattice, number
        Sublattices, and the piece.
    full
        (n,) columns that lack no atom; the others would dilute their sublattice.
    pixel_A
        Pixel size.

    Returns
    -------
    None when there are too few sites of a kind with three neighbours.
    """
    i, j = np.r_[lattice.bonds, lattice.bonds[:, ::-1]].T
    inner = (np.bincount(i, minlength=len(points)) == 3) & (lattice.piece == number)
    from_inner = inner[i]
    kinds = [points[inner & full & (lattice.colour == c)] for c in (0, 1)]
    kinds.append(2 * points[i[from_inner]] - points[j[from_inner]])  # a hexagon's centre lies opposite to each bond
    angle = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    around = np.asarray(RADII_A)[:, None, None] * ring / pixel_A
    margin = RADII_A[-1] / pixel_A
    profiles = []
    for sites in kinds:
        inside = np.all((sites >= margin) & (sites <= np.array(images.shape[1:]) - 1 - margin), axis=1)
        if inside.sum() < LEAST_SITES:
            return None
        at = (sites[inside][:, None, None] + around).reshape(-1, 2).T
        values = [ndi.map_coordinates(image, at, order=1, mode="nearest") for image in images]
        profiles.append(np.reshape(values, (len(images), -1, len(RADII_A), DIRECTIONS)).mean((1, 3)))
    return np.stack(profiles)


def features(profiles: NDArray[np.floating]) -> NDArray[np.float64]:
    """Input of the classifier (..., 3 x foci x radii) from profiles (..., 3, foci, radii)."""
    first, second, hollow = np.moveaxis(np.asarray(profiles, float).reshape(*profiles.shape[:-2], -1), -2, 0)
    return np.concatenate([first - second, (first + second) / 2 - hollow, hollow], -1)


@dataclass(frozen=True)
class PolarityClassifier:
    """Which sublattice is the first group's (the metal's): a small perceptron g, log-odds g(0, 1) - g(1, 0)."""

    scale: NDArray[np.float32]
    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    @classmethod
    def load(cls, path: Path) -> PolarityClassifier:
        """Read arrays `scale`, `w0`, `b0`, `w1`, ... from an npz file."""
        with np.load(path, allow_pickle=False) as z:
            count = sum(name.startswith("w") for name in z.files)
            return cls(z["scale"], tuple((z[f"w{k}"], z[f"b{k}"]) for k in range(count)))

    def log_odds(self, profiles: NDArray[np.floating]) -> NDArray[np.float64]:
        """Log-odds (...) that sublattice 0 is the metal's, from profiles (..., 3, foci, radii)."""
        return self._value(profiles) - self._value(profiles[..., [1, 0, 2], :, :])

    def _value(self, profiles: NDArray[np.floating]) -> NDArray[np.float64]:
        x = features(profiles) / self.scale
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight.T + bias, 0)
        weight, bias = self.layers[-1]
        return (x @ weight.T + bias)[..., 0]


def assign_species(
    points: NDArray[np.floating],
    likelihood: NDArray[np.floating],
    groups: list[list[int]],
    voters: NDArray[np.bool_],
    images: NDArray[np.floating],
    pixel_A: float,
    classifier: PolarityClassifier | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Label every connected piece of honeycomb as a whole.

    Parameters
    ----------
    points
        (n, 2) row, col of the columns in pixels of `images`.
    likelihood
        (n, species) what the network thinks of each species at each column, any positive scale.
    groups
        Species of the two sublattices, such as ``[[0], [1, 2]]``; the first of a group is the full column.
    voters
        (n,) columns that are certain enough to be part of the lattice; the others keep the network's species.
    images, pixel_A
        Normalised images (foci, rows, cols) and their pixel size, for the classifier.
    classifier
        Decides where it can; the network's own evidence elsewhere.

    Returns
    -------
    species, log_odds
        (n,) species after labelling, and the log-odds by which the labelling of a column's piece beats the other one, NaN
        where none was chosen and the network's species stays.
    """
    species = likelihood.argmax(1).astype(np.int64)
    log_odds = np.full(len(points), np.nan)
    chosen = np.flatnonzero(voters)
    lattice = two_colour(points[chosen])
    mine = likelihood[chosen]
    masses = [np.maximum(mine[:, g].sum(1), 1e-6) for g in groups]
    evidence = np.clip(np.log(masses[0]) - np.log(masses[1]), -MOST_EVIDENCE, MOST_EVIDENCE)
    within = [np.asarray(g)[mine[:, g].argmax(1)] for g in groups]
    full = np.isin(species[chosen], [g[0] for g in groups])
    for number in range(int(lattice.piece.max(initial=-1)) + 1):
        members = lattice.piece == number
        colour = lattice.colour[members]
        profiles = None if classifier is None else site_profiles(images, points[chosen], lattice, number, full, pixel_A)
        if profiles is None or classifier is None:
            lead = float(np.where(colour == 0, evidence[members], -evidence[members]).sum())
        else:
            lead = float(classifier.log_odds(profiles))
        first = (colour == 0) == (lead >= 0)
        species[chosen[members]] = np.where(first, within[0][members], within[1][members])
        log_odds[chosen[members]] = abs(lead)
    return species, log_odds


def species_mass(logit: NDArray[np.floating], points: NDArray[np.floating], stride: int) -> NDArray[np.float32]:
    """Mean probability (n, species) around points (n, 2) in input pixels, from a map (species, rows, cols) of logits."""
    probability = 1 / (1 + np.exp(-np.clip(np.asarray(logit, np.float32), -30, 30)))
    smooth = ndi.uniform_filter(probability, (0, MASS_WINDOW, MASS_WINDOW), mode="constant")
    row, col = np.round((points - (stride - 1) / 2) / stride).astype(int).T
    return smooth[:, np.clip(row, 0, logit.shape[1] - 1), np.clip(col, 0, logit.shape[2] - 1)].T


class SublatticeStep:
    """The step as a model's card describes it under ``config.emdl.sublattices``.

    ``groups`` names the species of the two sublattices, the full column first; ``factors`` (optional) multiply the
    likelihood of species that the network hardly dares to name; ``classifier`` (optional) is an npz file beside the card,
    with its sha256.
    """

    def __init__(
        self,
        species: tuple[str, ...],
        groups: list[list[str]],
        classifier: PolarityClassifier | None = None,
        factors: dict[str, float] | None = None,
    ) -> None:
        self.groups = [[species.index(name) for name in group] for group in groups]
        self.classifier = classifier
        self.factors = np.array([(factors or {}).get(name, 1.0) for name in species], np.float32)
        by = "the network's evidence" if classifier is None else "a classifier of the mean image"
        self.description = f"one species a sublattice ({' | '.join(', '.join(g) for g in groups)}), chosen by {by}"

    @classmethod
    def of(cls, model: Model) -> SublatticeStep | None:
        """The step of a model, None if its card has none.

        Raises
        ------
        ModelError
            When the entry does not fit the species, or its file is missing or another one.
        """
        entry = (model.card.emdl.model_extra or {}).get("sublattices")
        if entry is None:
            return None
        species = tuple(model.card.emdl.species or ())
        groups: list[list[str]] = entry.get("groups", []) if isinstance(entry, dict) else []
        if len(groups) != 2 or sorted(name for group in groups for name in group) != sorted(species):
            raise ModelError(f"{model.name}: sublattices.groups of the card must split its species in two")
        named = entry.get("classifier")
        file = None if named is None else file_in(model.folder, File.model_validate(named))
        return cls(species, groups, None if file is None else PolarityClassifier.load(file), entry.get("factors"))

    def __call__(
        self,
        points: NDArray[np.floating],
        likelihood: NDArray[np.floating],
        voters: NDArray[np.bool_],
        images: NDArray[np.floating],
        pixel_A: float,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Species and log-odds, see `assign_species`."""
        return assign_species(points, likelihood * self.factors, self.groups, voters, images, pixel_A, self.classifier)
