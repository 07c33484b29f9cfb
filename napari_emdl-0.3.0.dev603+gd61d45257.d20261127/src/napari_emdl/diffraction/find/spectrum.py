"""Spectrum of the vacuum probe as FCU-Net takes it: computed once, then an input of the network."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.errors import EmdlError

#: Edge of the square grid FCU-Net works on, in pixels.
NETWORK_GRID_PX = 256


def probe_spectrum(probe: ArrayLike, size: int = NETWORK_GRID_PX) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Complex conjugate of the probe's spectrum, real and imaginary part.

    Parameters
    ----------
    probe
        Vacuum probe on the network's grid, (size, size), any non-negative units, centred at pixel (size // 2, size // 2).
    size
        Edge of the grid.

    Returns
    -------
    re, im
        (size, size) float32. Frequency (0, 0) lies at [size // 2, size // 2]; real space has its origin at pixel
        (size // 2, size // 2), so a centred symmetric probe has im = 0. Normalised to a sum of 1, so re is 1 at frequency 0.

    Raises
    ------
    EmdlError
        For another shape, values that are not finite, or an empty probe.
    """
    image = np.asarray(probe, dtype=np.float64)
    if image.shape != (size, size):
        raise EmdlError(f"the probe must be {size} x {size} on the network's grid, got {image.shape}; resample it first")
    if not np.isfinite(image).all():
        raise EmdlError("the probe holds values that are not finite; replace them")
    total = image.sum()
    if not total > 0:
        raise EmdlError("the probe is empty; choose another vacuum probe or give its radius")
    spectrum = np.conj(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image / total))))
    return spectrum.real.astype(np.float32), spectrum.imag.astype(np.float32)
