"""Do the spots lie on lattice fringes? A crystal in a zone axis has lattice planes in two directions, fringes in one.

Noise along a fringe has maxima that pass for columns, and the mean of their neighbourhoods is round because maxima were chosen.
The power spectrum around them was not chosen: where columns are seen one by one, their second direction stands far out of the
noise, for all of them add up in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

#: side of the parts that are looked at, how many of them, and the fewest pixels of a side
SIDE_A, MOST_PARTS, LEAST_PX = 30.0, 12, 32
#: planes between these spacings count (A), and no finer than so many pixels
LONGEST_A, SHORTEST_A, FINEST_PX = 6.0, 0.9, 2.2
#: Power over that of the noise: of planes that are there, what chance reaches beyond the logarithm of the number of places
#: looked at, and the share of the first direction's that a second direction has. Of 478 simulated images of columns none is
#: called fringes, with planes there from 20 to 50 on neither, with a share of .25 two; fringes have 3 to 13 in the second one.
THERE, BEYOND_CHANCE, SHARE = 25.0, 6.0, 0.1
#: angle between two directions, and what a peak reaches around itself in the spectrum of a windowed part, pixels
APART_DEG, PEAK_PX = 25.0, 2.6


def fringe_share(image: NDArray[np.floating], points_px: NDArray[np.floating], pixel_A: float) -> float:
    """Share of the parts around spots whose lattice planes run in one direction only.

    Parameters
    ----------
    image
        (rows, cols).
    points_px
        (n, 2) spots.
    pixel_A
        Pixel size.

    Returns
    -------
    float
        0 to 1; NaN where no lattice planes stand out of the noise.
    """
    found = []
    for part in _parts(image.shape, np.asarray(points_px, np.float64), pixel_A):
        first, second, places = _two_directions(np.asarray(image[part], np.float64), pixel_A)
        if first >= THERE:
            found.append(second < SHARE * first and second < np.log(places) + BEYOND_CHANCE)
    return float(np.mean(found)) if found else float("nan")


def _parts(shape: tuple[int, ...], points_px: NDArray[np.float64], pixel_A: float) -> list[tuple[slice, slice]]:
    """Parts of an image around some of the spots, each once."""
    size = np.minimum(max(LEAST_PX, round(SIDE_A / pixel_A)), shape)
    middles = points_px[:: max(1, -(-len(points_px) // MOST_PARTS))]
    starts = np.clip(np.round(middles - size / 2).astype(int), 0, np.array(shape) - size)
    return [(slice(r, r + size[0]), slice(c, c + size[1])) for r, c in {(int(r), int(c)) for r, c in starts}]


def _two_directions(image: NDArray[np.float64], pixel_A: float) -> tuple[float, float, int]:
    """Highest power over the noise, the highest in another direction, and how many places of the spectrum were looked at."""
    rows, cols = image.shape
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(cols + 2)[1:-1])
    image = np.where(np.isfinite(image), image, np.median(image[np.isfinite(image)]) if np.isfinite(image).any() else 0.0)
    power = np.abs(np.fft.rfft2((image - np.sum(image * window) / window.sum()) * window)) ** 2
    k_row, k_col = np.fft.fftfreq(rows, pixel_A)[:, None], np.fft.rfftfreq(cols, pixel_A)[None]
    k = np.hypot(k_row, k_col)
    ring = np.round(k * max(rows, cols) * pixel_A).astype(int)
    noise = ndi.median(power, ring, np.arange(ring.max() + 1))[ring] / np.log(2)  # power of noise is exponential
    low = max(1 / LONGEST_A, (PEAK_PX + 0.4) / (min(rows, cols) * pixel_A))
    use = (k >= low) & (k <= min(1 / SHORTEST_A, 1 / (FINEST_PX * pixel_A))) & ~((k_col == 0) & (k_row < 0))
    over: NDArray[Any] = np.where(use & (noise > 0), power / np.where(noise > 0, noise, 1.0), 0.0)
    row, col = np.unravel_index(int(np.argmax(over)), over.shape)
    first = np.array([k_row[row, 0], k_col[0, col]])
    cosine = np.abs(k_row * first[0] + k_col * first[1]) / np.maximum(k * np.hypot(*first), 1e-12)
    away = [np.hypot((k_row - s * first[0]) * rows, (k_col - s * first[1]) * cols) * pixel_A for s in (1, -1)]
    other = (cosine < np.cos(np.radians(APART_DEG))) & (np.minimum(*away) > PEAK_PX)
    return float(over[row, col]), float(np.where(other, over, 0.0).max()), int(use.sum())
