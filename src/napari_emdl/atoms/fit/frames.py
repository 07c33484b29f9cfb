"""Frames of a movie as the analysis sees them: what was not measured is NaN, whatever the file has there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emdl.atoms.find.clean import without_an_image, without_spikes
from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.base.signals import Movie

#: a site is out of view when more than this share of the disk of the second radius around it was not measured
MOST_MISSING, DISK_A = 0.25, 0.8
#: what is remembered of frames, bits of their pixels
MOST_REMEMBERED_BYTES = 128 << 20


def frame_reader(movie: Movie, mended: bool = True) -> Callable[[int], NDArray[np.floating]]:
    """Function t -> (rows, cols), float32 with NaN where no image was measured; the foci of a series are averaged.

    Borders, torn parts, bad lines and marks of single frames count as not measured, as they do where columns are found, and
    spikes are taken out. What was seen of the first is remembered, for frames are read several times. Without
    `mended` frames are as they were recorded, to be shown: only what the signal itself knows to be missing is NaN.
    """
    remembered: dict[tuple[int, int], NDArray[np.uint8] | None] = {}

    def measured(image: NDArray[np.float32], key: tuple[int, int]) -> NDArray[np.float32]:
        if not mended:
            return image
        if key in remembered:
            packed = remembered[key]
        else:
            packed = _packed(image)
            if sum(v.nbytes for v in remembered.values() if v is not None) < MOST_REMEMBERED_BYTES:
                remembered[key] = packed
        if packed is not None:
            image[np.unpackbits(packed, count=image.size).view(bool).reshape(image.shape)] = np.nan
        return without_spikes(image)

    def read(t: int) -> NDArray[np.floating]:
        image = movie.values(np.asarray(movie.frame(t)), float("nan"))
        if image.ndim == 2:
            return measured(image, (t, 0))
        return np.asarray(np.mean([measured(focus, (t, k)) for k, focus in enumerate(image)], axis=0))

    return read


def _packed(image: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """Bits of the pixels that hold no image; None where all do."""
    missing = ~np.isfinite(image)
    if missing.all() or not np.ptp(image[~missing]) > 0:
        return None
    filled = np.where(missing, np.median(image[~missing]), image) if missing.any() else image
    bad, _ = without_an_image(filled, missing if missing.any() else None)
    return None if bad is None else np.packbits(bad)


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
