"""Pixels without an image that are filled or set aside, lines that stand out, and brightness that changes across a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

Mask = NDArray[np.bool_]
Image = NDArray[np.float32]

#: missing pixels up to so many across are filled from both sides: columns are wider. Side of the square that is looked at
THIN_PX, WINDOW_PX = 4, 5
#: a line stands out when its mean differs so many times more from the lines around it than lines do, and by this many
#: standard deviations of the frame; most lines that may, and lines around it that are looked at
LINE_SIGMAS, LINE_STEP, MOST_LINES, LINES_AROUND = 12.0, 1.5, 0.05, 13
#: brightness is levelled where it changes across the frame by more than so many standard deviations of what is left
UNEVEN, BLOCK_PX, LEAST_BLOCKS = 3.0, 16, 5


def thin_and_wide(bad: Mask) -> tuple[Mask, Mask]:
    """Missing pixels that lie near measured ones on two sides, and the rest of them."""
    inner = ndi.minimum_filter(bad.view(np.uint8), WINDOW_PX, mode="nearest")
    wide = ndi.maximum_filter(inner, WINDOW_PX, mode="nearest").view(bool) & bad
    return bad & ~wide, wide


def fill_thin(image: NDArray[Any], thin: Mask, unknown: Mask) -> None:
    """Fill thin missing places of an image in place by what lies around them, nearer pixels counting more.

    Parameters
    ----------
    image
        (rows, cols).
    thin
        Pixels to fill.
    unknown
        All pixels without a value, these among them.
    """
    places = np.argwhere(thin)
    if not len(places):
        return
    half = WINDOW_PX // 2
    padded = np.pad(np.where(unknown, 0, image).astype(np.float32), half)
    known = np.pad(~unknown, half)
    total, weight = np.zeros(len(places), np.float32), np.zeros(len(places), np.float32)
    row, col = places.T
    for down in range(WINDOW_PX):
        for across in range(WINDOW_PX):
            away2 = (down - half) ** 2 + (across - half) ** 2
            if away2:
                share = known[row + down, col + across] / np.float32(away2)
                total += share * padded[row + down, col + across]
                weight += share
    values = total / np.maximum(weight, 1e-9)
    some = weight > 0
    values = np.rint(values[some]) if image.dtype.kind in "iu" else values[some]
    image[row[some], col[some]] = values.astype(image.dtype)


def standing_out(image: Image, hidden: Mask | None) -> Mask | None:
    """Rows and columns far from those around them, as dead and hot lines of a camera are; None without any."""
    out: Mask | None = None
    seen = image if hidden is None else np.where(hidden, np.nan, image)
    step = LINE_STEP * float(np.nanstd(seen[:: max(1, image.shape[0] // 256), :: max(1, image.shape[1] // 256)]))
    for axis in (0, 1):
        mean = _line_means(image, hidden, axis)
        if len(mean) <= LINES_AROUND:
            continue
        off = np.abs(mean - ndi.median_filter(mean, LINES_AROUND, mode="mirror"))
        usual = 1.4826 * float(np.median(off)) + 1e-9 * float(np.abs(mean).max())
        lines = np.flatnonzero(off > max(LINE_SIGMAS * usual, step))
        if 0 < len(lines) <= MOST_LINES * len(mean):
            out = np.zeros(image.shape, bool) if out is None else out
            out[(lines, slice(None)) if axis == 0 else (slice(None), lines)] = True
    return out


def _line_means(image: Image, hidden: Mask | None, axis: int) -> NDArray[np.float64]:
    """Mean of every row (axis 0) or column (axis 1); that of the line before where nothing is seen."""
    if hidden is None:
        return np.asarray(image.mean(1 - axis, dtype=np.float64))
    count = (~hidden).sum(1 - axis)
    mean = np.where(hidden, 0, image).sum(1 - axis, dtype=np.float64) / np.maximum(count, 1)
    some = np.flatnonzero(count)
    return np.asarray(np.interp(np.arange(len(mean)), some, mean[some]))


def levelled(image: Image, hidden: Mask | None) -> Image:
    """An image without a slope or a vignette (a polynomial of second order) that is stronger than what it shows.

    The local normalisation that networks are trained with takes a mean that is one-sided at the edges of a frame: there a
    strong slope leaves steps that bury the columns, and in vacuum noise is raised unevenly.
    """
    rows, cols = (n // BLOCK_PX for n in image.shape)
    if min(rows, cols) < LEAST_BLOCKS:
        return image
    inner = np.s_[: rows * BLOCK_PX, : cols * BLOCK_PX]

    def blocks(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(values[inner].reshape(rows, BLOCK_PX, cols, BLOCK_PX).mean((1, 3), dtype=np.float64)).ravel()

    known = np.ones(rows * cols, bool) if hidden is None else blocks(hidden) == 0
    if np.count_nonzero(known) < LEAST_BLOCKS**2:
        return image
    axes = [
        ((np.arange(n) + 0.5) * BLOCK_PX - 0.5) / length * 2 - 1 for n, length in zip((rows, cols), image.shape, strict=True)
    ]
    terms = _terms(*axes)
    factors, *_ = np.linalg.lstsq(terms[known], blocks(image)[known], rcond=None)
    fitted = terms @ factors
    spread = float(np.ptp(fitted[known]))
    if spread < UNEVEN * 0.5 * float(image[::4, ::4].std()):  # the fit is a part of what the image shows: a quick look
        return image
    row, col = (np.linspace(-1, 1, n) for n in image.shape)
    ground = factors[0] + factors[1] * row[:, None] + factors[2] * col + factors[3] * row[:, None] ** 2
    ground = ground + factors[4] * col**2 + factors[5] * row[:, None] * col
    flat = (image - ground).astype(np.float32)
    left = flat if hidden is None else flat[~hidden]
    return flat if spread > UNEVEN * float(left.std()) else image


def _terms(row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.float64]:
    """Terms of second order at all pairs of rows and columns, (rows x cols, 6)."""
    r, c = (v.ravel() for v in np.meshgrid(row, col, indexing="ij"))
    return np.stack([np.ones_like(r), r, c, r**2, c**2, r * c], 1)
