"""Correlation beside what a beam stop or a gap of the detector hides, normalised by the pixels that are left.

A disk is compared with its surround, each by the mean over its known pixels, in units of the noise that these means have. So a
disk that is cut keeps the significance that its rest has, and a rim makes none. (Masked correlation after Padfield, IEEE
Transactions on Image Processing 21 (2012) 2706, for a kernel of two parts.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats32 = NDArray[np.float32]

#: Least part of disk and surround that must be known.
_LEAST_DISK, _LEAST_SURROUND = 0.5, 0.3
#: Parts above this are whole.
_WHOLE = 0.999


def known_bins(gap: NDArray[np.bool_], binning: int) -> Floats32:
    """(rows, cols) 1 for the bins of a detector of which no pixel is hidden, else 0."""
    rows, cols = gap.shape[0] // binning, gap.shape[1] // binning
    blocks = gap[: rows * binning, : cols * binning].reshape(rows, binning, cols, binning)
    return np.asarray(~blocks.any(axis=(1, 3)), np.float32)


class MaskedCorrelation:
    """Correlation with a disk and its surround where some bins are not known.

    Parameters
    ----------
    parts
        Disk and surround, each of sum one, about bin (0, 0), wrapped into the shape of the transforms.
    known
        (rows, cols) 1 for known bins, else 0.
    """

    def __init__(self, parts: tuple[NDArray[np.float64], NDArray[np.float64]], known: Floats32) -> None:
        self.known = known
        self._fft_shape = (parts[0].shape[0], parts[0].shape[1])
        self._kernels = [np.conj(fft.rfft2(part)).astype(np.complex64) for part in parts]
        # what lies beyond the detector counts as known, as for whole patterns
        full = np.ones(self._fft_shape, np.float32)
        full[: known.shape[0], : known.shape[1]] = known
        spectrum = fft.rfft2(full)
        self._shares = [np.maximum(self._back(spectrum * kernel), 1e-6) for kernel in self._kernels]
        squares = [np.conj(fft.rfft2(np.square(part))) for part in parts]
        variance = sum(
            np.maximum(self._back(spectrum * square), 0) / np.square(share)
            for square, share in zip(squares, self._shares, strict=True)
        )
        self._noise = np.sqrt(np.maximum(variance, 1e-12))
        disk, surround = self._shares
        self.cut = np.minimum(disk, surround) < _WHOLE
        self._enough = (disk >= _LEAST_DISK) & (surround >= _LEAST_SURROUND)

    def _back(self, spectrum: NDArray[np.complexfloating]) -> Floats32:
        rows, cols = self.known.shape
        return fft.irfft2(spectrum, s=self._fft_shape, axes=(-2, -1))[..., :rows, :cols].astype(np.float32)

    def replaced(self, correlation: Floats32, stabilised: Floats32) -> Floats32:
        """Correlation (n, rows, cols) with the places whose disk or surround is cut computed from what is known.

        Parameters
        ----------
        stabilised
            (n, rows, cols) counts of unit noise, of mean zero.
        """
        spectrum = fft.rfft2(stabilised * self.known, s=self._fft_shape, axes=(1, 2))
        inside, around = (
            self._back(spectrum * kernel) / share for kernel, share in zip(self._kernels, self._shares, strict=True)
        )
        masked = np.where(self._enough, (inside - around) / self._noise, 0)
        return np.where(self.cut, masked, correlation).astype(np.float32)
