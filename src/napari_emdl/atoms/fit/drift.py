"""Drift of the specimen: sub-pixel correlation with the running mean, then a fit to the columns that every frame shows.

A crystal correlates with itself at every lattice vector, so the first pass looks near the place where the particle was last and
only the second, against the mean of all, decides by the whole particle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control

#: flags of a frame; 0 is a good one
FLAGS = ("ok", "blank", "no match", "jump")
BLANK, NO_MATCH, JUMP = 1, 2, 3
#: a frame that correlates less than this part of what is usual does not show the specimen
LEAST_QUALITY = 0.35
#: sampling at which frames are correlated, and the longest side
COARSE_A, LONGEST_PX = 0.25, 512


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
        (T,) uint8, index into FLAGS. Blank and unmatched frames carry an interpolated shift and count as missing; a jump is
        used.
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
        """(T,) frames that show the specimen."""
        return (self.flag != BLANK) & (self.flag != NO_MATCH)

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


def measure_drift(
    frame_of: Callable[[int], NDArray[np.floating]],
    frames: int,
    pixel_A: float,
    spacing_A: float = 2.3,
    control: Control | None = None,
) -> Alignment:
    """Drift by correlation, twice: against the running mean of the frames before, then against the mean of all.

    Parameters
    ----------
    frame_of
        Frame t as (rows, cols); called twice a frame, so a long movie is never in memory.
    frames
        Number of frames.
    pixel_A
        Pixel size.
    spacing_A
        Spacing of the lattice; steps shorter than half of it are looked for first.
    control
        Progress and cancel.

    Returns
    -------
    Alignment
        Shifts against the first good frame, about a twentieth of a pixel fine; flags for blank, unmatched and jumping frames.
    """
    first = np.asarray(frame_of(0))
    correlator = _Correlator((first.shape[0], first.shape[1]), pixel_A, spacing_A)
    shift, quality, flag = np.zeros((frames, 2)), np.zeros(frames), np.zeros(frames, np.uint8)
    mean = stranger = None
    last, pair = np.zeros(2), 0.0  # pair: how well two single frames correlate
    for t in range(frames):
        _tick(control, t, 2 * frames)
        spectrum = correlator.spectrum(frame_of(t))
        if spectrum is None:
            flag[t], shift[t] = BLANK, last
            continue
        if mean is None:
            mean = spectrum
            continue
        shift[t], quality[t] = correlator.shift(spectrum, mean, near=last)
        if t > 3 and quality[t] < LEAST_QUALITY * quality[:t].max():
            # a specimen that has changed looks like itself in the next frames; one that is gone must not wash out of the mean
            alike = stranger is not None and correlator.shift(spectrum, stranger, near=last)[1] > 0.5 * pair
            stranger = spectrum
            if not alike:
                shift[t] = last
                continue
        elif pair == 0:
            pair = float(quality[t])
        weight = max(0.08, 1 / (t + 1))
        mean = (1 - weight) * mean + weight * correlator.moved(spectrum, -shift[t])
        last = shift[t]
    if mean is None:
        return Alignment(shift, flag, quality, np.tile(np.eye(2), (frames, 1, 1)), np.array(first.shape) / 2)
    for t in map(int, np.flatnonzero(flag == 0)):
        _tick(control, frames + t, 2 * frames)
        spectrum = correlator.spectrum(frame_of(t))
        if spectrum is not None:
            shift[t], quality[t] = correlator.shift(spectrum, mean, near=shift[t])
    good = flag == 0
    # of frames that show the specimen, which may be few
    typical = float(np.quantile(quality[good], 0.85))
    flag[good & (quality < LEAST_QUALITY * typical)] = NO_MATCH
    shift = _interpolated(shift, (flag == BLANK) | (flag == NO_MATCH))
    flag[_jumps(shift, spacing_A / pixel_A) & (flag == 0)] = JUMP
    shift -= shift[int(np.argmax(flag == 0))] if np.any(flag == 0) else 0
    return Alignment(shift, flag, quality, np.tile(np.eye(2), (frames, 1, 1)), np.array(first.shape) / 2)


def _tick(control: Control | None, done: int, total: int) -> None:
    if control is not None:
        control.check()
        control.report(done, total, "measuring drift")


def _interpolated(shift: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Shifts with those of missing frames put between their neighbours."""
    if missing.all() or not missing.any():
        return shift
    t = np.arange(len(shift))
    filled = shift.copy()
    for axis in range(2):
        filled[missing, axis] = np.interp(t[missing], t[~missing], shift[~missing, axis])
    return filled


def _jumps(shift: NDArray[np.float64], spacing_px: float) -> NDArray[np.bool_]:
    """Frames that lie farther from the one before than half a lattice spacing and far more than usual."""
    step = np.r_[0.0, np.hypot(*np.diff(shift, axis=0).T)] if len(shift) > 1 else np.zeros(len(shift))
    return step > max(0.5 * spacing_px, 6 * float(np.median(step)))


class _Correlator:
    """Band-limited correlation of frames binned to about COARSE_A a pixel."""

    def __init__(self, shape: tuple[int, int], pixel_A: float, spacing_A: float) -> None:
        longest = max(shape)
        self.zoom = max(1, int(min(COARSE_A / pixel_A, 8)), -(-longest // (2 * LONGEST_PX)))
        self.shape = tuple(n // self.zoom for n in shape)
        self.near_px = 0.45 * spacing_A / pixel_A / self.zoom
        coarse_A = pixel_A * self.zoom
        k_row, k_col = (np.fft.fftfreq(n) for n in self.shape)
        self.k_row, self.k_col = k_row[:, None], k_col[None, :]
        k = np.hypot(self.k_row, self.k_col) / coarse_A
        # from the particle's outline (10 Å) to its lattice (1 Å); neither uneven light nor shot noise
        self.band = np.exp(-0.5 * (k / 0.55) ** 2) * (1 - np.exp(-0.5 * (k / 0.06) ** 2))
        self.window = np.outer(*(np.hanning(n + 2)[1:-1] ** 0.25 for n in self.shape))

    def spectrum(self, frame: NDArray[np.floating]) -> NDArray[np.complex128] | None:
        """Spectrum of a frame; None when it is blank or all NaN."""
        image = np.asarray(frame, np.float64)
        finite = np.isfinite(image)
        if not finite.any():
            return None
        if not finite.all():
            image = np.where(finite, image, image[finite].mean())
        rows, cols = self.shape
        z = self.zoom
        image = image[: rows * z, : cols * z].reshape(rows, z, cols, z).mean((1, 3))
        image = image - image.mean()
        spread = image.std()
        if not spread > 1e-9 * max(1.0, float(np.abs(image).max())):
            return None
        return np.fft.fft2(image / spread * self.window) * self.band

    def moved(self, spectrum: NDArray[np.complex128], shift_px: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Spectrum of the frame moved by a shift in full pixels."""
        by = shift_px / self.zoom
        return spectrum * np.exp(-2j * np.pi * (self.k_row * by[0] + self.k_col * by[1]))

    def shift(
        self, spectrum: NDArray[np.complex128], reference: NDArray[np.complex128], near: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float]:
        """Shift of a frame against a reference in full pixels, and the normalised correlation there."""
        cross = spectrum * np.conj(reference)
        norm = np.sqrt(np.sum(np.abs(spectrum) ** 2) * np.sum(np.abs(reference) ** 2)) / cross.size
        corr = np.fft.ifft2(cross).real
        guess = near / self.zoom
        rows = _wrap(np.arange(self.shape[0]) - guess[0], self.shape[0])[:, None]
        cols = _wrap(np.arange(self.shape[1]) - guess[1], self.shape[1])[None, :]
        distance = np.hypot(rows, cols)
        # a farther peak must be clearly higher than the one near the last place
        penalty = 0.12 * (1 - np.exp(-0.5 * (distance / self.near_px) ** 2))
        peak = np.unravel_index(int(np.argmax(corr - penalty * corr.max())), corr.shape)
        found = np.array([_wrap(peak[0], self.shape[0]), _wrap(peak[1], self.shape[1])], np.float64)
        found += _subpixel(corr, peak)
        return found * self.zoom, float(corr[peak] / max(1e-30, norm))


def _wrap(value: ArrayLike, period: int) -> NDArray[np.floating]:
    return (np.asarray(value, np.float64) + period / 2) % period - period / 2


def _subpixel(corr: NDArray[np.float64], peak: tuple[np.intp, ...]) -> NDArray[np.float64]:
    """Offset of the maximum from its pixel by a parabola an axis; the correlation is band-limited, so that is enough to
    start."""
    out = np.zeros(2)
    for axis in range(2):
        at = [np.array(p) for p in peak]
        at[axis] = (peak[axis] + np.array([-1, 0, 1])) % corr.shape[axis]
        low, mid, high = corr[at[0], at[1]] if axis else corr[at[0], peak[1]]
        curvature = low - 2 * mid + high
        out[axis] = 0.0 if curvature >= 0 else np.clip(0.5 * (low - high) / curvature, -0.6, 0.6)
    return out


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
    shift = _interpolated(shift, (flag == BLANK) | (flag == NO_MATCH))
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
