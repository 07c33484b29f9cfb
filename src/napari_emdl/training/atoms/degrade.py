"""What happens to images between the camera and the file: film-like noise, 8 bit, clipping, gamma, blur, stripes, borders."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, zoom


def filmlike(rng: np.random.Generator, image: np.ndarray, frames: tuple[int, ...] = (1,), blurred: float = 0.3) -> np.ndarray:
    """Images (channels, rows, cols) as a published movie or a screenshot has them; every channel the same way.

    Parameters
    ----------
    frames
        How many frames each channel is the mean of; noise that is added falls accordingly.
    blurred
        Share of images that are smoothed, so that noise has the width of columns.
    """
    x = image.astype(np.float32)
    first = x[0]
    x = (x - first.mean()) / max(float(first.std()), 1e-9)
    if rng.random() < 0.45:
        strength, grain = float(np.exp(rng.uniform(np.log(0.05), np.log(1.2)))), rng.uniform(0, 1.3)
        for k, count in enumerate(frames):
            if count:
                noise = rng.normal(0, 1, first.shape).astype(np.float32)
                if grain > 0.4:
                    noise = gaussian_filter(noise, grain)
                    noise /= max(float(noise.std()), 1e-9)
                x[k] += strength / np.sqrt(count) * noise
    if rng.random() < blurred:
        sigma = rng.uniform(0.4, 1.6)
        x = np.stack([gaussian_filter(c, sigma) for c in x])
    if rng.random() < 0.1:
        x = x + rng.uniform(0, 0.4) * rng.normal(0, 1, (1, x.shape[1], 1)).astype(np.float32)
    if rng.random() < 0.1:
        x = x + rng.uniform(0, 0.4) * rng.normal(0, 1, (1, 1, x.shape[2])).astype(np.float32)
    low, high = np.percentile(x[0], [rng.choice([0, 0.1, 1, 4]), 100 - rng.choice([0, 0.1, 0.5, 3])])
    x = np.clip((x - low) / max(float(high - low), 1e-6), 0, 1)
    if rng.random() < 0.5:
        x = x ** float(np.exp(rng.normal(0, 0.4)))
    levels = float(rng.choice([255, 255, 64, 16]))
    return np.round(x * levels).astype(np.float32)


def with_border(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images whose edges were cut off by an alignment: one or two sides hold one value; and which pixels (rows, cols) do."""
    x, value = image.copy(), 0.0 if rng.random() < 0.6 else float(image[0].mean())
    hidden = np.zeros(x.shape[1:], bool)
    for _ in range(int(rng.integers(1, 3))):
        width, side = int(rng.integers(3, x.shape[1] // 3)), int(rng.integers(4))
        where = (slice(None, width), slice(-width, None))[side % 2]
        hidden[where if side < 2 else (slice(None), where)] = True
    x[:, hidden] = value
    return x, hidden


def smooth_field(rng: np.random.Generator, n: int, width: float) -> np.ndarray:
    """A random field (n, n) of unit variance that changes over about `width` pixels."""
    step = max(1.0, width / 2)
    coarse = int(np.ceil(n / step)) + 6
    x = gaussian_filter(rng.normal(0, 1, (coarse, coarse)), width / step)
    x = zoom(x[2:-2, 2:-2], n / (coarse - 4), order=1, grid_mode=True, mode="nearest")[:n, :n] if step > 1 else x[3:-3, 3:-3]
    return (x - x.mean()) / max(float(x.std()), 1e-9)
