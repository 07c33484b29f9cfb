"""The first kernel of a movie, found without a finder: the pattern at the sites that lasts from one frame to the next.

The noise of two frames is independent, what a column that comes and goes does to the image is not. The covariance between
successive frames around the sites therefore holds the image of the column and no noise, and its largest principal component
is the column's kernel to start from. It is looked for among round patterns, which leaves few numbers to find: at a dose of
some electrons per square angstrom it separates occupied from empty nearly as well as the final kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.linalg import eigh

from napari_emdl.atoms.fit.alignedframes import AlignedFrames

#: reach of the round patterns; the first component must stand out by this factor from what noise makes
REACH_A, LEAST_CONTRAST = 1.6, 2.0
#: successive frames have this many standard errors in common at a site that surely changes
SURE = 3.0


@dataclass(frozen=True)
class FirstLook:
    """What comes and goes, before any model.

    Attributes
    ----------
    kernel
        Image of a column, origin at the corner.
    occupied
        (kept frames, n) bool, guess by the sign of the change.
    changes
        (n,) how surely a site changes, in standard errors.
    """

    kernel: NDArray[np.float64]
    occupied: NDArray[np.bool_]
    changes: NDArray[np.float64]


def first_look(aligned: AlignedFrames, weight: NDArray[np.float64]) -> FirstLook | None:
    """Kernel, and a first guess of which sites change when; None when nothing stands out of the noise.

    Parameters
    ----------
    aligned
        The frames.
    weight
        (n,) where coming and going is expected: the surface.
    """
    if len(aligned.kept) < 6 or not weight.any():
        return None
    rings = _rings(aligned)
    part = _projections(aligned, rings)
    gram = np.einsum("pij,qij->pq", rings, rings)
    filters = np.zeros(len(rings))
    for _ in range(2):
        found = _component(part, gram, weight)
        if found is None:
            return None
        filters = found
        value = part @ filters
        value -= value.mean(0)
        noise = float(np.median(value.var(0)))
        shared = (value[1:] * value[:-1]).mean(0) / max(noise, 1e-30) * np.sqrt(len(value) - 1)
        weight = np.clip(shared - 1.0, 0, None)
    pattern = np.fft.rfft2(_corner(np.einsum("p,pij->ij", filters, rings), aligned.shape))
    steady = ndi.map_coordinates(
        aligned.pixels(np.conj(pattern) / np.sqrt(aligned.noise) * aligned.mean), aligned.at.T, order=3, mode="nearest"
    )
    # columns look like columns: what comes and goes has the sign of what is there all the time
    sign = 1.0 if float(steady.mean()) >= 0 else -1.0
    kernel = aligned.pixels(sign * pattern * np.sqrt(aligned.noise))
    return FirstLook(kernel, sign * value > 0, shared)


def _rings(aligned: AlignedFrames) -> NDArray[np.float64]:
    """(m, k, k) round patterns, one a sampling step of the radius."""
    step = aligned.sampling_A
    half = int(np.ceil(REACH_A / step)) + 1
    axis = np.arange(-half, half + 1) * step
    radius = np.hypot(axis[:, None], axis[None, :])
    return np.stack([np.clip(1 - np.abs(radius - r) / step, 0, 1) for r in np.arange(0, REACH_A, step)])


def _corner(pattern: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Small pattern in an image with its centre at the corner; cut where the image is smaller."""
    out = np.zeros(shape)
    half = pattern.shape[0] // 2
    axis = np.arange(-half, half + 1)
    rows, cols = np.meshgrid(axis % shape[0], axis % shape[1], indexing="ij")
    np.add.at(out, (rows, cols), pattern)
    return out


def _projections(aligned: AlignedFrames, rings: NDArray[np.float64]) -> NDArray[np.float64]:
    """(kept frames, n, m) what each frame holds of each pattern at each site, above the mean, in whitened images."""
    white = 1 / np.sqrt(aligned.noise)
    filters = [np.conj(np.fft.rfft2(_corner(ring, aligned.shape))) * white for ring in rings]
    out = np.empty((len(aligned.kept), len(aligned.at), len(rings)))
    for row, t in zip(out, aligned.kept, strict=True):
        change = aligned.spectrum(int(t)) - aligned.mean
        for index, one in enumerate(filters):
            row[:, index] = ndi.map_coordinates(aligned.pixels(change * one), aligned.at.T, order=3, mode="nearest")
    out[~aligned.valid[aligned.kept]] = 0
    return out


def _component(part: NDArray[np.float64], gram: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Largest principal component of the covariance of successive frames; None when noise makes as much."""
    shared = np.einsum("tip,tiq,i->pq", part[:-1], part[1:], weight)
    value, vector = eigh((shared + shared.T) / 2, gram)
    # without any signal the values scatter evenly about zero
    if not value[-1] > LEAST_CONTRAST * abs(min(value[0], 0.0)) or not value[-1] > 0:
        return None
    return np.asarray(vector[:, -1])
