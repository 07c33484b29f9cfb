"""Drift by sub-pixel correlation of the frames, as two block jobs: against the running mean, then against the mean of all.

A crystal correlates with itself at every lattice vector, so the first pass looks near the place where the particle was last and
only the second, against the mean of all, decides by the whole particle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.atoms.fit.drift import BLANK, JUMP, NO_MATCH, Alignment, interpolated
from napari_emdl.base.params import RunParams
from napari_emdl.jobs.blockjob import arrays, run_block_job
from napari_emdl.jobs.blocks import Block
from napari_emdl.jobs.checkpoint import discard_part
from napari_emdl.jobs.control import Control

#: a frame that correlates less than this part of what is usual does not show the specimen
LEAST_QUALITY = 0.35
#: sampling at which frames are correlated, and the longest side
COARSE_A, LONGEST_PX = 0.25, 512
#: least weight of a frame in the running mean, and frames after which nothing is left of an older one (.92 ** 250 = 1e-9)
LEAST_WEIGHT, MEMORY_FRAMES = 0.08, 250

FrameOf = Callable[[int], NDArray[np.floating]]
Spectrum = NDArray[np.complex128]


def measure_drift(
    frame_of: FrameOf,
    frames: int,
    pixel_A: float,
    spacing_A: float = 2.3,
    control: Control | None = None,
    run: RunParams | None = None,
    output: str | Path | None = None,
    fingerprint: str = "",
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
    run, output, fingerprint
        See :func:`napari_emdl.jobs.blockjob.run_block_job`; the passes keep their blocks under :func:`journals_of` `output`.
        The first pass goes from frame to frame, in this process whatever `run` says.

    Returns
    -------
    Alignment
        Shifts against the first good frame, about a twentieth of a pixel fine; flags for blank, unmatched and jumping frames.
    """
    first = np.asarray(frame_of(0))
    correlator = _Correlator((first.shape[0], first.shape[1]), pixel_A, spacing_A)
    run = run or RunParams()
    journals: tuple[Path | None, Path | None] = (None, None) if output is None else journals_of(output)
    # as read, in double precision, and the spectra at work
    bytes_per_frame = first.size * 24.0 + np.prod(correlator.shape) * 64.0
    read = _Frames(frame_of).read

    following = _Following(correlator, frame_of, frames, control)
    run_block_job(
        total=frames, read=read, work=following, merge=arrays(frames), bytes_per_item=bytes_per_frame,
        run=run.model_copy(update={"workers": 1, "scheduler": None}), output=journals[0], fingerprint=fingerprint,
        control=control, on_block=following.take, message="measuring drift",
    )  # fmt: skip
    shift, quality, flag = following.shift, following.quality, following.flag
    linear, centre = np.tile(np.eye(2), (frames, 1, 1)), np.array(first.shape) / 2
    if (flag == BLANK).all():
        return Alignment(shift, flag, quality, linear, centre)

    matched = run_block_job(
        total=frames, read=read, work=_Matching(following, None if run.scheduler else control), merge=arrays(frames),
        bytes_per_item=bytes_per_frame, run=run, output=journals[1], fingerprint=fingerprint, control=control,
        message="measuring drift again, against the mean",
    )  # fmt: skip
    shift, quality = matched["shift"], matched["quality"]
    good = flag == 0
    # of frames that show the specimen, which may be few
    typical = float(np.quantile(quality[good], 0.85))
    flag[good & (quality < LEAST_QUALITY * typical)] = NO_MATCH
    shift = interpolated(shift, (flag == BLANK) | (flag == NO_MATCH))
    flag[_jumps(shift, spacing_A / pixel_A) & (flag == 0)] = JUMP
    shift -= shift[int(np.argmax(flag == 0))] if np.any(flag == 0) else 0
    return Alignment(shift, flag, quality, linear, centre)


def journals_of(output: str | Path) -> tuple[Path, Path]:
    """Names under which the two passes keep their blocks beside `output`."""
    return Path(f"{output}.follow"), Path(f"{output}.drift")


def discard_drift(output: str | Path) -> None:
    """Remove what the two passes have kept beside `output`."""
    for name in journals_of(output):
        discard_part(name)


@dataclass(frozen=True)
class _Frames:
    """Frames by their numbers, a range at a time."""

    frame_of: FrameOf

    def read(self, start: int, stop: int) -> NDArray[np.floating]:
        return np.stack([np.asarray(self.frame_of(t)) for t in range(start, stop)])


class _Following:
    """First pass: each frame against the running mean of those before it, in order.

    What it needs to go on behind finished blocks follows from them and from the frames before.
    """

    def __init__(self, correlator: _Correlator, frame_of: FrameOf, frames: int, control: Control | None) -> None:
        self.correlator, self.frame_of, self.control = correlator, frame_of, control
        self.shift, self.quality = np.zeros((frames, 2)), np.zeros(frames)
        self.flag, self.used = np.zeros(frames, np.uint8), np.zeros(frames, bool)
        self._at = 0
        self._mean: Spectrum | None = None
        self._stranger: Spectrum | None = None

    def take(self, block: Block, result: Mapping[str, NDArray[Any]]) -> None:
        """A finished block, of this run or of one before."""
        for name, values in result.items():
            getattr(self, name)[block.start : block.stop] = values

    def __call__(self, items: NDArray[np.floating], block: Block) -> dict[str, NDArray[Any]]:
        self._go_to(block.start)
        for frame in items:
            if self.control is not None:
                self.control.check()
            self._follow(self._at, self.correlator.spectrum(frame))
            self._at += 1
        at = slice(block.start, block.stop)
        return {"shift": self.shift[at], "quality": self.quality[at], "flag": self.flag[at], "used": self.used[at]}

    def mean(self) -> Spectrum:
        """Mean of all frames that show the specimen."""
        self._go_to(len(self.shift))
        assert self._mean is not None
        return self._mean

    def _follow(self, t: int, spectrum: Spectrum | None) -> None:
        last = self.shift[t - 1] if t else np.zeros(2)
        self.shift[t] = last
        if spectrum is None:
            self.flag[t] = BLANK
            return
        if self._mean is None:
            self._mean, self.used[t], self.shift[t] = spectrum, True, 0
            return
        self.shift[t], self.quality[t] = self.correlator.shift(spectrum, self._mean, near=last)
        if self._is_low(t):
            # a specimen that has changed looks like itself in the next frames; one that is gone must not wash out of the mean
            stranger, self._stranger = self._stranger, spectrum
            alike = stranger is not None and self.correlator.shift(spectrum, stranger, near=last)[1] > 0.5 * self._pair(t)
            if not alike:
                self.shift[t] = last
                return
        self.used[t] = True
        self._add(t, spectrum)

    def _add(self, t: int, spectrum: Spectrum) -> None:
        weight = max(LEAST_WEIGHT, 1 / (t + 1))
        moved = self.correlator.moved(spectrum, -self.shift[t])
        self._mean = moved if self._mean is None else (1 - weight) * self._mean + weight * moved

    def _is_low(self, t: int) -> bool:
        return t > 3 and self.quality[t] < LEAST_QUALITY * self.quality[:t].max()

    def _pair(self, t: int) -> float:
        """How well two single frames correlate: the first two that show the specimen."""
        return float(next((q for q in self.quality[:t] if q != 0), 0.0))

    def _go_to(self, t: int) -> None:
        """Have mean and stranger as they are before frame `t`, whose predecessors are known."""
        if self._at == t:
            return
        self._mean = None
        for s in map(int, np.flatnonzero(self.used[:t])[-MEMORY_FRAMES:]):
            self._add(s, self._known(s))
        low = next((s for s in range(t - 1, 3, -1) if self.flag[s] != BLANK and self._is_low(s)), None)
        self._stranger = None if low is None else self._known(low)
        self._at = t

    def _known(self, t: int) -> Spectrum:
        """Spectrum of a frame that was seen to have one."""
        if self.control is not None:
            self.control.check()
        spectrum = self.correlator.spectrum(self.frame_of(t))
        assert spectrum is not None
        return spectrum


class _Matching:
    """Second pass: each frame against the mean of all, near where the first pass has it; picklable."""

    def __init__(self, first: _Following, control: Control | None) -> None:
        self.correlator, self.control = first.correlator, control
        self.shift, self.quality, self.flag = first.shift, first.quality, first.flag
        self.mean = first.mean()

    def __call__(self, items: NDArray[np.floating], block: Block) -> dict[str, NDArray[Any]]:
        shift, quality = self.shift[block.start : block.stop].copy(), self.quality[block.start : block.stop].copy()
        for index in map(int, np.flatnonzero(self.flag[block.start : block.stop] == 0)):
            if self.control is not None:
                self.control.check()
            spectrum = self.correlator.spectrum(items[index])
            if spectrum is not None:
                shift[index], quality[index] = self.correlator.shift(spectrum, self.mean, near=shift[index])
        return {"shift": shift, "quality": quality}


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
