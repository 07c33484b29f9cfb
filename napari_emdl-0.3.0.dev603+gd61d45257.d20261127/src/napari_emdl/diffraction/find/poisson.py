"""Detection of disks where electrons are single: counts in a disk against those of a ring around it.

A correlation of variance-stabilised pixels is the best linear filter where a pixel holds some counts. Where it holds none or
one, the root stabilises nothing. There the counts of the whole disk are summed first, and it is their Poisson distribution that
tells how far they stand above the surroundings (root after Anscombe, Biometrika 35 (1948) 246, of sums instead of pixels).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats32 = NDArray[np.float32]

#: Patterns whose typical bin holds fewer electrons than this.
_FEWEST_A_BIN = 0.5
#: Ring around a disk in units of its radius, in which the surroundings are counted, and bins that it is wide at least.
_INNER, _OUTER, _LEAST_BINS = 1.15, 1.9, 1.0
#: Electrons added to the ring, so that an empty one does not make three electrons a disk.
_ADDED = 0.5


def is_sparse(binned: Floats32) -> NDArray[np.bool_]:
    """(n,) patterns, binned for detection (n, rows, cols), in which a typical bin is empty."""
    return np.asarray(np.median(binned[:, ::2, ::2], axis=(1, 2)) < _FEWEST_A_BIN)


class PoissonFilter:
    """Significance of a disk about every bin.

    Parameters
    ----------
    disk
        (rows, cols) disk of height one about bin (0, 0), wrapped.
    radius
        Of the disk, in bins.
    shape
        (rows, cols) of the patterns, which are padded to the disk's shape.
    """

    def __init__(self, disk: NDArray[np.floating], radius: float, shape: tuple[int, int]) -> None:
        self._fft_shape, self._shape = (disk.shape[0], disk.shape[1]), shape
        y, x = fft.fftfreq(disk.shape[0], 1 / disk.shape[0]), fft.fftfreq(disk.shape[1], 1 / disk.shape[1])
        distance = np.hypot(y[:, None], x[None, :])
        inner = max(_INNER * radius, radius + 0.5)
        outer = max(_OUTER * radius, inner + _LEAST_BINS)
        ring = np.clip(distance - inner + 0.5, 0, 1) * np.clip(outer - distance + 0.5, 0, 1)
        self._kernels = [np.conj(fft.rfft2(mask.astype(np.float32))) for mask in (disk, ring)]
        # what lies beyond the edge was not counted
        self._areas = [np.maximum(area, 1e-3) for area in self._sums(np.ones((1, *shape), np.float32))]

    def _sums(self, images: Floats32) -> list[Floats32]:
        spectrum = fft.rfft2(images, s=self._fft_shape, axes=(1, 2))
        rows, cols = self._shape
        return [
            fft.irfft2(spectrum * kernel, s=self._fft_shape, axes=(1, 2))[:, :rows, :cols].clip(0) for kernel in self._kernels
        ]

    def significance(self, binned: Floats32) -> Floats32:
        """(n, rows, cols) standard deviations of the counts in a disk above the expected ones.

        Parameters
        ----------
        binned
            (n, rows, cols) electrons.
        """
        inside, around = self._sums(binned)
        expected = (around + _ADDED) * (self._areas[0] / self._areas[1])
        return np.asarray(2 * (np.sqrt(inside + 0.375) - np.sqrt(expected + 0.375)), dtype=np.float32)
