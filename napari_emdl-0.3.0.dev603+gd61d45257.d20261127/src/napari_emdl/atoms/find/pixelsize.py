"""Pixel size from a lattice spacing that is known: pick its spot in the Fourier transform of a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError

#: Plane spacings in angstrom, from the lattice parameters at room temperature.
KNOWN_SPACINGS_A = {
    "Au (111)": 2.355,
    "Au (200)": 2.039,
    "Ag (111)": 2.359,
    "Pt (111)": 2.265,
    "Pt (200)": 1.962,
    "Pd (111)": 2.246,
    "Cu (111)": 2.087,
    "Ni (111)": 2.034,
    "CeO₂ (111)": 3.124,
    "CeO₂ (200)": 2.706,
    "graphene (100)": 2.130,
    "MoS₂ (100)": 2.738,
    "Si (111)": 3.136,
}
#: The zero frequency and what leaks from it reaches so far.
CENTRE_PX = 4


def log_spectrum(frame: NDArray[Any]) -> NDArray[np.float32]:
    """Logarithm of the power spectrum of a frame (rows, cols), zero frequency at (rows // 2, cols // 2).

    Raises
    ------
    EmdlError
        For a frame without contrast.
    """
    image = np.asarray(frame, np.float32)
    finite = np.isfinite(image)
    if not finite.any() or np.ptp(image[finite]) == 0:
        raise EmdlError("this frame has no contrast; go to another frame to measure the pixel size")
    image = np.where(finite, image, image[finite].mean())
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in image.shape)).astype(np.float32)
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2((image - image.mean()) * window))) ** 2
    return np.log1p(spectrum / np.median(spectrum)).astype(np.float32)


def refine_spot(spectrum: NDArray[np.floating], point_px: tuple[float, float], radius_px: int = 4) -> tuple[float, float]:
    """Position (row, col) of the strongest spot near a point of a spectrum, with a parabola through its neighbours.

    Raises
    ------
    EmdlError
        When the point lies outside or too close to the zero frequency.
    """
    rows, cols = spectrum.shape
    row, col = round(point_px[0]), round(point_px[1])
    if not (radius_px < row < rows - radius_px - 1 and radius_px < col < cols - radius_px - 1):
        raise EmdlError("click on a spot inside the Fourier transform")
    if np.hypot(row - rows // 2, col - cols // 2) < CENTRE_PX:
        raise EmdlError("this is too close to the centre; click on a spot of the lattice")
    window = slice(row - radius_px, row + radius_px + 1), slice(col - radius_px, col + radius_px + 1)
    centre = np.hypot(*np.ogrid[-(rows // 2) : rows - rows // 2, -(cols // 2) : cols - cols // 2]) < CENTRE_PX
    near = np.where(centre[window], -np.inf, spectrum[window])
    i, j = np.unravel_index(int(np.argmax(near)), near.shape)
    row, col = row - radius_px + int(i), col - radius_px + int(j)
    offset = [_parabola(spectrum[row - 1 : row + 2, col]), _parabola(spectrum[row, col - 1 : col + 2])]
    return row + offset[0], col + offset[1]


def _parabola(values: NDArray[np.floating]) -> float:
    """Offset of the maximum of a parabola through three values."""
    below, centre, above = (float(v) for v in values)
    bend = below - 2 * centre + above
    return float(np.clip(0.5 * (below - above) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def spacing_px(shape: tuple[int, int], spot_px: tuple[float, float]) -> float:
    """Plane spacing in pixels of a spot at (row, col) in the spectrum of a frame of this shape."""
    row, col = ((spot - n // 2) / n for spot, n in zip(spot_px, shape, strict=True))
    return float(1 / np.hypot(row, col))


def pixel_size_A(shape: tuple[int, int], spot_px: tuple[float, float], spacing_A: float) -> float:
    """Pixel size that gives the spot at (row, col) in the spectrum of a frame of this shape a spacing of `spacing_A`."""
    return spacing_A / spacing_px(shape, spot_px)
