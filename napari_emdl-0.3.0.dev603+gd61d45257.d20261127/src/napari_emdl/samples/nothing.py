"""Patterns without a crystal: what finders see where there is nothing to find.

Vacuum, halo, one sharp spot, amorphous and powder rings, noise, a beam stop, pictures that are no diffraction patterns, and
detectors that do not work, each with random size, dose and camera. At most the direct beam is a disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

Floats = NDArray[np.float64]
_SIZES = (128, 192, 256, 320)


def _from_centre(n: int, random: np.random.Generator, wander: float = 0.04) -> tuple[Floats, Floats]:
    """Offsets (row, col) of all pixels of an n x n detector from a centre near its middle."""
    centre = n / 2 + random.normal(0, wander * n, 2)
    rows, cols = np.arange(n)[:, None] - centre[0], np.arange(n)[None, :] - centre[1]
    return np.broadcast_to(rows, (n, n)), np.broadcast_to(cols, (n, n))


def _disk(away: Floats, radius_px: float, edge_px: float) -> Floats:
    return np.asarray(0.5 * special.erfc((away - radius_px) / (np.sqrt(2) * edge_px)), dtype=np.float64)


def _halo(away: Floats, random: np.random.Generator) -> Floats:
    width = away.shape[0] * random.uniform(0.05, 0.3)
    return np.asarray((1 + np.square(away / width)) ** -random.uniform(0.8, 2.0), dtype=np.float64)


def _counted(expected: Floats, random: np.random.Generator) -> NDArray[Any]:
    """Poisson counts of a random dose, now and then in 8 bit, in other units or with the noise of an integrating camera."""
    dose = 10 ** random.uniform(4, 7)
    counts = random.poisson(np.clip(expected, 0, None) * dose / max(expected.sum(), 1e-12)).astype(np.float64)
    kind = random.random()
    if kind < 0.2:
        return np.asarray(255 * np.clip(counts / max(np.quantile(counts, 0.999), 1), 0, 1) ** random.uniform(0.4, 1), np.uint8)
    if kind < 0.35:
        return np.asarray(counts * random.uniform(5, 50) + random.normal(100, 10, counts.shape), np.float32)
    return counts.astype(np.uint16 if counts.max() < 65535 else np.uint32)


def vacuum(random: np.random.Generator) -> NDArray[Any]:
    """Direct beam alone."""
    n = int(random.choice(_SIZES))
    away = np.hypot(*_from_centre(n, random))
    radius = random.uniform(2.5, 0.09 * n)
    return _counted(
        _disk(away, radius, random.uniform(0.4, 1.5)) + random.choice([0, 1e-4, 2e-3]) * _halo(away, random), random
    )


def halo(random: np.random.Generator) -> NDArray[Any]:
    """Smooth scattering without a disk."""
    n = int(random.choice(_SIZES))
    return _counted(_halo(np.hypot(*_from_centre(n, random)), random), random)


def one_spot(random: np.random.Generator) -> NDArray[Any]:
    """One sharp spot on a halo."""
    n = int(random.choice(_SIZES))
    away = np.hypot(*_from_centre(n, random))
    spot = np.exp(-0.5 * np.square(away / random.uniform(0.8, 2.0)))
    return _counted(spot + random.uniform(0.001, 0.05) * _halo(away, random), random)


def amorphous_rings(random: np.random.Generator) -> NDArray[Any]:
    """Direct beam and diffuse rings with the speckle of a thin film."""
    n = int(random.choice(_SIZES))
    away = np.hypot(*_from_centre(n, random))
    image = _halo(away, random) * 0.05
    first = random.uniform(0.12, 0.25) * n
    for order, height in ((1.0, 1.0), (1.75, 0.4), (2.5, 0.15)):
        image += 0.02 * height * np.exp(-0.5 * np.square((away - order * first) / (0.12 * order * first)))
    speckle = ndimage.gaussian_filter(random.normal(size=(n, n)), random.uniform(1.5, 5))
    image *= np.clip(1 + random.uniform(0, 0.25) * speckle / speckle.std(), 0, None)
    return _counted(image + _disk(away, random.uniform(2.5, 0.05 * n), 0.8), random)


def powder_rings(random: np.random.Generator) -> NDArray[Any]:
    """Narrow rings of a fine-grained film around a sharp or blocked beam."""
    n = int(random.choice(_SIZES))
    away = np.hypot(*_from_centre(n, random))
    unit = random.uniform(0.07, 0.12) * n
    image = 0.03 * _halo(away, random)
    for square, height in ((3, 1.0), (4, 0.5), (8, 0.4), (11, 0.4), (12, 0.15), (16, 0.08), (19, 0.15)):
        image += 0.02 * height * np.exp(-0.5 * np.square((away - np.sqrt(square) * unit) / random.uniform(0.8, 2.0)))
    beam = np.exp(-0.5 * np.square(away / random.uniform(1, 3)))
    return _counted(image + random.choice([0.0, 1.0]) * beam, random)


def noise(random: np.random.Generator) -> NDArray[Any]:
    """Counting, read-out or correlated noise."""
    n = int(random.choice(_SIZES))
    kind = int(random.integers(4))
    if kind == 0:
        return random.poisson(10 ** random.uniform(-2, 3), (n, n)).astype(np.uint16)
    if kind == 1:
        return random.normal(random.choice([0.0, 100.0]), 10, (n, n)).astype(np.float32)
    smooth = ndimage.gaussian_filter(random.normal(size=(n, n)), random.uniform(0.8, 4))
    if kind == 2:
        return (1000 + 100 * smooth / smooth.std()).astype(np.float32)
    return random.poisson(np.exp(smooth / smooth.std()) * 5).astype(np.uint16)


def beam_stop(random: np.random.Generator) -> NDArray[Any]:
    """Halo behind a beam stop: a bar with a round end."""
    n = int(random.choice(_SIZES))
    rows, cols = _from_centre(n, random)
    away = np.hypot(rows, cols)
    width = random.uniform(0.03, 0.08) * n
    angle = random.uniform(0, 2 * np.pi)
    along, across = rows * np.cos(angle) + cols * np.sin(angle), cols * np.cos(angle) - rows * np.sin(angle)
    open_part = ~((away < 1.6 * width) | ((along > 0) & (np.abs(across) < 0.5 * width)))
    return _counted(_halo(away, random) * open_part, random)


def picture(random: np.random.Generator) -> NDArray[Any]:
    """Something like a photograph or a micrograph: texture of all scales, surfaces with edges, a gradient."""
    n = int(random.choice(_SIZES))
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None, :])
    frequency[0, 0] = 1
    slope = random.uniform(0.8, 1.6)
    image = np.fft.ifft2(np.fft.fft2(random.normal(size=(n, n))) / frequency**slope).real
    image /= image.std()
    row, col = np.mgrid[:n, :n] / n
    for _ in range(int(random.integers(3, 25))):
        angle, size = random.uniform(0, np.pi), random.uniform(0.03, 0.3, 2)
        r, c = row - random.uniform(), col - random.uniform()
        along, across = r * np.cos(angle) + c * np.sin(angle), c * np.cos(angle) - r * np.sin(angle)
        box = (np.abs(along) < size[0]) & (np.abs(across) < size[1])
        ellipse = np.square(along / size[0]) + np.square(across / size[1]) < 1
        image = np.where(box if random.random() < 0.6 else ellipse, random.normal(0, 1.5) + 0.3 * image, image)
    image = ndimage.gaussian_filter(image + random.normal() * row + random.normal() * col, random.uniform(0, 1))
    image = 255 * (image - image.min()) / np.ptp(image)
    return np.clip(image + random.normal(0, random.uniform(0, 6), image.shape), 0, 255).astype(np.uint8)


def printed_text(random: np.random.Generator) -> NDArray[Any]:
    """Rows of small strokes, as a page, a screen or a graph has them."""
    n = int(random.choice(_SIZES))
    page = np.full((n, n), 230.0)
    pitch = int(random.integers(6, 14))
    for top in range(pitch, n - pitch, int(1.6 * pitch)):
        for left in range(pitch, n - pitch, pitch):
            if random.random() < 0.85:
                glyph = ndimage.zoom((random.random((4, 3)) < 0.5).astype(float), pitch / 5, order=1)
                page[top : top + glyph.shape[0], left : left + glyph.shape[1]] -= 200 * glyph[: n - top, : n - left]
    page = ndimage.gaussian_filter(page, 0.6)
    page = 255 - page if random.random() < 0.5 else page
    return np.clip(page + random.normal(0, 4, page.shape), 0, 255).astype(np.uint8)


def dead_detector(random: np.random.Generator) -> NDArray[Any]:
    """No signal: nothing, one value, hot pixels, hot lines, stripes of the read-out."""
    n = int(random.choice(_SIZES))
    image = np.full((n, n), float(random.choice([0, 0, 1, 255])))
    kind = int(random.integers(5))
    if kind in (1, 2):
        where = random.integers(0, n, (int(random.integers(1, 60)), 2))
        image[where[:, 0], where[:, 1]] = random.uniform(10, 60000, len(where))
    if kind == 2:
        image += random.poisson(0.05, image.shape)
    if kind == 3:
        image[:, random.integers(0, n, 3)] = 5000
        image[random.integers(0, n, 2)] = 0
    if kind == 4:
        image += 20 * (np.arange(n) % random.integers(2, 30) < 2)[None, :] + random.poisson(4, image.shape)
    return image.astype(np.uint16)


#: Name -> one random pattern of that kind.
KINDS: dict[str, Callable[[np.random.Generator], NDArray[Any]]] = {
    "vacuum": vacuum,
    "halo": halo,
    "one spot": one_spot,
    "amorphous rings": amorphous_rings,
    "powder rings": powder_rings,
    "noise": noise,
    "beam stop": beam_stop,
    "picture": picture,
    "printed text": printed_text,
    "dead detector": dead_detector,
}


def patterns_of(kind: str, count: int, seed: int = 0) -> list[NDArray[Any]]:
    """`count` patterns (n, n) of a kind, the same for every call with a seed."""
    number = list(KINDS).index(kind)
    return [KINDS[kind](np.random.default_rng([seed, number, i])) for i in range(count)]
