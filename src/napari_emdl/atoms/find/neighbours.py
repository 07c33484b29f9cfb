"""What the frames around a frame add to it: means of the near and of the far ones, moved onto it by the measured drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from napari_emdl.atoms.find.clean import without_an_image, without_spikes

#: most frames in the means of the near and of the far neighbours; networks are trained with these
NEAR, FAR = 2, 6
#: pixel size at which frames are compared, and the longest side in pixels
COARSE_A, LONGEST_PX = 0.25, 192
#: a shift farther than this from the last one (half a lattice spacing) must be better by so many standard deviations of the
#: correlation
LIKELY_STEP_A, FAR_SIGMAS = 1.1, 3.0


def counts_for(frames: int, available: int) -> tuple[int, int]:
    """Numbers of near and far neighbours when `frames` frames are looked at, of which `available` there are."""
    others = max(0, min(frames, available) - 1)
    return min(NEAR, others), min(FAR, max(0, others - NEAR))


def nearest_frames(frame: int, total: int, count: int) -> list[int]:
    """The `count` frames of `total` nearest to a frame, nearest first; at the ends of a movie those of one side."""
    order = sorted((t for t in range(max(0, frame - count), min(total, frame + count + 1)) if t != frame),
                   key=lambda t: (abs(t - frame), t))  # fmt: skip
    return order[:count]


class Aligner:
    """Shifts of frames against each other, pixels: correlation of what lies between the outline and the lattice.

    A crystal correlates with itself at every lattice vector, so steps longer than `LIKELY_STEP_A` must show much better.
    """

    def __init__(self, shape: Sequence[int], pixel_A: float) -> None:
        self.zoom = max(1, int(min(COARSE_A / pixel_A, 8)), -(-max(shape) // (2 * LONGEST_PX)))
        self.shape = tuple(n // self.zoom for n in shape[-2:])
        k_row, k_col = np.fft.fftfreq(self.shape[0])[:, None], np.fft.rfftfreq(self.shape[1])[None]
        k = np.hypot(k_row, k_col) / (pixel_A * self.zoom)
        self._band = (np.exp(-0.5 * (k / 0.5) ** 2) * (1 - np.exp(-0.5 * (k / 0.06) ** 2))).astype(np.float32)
        self._k = k_row, k_col
        self._window = np.outer(*(np.hanning(n + 2)[1:-1] ** 0.25 for n in self.shape)).astype(np.float32)
        self._near = LIKELY_STEP_A / (pixel_A * self.zoom)

    def spectra(self, frames: Sequence[NDArray[np.floating]]) -> list[NDArray[np.complexfloating] | None]:
        """What frames are compared by; None for a blank one."""
        return [self._spectrum(frame) for frame in frames]

    def shifts(self, spectra: Sequence[NDArray[np.complexfloating] | None], middle: int = 0) -> NDArray[np.float64]:
        """Shifts (n, 2) of a few consecutive frames against one of them; a blank frame takes that of the one before.

        Frames are added to a mean from the middle outwards; then each is compared with the mean of the others. Nothing but
        these frames matters, so a frame's neighbours come out the same in whatever block of a movie they are read.
        """
        result = np.zeros((len(spectra), 2))
        order = sorted(range(len(spectra)), key=lambda t: (abs(t - middle), t))
        moved: dict[int, NDArray[np.complexfloating]] = {}
        for again in (False, True):
            for t in order:
                spectrum = spectra[t]
                inner = t + (1 if t < middle else -1)
                near = result[t] if again else (result[inner] if t != middle else np.zeros(2))
                others = [m for u, m in moved.items() if u != t]
                if spectrum is not None and others and (again or t != middle):
                    near = self._shift(spectrum, np.sum(others, axis=0), near / self.zoom) * self.zoom
                result[t] = near
                if spectrum is not None:
                    moved[t] = self._moved(spectrum, -result[t])
        return result - result[middle]

    def _moved(self, spectrum: NDArray[np.complexfloating], shift_px: NDArray[np.float64]) -> NDArray[np.complexfloating]:
        row, col = (np.exp(-2j * np.pi * k * s / self.zoom) for k, s in zip(self._k, shift_px, strict=True))
        return spectrum * (row * col).astype(np.complex64)

    def _spectrum(self, frame: NDArray[np.floating]) -> NDArray[np.complexfloating] | None:
        image = np.asarray(frame, np.float32)
        finite = np.isfinite(image)
        if not finite.all():
            if not finite.any():
                return None
            image = np.where(finite, image, image[finite].mean())
        (rows, cols), z = self.shape, self.zoom
        image = image[: rows * z, : cols * z].reshape(rows, z, cols, z).mean((1, 3))
        image = image - image.mean()
        spread = float(image.std())
        if not spread > 1e-9:
            return None
        spectrum: NDArray[np.complexfloating] = fft.rfft2(image / spread * self._window) * self._band
        return spectrum

    def _shift(
        self, spectrum: NDArray[np.complexfloating], reference: NDArray[np.complexfloating], near: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        correlation = fft.irfft2(spectrum * np.conj(reference), s=self.shape)
        axes = [(np.arange(n) - g + n / 2) % n - n / 2 for n, g in zip(self.shape, near, strict=True)]
        distance2 = axes[0][:, None] ** 2 + axes[1][None] ** 2
        near_best = np.where(distance2 <= self._near**2, correlation, -np.inf)
        peak = np.array(np.unravel_index(int(np.argmax(near_best)), correlation.shape))
        best = np.array(np.unravel_index(int(np.argmax(correlation)), correlation.shape))
        if correlation[tuple(best)] - correlation[tuple(peak)] > FAR_SIGMAS * float(correlation.std()):
            peak = best
        size = np.array(self.shape)
        return (peak + _subpixel(correlation, peak) + size / 2) % size - size / 2


def _subpixel(correlation: NDArray[np.floating], peak: NDArray[np.int64]) -> NDArray[np.float64]:
    """Offset (2,) of a maximum from its pixel, by a parabola an axis."""
    offset = np.zeros(2)
    for axis in range(2):
        at = [peak.copy() for _ in range(3)]
        at[0][axis], at[2][axis] = (peak[axis] - 1) % correlation.shape[axis], (peak[axis] + 1) % correlation.shape[axis]
        low, mid, high = (float(correlation[tuple(p)]) for p in at)
        bend = low - 2 * mid + high
        offset[axis] = 0.0 if bend >= 0 else float(np.clip(0.5 * (low - high) / bend, -0.5, 0.5))
    return offset


def with_neighbours(
    frames: Sequence[NDArray[np.floating]], shifts: NDArray[np.float64], middle: int, counts: tuple[int, int]
) -> NDArray[np.float32]:
    """A frame with the means of its neighbours, (3, rows, cols); a channel without any is zero.

    Parameters
    ----------
    frames
        Consecutive frames (rows, cols).
    shifts
        (n, 2) their shifts, pixels.
    middle
        Index of the frame.
    counts
        Numbers of near and far neighbours.
    """
    own = np.asarray(frames[middle], np.float32)
    out = np.zeros((3, *own.shape), np.float32)
    out[0] = own
    order = nearest_frames(middle, len(frames), sum(counts))
    for channel, chosen in ((1, order[: counts[0]]), (2, order[counts[0] :])):
        if not chosen:
            continue
        total, number = np.zeros(own.shape, np.float32), np.zeros(own.shape, np.float32)
        for t in chosen:
            step = np.round(shifts[t] - shifts[middle]).astype(int)
            into, source = _overlap(own.shape, step)
            part = np.asarray(frames[t], np.float32)[source]
            seen = np.isfinite(part)
            total[into] += np.where(seen, part, 0)
            number[into] += seen
        # where no neighbour looks, the frame itself stands in
        out[channel] = np.where(number > 0, total / np.maximum(number, 1), own)
    return out


def _overlap(shape: Sequence[int], step: NDArray[np.int64]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of a frame, and of one that lies `step` pixels farther, that show the same."""
    into, source = [], []
    for n, s in zip(shape, step, strict=True):
        into.append(slice(max(0, -s), max(0, min(n, n - s))))
        source.append(slice(max(0, s), max(0, min(n, n + s))))
    return (into[0], into[1]), (source[0], source[1])


def as_neighbour(frame: NDArray[Any]) -> NDArray[np.floating]:
    """A frame without spikes, NaN where it holds no image: what one frame lost must not show in the means of others."""
    image = np.asarray(frame, np.float32)
    finite = np.isfinite(image)
    if not finite.any() or not np.ptp(image[finite]) > 0:
        return image
    missing = None if finite.all() else ~finite
    bad, _ = without_an_image(image if missing is None else np.where(finite, image, np.median(image[finite])), missing)
    return without_spikes(image if bad is None else np.where(bad, np.float32(np.nan), image))


class NeighbourReader:
    """Reads frames of a movie with the means of their neighbours; a block is read with those beyond its ends.

    Parameters
    ----------
    read
        Frames `start`:`stop` of the movie.
    total
        Frames of the movie.
    counts
        Numbers of near and far neighbours.
    pixel_A
        Pixel size.
    """

    def __init__(self, read: Callable[[int, int], NDArray[np.floating]], total: int, counts: tuple[int, int], pixel_A: float):
        self.read_frames, self.total, self.counts, self.pixel_A = read, total, counts, pixel_A

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Frames `start`:`stop` as (n, 3, rows, cols), see `with_neighbours`."""
        reach = sum(self.counts)
        # the frames of one side stand in at the ends of the movie
        half = -(-reach // 2)
        low, high = max(0, min(start - half, self.total - 1 - reach)), min(self.total, max(stop + half, reach + 1))
        frames = np.asarray(self.read_frames(low, high))
        mended = [as_neighbour(frame) for frame in frames]
        aligner = Aligner(frames.shape[1:], self.pixel_A)
        spectra = aligner.spectra(mended)
        result = []
        for t in range(start, stop):
            used = sorted([t, *nearest_frames(t, self.total, reach)])
            first, last = used[0] - low, used[-1] - low + 1
            shifts = aligner.shifts(spectra[first:last], t - used[0])
            result.append(with_neighbours(mended[first:last], shifts, t - used[0], self.counts))
            result[-1][0] = frames[t - low]
        return np.stack(result)
