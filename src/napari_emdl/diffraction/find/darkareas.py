"""Areas of a detector that something hides: a beam stop and its arm, a dead quadrant, corners behind a round aperture.

They are far darker than what lies beside them, which sets in at once all along their rim and goes on as bright. Means along the
rim tell it, so that an arm is followed into the dim parts of a pattern, and single patterns of few electrons show it.
The dark ground between disks has disks in it, or does not reach the border: an enclosed area must be lit pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Longer side of the picture in which areas are looked for.
_LONGEST = 512
#: A seed has less than this part of the usual level, and lies below it by so many times its noise; a smoothing window of so
#: many px sees about so many counts.
_SEED, _SEED_NOISE, _WINDOWS, _IN_WINDOW = 0.3, 4.0, (3, 7), 40.0
#: An area grows over pixels with less than this part of what is lit beside it, by so many times the noise, so many times.
_GROWN, _GROWN_NOISE, _STEPS = 0.5, 3.0, 3
#: Least part of the picture, and fewest px; most of it; part of a filled area that is dark.
_LEAST, _LEAST_PX, _MOST, _SOLID = 0.002, 40, 0.4, 0.9
#: An enclosed area has less than this part of the counts around it, at least and at most these parts of the detector.
_DARK_SHARE, _DARK_AREA, _MOST_DARK = 0.25, 0.001, 0.5
#: Bands outside the rim in px, the near and the far one, pixels inside that tell, and Gaussian windows of the means there.
_NEAR, _FAR, _INSIDE, _ALONG = (2.0, 5.5), (6.0, 11.0), 1.5, (3.0, 4.0)
#: The near band over the inside, and the noise of their difference; over the far band; parts of the rim that show it. The step
#: at the rim over the slope beyond it. What shines through a stop over the near band.
_LIT, _LIT_NOISE, _AT_ONCE, _LIT_SHARE, _ONCE_SHARE, _STEP, _THROUGH = 2.0, 3.0, 0.6, 0.9, 0.85, 3.0, 1.5
#: Values count up to so many times what is usual there and its noise.
_CAP = 2.5
#: A stop hides the beam: it lies this near to where the picture is brightest, through a window, as parts of the longer side.
#: Elsewhere, as the dark shapes of a photograph are, an area must be darker: what is near over the inside.
_BEAM_NEAR, _BEAM_WINDOW, _LIT_ELSEWHERE = 0.12, 0.05, 5.0
#: Fewest pixels of a rim; distance in px from the border at which it counts.
_RIM, _BORDER = 20, 3


def dark_areas(image: NDArray[np.floating]) -> Mask:
    """Areas that something hides, with two pixels about them.

    Parameters
    ----------
    image
        (rows, cols) one pattern or a mean of some, without missing values.
    """
    out = _enclosed(image)
    binning = max(1, -(-max(image.shape) // _LONGEST))
    rows, cols = (n // binning for n in image.shape)
    if min(rows, cols) < 4 * _FAR[1]:
        return out
    part = np.asarray(image[: rows * binning, : cols * binning], np.float64)
    part = part.reshape(rows, binning, cols, binning).mean(axis=(1, 3))
    hidden = _hidden(part)
    if not hidden.any():
        return out
    spread = np.kron(hidden, np.ones((binning, binning), bool))
    return out | np.pad(spread, [(0, n - m) for n, m in zip(image.shape, spread.shape, strict=True)], mode="edge")


def _enclosed(image: NDArray[np.floating]) -> Mask:
    """Areas far darker than all around them: hardly a pixel of the rim is dark, as it is between the disks of a crystal."""
    low = float(image.min())
    step = max(1, min(image.shape) // 64)
    smooth = ndimage.uniform_filter(image - low, 3)
    usual = ndimage.percentile_filter(smooth[::step, ::step], 70, 15, mode="nearest")
    usual = np.kron(usual, np.ones((step, step)))
    usual = np.pad(usual, [(0, max(0, n - m)) for n, m in zip(image.shape, usual.shape, strict=True)], mode="edge")
    usual = usual[: image.shape[0], : image.shape[1]]
    noise = np.sqrt(np.maximum(usual, 0)) / 3
    labels, n = ndimage.label((smooth < _DARK_SHARE * usual) & (usual - smooth > 5 * noise))
    out = np.zeros(image.shape, bool)
    area = np.bincount(labels.ravel(), minlength=n + 1)
    for label in 1 + np.flatnonzero(area[1:] >= max(_LEAST_PX, _DARK_AREA * image.size)):
        region = labels == label
        whole = ndimage.binary_fill_holes(region).sum()
        if whole > _MOST_DARK * image.size or area[label] < _SOLID * whole:
            continue
        inner = ndimage.binary_dilation(region, iterations=2)
        rim = image[ndimage.binary_dilation(inner, iterations=2) & ~inner] - low
        inside = image[region] - low
        if np.percentile(rim, 15) > 4 * np.percentile(inside, 75) + 2 * inside.std():
            out |= inner
    return out


def _hidden(image: Floats) -> Mask:
    above = np.maximum(image - np.percentile(image, 0.1), 0)
    gain = _variance_per_count(above)
    usual, smooth, width = _levels(above)
    seeds = (smooth < _SEED * usual) & (usual - smooth > _SEED_NOISE * np.sqrt(gain * usual) / width)
    labels, n = ndimage.label(ndimage.binary_opening(seeds, np.ones((3, 3), bool)))
    if not n:
        return np.zeros(image.shape, bool)
    brightest = _brightest(above, labels == 0)
    above = np.minimum(above, _CAP * (usual + np.sqrt(gain * usual) + gain))  # disks beside a rim are not its slope
    out = np.zeros(image.shape, bool)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    for label in 1 + np.flatnonzero(sizes[1:] >= max(_LEAST_PX, _LEAST * image.size)):
        seed = labels == label
        for dark in (_grown(above, seed, gain), seed):
            area = _Area(above, dark, gain, brightest)
            if area.is_hidden:
                out |= ndimage.binary_dilation(area.whole, iterations=2)
                break
    return out


def _brightest(above: Floats, free: Mask) -> Floats:
    """(row, col) where the picture is brightest as a whole, by what is not dark."""
    level, weight = _mean_over(above, free, _BEAM_WINDOW * max(above.shape))
    return np.array(np.unravel_index(int(np.where(weight > 1, level, 0).argmax()), above.shape), np.float64)


def _variance_per_count(above: Floats) -> float:
    """How much the squares of differences between neighbours are over the level, in the brighter half."""
    left, right = above[:, :-1:2], above[:, 1::2]
    level = 0.5 * (left + right)
    bright = level > np.median(level)
    if not bright.any():
        return 1.0
    return max(float(np.median(np.square(left - right)[bright] / level[bright])) / 0.91, 1e-6)


def _levels(above: Floats) -> tuple[Floats, Floats, int]:
    """Level that is usual about each pixel, the smoothed picture, and the side of its window."""
    mean = float(np.minimum(above, np.percentile(above, 95)).mean())
    width = 2 * int(np.clip(np.sqrt(_IN_WINDOW / max(mean, 1e-9)) / 2, _WINDOWS[0] // 2, _WINDOWS[1] // 2)) + 1
    smooth = ndimage.uniform_filter(above, width)
    step = max(1, min(above.shape) // 64)
    coarse = ndimage.percentile_filter(smooth[::step, ::step], 70, 15, mode="nearest")
    zoom = [n / m for n, m in zip(above.shape, coarse.shape, strict=True)]
    return np.maximum(ndimage.zoom(coarse, zoom, order=1, mode="nearest", grid_mode=True), 0), smooth, width


def _mean_over(image: Floats, where: Mask, sigma: float) -> tuple[Floats, Floats]:
    """Mean over some pixels about each place, by a Gaussian window, and how many of them count."""
    weight = ndimage.gaussian_filter(where.astype(np.float64), sigma, truncate=3)
    total = ndimage.gaussian_filter(np.where(where, image, 0.0), sigma, truncate=3)
    return total / np.maximum(weight, 1e-6), weight * (4 * np.pi * sigma**2)


def _grown(above: Floats, seed: Mask, gain: float) -> Mask:
    """The seed with what is connected to it and as dark against what is lit there."""
    area = seed
    smooth = ndimage.gaussian_filter(above, 1.5)
    for _ in range(_STEPS):
        level, _count = _mean_over(above, ~ndimage.binary_dilation(area, iterations=2), 8.0)
        noise = np.sqrt(gain * np.maximum(level, 0) / (4 * np.pi * 1.5**2))
        dark = area | ((smooth < _GROWN * level) & (level - smooth > _GROWN_NOISE * noise))
        labels, _ = ndimage.label(ndimage.binary_opening(dark, np.ones((3, 3), bool)))
        touched = np.unique(labels[area])
        grown = area | np.isin(labels, touched[touched > 0])
        if grown.sum() > 2.5 * area.sum() or grown.mean() > _MOST:
            break
        done, area = grown.sum() < 1.03 * area.sum(), grown
        if done:
            break
    return area


@dataclass(frozen=True)
class _Area:
    """A dark area of a picture."""

    above: Floats
    dark: Mask
    gain: float
    brightest: Floats

    @property
    def whole(self) -> Mask:
        """With its holes."""
        return np.asarray(ndimage.binary_fill_holes(self.dark))

    @property
    def is_hidden(self) -> bool:
        """Whether its shape and its rim are those of something that hides the detector."""
        whole = self.whole
        if whole.mean() > _MOST or self.dark.sum() < _SOLID * whole.sum():
            return False
        edges = (whole[0], whole[-1], whole[:, 0], whole[:, -1])
        return any(edge.any() for edge in edges) and self._is_rimmed(whole)

    def _is_rimmed(self, whole: Mask) -> bool:
        outward, inward = ndimage.distance_transform_edt(~whole), ndimage.distance_transform_edt(whole)
        near, n_near = _mean_over(self.above, (outward > _NEAR[0]) & (outward <= _NEAR[1]), _ALONG[0])
        far, n_far = _mean_over(self.above, (outward > _FAR[0]) & (outward <= _FAR[1]), _ALONG[1])
        inside, n_inside = _mean_over(self.above, inward > _INSIDE, _ALONG[1])
        rim = np.zeros_like(whole)
        middle = (slice(_BORDER, -_BORDER),) * 2
        rim[middle] = (outward > 0)[middle] & (outward <= 1.5)[middle] & (n_near > 1)[middle] & (n_inside > 1)[middle]
        if rim.sum() < _RIM:
            return False
        lit, dim, beyond = near[rim], inside[rim], far[rim]
        through = self.above[whole & ~self.dark]
        if through.size and np.percentile(through, 75) > _THROUGH * np.median(lit):
            return False  # disks on a dark ground
        told = n_far[rim] > 1
        step, slope = lit - dim, beyond - lit
        if not told.any() or step[told].mean() < _STEP * slope[told].mean():
            return False
        least = 0.02  # counts: a band without any has noise all the same
        noise = np.sqrt(self.gain * (np.maximum(lit, least) / n_near[rim] + np.maximum(dim, least) / n_inside[rim]))
        row, col = self.brightest.astype(int)
        least_ratio = _LIT if outward[row, col] < _BEAM_NEAR * max(whole.shape) else _LIT_ELSEWHERE
        bright = (lit > least_ratio * dim) & (step > _LIT_NOISE * noise)
        at_once = lit[told] > _AT_ONCE * beyond[told]
        return bool(bright.mean() > _LIT_SHARE and at_once.mean() > _ONCE_SHARE)
