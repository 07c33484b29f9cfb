"""Whether a picture is a diffraction pattern of a crystal or an image of atoms, where its file does not say.

A diffraction pattern is brightest at one place, the direct beam, and falls off from there on all sides; its reflections are
disks or spots, which the scale network sees. An image of atoms is about as bright everywhere. Between the two nothing is said.
Limits hold on simulated patterns and images of held-out specimens (docs/benchmarks.md, "Pattern or image").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_emdl.base.exported import exported
from napari_emdl.base.signals import Signal
from napari_emdl.diffraction.find.gaps import fill_gaps
from napari_emdl.diffraction.find.probeshape import without_hot_pixels
from napari_emdl.diffraction.find.scaleguess import guess_scale

Floats = NDArray[np.float64]
Kind = Literal["pattern", "image", ""]

#: Smoothing, as part of the longer side, and rings about the brightest place.
_SMOOTH, _RINGS = 0.02, 24
#: A pattern: probability of a crystal, brightest place over the median (both above the dark level), rank correlations of the
#: brightness with the distance from there, of rings and of pixels.
_CRYSTAL, _STANDS_OUT, _RINGS_FALL, _PIXELS_FALL = 0.5, 8.0, -0.7, -0.3
#: An image: less than this of both.
_EVEN, _NO_FALL = 6.0, -0.5
#: Smaller pictures say nothing.
_LEAST_SIDE = 48


@dataclass(frozen=True)
class Look:
    """What a picture shows.

    Attributes
    ----------
    crystal
        Probability that there are disks of a crystal, by the scale network, 0 to 1.
    stands_out
        Brightest place of the smoothed picture over its median, both above the dark level.
    rings_fall, pixels_fall
        Rank correlation of brightness and distance from the brightest place, of the medians of rings and of pixels; -1 falls
        off everywhere.
    """

    crystal: float
    stands_out: float
    rings_fall: float
    pixels_fall: float

    @property
    def kind(self) -> Kind:
        """ "pattern", "image", or "" where it may be either."""
        falls = self.rings_fall < _RINGS_FALL and self.pixels_fall < _PIXELS_FALL
        if self.crystal > _CRYSTAL and self.stands_out > _STANDS_OUT and falls:
            return "pattern"
        return "image" if self.stands_out < _EVEN and self.pixels_fall > _NO_FALL else ""


def look_at(picture: NDArray[np.generic]) -> Look:
    """Look at a picture (rows, cols); pixels without a value are NaN."""
    image = np.asarray(picture, np.float64)
    image = without_hot_pixels(np.where(np.isfinite(image), image, np.nanmin(image) if np.isfinite(image).any() else 0.0))
    image = fill_gaps(image[None].astype(np.float32))[0][0].astype(np.float64)
    smooth = ndimage.gaussian_filter(image, _SMOOTH * max(image.shape))
    top = np.unravel_index(int(smooth.argmax()), smooth.shape)
    away = np.hypot(np.arange(image.shape[0])[:, None] - top[0], np.arange(image.shape[1])[None, :] - top[1])
    ring = np.minimum((away / away.max() * _RINGS).astype(int), _RINGS - 1)
    medians = np.asarray(ndimage.median(smooth, ring, np.unique(ring)))
    low, middle, high = np.percentile(smooth, (1, 50, 100))
    thin = (slice(None, None, 4), slice(None, None, 4))
    return Look(
        guess_scale([image]).crystal,
        float((high - low) / max(middle - low, 1e-9 * max(high - low, 1e-30), 1e-300)),
        _rank_correlation(np.arange(len(medians), dtype=np.float64), medians),
        _rank_correlation(away[thin].ravel(), smooth[thin].ravel()),
    )


def kind_of_picture(signal: Signal) -> Kind:
    """What the middle frame or pattern of a signal is: "pattern", "image", or "" where it may be either, or is too small."""
    if min(signal.shape[-2:]) < _LEAST_SIDE:
        return ""
    middle = tuple(n // 2 for n in signal.shape[:-2])
    values = signal.values(np.asarray(signal.data[middle] if middle else signal.data[...]), np.nan)
    finite = values[np.isfinite(values)]
    if not finite.size or finite.max() == finite.min():
        return ""
    _, drawn = exported(np.nan_to_num(values)[None], ~np.isfinite(values))  # a title bar is brighter than any beam
    return look_at(np.where(drawn, np.nan, values)).kind if not drawn.all() else ""


def _rank_correlation(first: Floats, second: Floats) -> float:
    one, other = (values.argsort().argsort().astype(np.float64) for values in (first, second))
    return float(np.corrcoef(one, other)[0, 1]) if len(first) > 2 else 0.0
