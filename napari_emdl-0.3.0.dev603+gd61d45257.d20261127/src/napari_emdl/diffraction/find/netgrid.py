"""From the user's detector to the network's grid and back: scale, shift, pad, with exact positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: How far from the middle of the grid the direct beam may lie; the networks were trained on that.
CENTRE_TOLERANCE_PX = 8.0
#: Scales within a few per cent of 1 are not worth resampling.
_NEARLY_ONE = 0.08


@dataclass(frozen=True)
class Grid:
    """Square grid of a network laid over a detector.

    A point at `p` on the detector lies at ``(p - centre_px) * scale + size // 2`` on the grid.

    Attributes
    ----------
    size
        Edge of the grid in its pixels.
    scale
        Grid pixels per detector pixel.
    centre_px
        (row, col) on the detector of the grid's middle.
    detector_shape
        (rows, cols).
    """

    size: int
    scale: float
    centre_px: tuple[float, float]
    detector_shape: tuple[int, int]

    def to_grid(self, position_px: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) positions on the detector -> on the grid."""
        return (np.asarray(position_px, float) - self.centre_px) * self.scale + self.size // 2

    def to_detector(self, position_px: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) positions on the grid -> on the detector."""
        return (np.asarray(position_px, float) - self.size // 2) / self.scale + self.centre_px

    def resample(self, patterns: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patterns (n, rows, cols) on the grid (n, size, size).

        The total of the counts stays; beyond the detector lies the median of its border.
        """
        outside = _border_median(patterns) / self.scale**2
        if self.scale == 1.0 and all(float(c).is_integer() for c in self.centre_px):
            return self._shifted(patterns, outside)
        rows, row_part = self._weights(0)
        cols, col_part = self._weights(1)
        out = np.matmul(np.matmul(rows, patterns), cols.T)
        out += outside[:, None, None] * (1 - row_part[:, None] * col_part[None, :])
        return out.astype(np.float32)

    def _shifted(self, patterns: NDArray[np.float32], outside: NDArray[np.float32]) -> NDArray[np.float32]:
        start = [int(c) - self.size // 2 for c in self.centre_px]
        if start == [0, 0] and patterns.shape[1:] == (self.size, self.size):
            return np.ascontiguousarray(patterns, dtype=np.float32)
        out = np.empty((len(patterns), self.size, self.size), np.float32)
        out[:] = outside[:, None, None]
        low = [max(0, s) for s in start]
        high = [min(n, s + self.size) for n, s in zip(self.detector_shape, start, strict=True)]
        if all(h > b for b, h in zip(low, high, strict=True)):
            target = tuple(slice(b - s, h - s) for b, h, s in zip(low, high, start, strict=True))
            out[:, target[0], target[1]] = patterns[:, low[0] : high[0], low[1] : high[1]]
        return out

    def _weights(self, axis: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(size, n) share of each detector pixel in each grid pixel along an axis, and the part of it on the detector.

        A detector pixel is a box, shared out to the grid by a tent one grid pixel wide: every count arrives, and the centroid
        of anything stays exactly where it is, which plain binning or interpolation does not guarantee.
        """
        pixel = (np.arange(self.detector_shape[axis], dtype=np.float64) - self.centre_px[axis]) * self.scale + self.size // 2
        away = pixel[None, :] - np.arange(self.size)[:, None]
        half = self.scale / 2
        weights = (_tent_integral(away + half) - _tent_integral(away - half)) / self.scale
        return weights.astype(np.float32), np.clip(self.scale * weights.sum(axis=1), 0, 1).astype(np.float32)

    def to_detector_image(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Image on the grid -> on the detector (linear interpolation, 0 where the grid does not reach)."""
        from scipy import ndimage

        rows, cols = self.detector_shape
        place = self.to_grid(np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), axis=-1))
        return ndimage.map_coordinates(image, np.moveaxis(place, -1, 0), order=1, mode="constant").astype(np.float32)


def choose_scale(radius_px: float, detector_shape: tuple[int, int], size: int, trained_radius_px: tuple[float, float]) -> float:
    """Grid pixels per detector pixel: the whole detector on the grid, disks of a radius the network knows.

    The radius counts more: a detector whose disks would become too small is cut at the grid's edge, one whose disks would
    become too large is padded.
    """
    smallest, largest = trained_radius_px
    scale = size / max(detector_shape)
    if abs(scale - 1) < _NEARLY_ONE:
        scale = 1.0
    low, high = 1.1 * smallest / radius_px, 0.95 * largest / radius_px
    if low <= 1.0 <= high and 1.0 < scale < 2.0:
        scale = 1.0  # padding a little beats spreading the noise of every pixel over its neighbours
    return float(np.clip(scale, low, high))


def choose_centre(measured_px: ArrayLike, scale: float, detector_shape: tuple[int, int]) -> tuple[float, float]:
    """Middle of the detector where the direct beam is near enough to it, else the beam itself, in whole pixels."""
    middle = np.array([n // 2 for n in detector_shape], float)
    beam = np.asarray(measured_px, float)
    if np.abs(beam - middle).max() * scale <= CENTRE_TOLERANCE_PX:
        return float(middle[0]), float(middle[1])
    return float(np.rint(beam[0])), float(np.rint(beam[1]))


def _tent_integral(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of max(0, 1 - abs(u)) from minus infinity to x."""
    x = np.clip(x, -1, 1)
    return 0.5 + x - 0.5 * x * np.abs(x)


def _border_median(patterns: NDArray[np.float32]) -> NDArray[np.float32]:
    edge = np.concatenate([patterns[:, 0], patterns[:, -1], patterns[:, :, 0], patterns[:, :, -1]], axis=1)
    return np.median(edge, axis=1).astype(np.float32)
