"""Site list: clusters of the detections of all frames, and empty lattice sites around the particle's surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from scipy.stats import poisson

from napari_emdl.atoms.find.log import local_maxima, refine_maxima
from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable

#: a site closer than this to the frame's edge is out of view
MARGIN_A = 0.6
GROUPS = ("bulk", "facet", "edge", "corner", "off lattice")
BULK, FACET, EDGE, CORNER, OFF_LATTICE = range(5)
#: width of the kernel that pools detections, and range in which lattice vectors are looked for
KERNEL_A, LONGEST_VECTOR_A = 0.25, 6.5
#: a site must be in view in this share of the frames
LEAST_VIEW = 0.1


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
        Lattice of the particle; None when there is none.
    """

    position_px: NDArray[np.float64]
    seen: NDArray[np.float64]
    extrapolated: NDArray[np.bool_]
    group: NDArray[np.uint8]
    coordination: NDArray[np.uint8]
    lattice: Lattice | None = None

    def __len__(self) -> int:
        return len(self.position_px)

    def regrouped(self, occupancy: NDArray[np.float64]) -> Sites:
        """Groups by coordination, where a neighbour counts when its site is occupied at least half of the time."""
        group, coordination = _groups(self.position_px, occupancy, self.lattice)
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
        )

    def kept(self, keep: NDArray[np.bool_] | Sequence[int]) -> Sites:
        """Only the sites of a mask or list."""
        return Sites(
            self.position_px[keep], self.seen[keep], self.extrapolated[keep], self.group[keep], self.coordination[keep],
            self.lattice
        )  # fmt: skip


def find_sites(
    columns: PeakTable,
    alignment: Alignment,
    pixel_A: float,
    frame_shape: tuple[int, int],
    min_fraction: float = 0.05,
    max_distance_A: float = 0.8,
    extrapolate: bool = True,
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

    Raises
    ------
    EmdlError
        When no detection is left to make sites of.
    """
    frame = columns.flat_index()
    usable = alignment.usable[frame]
    points = alignment.from_frame(columns.positions_px()[usable], frame[usable])
    frame = frame[usable]
    if not len(points):
        raise EmdlError(
            "no columns were found in any usable frame: lower the score threshold, or check contrast and pixel size"
        )
    position = _clusters(points, pixel_A)
    position, seen = _supported(position, points, frame, alignment, frame_shape, pixel_A, min_fraction, max_distance_A)
    if not len(position):
        raise EmdlError("no site was seen in enough frames: lower the least share of frames or the score threshold")
    lattice = find_lattice(position, seen, pixel_A)
    if lattice is not None:
        view = _share_in_view(position, alignment, frame_shape, MARGIN_A / pixel_A)
        keep = _belongs(position, seen * (view > 0.5), lattice)
        position, seen = position[keep], seen[keep]
    extra = np.zeros((0, 2))
    if extrapolate and lattice is not None:
        extra = _surface_sites(position, lattice)
        extra = extra[_share_in_view(extra, alignment, frame_shape, MARGIN_A / pixel_A) > LEAST_VIEW]
    every = np.concatenate([position, extra])
    share = np.concatenate([seen, np.zeros(len(extra))])
    group, coordination = _groups(every, share, lattice)
    return Sites(every, share, np.arange(len(every)) >= len(position), group, coordination, lattice)


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
    by_chance = float(poisson.isf(0.05 / len(position), expected)) + 2
    least = min(usable, max(np.ceil(min_fraction * usable), by_chance))
    keep = (count >= least) & (share >= min_fraction)
    return position[keep], share[keep]


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
    candidates.sort(key=lambda c: c[0])
    for i, (length_a, a, _) in enumerate(candidates):
        for length_b, b, _ in candidates[i + 1 :]:
            if abs(a[0] * b[1] - a[1] * b[0]) > 0.5 * length_a * length_b:
                return _refined(Lattice(*_reduced(a, b)), solid)
    return None


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


def _links(position_px: NDArray[np.float64], lattice: Lattice, tolerance: float = 0.25) -> NDArray[np.int64]:
    """(n, 6) index of the neighbour along each lattice vector, -1 where there is none."""
    out = np.full((len(position_px), 6), -1, np.int64)
    tree = cKDTree(position_px)
    for k, vector in enumerate(lattice.neighbours_px):
        distance, index = tree.query(position_px + vector, distance_upper_bound=tolerance * lattice.spacing_px)
        out[:, k] = np.where(np.isfinite(distance), index, -1)
    return out


def _belongs(position_px: NDArray[np.float64], seen: NDArray[np.float64], lattice: Lattice) -> NDArray[np.bool_]:
    """Sites linked to at least two others, and loners only when they are seen nearly always: film grains flicker alone."""
    links = _links(position_px, lattice)
    linked = (links >= 0).sum(1)
    # a site is as good as its neighbours: pairs of grains support each other, so look one link further
    strong = linked >= 2
    support = np.where(links >= 0, strong[links], False).sum(1)
    on_lattice = (linked >= 2) & (support >= 1)
    return on_lattice | (seen >= 0.9)


def _surface_sites(position_px: NDArray[np.float64], lattice: Lattice) -> NDArray[np.float64]:
    """Empty sites that at least two neighbours ask for."""
    wanted = (position_px[:, None, :] + lattice.neighbours_px[None]).reshape(-1, 2)
    spacing = lattice.spacing_px
    distance, _ = cKDTree(position_px).query(wanted)
    wanted = wanted[distance > 0.5 * spacing]
    found = []
    while len(wanted):
        near = np.hypot(*(wanted - wanted[0]).T) < 0.35 * spacing
        if near.sum() >= 2:
            found.append(wanted[near].mean(0))
        wanted = wanted[~near]
    return np.array(found).reshape(-1, 2)


def _groups(
    position_px: NDArray[np.float64], occupancy: NDArray[np.float64], lattice: Lattice | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Group and coordination of every site."""
    if lattice is None:
        return np.full(len(position_px), OFF_LATTICE, np.uint8), np.zeros(len(position_px), np.uint8)
    links = _links(position_px, lattice, 0.3)
    full = np.where(links >= 0, occupancy[links] >= 0.5, False).sum(1)
    group = np.select([full == 6, full >= 4, full == 3, full >= 1], [BULK, FACET, EDGE, CORNER], OFF_LATTICE)
    return group.astype(np.uint8), full.astype(np.uint8)
