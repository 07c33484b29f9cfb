"""Frames of a movie as the analysis sees them: what was not measured is NaN, whatever the file has there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.base.signals import Movie

#: a site is out of view when more than this share of the disk of the second radius around it was not measured
MOST_MISSING, DISK_A = 0.25, 0.8


def missing_in(movie: Movie, frame: NDArray[np.generic]) -> NDArray[np.bool_] | None:
    """Pixels of a frame (rows, cols) that were not measured (NaN, bad pixels, borders of alignment); None when all were."""
    facts = getattr(movie, "missing_facts", None)
    if facts is not None:
        bad: NDArray[np.bool_] | None = facts.of(frame)
        return bad
    bad = ~np.isfinite(frame) if frame.dtype.kind == "f" else None
    return bad if bad is not None and bad.any() else None


def frame_reader(movie: Movie) -> Callable[[int], NDArray[np.floating]]:
    """Function t -> (rows, cols), float32 with NaN where nothing was measured; the foci of a series are averaged."""

    def read(t: int) -> NDArray[np.floating]:
        image = np.asarray(movie.frame(t))
        if image.ndim == 3:
            image = image.mean(0)
        bad = missing_in(movie, image)
        image = image.astype(np.float32)
        if bad is not None:
            image = np.where(bad, np.float32(np.nan), image)
        return image

    return read


def measured_at(
    read: Callable[[int], NDArray[np.floating]],
    sites_px: NDArray[np.float64],
    alignment: Alignment,
    valid: NDArray[np.bool_],
    pixel_A: float,
) -> NDArray[np.bool_]:
    """(T, n) view without the sites around which too much of a frame was not measured.

    Parameters
    ----------
    read
        What :func:`frame_reader` gave.
    sites_px, alignment
        Sites and where they are in each frame.
    valid
        (T, n) bool, sites inside usable frames.
    pixel_A
        Pixel size.
    """
    out = valid.copy()
    points = alignment.to_frame(sites_px)
    radius = max(1.0, DISK_A / pixel_A)
    axis = np.arange(-int(np.ceil(radius)), int(np.ceil(radius)) + 1)
    disk = (np.hypot(axis[:, None], axis[None, :]) <= radius).astype(np.float32)
    disk /= disk.sum()
    for t in np.flatnonzero(valid.any(1)):
        bad = ~np.isfinite(read(int(t)))
        if not bad.any():
            continue
        share = ndi.convolve(bad.astype(np.float32), disk, mode="nearest")
        here = share[tuple(np.clip(np.round(points[t]).astype(int), 0, np.array(bad.shape) - 1).T)]
        out[t] &= here <= MOST_MISSING
    return out
