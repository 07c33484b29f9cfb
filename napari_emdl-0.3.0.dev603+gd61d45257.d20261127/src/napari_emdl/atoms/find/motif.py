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
from scipy.optimize import least_squares
from scipy.spatial import cKDTree
from scipy.special import expit

from napari_emdl.atoms.find.equivalent import Translations, find_translations

Floats = NDArray[np.float64]

#: height of a sublattice's columns against the highest one's; lower ones are tails of the probe
LEAST_HEIGHT = 0.15
#: the same of the mean cell, in which empty places count as well
_LEAST_MEAN = 0.09
#: whole cells that make a mean, points along each of its sides, and most cells that are averaged
_LEAST_CELLS, _SIDE, _MOST_CELLS = 5, 24, 600
#: share of the mean cell's variance that round spots may leave unexplained, and a spot's height over the noise of the mean
_UNEXPLAINED, _SIGMAS = 0.03, 6.0
#: most spots in a cell, and most lattices in a frame
_MOST_SPOTS, _MOST_LATTICES = 8, 3
#: relative height at a place: its scatter among columns, and the error up to which a place tells anything
_SCATTER, _LARGEST_ERROR = 0.2, 0.3
#: log odds beforehand by the number of anchors that tell of a place: most places at the rim of a crystal are empty
_BEFORE = np.array([-4.0, -4.0, -2.0, -1.0, 0.0])
#: radius of the image around a place that is looked at, and farthest a column lies from its place, in widths of a column
_RADIUS, _FARTHEST = 1.8, 0.8
#: points across a width at which the image is looked at, nearest columns whose tails are taken off, columns that tell the scale
_POINTS, _TAILS, _SCALE = 2, 10, 8


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
        known = {(int(i), int(j)): p for (i, j), p in zip(self.index, self.anchors_px, strict=True)}
        told: dict[tuple[int, int, int], list[Floats]] = {}
        for (i, j), anchor in known.items():
            for k, (s, t) in enumerate(self.at):
                corners = [(0, 0), (0, 1), (1, 0), (1, 1)] if k else [(0, 1), (0, -1), (1, 0), (-1, 0)]
                for di, dj in corners:
                    place = anchor + np.array([s - di, t - dj]) @ self.vectors
                    told.setdefault((i - di, j - dj, k), []).append(place)
        names = list(told)
        places = [known[i, j] if k == 0 and (i, j) in known else np.mean(told[i, j, k], axis=0) for i, j, k in names]
        number = np.array([len(told[name]) for name in names], np.int64)
        return np.array(places).reshape(-1, 2), np.array([k for _, _, k in names], np.int64), number


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
    tree, reach = cKDTree(points_px), 0.25 * lattice.spacing_px
    steps = [(np.array(step), np.array(step) @ lattice.vectors) for step in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    leads = [(number, *tree.query(points_px + vector)) for number, vector in steps]
    left = np.ones(len(points_px), bool)
    best: dict[int, NDArray[np.int64]] = {}
    while left.any():
        start = int(np.flatnonzero(left)[0])
        found, queue = {start: np.zeros(2, np.int64)}, [start]
        while queue:
            k = queue.pop()
            for number, away, to in leads:
                if away[k] < reach and int(to[k]) not in found:
                    found[int(to[k])] = found[k] + number
                    queue.append(int(to[k]))
        left[list(found)] = False
        best = max(best, found, key=len)
    return np.array(list(best), np.int64), np.array(list(best.values()), np.int64).reshape(-1, 2)


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
    number = {(int(i), int(j)): k for k, (i, j) in enumerate(index)}
    corners = [
        [number[i, j], number[i + 1, j], number[i, j + 1], number[i + 1, j + 1]]
        for i, j in number
        if all(c in number for c in ((i + 1, j), (i, j + 1), (i + 1, j + 1)))
    ]
    if len(corners) < _LEAST_CELLS:
        return None, 0.0
    chosen = np.array(corners)[:: -(-len(corners) // _MOST_CELLS)]
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

    start = np.array([np.log(0.3 * spacing_px), 0.0, np.log(0.3 * spacing_px)])
    best = least_squares(left, start, max_nfev=40)
    if best.fun.var() > _UNEXPLAINED * mean.var():
        return None
    weights, *_ = np.linalg.lstsq(parts(best.x), mean.ravel(), rcond=None)
    a, b, c = np.exp(best.x[0]), best.x[1], np.exp(best.x[2])
    inverse = np.array([[1 / a**2 + b**2, b / c], [b / c, 1 / c**2]])
    return np.asarray(weights[1:], np.float64), np.linalg.inv(inverse)


def read_places(image: NDArray[np.floating], motif: Motif) -> Read:
    """Look at every place of a motif in an image with bright columns.

    Level, height and displacement of the spot there are fitted together, on top of the tails of the columns around it. The
    height is compared with that of the columns nearby, so that thickness does not matter.
    """
    places, kind, told = motif.places()
    inside = np.all((places >= 0) & (places <= np.array(image.shape) - 1), axis=1)
    places, kind, told = places[inside], kind[inside], told[inside]
    there = np.ones(len(places), bool)
    image, full = image / motif.height[0], motif.height / motif.height[0]
    for _ in range(3):
        height, error, shift = _heights(image, motif, places, full[kind] * there)
        _, near = cKDTree(places[kind == 0]).query(places, k=min(_SCALE, int((kind == 0).sum())))
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


def _heights(image: NDArray[np.floating], motif: Motif, places: Floats, tall: Floats) -> tuple[Floats, Floats, Floats]:
    """Height (m,) at every place, its error, and the displacement (m, 2) in pixels; `tall` (m,) casts tails on neighbours."""
    axis = np.arange(-_RADIUS, _RADIUS + 1e-6, 1 / _POINTS) * motif.width_px
    offset = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    offset = offset[np.hypot(*offset.T) <= _RADIUS * motif.width_px + 1e-6]
    inverse = np.linalg.inv(motif.covariance_px2)

    def spot(away: Floats) -> Floats:
        return np.asarray(np.exp(-0.5 * np.einsum("...i,ij,...j", away, inverse, away)))

    own = spot(offset)
    slope = own[:, None] * (offset @ inverse)  # of a spot that is moved
    away, near = cKDTree(places).query(places, k=min(_TAILS + 1, len(places)))
    points = places[:, None] + offset
    tails = np.zeros(points.shape[:2])
    for k in range(1, near.shape[1]):
        lifted = tall[near[:, k]] * (away[:, k] < 6 * motif.width_px)
        tails += lifted[:, None] * spot(points - places[near[:, k]][:, None])
    values = ndi.map_coordinates(image, points.reshape(-1, 2).T, order=1, mode="nearest").reshape(points.shape[:2])
    seen = np.all((points >= -0.5) & (points <= np.array(image.shape) - 0.5), axis=-1).astype(np.float64)
    spots = [np.broadcast_to(part, tails.shape) for part in (own, slope[:, 0], slope[:, 1])]
    design = np.stack([np.ones_like(tails), tails, *spots], -1) * seen[..., None]
    # the tails' scale is all but known; where there are none it does not matter
    normal = np.einsum("mpi,mpj->mij", design, design)
    right = np.einsum("mpi,mp->mi", design, values * seen)
    known = 10.0 * np.maximum(normal[:, 1, 1], 1e-9 * normal[:, 2, 2] + 1e-30)
    normal[:, 1, 1] += known
    right[:, 1] += known
    normal += 1e-9 * np.eye(5) * np.trace(normal, axis1=1, axis2=2)[:, None, None]
    weights = np.linalg.solve(normal, right[..., None])[..., 0]
    residual = (values * seen - np.einsum("mpi,mi->mp", design, weights)) ** 2
    free = np.maximum(seen.sum(1) - 5, 1)
    # neighbouring points share pixels: fewer of them are independent
    shared = max(1.0, (_POINTS / motif.width_px) ** 2)
    error = np.sqrt(residual.sum(1) / free * shared * np.linalg.inv(normal)[:, 2, 2])
    height = weights[:, 2]
    shift = weights[:, 3:] / np.where(height > 0.02, height, np.inf)[:, None]
    return height, np.asarray(error), np.asarray(shift)
