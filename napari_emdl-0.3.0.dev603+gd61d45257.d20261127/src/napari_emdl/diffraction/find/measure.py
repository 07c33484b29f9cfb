"""Measuring disks on crops: position and its error by maximum likelihood, electrons and their significance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.diffraction.find.kernels import Bank, Crop
from napari_emdl.diffraction.find.patterns import anscombe, even_noise

#: Background counts per pixel assumed at least, so that an empty surround does not make one electron a disk.
MIN_BACKGROUND = 0.05
_ANNULUS_SECTORS = 8


def gather(
    patterns: NDArray[Any],
    gain: NDArray[np.float32],
    which: NDArray[Any],
    centre_row: NDArray[np.intp],
    centre_col: NDArray[np.intp],
    crop: Crop,
) -> NDArray[np.float32]:
    """(N, P) electrons of the crop's pixels around whole-pixel centres; beyond the detector its border is repeated."""
    rows, cols = patterns.shape[1:]
    place = (which * rows + centre_row) * cols + centre_col
    index = place[:, None] + (crop.rows * cols + crop.cols)
    n = int(max(np.abs(crop.rows).max(), np.abs(crop.cols).max()))
    outside = (centre_row < n) | (centre_row >= rows - n) | (centre_col < n) | (centre_col >= cols - n)
    if outside.any():
        r = np.clip(centre_row[outside, None] + crop.rows, 0, rows - 1)
        c = np.clip(centre_col[outside, None] + crop.cols, 0, cols - 1)
        index[outside] = (which[outside, None] * rows + r) * cols + c
    counts = np.take(patterns.reshape(-1), index).astype(np.float32)
    counts /= gain[which][:, None]
    return counts


def without_outliers(patterns: NDArray[Any], gain: NDArray[np.float32]) -> NDArray[Any]:
    """(n, rows, cols) patterns whose single outlying pixels (hot, dead, cosmic ray) take the extreme of their neighbours.

    Outlying is what lies six sigma beyond all eight neighbours. Pixels at the rim of the detector stay.
    """
    rows, cols = patterns.shape[1:]
    if min(rows, cols) < 3:
        return patterns
    out = patterns
    for i, (image, unit) in enumerate(zip(patterns, gain, strict=True)):
        for extreme, beyond, least in ((np.maximum, 12.0, 12.0), (np.minimum, 0.0, 36.0)):
            near, away = _beside_neighbours(image, extreme)
            # a difference below `least` electrons is never six sigma, which settles almost all pixels
            place = np.flatnonzero(away > float(least * unit))
            far = away[place] / unit > 6 * np.sqrt(near[place] / unit) + beyond
            row, col = np.divmod(place[far] + cols + 1, cols)
            inner = (col > 0) & (col < cols - 1)
            if inner.any():
                out = patterns.copy() if out is patterns else out
                out[i, row[inner], col[inner]] = near[place[far][inner]]
    return out


def _beside_neighbours(image: NDArray[Any], extreme: np.ufunc) -> tuple[NDArray[Any], NDArray[Any]]:
    """Extreme of the eight neighbours of every pixel, and how far the pixel lies beyond it, flat from pixel (1, 1) on.

    Rows follow each other, so what is said of the first and the last column is wrong.
    """
    cols, flat = image.shape[1], np.ascontiguousarray(image).reshape(-1)
    wide = extreme(extreme(flat[:-2], flat[1:-1]), flat[2:])
    near = extreme(extreme(wide[: -2 * cols], wide[2 * cols :]), extreme(flat[cols : -cols - 2], flat[cols + 2 : -cols]))
    away = extreme(near, flat[cols + 1 : -cols - 1])
    return near, (away - near if extreme is np.maximum else near - away)


def _products(crops: NDArray[np.float32], bank: Bank) -> NDArray[np.float32]:
    """(grid points, filters, N) products of crops (N, P) with a bank; crops come last, so that sums over filters are fast."""
    centred = crops - crops.mean(axis=1, keepdims=True)
    return (bank.matrix.T @ centred.T).reshape(-1, bank.n_filters, len(crops))


def best_point(crops: NDArray[np.float32], bank: Bank) -> NDArray[np.intp]:
    """(N,) grid point at which a disk of the bank's highest degree is likeliest."""
    product = _products(crops, bank)
    bright = product[:, 0] > 0  # a disk is brighter than its surround
    return np.asarray((bright * np.square(product, out=product).sum(axis=1)).argmax(axis=0))


def likelihood(crops: NDArray[np.float32], bank: Bank) -> NDArray[np.float32]:
    """(models, grid points, N) drop of chi squared by a disk at each shift, for inner intensities of rising degree."""
    product = _products(crops, bank)
    bright = product[:, 0] > 0
    square = np.square(product, out=product)
    gains: list[NDArray[np.float32]] = []
    start = 0
    for degree in range(bank.n_filters):
        stop = start + degree + 1
        if stop > bank.n_filters:
            break
        gains.append(square[:, start:stop].sum(axis=1) + (gains[-1] if gains else 0))
        start = stop
    return np.where(bright, np.stack(gains), 0)


def locate_both(counts: NDArray[np.float32], bank: Bank) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position as the weighted mean of two fits: to counts, whose noise is uneven, and to their roots, whose shape is.

    Either is right where its flaw is small (strongly structured disks, weak disks) and its sigma, which counts the misfit,
    says so.

    Returns
    -------
    shift_px, sigma_px
        (N, 2) and (N,).
    """
    linear, sigma_linear = locate(even_noise(counts), bank)
    root, sigma_root = locate(anscombe(counts), bank)
    share = np.square(sigma_root) / (np.square(sigma_root) + np.square(sigma_linear))
    shift = share[:, None] * linear + (1 - share)[:, None] * root
    # the two see the same noise, so averaging does not lessen it
    return shift, np.sqrt(share * np.square(sigma_linear) + (1 - share) * np.square(sigma_root))


def locate(crops: NDArray[np.float32], bank: Bank) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Most likely shift of every crop and its error.

    The degree of the inner intensity is chosen for each disk by the Bayesian information criterion.

    Returns
    -------
    shift_px, sigma_px
        (N, 2) and (N,).
    """
    gains = likelihood(crops, bank)
    n_pixels = crops.shape[1]
    n_filters = np.array([(d + 1) * (d + 2) // 2 for d in range(len(gains))])
    evidence = gains.max(axis=1) - DEGREE_PENALTY * np.log(n_pixels) * n_filters[:, None]
    degree = evidence.argmax(axis=0)
    chosen = gains[degree, :, np.arange(len(crops))].reshape(-1, bank.width, bank.width)
    total = np.square(crops - crops.mean(axis=1, keepdims=True)).sum(axis=1)
    best = chosen.reshape(len(crops), -1).argmax(axis=1)
    i = np.clip(best // bank.width, 1, bank.width - 2)
    j = np.clip(best % bank.width, 1, bank.width - 2)
    around = np.stack([chosen[np.arange(len(crops)), i + a, j + b] for a in (-1, 0, 1) for b in (-1, 0, 1)], axis=1)
    coef = around.astype(np.float64) @ _QUADRATIC.T
    _, gr, gc, hrr, hcc, hrc = coef.T
    determinant = 4 * hrr * hcc - hrc**2
    peaked = (hrr < 0) & (hcc < 0) & (determinant > 0)
    safe = np.where(peaked, determinant, 1.0)
    dr = np.where(peaked, (-2 * hcc * gr + hrc * gc) / safe, 0.0)
    dc = np.where(peaked, (-2 * hrr * gc + hrc * gr) / safe, 0.0)
    far = np.maximum(np.maximum(np.abs(dr), np.abs(dc)), 1.5) / 1.5
    shift = np.stack([i - bank.reach + dr / far, j - bank.reach + dc / far], axis=1) * bank.step_px
    # the log likelihood is half the drop of chi squared, so the covariance is the inverse of minus half its Hessian
    misfit = np.maximum(1.0, (total - around[:, 4]) / np.maximum(n_pixels - 3 - n_filters[degree], 1))
    variance = np.where(peaked, -(hrr + hcc) / safe, np.inf) * misfit * bank.step_px**2
    return shift, np.clip(SIGMA_SCALE * np.sqrt(variance), 0.005, 5.0)


#: Weight of the information criterion's penalty on parameters, and what the error must be multiplied by for deviations to have
#: unit spread; both from simulated disks (Bloch waves; eight crystals, radii of 3 to 9 px, 2e4 to 6e5 electrons a pattern).
DEGREE_PENALTY = 0.5
SIGMA_SCALE = 1.5


def _quadratic_fit() -> NDArray[np.float64]:
    """(6, 9) least squares of 1, r, c, rr, cc, rc on a 3 x 3 neighbourhood."""
    r, c = (x.ravel().astype(float) for x in np.mgrid[-1:2, -1:2])
    return np.linalg.pinv(np.stack([np.ones(9), r, c, r * r, c * c, r * c], axis=1))


_QUADRATIC = _quadratic_fit()


def photometry_matrix(crop: Crop, radius_px: float, edge_px: float) -> tuple[NDArray[np.float32], float, float]:
    """(P, 1 + sectors) filters: sum over the disk and means over sectors of the annulus; and the two areas in pixels."""
    distance = crop.distance
    disk = distance <= radius_px
    ring = distance > min(radius_px + 1.5 * edge_px, 1.3 * radius_px + 0.5)
    angle = (np.arctan2(crop.rows, crop.cols) / (2 * np.pi) * _ANNULUS_SECTORS).astype(int) % _ANNULUS_SECTORS
    columns = [disk.astype(float)]
    for sector in range(_ANNULUS_SECTORS):
        chosen = ring & (angle == sector)
        columns.append(chosen / max(1, chosen.sum()))
    return np.stack(columns, axis=1).astype(np.float32), float(disk.sum()), float(ring.sum())


def photometry(
    counts: NDArray[np.float32], filters: tuple[NDArray[np.float32], float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Electrons of each disk above the local background, and their significance.

    The background is the mean of the annulus' middle sectors: neighbouring disks reach into the highest ones.
    """
    matrix, area, ring = filters
    values = counts @ matrix
    sectors = np.sort(values[:, 1:], axis=1)
    background = sectors[:, 1 : _ANNULUS_SECTORS - 2].mean(axis=1)
    signal = values[:, 0] - area * background
    noise = np.sqrt(area * np.maximum(background, MIN_BACKGROUND) * (1 + area / (0.6 * ring)))
    return signal, signal / noise
