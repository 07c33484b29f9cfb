"""How large the disks of a pattern are, from the pattern itself and without knowing where they are.

A disk of radius R has one edge on all its sides at the distance R from its centre, whatever lies inside it and however its
surroundings slope. So the mean just inside a circle less the mean just outside it is computed for circles of every radius
about every pixel; the circles with the strongest edge are candidates, those whose edge runs all around are kept, and the
radius on which most of them agree is the radius of the disks. No disk counts much more than another: a direct beam that is
saturated, haloed or behind a stop is one vote among many. (A circular Hough transform by gradients, Kimme, Ballard and
Sklansky 1975, with the vote over all circles of an image.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from napari_emdl.diffraction.find.maxima import local_spread, thin
from napari_emdl.diffraction.find.patterns import estimate_gain

Floats = NDArray[np.float64]

#: Radii tried: from a sharp spot to a sixth of the detector, a tenth apart.
_SMALLEST_PX, _STEP = 0.9, 1.1
#: Candidates of one image, and the least significance of their edge.
_MOST, _LEAST_SIGMA = 80, 6.0
#: Circles are looked for on pixels binned so that they are this to twice this many in radius.
_BINNED_PX = 5.0
_SPARSE_SIGMA_PX = 1.2
#: Patterns of single electrons have one value in more than this part of their pixels; there a circle must hold more electrons
#: than its surroundings by this many standard deviations, its place being any of many.
_SPARSE_SHARE, _LEAST_POISSON = 0.4, 5.0
_SECTORS, _ANGLES = 12, 48
#: A sector of a disk is seen where less than this part of it is hidden.
_SEEN = 0.25
#: Window of the noise of a pixel's own surroundings in steps of two pixels, and the median step of unit noise.
_QUIET_WINDOW, _MEDIAN_STEP = 8, 0.954
#: Pixels of images whose kernels are kept for the next image.
_SMALL_PIXELS = 400_000
#: Radii that agree with each other, in units of the natural logarithm.
_AGREE = 0.12


@dataclass(frozen=True)
class Scale:
    """Size of the disks of one or several images.

    Attributes
    ----------
    radius_px
        Radius on which most of them agree; NaN where nothing was found.
    support
        How many disks have it; those at the same place of several images are one, which shows itself several times.
    share
        Part of all candidates' votes that it has, 0 to 1.
    image, centre_px, weight
        Of the supporting disks: index of the image (n,), centre (n, 2), weight of its vote (n,).
    """

    radius_px: float
    support: int
    share: float
    image: NDArray[np.intp]
    centre_px: Floats
    weight: Floats


@dataclass(frozen=True)
class _Circles:
    """Candidates of one image: centre (n, 2), radius (n,), edge in units of the stabilised image (n,), weight (n,)."""

    centre: Floats
    radius: Floats
    edge: Floats
    weight: Floats


def stabilised(image: Floats) -> Floats:
    """Square root above the dark level, so that shot noise is even and a bright disk does not outweigh faint ones.

    Patterns of single electrons are smoothed a little first: where most pixels are empty no noise can be told from them.
    """
    if is_sparse(image):
        image = ndimage.gaussian_filter(image, _SPARSE_SIGMA_PX)
    low = float(np.percentile(image, 1))
    apart = np.abs(image[:, 2:] - image[:, :-2])
    step = max(float(np.median(apart)), 0.1 * float(apart.mean()))
    return np.sqrt(np.clip(image - low, 0, None) + step + 1e-12)


def is_sparse(image: Floats) -> bool:
    """Whether it is a pattern of single electrons: most pixels have the same value."""
    return bool(np.mean(image == np.median(image)) > _SPARSE_SHARE)


def measure_scale(
    images: list[Floats], largest_px: float | None = None, likely: Callable[[Floats], Floats] | None = None
) -> Scale:
    """Radius of the disks in some images.

    Parameters
    ----------
    images
        (rows, cols) each, finite, without hot pixels; sums of patterns and not means, where single electrons count.
    largest_px
        Largest radius tried; a sixth of the detector unless told.
    likely
        Factor on the votes for radii (n,), 0 to 1, of one who knows more.
    """
    kernels = _Kernels()
    found = [
        _circles(stabilised(image), largest_px, _electrons(image) if is_sparse(image) else None, kernels) for image in images
    ]
    which = np.concatenate([np.full(len(c.radius), i) for i, c in enumerate(found)]) if found else np.zeros(0)
    log_r = np.log(np.concatenate([c.radius for c in found])) if found else np.zeros(0)
    if not len(log_r):
        return Scale(float("nan"), 0, 0.0, np.zeros(0, np.intp), np.zeros((0, 2)), np.zeros(0))
    weight = np.concatenate([c.weight for c in found])
    if likely is not None:
        weight = weight * likely(np.exp(log_r))
    near = np.exp(-0.5 * np.square((log_r[:, None] - log_r[None, :]) / (0.5 * _AGREE)))
    best = int((near @ weight).argmax())
    agree = np.abs(log_r - log_r[best]) < _AGREE
    radius = float(np.exp(np.average(log_r[agree], weights=weight[agree] + 1e-12)))
    agree = np.abs(log_r - np.log(radius)) < _AGREE
    centre = np.concatenate([c.centre for c in found])
    share = float(weight[agree].sum() / max(weight.sum(), 1e-12))
    row, col = centre[agree].T
    places = thin(np.zeros(len(row), np.intp), row, col, weight[agree], radius)
    return Scale(radius, int(places.sum()), share, which[agree].astype(np.intp), centre[agree], weight[agree])


def _electrons(image: Floats) -> Floats:
    """Counts above the dark level in electrons."""
    above = image - np.median(image)
    return np.clip(above, 0, None) / float(estimate_gain(above[None])[0])


def _circles(image: Floats, largest_px: float | None, electrons: Floats | None, kernels: _Kernels) -> _Circles:
    rows, cols = image.shape
    largest = min(rows, cols) / 6 if largest_px is None else largest_px
    steps = np.arange(int(np.log(max(largest, 2) / _SMALLEST_PX) / np.log(_STEP)) + 1, dtype=np.float64)
    radii: Floats = np.asarray(_SMALLEST_PX * _STEP**steps, np.float64)
    found = []
    for binning in (1, 2, 4, 8, 16):
        low, high = (_BINNED_PX * binning if binning > 1 else 0), 2 * _BINNED_PX * binning
        some = radii[(radii >= low) & (radii < high)]
        if len(some):
            found.append(_peaks(image, some, binning, electrons, kernels))
    return _isolated(image, *(np.concatenate(values) for values in zip(*found, strict=True)))


def _binned(image: Floats, binning: int) -> Floats:
    """Means over binning x binning pixels."""
    rows, cols = image.shape[0] // binning, image.shape[1] // binning
    return image[: rows * binning, : cols * binning].reshape(rows, binning, cols, binning).mean(axis=(1, 3))


def _padded(image: Floats, pad: int) -> NDArray[np.float32]:
    return np.pad(image, pad, mode="symmetric" if pad <= min(image.shape) else "edge").astype(np.float32)


def _peaks(image: Floats, radii: Floats, binning: int, electrons: Floats | None, kernels: _Kernels) -> tuple[Floats, ...]:
    """Row, col, radius (px of the image) and sure height of the circles that have the strongest edge about their place.

    Where the noise is that of single `electrons` (None for any other), those circles only that hold enough of them.
    """
    small = _binned(image, binning)
    rows, cols = small.shape
    pad = int(1.3 * radii[-1] / binning) + 2
    padded = _padded(small, pad)
    shape = tuple(fft.next_fast_len(n, real=True) for n in padded.shape)
    spectrum = fft.rfft2(padded, s=shape)
    counts = None
    if electrons is not None:
        counts = fft.rfft2(_padded(_binned(electrons, binning) * binning**2, pad), s=shape)
    best = np.full(small.shape, -np.inf, np.float32)
    radius_at, sigmas = np.zeros(small.shape, np.float32), np.zeros(small.shape, np.float32)
    noise = _own_noise(small)
    for r in radii:
        kernel, norm = kernels.spectrum(float(r) / binning, (shape[0], shape[1]))
        edge = fft.irfft2(spectrum * kernel, s=shape)[pad : pad + rows, pad : pad + cols]
        spread = np.maximum(local_spread(edge[None], max(edge.shape) / 12)[0], norm * noise)
        sure = edge - _LEAST_SIGMA * spread
        if counts is not None:
            excess = _poisson_excess(counts, float(r) / binning, (shape[0], shape[1]))
            sure[excess[pad : pad + rows, pad : pad + cols] < _LEAST_POISSON] = -np.inf
        better = sure > best
        best[better], radius_at[better], sigmas[better] = sure[better], r, (edge / spread)[better]
    row, col = np.nonzero((best == ndimage.maximum_filter(best, 3)) & (best > 0))
    middle = (binning - 1) / 2
    found = np.stack([radius_at[row, col], best[row, col], sigmas[row, col]]).astype(float)
    return row * float(binning) + middle, col * float(binning) + middle, *found


def _poisson_excess(spectrum: NDArray[np.complex128], radius: float, shape: tuple[int, int]) -> Floats:
    """How many standard deviations more electrons circles hold than a ring around each lets expect (Anscombe's root)."""
    y, x = fft.fftfreq(shape[0], 1 / shape[0]), fft.fftfreq(shape[1], 1 / shape[1])
    distance = np.hypot(y[:, None], x[None, :])
    inside = np.clip(radius + 0.5 - distance, 0, 1)
    ring = np.clip(distance - radius - 0.5, 0, 1) * np.clip(2 * radius + 1.5 - distance, 0, 1)
    held, around = (fft.irfft2(spectrum * np.conj(fft.rfft2(mask)), s=shape).clip(0) for mask in (inside, ring))
    expected = (around + 1) * (inside.sum() / ring.sum())
    return np.asarray(2 * (np.sqrt(held + 0.375) - np.sqrt(expected + 0.375)), dtype=np.float64)


def _own_noise(image: Floats) -> NDArray[np.float32]:
    """Noise of every pixel from its neighbourhood alone, the quieter direction of two, (rows, cols).

    What varies over the image as a whole says nothing of the plateau of a large disk on an empty detector.
    """
    rows, cols = image.shape
    quiet = np.full((-(-rows // 2), -(-cols // 2)), np.inf, np.float32)
    for axis in (0, 1):
        apart = np.abs(np.roll(image, 1, axis) - np.roll(image, -1, axis)).astype(np.float32)[::2, ::2]
        np.minimum(quiet, ndimage.percentile_filter(apart, 50, _QUIET_WINDOW), out=quiet)
    full = np.repeat(np.repeat(quiet, 2, axis=0), 2, axis=1)[:rows, :cols]
    return np.asarray(full / _MEDIAN_STEP, dtype=np.float32)


class _Kernels:
    """Spectra of the kernels of edges, made once for all images of a detector unless they take much memory."""

    def __init__(self) -> None:
        self._made: dict[tuple[float, tuple[int, int]], tuple[NDArray[np.complex64], float]] = {}

    def spectrum(self, radius: float, shape: tuple[int, int]) -> tuple[NDArray[np.complex64], float]:
        """Conjugate spectrum of the kernel of a radius, and the kernel's noise for unit noise."""
        made = self._made.get((radius, shape))
        if made is None:
            kernel, noise = _edge_kernel(radius, shape)
            made = np.conj(fft.rfft2(kernel)), noise
            if shape[0] * shape[1] <= _SMALL_PIXELS:
                self._made[radius, shape] = made
        return made


def _edge_kernel(radius: float, shape: tuple[int, int]) -> tuple[NDArray[np.float32], float]:
    """Mean of the ring inside a circle less that of the ring outside, about pixel (0, 0), and its noise for unit noise."""
    width = max(1.0, 0.25 * radius)
    y, x = fft.fftfreq(shape[0], 1 / shape[0]), fft.fftfreq(shape[1], 1 / shape[1])
    distance = np.hypot(y[:, None], x[None, :])
    inner = np.clip(radius + 0.5 - distance, 0, 1) * np.clip(distance - (radius - width) + 0.5, 0, 1)
    outer = np.clip(distance - radius + 0.5, 0, 1) * np.clip(radius + width + 0.5 - distance, 0, 1)
    kernel = inner / inner.sum() - outer / outer.sum()
    return kernel.astype(np.float32), float(np.sqrt(np.square(kernel).sum()))


def _isolated(image: Floats, row: Floats, col: Floats, radius: Floats, height: Floats, sigmas: Floats) -> _Circles:
    """Strongest circles, one a place, that have an edge on most of their sides."""
    order = np.argsort(-height)[: 6 * _MOST]
    row, col, radius, sigmas = row[order], col[order], radius[order], sigmas[order]
    keep = np.ones(len(row), bool)
    for i in range(len(row)):
        if keep[i]:
            apart = np.hypot(row[i + 1 :] - row[i], col[i + 1 :] - col[i])
            keep[i + 1 :] &= apart > np.maximum(radius[i], 0.8 * radius[i + 1 :]) + 0.5
    row, col, radius, sigmas = row[keep][:_MOST], col[keep][:_MOST], radius[keep][:_MOST], sigmas[keep][:_MOST]
    centre = np.stack([row, col], axis=1).astype(float)
    if not len(row):
        return _Circles(centre, radius, sigmas, sigmas)
    centre, radius, edge, around = settle(image, centre, radius)
    inside = np.all((centre > 0.7 * radius[:, None]) & (centre < np.array(image.shape) - 1 - 0.7 * radius[:, None]), axis=1)
    ok = inside & (around > 0.6) & (edge > 0)
    # a disk far above the others is no better witness of their radius
    cap = 2 * float(np.median(np.sort(sigmas[ok])[-12:])) if ok.any() else 1.0
    weight = np.minimum(sigmas[ok] - _LEAST_SIGMA, cap) ** 1.5 * around[ok] ** 2
    return _Circles(centre[ok], radius[ok], edge[ok], weight)


def settle(image: Floats, centre: Floats, radius: Floats, rounds: int = 3) -> tuple[Floats, Floats, Floats, Floats]:
    """Centre circles on their edge, all sides alike.

    Parameters
    ----------
    image
        Stabilised image.
    centre, radius
        (n, 2) and (n,) first guess.

    Returns
    -------
    centre, radius, edge, around
        (n, 2), (n,), the height of the edge (n,), and the part of the circumference that has an edge (n,), 0 to 1.
    """
    centre, radius = centre.copy(), radius.copy()
    edge = np.zeros(len(radius))
    around = np.zeros(len(radius))
    for last in range(rounds):
        width = np.maximum(0.8, 0.2 * radius)
        rel = np.linspace(-1, 1, 9)[None, :] * np.maximum(1.0, 0.45 * radius)[:, None]
        rho = np.maximum(radius[:, None] + rel, 0.3)  # (n, 9)
        drop = 0.5 * (
            _sector_means(image, centre, np.maximum(rho - 0.5 * width[:, None], 0))
            + _sector_means(image, centre, np.maximum(rho - width[:, None], 0))
            - _sector_means(image, centre, rho + 0.5 * width[:, None])
            - _sector_means(image, centre, rho + width[:, None])
        )
        profile = drop.mean(axis=2)
        middle = np.abs(np.arange(9) - 4)
        profile = profile * (1 - 0.05 * middle)  # of equal edges the nearer
        top = profile.argmax(axis=1)
        n = np.arange(len(radius))
        here = drop[n, top]  # (n, sectors)
        edge = here.mean(axis=1)
        around = (here > 0.25 * edge[:, None]).mean(axis=1)
        inner = np.clip(top, 1, 7)
        before, at, after = profile[n, inner - 1], profile[n, inner], profile[n, inner + 1]
        bend = before + after - 2 * at
        shift = np.where(bend < 0, np.clip(0.5 * (before - after) / np.where(bend < 0, bend, -1), -0.5, 0.5), 0.0)
        step = rel[:, 1] - rel[:, 0]
        new_radius = np.maximum(rho[n, inner] + shift * step, 0.5)
        if last == rounds - 1:
            radius = new_radius
            break
        # where the edge of each sector lies tells how far the centre is off
        each = np.clip(drop, 0, None) ** 2
        place = (each * rho[:, :, None]).sum(axis=1) / np.maximum(each.sum(axis=1), 1e-12)
        mid = (np.arange(_SECTORS) + 0.5) * 2 * np.pi / _SECTORS
        move = 2 * np.stack([(place * np.sin(mid)).mean(axis=1), (place * np.cos(mid)).mean(axis=1)], axis=1)
        limit = np.maximum(0.3 * radius, 0.5)[:, None]
        centre += np.clip(0.7 * move, -limit, limit)
        radius = new_radius
    return centre, radius, edge, around


def _sector_means(image: Floats, centre: Floats, distance: Floats) -> Floats:
    """(n, k, sectors) mean over sectors of circles at distances (n, k) about centres (n, 2)."""
    angle = (np.arange(_ANGLES) + 0.5) * 2 * np.pi / _ANGLES
    direction = np.stack([np.sin(angle), np.cos(angle)])
    where = centre[:, :, None, None] + distance[:, None, :, None] * direction[None, :, None, :]
    values = ndimage.map_coordinates(image, [where[:, 0], where[:, 1]], order=1, mode="nearest")
    return values.reshape(*values.shape[:2], _SECTORS, -1).mean(axis=3)


def edge_around(image: Floats, centre: Floats, radius_px: float, gap: NDArray[np.bool_] | None = None) -> Floats:
    """(n,) part of the circumference of circles of one radius that has an edge, 0 to 1.

    Parameters
    ----------
    image
        Stabilised image.
    centre
        (n, 2) centres.
    gap
        (rows, cols) what is hidden; the part of the circumference is that of what is seen.
    """
    width = max(0.8, 0.25 * radius_px)
    steps = np.array([-0.5 * width, -width, 0.5 * width, width])
    distance = np.maximum(radius_px + np.tile(steps, (len(centre), 1)), 0)
    rings = _sector_means(image, centre, distance)
    drop = 0.5 * (rings[:, 0] + rings[:, 1] - rings[:, 2] - rings[:, 3])
    seen = np.ones(drop.shape, bool)
    if gap is not None and gap.any():
        seen = _sector_means(gap.astype(float), centre, distance).mean(axis=1) < _SEEN
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1)
    mean = (drop * seen).sum(axis=1, keepdims=True) / count
    # a side without an edge counts against a disk only as far as the noise lets one be seen
    noise = float(np.median(np.abs(image[:, 3:] - image[:, :-3]))) / 0.954
    noise *= float(np.sqrt(2 / max(1.0, width * 2 * np.pi * radius_px / _SECTORS)))
    has_edge = seen & (drop > 0.25 * mean - noise)
    return np.where(mean[:, 0] > 0, has_edge.sum(axis=1) / count[:, 0], 0.0)
