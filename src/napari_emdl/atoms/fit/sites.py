"""Site list: clusters of the detections of all frames, and empty lattice sites around the particle's surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy import special
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.log import local_maxima, refine_maxima
from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.atoms.fit.meansites import far_from, shown_at
from napari_emdl.atoms.inverted import LEAST_SHOWN, MOST_PLACES, inverted_parts
from napari_emdl.atoms.lattices import Lattice, find_lattices, links_of, surface_sites
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable

#: a site closer than this to the frame's edge is out of view
MARGIN_A = 0.6
GROUPS = ("bulk", "facet", "edge", "corner", "off lattice")
BULK, FACET, EDGE, CORNER, OFF_LATTICE = range(5)
NO_SITE = "no site was seen in enough frames: lower the least share of frames or the score threshold"
#: width of the kernel that pools detections
KERNEL_A = 0.25
#: a site must be in view in this share of the frames
LEAST_VIEW = 0.1


@dataclass(frozen=True)
class Sites:
    """Sites in drift-corrected pixels.

    Attributes
    ----------
    position_px
        (n, 2).
    seen
        (n,) share of the usable frames in view with a detection nearby.
    extrapolated
        (n,) bool, put there from the lattice alone.
    group
        (n,) uint8, index into GROUPS.
    coordination
        (n,) uint8, lattice neighbours that are mostly occupied.
    lattice
        Lattice of most sites; None when there is none.
    crystal
        (n,) int8, which of `lattices` a site is of, -1 for none.
    lattices
        All lattices, `lattice` first: particle and support, twins, grains.
    shown
        (n,) bool, sites at which the mean of all frames shows a column.
    inverted
        (n,) bool, sites amid a crystal where its contrast turns over: there no frame shows a column as it shows the others.
    """

    position_px: NDArray[np.float64]
    seen: NDArray[np.float64]
    extrapolated: NDArray[np.bool_]
    group: NDArray[np.uint8]
    coordination: NDArray[np.uint8]
    lattice: Lattice | None = None
    crystal: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    lattices: tuple[Lattice, ...] = ()
    shown: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    inverted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        if not self.lattices and self.lattice is not None:
            object.__setattr__(self, "lattices", (self.lattice,))
        if len(self.crystal) != len(self.position_px):
            none = np.full(len(self.position_px), 0 if self.lattices else -1, np.int8)
            object.__setattr__(self, "crystal", none)
        for name in ("shown", "inverted"):
            if len(getattr(self, name)) != len(self.position_px):
                object.__setattr__(self, name, np.zeros(len(self.position_px), bool))

    def __len__(self) -> int:
        return len(self.position_px)

    def regrouped(self, occupancy: NDArray[np.float64]) -> Sites:
        """Groups by coordination, where a neighbour counts when its site is occupied at least half of the time."""
        group, coordination = _groups(self.position_px, occupancy, self.crystal, self.lattices)
        return replace(self, group=group, coordination=coordination)

    def added(self, points_px: NDArray[np.float64]) -> Sites:
        """With sites added by hand."""
        points = np.atleast_2d(np.asarray(points_px, np.float64))
        count = len(points)
        return Sites(
            np.concatenate([self.position_px, points]),
            np.concatenate([self.seen, np.zeros(count)]),
            np.concatenate([self.extrapolated, np.zeros(count, bool)]),
            np.concatenate([self.group, np.full(count, OFF_LATTICE, np.uint8)]),
            np.concatenate([self.coordination, np.zeros(count, np.uint8)]),
            self.lattice,
            np.concatenate([self.crystal, self._crystal_near(points)]),
            self.lattices,
            np.concatenate([self.shown, np.zeros(count, bool)]),
            np.concatenate([self.inverted, np.zeros(count, bool)]),
        )

    def _crystal_near(self, points_px: NDArray[np.float64]) -> NDArray[np.int8]:
        """Crystal of the nearest site, -1 where that is far."""
        if not len(self) or self.lattice is None:
            return np.full(len(points_px), -1, np.int8)
        distance, index = cKDTree(self.position_px).query(points_px)
        return np.where(distance <= 1.5 * self.lattice.spacing_px, self.crystal[index], -1).astype(np.int8)

    def kept(self, keep: NDArray[np.bool_] | Sequence[int]) -> Sites:
        """Only the sites of a mask or list."""
        return Sites(
            self.position_px[keep], self.seen[keep], self.extrapolated[keep], self.group[keep], self.coordination[keep],
            self.lattice, self.crystal[keep], self.lattices, self.shown[keep], self.inverted[keep],
        )  # fmt: skip


def find_sites(
    columns: PeakTable,
    alignment: Alignment,
    pixel_A: float,
    frame_shape: tuple[int, int],
    min_fraction: float = 0.05,
    max_distance_A: float = 0.8,
    extrapolate: bool = True,
    of_mean_px: NDArray[np.float64] | None = None,
) -> Sites:
    """Sites from thresholded detections.

    Parameters
    ----------
    columns
        Detections by frame, thresholded.
    alignment
        Drift.
    pixel_A
        Pixel size.
    frame_shape
        (rows, cols).
    min_fraction
        A site must be seen in this fraction of the frames that have it in view, in two frames at least (one if there is but
        one), and more often than chance detections would.
    max_distance_A
        Farthest a detection may lie from its site.
    extrapolate
        Add the empty lattice sites next to at least two others.
    of_mean_px
        (k, 2) columns of the mean of all frames: sites, too, though no single frame shows them.

    Raises
    ------
    EmdlError
        When no detection is left to make sites of.
    """
    frame = columns.flat_index()
    usable = alignment.usable[frame]
    points = alignment.from_frame(columns.positions_px()[usable], frame[usable])
    frame = frame[usable]
    mean_px = np.zeros((0, 2)) if of_mean_px is None else of_mean_px
    if not len(points) and not len(mean_px):
        raise EmdlError(
            "no columns were found in any usable frame: lower the score threshold, or check contrast and pixel size"
        )
    position, seen = np.zeros((0, 2)), np.zeros(0)
    if len(points):
        position = _clusters(points, pixel_A)
        position, seen = _supported(position, points, frame, alignment, frame_shape, pixel_A, min_fraction, max_distance_A)
    more = far_from(mean_px, position, max(max_distance_A, 1.0) / pixel_A)
    position, seen = np.concatenate([position, more]), np.concatenate([seen, np.zeros(len(more))])
    if not len(position):
        raise EmdlError(NO_SITE)
    view = _share_in_view(position, alignment, frame_shape, MARGIN_A / pixel_A)
    lattices, crystal = find_lattices(position, seen, pixel_A)
    # in most frames the finder has put inverted parts right already, in their mean it has not
    sight, most = (seen, MOST_PLACES) if len(mean_px) < LEAST_SHOWN else (np.zeros(len(seen)), np.inf)
    turned = inverted_parts(position, sight, shown_at(position, mean_px, 0.6 / pixel_A), crystal, lattices, most)
    inverted = turned.places
    if lattices:
        # alone, only what is nearly always seen is a site: film grains flicker
        keep = (crystal >= 0) | (seen * (view > 0.5) >= 0.9)
        keep &= inverted | ~_beside_a_column(position, seen, crystal, lattices, mean_px, 0.6 / pixel_A)
        keep &= ~turned.spots
        position, seen, crystal, inverted = position[keep], seen[keep], crystal[keep], inverted[keep]
    else:  # what only the mean shows needs a lattice to be believed
        position, inverted, crystal, seen = position[seen > 0], inverted[seen > 0], crystal[seen > 0], seen[seen > 0]
        if not len(position):
            raise EmdlError(NO_SITE)
    extra, owner = turned.missing_px, turned.crystal
    inverted = np.concatenate([inverted, np.ones(len(extra), bool)])
    if extrapolate and lattices:
        next_to, of = surface_sites(np.concatenate([position, extra]), np.concatenate([crystal, owner]), lattices)
        inside = _share_in_view(next_to, alignment, frame_shape, MARGIN_A / pixel_A) > LEAST_VIEW
        extra, owner = np.concatenate([extra, next_to[inside]]), np.concatenate([owner, of[inside]])
    every, crystal = np.concatenate([position, extra]), np.concatenate([crystal, owner])
    share = np.concatenate([seen, np.zeros(len(extra))])
    inverted = np.concatenate([inverted, np.zeros(len(every) - len(inverted), bool)])
    # a column that is there though no frame shows it makes no surface of its neighbours
    group, coordination = _groups(every, np.where(inverted, 1.0, share), crystal, lattices)
    return Sites(
        every, share, np.arange(len(every)) >= len(position), group, coordination, lattices[0] if lattices else None, crystal,
        lattices, inverted=inverted,
    )  # fmt: skip


def _beside_a_column(
    position_px: NDArray[np.float64],
    seen: NDArray[np.float64],
    crystal: NDArray[np.int8],
    lattices: tuple[Lattice, ...],
    mean_px: NDArray[np.float64],
    reach_px: float,
) -> NDArray[np.bool_]:
    """Sites that the mean of all frames does not show, nearer to one that it does show than two of the crystal can be."""
    out = np.zeros(len(position_px), bool)
    shown = shown_at(position_px, mean_px, reach_px)
    for number, lattice in enumerate(lattices):
        own = np.flatnonzero((crystal == number) & ~shown & (seen < 0.5))
        if shown.any() and len(own):
            out[own] = cKDTree(position_px[shown]).query(position_px[own])[0] < 0.55 * lattice.spacing_px
    return out


def _clusters(points: NDArray[np.float64], pixel_A: float) -> NDArray[np.float64]:
    """Maxima of the density of all detections."""
    bin_px = max(0.5, 0.1 / pixel_A)
    low = points.min(0) - 8 * bin_px
    size = np.ceil((points.max(0) + 8 * bin_px - low) / bin_px).astype(int)
    index = np.floor((points - low) / bin_px).astype(int)
    density = np.bincount(index[:, 0] * size[1] + index[:, 1], minlength=size[0] * size[1]).reshape(size).astype(np.float64)
    kernel_px = max(0.8, KERNEL_A / pixel_A / bin_px)
    density = ndi.gaussian_filter(density, kernel_px)
    one = 1 / (2 * np.pi * kernel_px**2)
    where = local_maxima(density, 1.1 / pixel_A / bin_px, 0.7 * one)
    rows, cols, _, _ = refine_maxima(density, where, kernel_px)
    centre = np.stack([rows, cols], -1) * bin_px + low + 0.5 * bin_px
    tree = cKDTree(points)
    for _ in range(2):
        near = tree.query_ball_point(centre, 0.6 / pixel_A)
        centre = np.array(
            [np.median(points[list(ids)], axis=0) if ids else c for ids, c in zip(near, centre, strict=True)]
        ).reshape(-1, 2)
    return centre


def _share_in_view(
    points: NDArray[np.float64], alignment: Alignment, shape: tuple[int, int], margin_px: float
) -> NDArray[np.float64]:
    """Share of the usable frames that have the point in view."""
    if not len(points):
        return np.zeros(0)
    view = in_view(alignment.to_frame(points), shape, margin_px)[alignment.usable]
    return view.mean(0) if len(view) else np.zeros(len(points))


def in_view(points_px: NDArray[np.float64], shape: tuple[int, int], margin_px: float) -> NDArray[np.bool_]:
    """Whether points (..., 2) lie inside a frame, `margin_px` from its edge."""
    return np.all((points_px >= margin_px) & (points_px <= np.array(shape) - 1 - margin_px), axis=-1)


def _supported(
    position: NDArray[np.float64],
    points: NDArray[np.float64],
    frame: NDArray[np.int64],
    alignment: Alignment,
    shape: tuple[int, int],
    pixel_A: float,
    min_fraction: float,
    max_distance_A: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Clusters seen in enough different frames, and more often than scattered detections would make."""
    view = _share_in_view(position, alignment, shape, MARGIN_A / pixel_A)
    position, view = position[view > LEAST_VIEW], view[view > LEAST_VIEW]
    if not len(position):
        return position, view
    distance, index = cKDTree(position).query(points, distance_upper_bound=max_distance_A / pixel_A)
    own = np.isfinite(distance)
    frames = len(alignment.flag)
    pairs = np.unique(index[own].astype(np.int64) * frames + frame[own])
    count = np.bincount(pairs // frames, minlength=len(position))
    usable = max(1, int(alignment.usable.sum()))
    share = np.minimum(1.0, count / np.maximum(1.0, view * usable))
    # chance: detections far from any well-seen cluster, spread evenly over the view
    solid = share >= 0.5
    far = np.ones(len(points), bool)
    if solid.any():
        far = cKDTree(position[solid]).query(points)[0] > 1.2 / pixel_A
    area_A2 = max(1.0, shape[0] * shape[1] * pixel_A**2 - solid.sum() * np.pi * 1.2**2)
    expected = far.sum() / area_A2 * np.pi * min(max_distance_A, 0.6) ** 2
    # a cluster has one detection for certain; every one of them is a chance to be fooled
    by_chance = _poisson_limit(expected, 0.05 / len(position)) + 2
    least = min(usable, max(np.ceil(min_fraction * usable), by_chance))
    keep = (count >= least) & (share >= min_fraction)
    return position[keep], share[keep]


def _poisson_limit(expected: float, chance: float) -> float:
    """Least count that is exceeded with this chance at most, as `scipy.stats.poisson.isf` says without its long import."""
    counts = np.arange(int(expected + 10 * np.sqrt(expected)) + 50)
    return float(counts[np.argmax(special.pdtrc(counts, expected) <= chance)])


def _groups(
    position_px: NDArray[np.float64],
    occupancy: NDArray[np.float64],
    crystal: NDArray[np.int8],
    lattices: tuple[Lattice, ...],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Group and coordination of every site, along the vectors of its own lattice; a neighbour may be of another crystal."""
    full = np.zeros(len(position_px), np.uint8)
    for number, lattice in enumerate(lattices):
        own = crystal == number
        links = links_of(position_px, lattice, 0.3)[own]
        full[own] = np.where(links >= 0, occupancy[links] >= 0.5, False).sum(1)
    group = np.select([full == 6, full >= 4, full == 3, full >= 1], [BULK, FACET, EDGE, CORNER], OFF_LATTICE)
    return group.astype(np.uint8), full
