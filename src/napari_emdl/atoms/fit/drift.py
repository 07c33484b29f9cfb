"""Drift of the specimen: where it is in every frame, refined by a fit to the columns that every frame shows.

:mod:`~napari_emdl.atoms.fit.correlation` measures it from the frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control

#: flags of a frame; 0 is a good one
FLAGS = ("ok", "blank", "no match", "jump", "repeat")
BLANK, NO_MATCH, JUMP, REPEAT = 1, 2, 3, 4


@dataclass(frozen=True)
class Alignment:
    """Where the specimen is in every frame.

    A site at p (row, col) lies at ``centre_px + linear[t] @ (p - centre_px) + shift_px[t]`` in frame t; `linear` is the
    identity unless the particle turns.

    Attributes
    ----------
    shift_px
        (T, 2) float64.
    flag
        (T,) uint8, index into FLAGS. Blank and unmatched frames carry an interpolated shift and count as missing, as do
        frames that repeat the one before them; a jump is used.
    quality
        (T,) float64, correlation with the mean (0 to 1).
    linear
        (T, 2, 2) float64.
    centre_px
        (2,) float64, what it turns around.
    """

    shift_px: NDArray[np.float64]
    flag: NDArray[np.uint8]
    quality: NDArray[np.float64]
    linear: NDArray[np.float64]
    centre_px: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(T,) frames that show the specimen as it was then."""
        return (self.flag == 0) | (self.flag == JUMP)

    def one_frame(self, frame: int) -> Alignment:
        """Alignment of one frame only."""
        at = slice(frame, frame + 1)
        return Alignment(self.shift_px[at], self.flag[at], self.quality[at], self.linear[at], self.centre_px)

    def to_frame(self, points_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions (T, n, 2) in every frame of points (n, 2) of the drift-corrected specimen."""
        local = points_px - self.centre_px
        return self.centre_px + np.einsum("tij,nj->tni", self.linear, local) + self.shift_px[:, None, :]

    def from_frame(self, points_px: NDArray[np.float64], frame: NDArray[np.int64]) -> NDArray[np.float64]:
        """Drift-corrected positions (k, 2) of points (k, 2) seen in the frames (k,)."""
        local = points_px - self.centre_px - self.shift_px[frame]
        return self.centre_px + np.einsum("kij,kj->ki", np.linalg.inv(self.linear)[frame], local)


def identity(shift_px: NDArray[np.float64]) -> Alignment:
    """Alignment that only shifts, all frames good."""
    frames = len(shift_px)
    return Alignment(
        np.asarray(shift_px, np.float64), np.zeros(frames, np.uint8), np.ones(frames), np.tile(np.eye(2), (frames, 1, 1))
    )


def interpolated(shift: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Shifts with those of missing frames put between their neighbours."""
    if missing.all() or not missing.any():
        return shift
    t = np.arange(len(shift))
    filled = shift.copy()
    for axis in range(2):
        filled[missing, axis] = np.interp(t[missing], t[~missing], shift[~missing, axis])
    return filled


def refine_with_sites(
    columns: PeakTable,
    sites_px: NDArray[np.float64],
    alignment: Alignment,
    radius_px: float,
    affine: bool = False,
) -> Alignment:
    """Fit each frame's detections to the sites nearest them.

    Parameters
    ----------
    columns
        Detections by frame, thresholded.
    sites_px
        (n, 2) sites that are occupied nearly always.
    alignment
        Where to start.
    radius_px
        Detections farther from a site are not its own.
    affine
        Also fit rotation and scale, for a particle that turns.

    Returns
    -------
    Alignment
        Frames with fewer than four matched sites keep what they had; frames in which less than a third of the sites in view are
        seen are flagged as not matching.
    """
    if len(sites_px) < 4:
        return alignment
    tree = cKDTree(sites_px)
    shift, linear, flag = alignment.shift_px.copy(), alignment.linear.copy(), alignment.flag.copy()
    centre = sites_px.mean(0)
    shift += np.einsum("tij,j->ti", linear - np.eye(2), centre - alignment.centre_px)
    correlated = shift.copy()
    seen, variance = np.zeros(len(columns)), np.full(len(columns), np.nan)
    for t in range(len(columns)):
        found = columns.at(t)
        if flag[t] == BLANK or not len(found):
            continue
        points = np.stack([found["row"], found["col"]], -1).astype(np.float64)
        for _ in range(3):
            back = Alignment(shift[t : t + 1], flag[t : t + 1], seen[:1], linear[t : t + 1], centre).from_frame(
                points, np.zeros(len(points), np.int64)
            )
            distance, index = tree.query(back, distance_upper_bound=radius_px)
            own = np.isfinite(distance)
            if own.sum() < 4:
                break
            target, observed = sites_px[index[own]] - centre, points[own] - centre
            if affine and own.sum() >= 12:
                linear[t] = _turn(target, observed)
            residual = observed - target @ linear[t].T
            shift[t], variance[t] = _robust_mean(residual)
        seen[t] = own.sum() / len(sites_px)
    usable = (flag != BLANK) & (seen > 0)
    if usable.any():
        typical = float(np.quantile(seen[usable], 0.85))
        weak = (seen < 0.3 * typical) & (flag != BLANK)
        flag[weak] = NO_MATCH
        flag[~weak & (flag == NO_MATCH) & (seen > 0.55 * typical)] = 0
    if not affine:
        shift = _weighted(correlated, shift, variance)
    shift = interpolated(shift, (flag == BLANK) | (flag == NO_MATCH))
    return Alignment(shift, flag, alignment.quality, linear, centre)


def _robust_mean(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Mean of the points within three median deviations of the median, and its variance an axis."""
    middle = np.median(values, axis=0)
    distance = np.hypot(*(values - middle).T)
    near = values[distance <= 3 * max(1e-6, float(np.median(distance)))]
    mean = near.mean(0)
    return mean, float(((near - mean) ** 2).mean() / len(near))


def _weighted(
    correlated: NDArray[np.float64], fitted: NDArray[np.float64], variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shifts by correlation and by the columns, weighted by how well each is known.

    At low dose the columns of a single frame are placed worse than the frame as a whole. How well the correlation does is told
    by how much the two differ beyond the variance of the fit. Frames that differ by far more than usual were correlated with
    the wrong lattice vector: there the columns decide.
    """
    known = np.isfinite(variance)
    if known.sum() < 4:
        return fitted
    apart = ((fitted - correlated) ** 2).sum(1)
    usual = float(np.median(apart[known])) / (2 * np.log(2))
    of_fit = float(np.median(variance[known]))
    of_correlation = max(usual - of_fit, 0.05 * usual)
    weight = of_correlation / max(of_correlation + of_fit, 1e-30)
    both = known & (apart <= 25 * usual)
    return np.where(both[:, None], weight * fitted + (1 - weight) * correlated, fitted)


def _turn(target: NDArray[np.float64], observed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation (2, 2) that takes centred targets to centred observations (Kabsch)."""
    u, _, vt = np.linalg.svd((observed - observed.mean(0)).T @ (target - target.mean(0)))
    return u @ np.diag([1.0, float(np.sign(np.linalg.det(u @ vt)))]) @ vt


def turns_by_px(turned: Alignment, reach_px: float) -> float:
    """How far, at most, the particle's turning moves a site `reach_px` from its centre; 0 when noise explains the angles.

    Angles of single frames are noisy at low dose, and noise has no memory: five frames must agree.
    """
    angle = np.arctan2(turned.linear[:, 1, 0], turned.linear[:, 0, 0])[turned.usable]
    if len(angle) < 2:
        return float(np.abs(angle).max(initial=0)) * reach_px
    lasting = float(np.abs(ndi.median_filter(angle, 5, mode="nearest")).max())
    noise = 1.4826 * float(np.median(np.abs(np.diff(angle)))) / np.sqrt(2)
    return lasting * reach_px if lasting > 2.5 * noise else 0.0


def mean_image(
    frame_of: Callable[[int], NDArray[np.floating]], alignment: Alignment, control: Control | None = None
) -> NDArray[np.float32]:
    """Drift-corrected mean of all usable frames (rows, cols), in the coordinates of the sites."""
    total: NDArray[np.float64] | None = None
    count: NDArray[np.float64] | None = None
    for t in np.flatnonzero(alignment.usable):
        if control is not None:
            control.check()
        frame = np.asarray(frame_of(int(t)), np.float64)
        matrix = alignment.linear[t]
        offset = alignment.centre_px + alignment.shift_px[t] - matrix @ alignment.centre_px
        moved = ndi.affine_transform(frame, matrix, offset, order=1, cval=np.nan)
        if total is None or count is None:
            total, count = np.zeros_like(moved), np.zeros_like(moved)
        inside = np.isfinite(moved)
        total[inside] += moved[inside]
        count += inside
    if total is None or count is None:
        return np.asarray(frame_of(0), np.float32)
    # where only a few frames look, the mean is noise
    return np.where(count >= max(1.0, 0.25 * count.max()), total / np.maximum(count, 1), np.nan).astype(np.float32)
