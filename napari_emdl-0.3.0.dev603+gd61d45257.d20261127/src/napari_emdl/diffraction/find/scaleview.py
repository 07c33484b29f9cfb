"""Patterns as the scale network sees them: the same view of any detector, dose and intensity scale.

A pyramid of images, each binned by two from the one before, of two channels each: the square root above the dark level, and
the rank of every pixel. Ranks do not change when an export bends intensities (gamma, logarithm, 8 bit); binning brings out
large disks of few counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Images of the pyramid, and the sides of a pattern for which the network was trained.
LEVELS = 5
SMALLEST_SIDE_PX, LARGEST_SIDE_PX = 192, 384
#: Radii of the classes in px of the network's grid: six an octave.
RADII_PX: NDArray[np.float64] = np.asarray(0.75 * 2 ** ((np.arange(36) + 0.5) / 6), np.float64)
_UNIT = 2 ** (LEVELS - 1)


def on_network_grid(image: NDArray[np.floating]) -> tuple[NDArray[np.float32], float]:
    """Pattern binned, or repeated, to a side the network knows, and detector pixels a pixel of it.

    Parameters
    ----------
    image
        (rows, cols), finite.
    """
    longest = max(image.shape)
    if longest < SMALLEST_SIDE_PX:
        repeat = -(-SMALLEST_SIDE_PX // longest)
        grown = np.repeat(np.repeat(image, repeat, axis=0), repeat, axis=1).astype(np.float32)
        return _whole(grown), 1 / repeat
    return _whole(_binned(image.astype(np.float32), -(-longest // LARGEST_SIDE_PX))), float(-(-longest // LARGEST_SIDE_PX))


def _whole(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Padded so that every level has whole pixels."""
    pad = [(0, -n % _UNIT) for n in image.shape]
    return np.pad(image, pad, mode="edge") if any(after for _, after in pad) else image


def _binned(image: NDArray[np.float32], by: int) -> NDArray[np.float32]:
    if by == 1:
        return image
    rows, cols = image.shape[0] // by, image.shape[1] // by
    return image[: rows * by, : cols * by].reshape(rows, by, cols, by).mean(axis=(1, 3), dtype=np.float32)


def pyramid(image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """`LEVELS` images (2, rows / 2^level, cols / 2^level) of a pattern from :func:`on_network_grid`."""
    levels = []
    for level in range(LEVELS):
        small = _binned(image, 2**level)
        values = np.sort(small, axis=None)
        levels.append(np.stack([_root(small, values), _rank(small, values)]))
    return levels


def _root(image: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Square root above the dark level, the median 0 and the brightest half per cent 1."""
    low, middle, high = (values[int(q * (len(values) - 1))] for q in (0.01, 0.5, 0.995))
    root = np.sqrt(np.clip(image - low, 0, None))
    zero, one = np.sqrt(middle - low), np.sqrt(max(high - low, 0))
    return np.clip((root - zero) / max(one - zero, 1e-6 * max(one, 1e-20), 1e-20), -1, 3).astype(np.float32)


def _rank(image: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rank of each pixel from -1 to 1; equal ones share the middle of theirs."""
    middle = 0.5 * (np.searchsorted(values, image, "left") + np.searchsorted(values, image, "right"))
    return (2 * middle / len(values) - 1).astype(np.float32)
