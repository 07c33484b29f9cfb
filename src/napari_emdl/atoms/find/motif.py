"""What one unit cell of the image holds: columns that a network misses at weak places, and spots that are no columns.

A network judges a place by what it looks like, and columns a fifth as high as their neighbours look like next to nothing. The
mean of all unit cells shows what stands in each of them. Where it is a sum of round spots, as incoherent and annular
bright-field images are, a spot of at least `LEAST_HEIGHT` of the highest is a sublattice of columns. Whether a column stands at
one of its places is then read from the image at that place alone, so that an empty site stays empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.special import expit

from napari_emdl.atoms.find.equivalent import Translations, find_translations
from napari_emdl.atoms.find.heights import SpotHeights

Floats = NDArray[np.float64]

#: height of a sublattice's columns against the highest one's; lower ones are tails of the probe
LEAST_HEIGHT = 0.15
#: the same of the mean cell, in which empty places count as well
_LEAST_MEAN = 0.09
#: whole cells that make a mean, points along each of its sides, and most cells that are averaged
_LEAST_CELLS, _SIDE, _MOST_CELLS = 5, 24, 2400
#: share of the mean cell's variance that round spots may leave unexplained, and a spot's height over the noise of the mean
_UNEXPLAINED, _SIGMAS = 0.03, 6.0
#: most spots in a cell, and most lattices in a frame
_MOST_SPOTS, _MOST_LATTICES = 8, 3
#: relative height at a place: its scatter among columns, and the error up to which a place tells anything
_SCATTER, _LARGEST_ERROR = 0.2, 0.3
#: log odds beforehand by the number of anchors that tell of a place: most places at the rim of a crystal are empty
_BEFORE = np.array([-4.0, -4.0, -2.0, -1.0, 0.0])
#: farthest a column lies from its place, in widths of a column, and columns that tell the scale
_FARTHEST, _SCALE = 0.8, 8


@dataclass(frozen=True)
class Read:
    """What an image shows at the places of a motif.

    Attributes
    ----------
    position_px
        (m, 2) places, moved onto the spot that is there.
    sublattice
        (m,) number; 0 are the anchors' own.
    anchors
        (m,) how many anchors tell of the place: 4 inside the crystal.
    p_column
        (m,) chance that a column is there, NaN where the image does not tell.
    """

    position_px: Floats
    sublattice: NDArray[np.int64]
    anchors: NDArray[np.int64]
    p_column: Floats


@dataclass(frozen=True)
class Motif:
    """Spots of the mean cell of one lattice.

    Attributes
    ----------
    vectors
        (2, 2) lattice vectors, pixels.
    anchors_px, index
        (n, 2) columns of one sublattice, and their numbers (n, 2) along the vectors.
    at
        (k, 2) fractional coordinates of the sublattices that are columns; the first is the anchors' own.
    height
        (k,) their heights, in units of the image.
    covariance_px2
        (2, 2) of a spot.
    """

    vectors: Floats
    anchors_px: Floats
    index: NDArray[np.int64]
    at: Floats
    height: Floats
    covariance_px2: Floats

    @property
    def width_px(self) -> float:
        """Standard deviation of a spot, mean of all directions."""
        return float(np.sqrt(np.trace(self.covariance_px2) / 2))

    def places(self) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """(m, 2) places of all sublattices around the anchors, (m,) which sublattice, and (m,) how many anchors tell of it."""
        places, kinds, numbers = [], [], []
        for k, fraction in enumerate(self.at):
            corners = np.array([(0, 0), (0, 1), (1, 0), (1, 1)] if k else [(0, 1), (0, -1), (1, 0), (-1, 0)])
            told_index = (self.index[:, None] - corners).reshape(-1, 2)
            told_px = (self.anchors_px[:, None] + (fraction - corners) @ self.vectors).reshape(-1, 2)
            name, which, number = np.unique(told_index, axis=0, return_inverse=True, return_counts=True)
            which = which.ravel()
            place = np.stack([np.bincount(which, told_px[:, axis]) for axis in (0, 1)], 1) / number[:, None]
            if k == 0:
                anchor = _find(self.index, name)
                place = np.where(anchor[:, None] >= 0, self.anchors_px[anchor], place)
            places.append(place)
            kinds.append(np.full(len(place), k))
            numbers.append(number)
        return np.concatenate(places), np.concatenate(kinds), np.concatenate(numbers)


def _find(index: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """(m,) which of the numbers (n, 2) is the wanted one (m, 2); -1 where none is."""
    low = np.minimum(index.min(axis=0), wanted.min(axis=0, initial=0))
    span = int(max(index[:, 1].max(), wanted[:, 1].max(initial=0)) - low[1] + 1)
    key, asked = ((part - low) @ np.array([span, 1]) for part in (index, wanted))
    order = np.argsort(key, kind="stable")
    at = order[np.minimum(np.searchsorted(key[order], asked), len(key) - 1)]
    return np.where(key[at] == asked, at, -1)


def find_motifs(image: NDArray[np.floating], clear_px: Floats) -> list[Motif]:
    """Motifs of the lattices that clear columns (n, 2) of an image with bright columns make; none where cells are no spots."""
    motifs, left = [], clear_px
    for _ in range(_MOST_LATTICES):
        lattice = find_translations(left)
        if lattice is None:
            break
        anchors, index = _component(left, lattice)
        motif = _motif(image, lattice, left[anchors], index)
        if motif is not None:
            motifs.append(motif)
        apart = cKDTree(left[anchors]).query(left)[0] if len(anchors) else np.full(len(left), np.inf)
        rest = left[apart > 1.5 * float(np.linalg.norm(lattice.vectors, axis=1).max())]
        if len(rest) == len(left):
            break
        left = rest
    return motifs


def _component(points_px: Floats, lattice: Translations) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The most columns that lattice steps lead to from one of them, and their numbers (n, 2) along the vectors."""
    tree, count = cKDTree(points_px), len(points_px)
    pairs = []
    for number in (np.array([1, 0]), np.array([0, 1])):
        to = tree.query(points_px + number @ lattice.vectors, distance_upper_bound=0.25 * lattice.spacing_px)[1]
        there = np.flatnonzero(to < count)
        pairs.append((number, there, to[there]))
    start, end = (np.concatenate([pair[side] for pair in pairs]) for side in (1, 2))
    graph = coo_matrix((np.ones(len(start)), (start, end)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    seen = label != np.bincount(label).argmax()
    index = np.zeros((count, 2), np.int64)
    step = np.concatenate([np.repeat(number[None], len(there), axis=0) for number, there, _ in pairs])
    first, edge = _by_start(np.r_[start, end], count)
    ends, steps = np.r_[end, start][edge], np.r_[step, -step][edge]
    front = np.flatnonzero(~seen)[:1]
    seen[front] = True
    found = [front]
    while len(front):
        number = first[front + 1] - first[front]
        leads = np.repeat(first[front] - np.cumsum(number) + number, number) + np.arange(number.sum())
        fresh = ~seen[ends[leads]]
        source, leads = np.repeat(front, number)[fresh], leads[fresh]
        front, which = np.unique(ends[leads], return_index=True)
        index[front] = index[source[which]] + steps[leads[which]]
        seen[front] = True
        found.append(front)
    members = np.concatenate(found)
    # a dislocation leads to two columns of one number: the first stays
    _, first = np.unique(index[members], axis=0, return_index=True)
    members = members[np.sort(first)]
    return members, index[members]


def _by_start(start: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the edges of each start begin (count + 1,) in an order by starts, and that order."""
    return np.r_[0, np.cumsum(np.bincount(start, minlength=count))], np.argsort(start, kind="stable")


def _motif(image: NDArray[np.floating], lattice: Translations, anchors: Floats, index: NDArray[np.int64]) -> Motif | None:
    """Motif of one lattice, None where its mean cell is no sum of round spots."""
    mean, noise = _mean_cell(image, anchors, index)
    if mean is None:
        return None
    spots = _maxima(mean, noise)
    if not len(spots):
        return None
    fitted = _fit(mean, spots, lattice.vectors, lattice.spacing_px)
    if fitted is None:
        return None
    heights, covariance = fitted
    keep = (heights >= _LEAST_MEAN * heights.max()) & (heights > _SIGMAS * noise)
    if not keep[0]:
        return None
    return Motif(lattice.vectors, anchors, index, spots[keep], heights[keep], covariance)


def _mean_cell(image: NDArray[np.floating], anchors: Floats, index: NDArray[np.int64]) -> tuple[Floats | None, float]:
    """Mean (side, side) of all whole cells over fractional coordinates, each stretched between its corners, and its noise."""
    corners = np.stack([_find(index, index + np.array(step)) for step in ((0, 0), (1, 0), (0, 1), (1, 1))], 1)
    corners = corners[np.all(corners >= 0, axis=1)]
    if len(corners) < _LEAST_CELLS:
        return None, 0.0
    chosen = corners[:: -(-len(corners) // _MOST_CELLS)]
    s, t = (x.ravel() for x in np.meshgrid(*(2 * [np.arange(_SIDE) / _SIDE]), indexing="ij"))
    weight = np.stack([(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t])
    at = np.einsum("nkd,kp->npd", anchors[chosen], weight)
    values = ndi.map_coordinates(image, at.reshape(-1, 2).T, order=1, mode="nearest").reshape(len(chosen), -1)
    values = values - values.mean(axis=1, keepdims=True)
    mean = np.asarray(values.mean(axis=0).reshape(_SIDE, _SIDE), np.float64)
    return mean, float(values.std(axis=0).mean() / np.sqrt(len(chosen)))


def _maxima(mean: Floats, noise: float) -> Floats:
    """(k, 2) fractional coordinates of the maxima of a periodic cell, that of the anchors at its corner first."""
    smooth = ndi.gaussian_filter(mean, 0.04 * _SIDE, mode="wrap")
    top = np.argwhere((smooth == ndi.maximum_filter(smooth, 5, mode="wrap")) & (smooth > smooth.min() + _SIGMAS * noise))
    found = []
    for i, j in top:
        offset = []
        for axis in (0, 1):
            low, mid, high = (float(np.roll(smooth, 1 - n, axis)[i, j]) for n in range(3))
            bend = low - 2 * mid + high
            offset.append(0.0 if bend >= 0 else float(np.clip(0.5 * (low - high) / bend, -0.5, 0.5)))
        found.append((np.array([i, j]) + offset) / _SIDE)
    at = np.array(found).reshape(-1, 2) % 1
    corner = np.linalg.norm((at + 0.5) % 1 - 0.5, axis=1) < 0.12 if len(at) else np.zeros(0, bool)
    if corner.sum() != 1 or len(at) > _MOST_SPOTS:
        return np.zeros((0, 2))
    return np.concatenate([np.zeros((1, 2)), at[~corner]])


def _fit(mean: Floats, spots: Floats, vectors: Floats, spacing_px: float) -> tuple[Floats, Floats] | None:
    """Heights (k,) and common covariance (2, 2), px2, of Gaussian spots on a level; None where they do not explain the cell."""
    grid = np.stack(np.meshgrid(*(2 * [np.arange(_SIDE) / _SIDE]), indexing="ij"), -1).reshape(-1, 1, 2)
    around = np.stack(np.meshgrid(*(2 * [np.arange(-2, 3)]), indexing="ij"), -1).reshape(1, -1, 2)
    away = [((grid - spot + 0.5) % 1 - 0.5 + around) @ vectors for spot in spots]

    def parts(shape: Floats) -> Floats:
        a, b, c = np.exp(shape[0]), shape[1], np.exp(shape[2])
        columns = [np.exp(-0.5 * ((d[..., 0] / a) ** 2 + (d[..., 1] / c + b * d[..., 0]) ** 2)).sum(1) for d in away]
        return np.stack([np.ones(len(grid)), *columns], -1)

    def left(shape: Floats) -> Floats:
        design = parts(shape)
        weights, *_ = np.linalg.lstsq(design, mean.ravel(), rcond=None)
        return np.asarray(mean.ravel() - design @ weights)

    from scipy.optimize import least_squares  # a tenth of the start, and few images come here

    start = np.array([np.log(0.3 * spacing_px), 0.0, np.log(0.3 * spacing_px)])
    best = least_squares(left, start, max_nfev=40)
    if best.fun.var() > _UNEXPLAINED * mean.var():
        return None
    weights, *_ = np.linalg.lstsq(parts(best.x), mean.ravel(), rcond=None)
    a, b, c = np.exp(best.x[0]), best.x[1], np.exp(best.x[2])
    inverse = np.array([[1 / a**2 + b**2, b / c], [b / c, 1 / c**2]])
    return np.asarray(weights[1:], np.float64), np.linalg.inv(inverse)


def read_places(image: NDArray[np.floating], motif: Motif, threads: int = 1) -> Read:
    """Look at every place of a motif in an image with bright columns.

    Level, height and displacement of the spot there are fitted together, on top of the tails of the columns around it. The
    height is compared with that of the columns nearby, so that thickness does not matter.
    """
    places, kind, told = motif.places()
    inside = np.all((places >= 0) & (places <= np.array(image.shape) - 1), axis=1)
    places, kind, told = places[inside], kind[inside], told[inside]
    there = np.ones(len(places), bool)
    spots = SpotHeights(image, places, motif.covariance_px2, float(motif.height[0]), threads)
    full = motif.height / motif.height[0]
    _, near = cKDTree(places[kind == 0]).query(places, k=min(_SCALE, int((kind == 0).sum())), workers=threads)
    for last in (False, False, True):
        tall = full[kind] * there
        if last:
            height, error, shift = spots.fits(tall)
        else:
            height = spots.heights(tall)
        scale = np.maximum(np.median(height[kind == 0][near.reshape(len(places), -1)], axis=1), 1e-9)
        relative = height / (scale * full[kind])
        there = relative > 0.5
        for k in range(1, len(full)):  # empty places lower the mean
            if (own := (kind == k) & there & (told >= 2)).any():
                full[k] *= float(np.median(relative[own]))
    relative, error = height / (scale * full[kind]), error / (scale * full[kind])
    chance = expit((relative - 0.5) / (_SCATTER**2 + error**2) + _BEFORE[told])
    chance[full[kind] < LEAST_HEIGHT * full.max()] = 0.0
    shift = _alike(shift, kind)
    clear = (error < _LARGEST_ERROR) & (np.linalg.norm(shift, axis=1) < _FARTHEST * motif.width_px)
    return Read(places + np.where(clear[:, None], shift, 0), kind, told, np.where(clear, chance, np.nan))


def _alike(shift: Floats, kind: NDArray[np.int64]) -> Floats:
    """Displacements, those far from what is usual on their sublattice replaced by that: a neighbour draws a weak spot."""
    shift = shift.copy()
    for k in np.unique(kind):
        own = np.flatnonzero(kind == k)
        usual = np.median(shift[own], axis=0)
        off = np.linalg.norm(shift[own] - usual, axis=1)
        shift[own[off > 3 * np.median(off)]] = usual
    return shift
