"""Local normalisation of HRTEM frames, the same in training and in use."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter

#: side of the blocks on which local mean and variance are computed, pixels
BLOCK_PX = 16
#: rows that are worked on together: they stay in the cache
STRIP_PX = 64
#: width of the Gaussian average
SIGMA_A = 12.0


def _up(coarse: np.ndarray, axis: int, length: int, some: slice = slice(None)) -> np.ndarray:
    """Linear interpolation of block means (centres at BLOCK/2 - 1/2) to `some` pixels, constant beyond the outer centres."""
    x = (np.arange(length)[some] - (BLOCK_PX - 1) / 2) / BLOCK_PX
    x = np.clip(x, 0, coarse.shape[axis] - 1).astype(np.float32)
    i = np.minimum(x.astype(int), max(coarse.shape[axis] - 2, 0))
    shape = [1, 1]
    shape[axis] = len(x)
    low = np.take(coarse, i, axis)
    step = np.take(coarse, np.minimum(i + 1, coarse.shape[axis] - 1), axis)
    step -= low
    step *= (x - i).astype(np.float32).reshape(shape)
    step += low
    return step


def _pixels_of_blocks(length: int) -> np.ndarray:
    """How many pixels of an axis each block has."""
    return np.minimum(BLOCK_PX, length - np.arange(0, length, BLOCK_PX)).astype(np.float64)


def _block_sums(images: np.ndarray) -> np.ndarray:
    """Sums of images (n, rows, cols) over all of them and over blocks, of which the last ones may be smaller."""
    rows, cols = images.shape[1:]
    sums = np.zeros((-(-rows // BLOCK_PX), -(-cols // BLOCK_PX)))
    row, col = (n // BLOCK_PX * BLOCK_PX for n in (rows, cols))
    for top, bottom, high in ((0, row, BLOCK_PX), (row, rows, rows - row)):
        for left, right, wide in ((0, col, BLOCK_PX), (col, cols, cols - col)):
            if bottom > top and right > left:
                part = images[:, top:bottom, left:right].reshape(len(images), -1, high, (right - left) // wide, wide)
                own = np.s_[top // BLOCK_PX : -(-bottom // BLOCK_PX), left // BLOCK_PX : -(-right // BLOCK_PX)]
                sums[own] = part.sum((0, 2, 4), dtype=np.float64)
    return sums


def local_normalise(frames: np.ndarray, sampling_A: float, hidden: np.ndarray | None = None) -> np.ndarray:
    """Subtract the local mean, divide by the local standard deviation: (x - G(x)) / sqrt(G((x - G(x))^2)), sigma = 12 A.

    G averages 16 x 16 blocks, smooths them with a Gaussian that ignores what lies outside the frame, interpolates linearly.
    After Madsen et al. (2018). Gain and offset of the camera drop out.

    Parameters
    ----------
    frames
        (rows, cols), or (focus, rows, cols) for a focal series, whose images share one background and scale. Any real dtype.
    sampling_A
        Pixel size in angstrom.
    hidden
        Mask (rows, cols) of pixels without an image: they do not count, and come out as zero.

    Returns
    -------
    float32 array of the same shape. A constant frame gives zeros.
    """
    x = np.asarray(frames, np.float32)
    stack = x[None] if x.ndim == 2 else x
    rows, cols = stack.shape[-2:]
    seen = None if hidden is None else np.broadcast_to(~hidden, stack.shape).astype(np.float32)
    weight = len(stack) * np.outer(*map(_pixels_of_blocks, (rows, cols))) if seen is None else _block_sums(seen)
    sigma = SIGMA_A / sampling_A / BLOCK_PX

    def smooth(a: np.ndarray) -> np.ndarray:
        return gaussian_filter(a, sigma, mode="constant", truncate=3.0)

    norm = np.maximum(smooth(weight), 1e-6)

    def coarse(a: np.ndarray) -> np.ndarray:
        return (smooth(_block_sums(a)) / norm).astype(np.float32)

    def strips(of: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows, a few at a time, with the local value there."""
        along = _up(of, 1, cols)
        for top in range(0, rows, STRIP_PX):
            some = slice(top, min(top + STRIP_PX, rows))
            yield some, _up(along, 0, rows, some)

    y = np.empty_like(stack)
    for some, mean in strips(coarse(stack if seen is None else stack * seen)):
        np.subtract(stack[:, some], mean, out=y[:, some])
    if seen is not None:
        y *= seen
    variance = coarse(np.square(y))
    floor = np.float32(1e-12) * max(float(np.max(variance)), 1e-12)
    for some, wide in strips(variance):
        y[:, some] /= np.sqrt(np.maximum(wide, floor, out=wide), out=wide)
    return y[0] if x.ndim == 2 else y
