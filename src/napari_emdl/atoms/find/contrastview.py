"""Images as the contrast network sees them: the same view of any camera, dose and intensity scale.

Two channels at `VIEW_A` a pixel, which keeps all that microscopes resolve: the locally normalised image, and the rank of every
pixel, which no gamma, clipping or 8 bit changes and which still shows what is darker than the vacuum. Beside them the power
spectrum over rings of spatial frequency, which holds the Thon rings of films and the reach of the microscope.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.normalise import local_normalise
from napari_emdl.atoms.find.prepared import CLIP

#: pixel size of the view
VIEW_A = 0.25
#: rings of the power spectrum: how many, and up to which frequency
RINGS, HIGHEST_INVA = 40, 1.6


def view_of(
    image: NDArray[np.floating], pixel_A: float, hidden: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the network takes of an image.

    Parameters
    ----------
    image
        (rows, cols), finite, at about `VIEW_A` a pixel.
    pixel_A
        Its pixel size.
    hidden
        Mask (rows, cols) of pixels without an image.

    Returns
    -------
    view (2, rows, cols): normalised, and rank from -1 to 1 (0 where hidden); spectrum (RINGS,): logarithm of the mean power in
    rings over that of all rings.
    """
    normal = np.clip(local_normalise(image, pixel_A, hidden), -CLIP, CLIP)
    seen = image if hidden is None else image[~hidden]
    values = np.sort(seen, axis=None)
    middle = 0.5 * (np.searchsorted(values, image, "left") + np.searchsorted(values, image, "right"))
    rank = 2 * middle / max(len(values), 1) - 1
    if hidden is not None:
        rank = np.where(hidden, 0.0, rank)
    return np.stack([normal, rank]).astype(np.float32), _spectrum(normal, pixel_A)


def _spectrum(image: NDArray[np.floating], pixel_A: float) -> NDArray[np.float32]:
    """Logarithm of the power in rings (RINGS,), zero on average."""
    rows, cols = image.shape
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(cols + 2)[1:-1])
    power = np.abs(np.fft.rfft2(image * window)) ** 2
    k = np.hypot(np.fft.fftfreq(rows, pixel_A)[:, None], np.fft.rfftfreq(cols, pixel_A)[None])
    ring = (k / HIGHEST_INVA * RINGS).astype(int)
    inside = ring < RINGS
    total = np.bincount(ring[inside], power[inside], RINGS)
    count = np.bincount(ring[inside], minlength=RINGS)
    there = count > 0
    log = np.zeros(RINGS)
    log[there] = np.log(total[there] / count[there] + 1e-6 * power.mean() + 1e-12)
    log[there] -= log[there].mean()
    return log.astype(np.float32)
