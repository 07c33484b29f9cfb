"""Whether a scan as a whole shows a crystal, where a single one of its patterns may be too faint to tell.

Reflections come in pairs about the direct beam (Friedel), from one grain as from many. In a pattern of few electrons a handful
of pairs is no more than chance makes; over many patterns it is. What chance makes is counted on the same places, turned about
the direct beam by angles that no lattice has: rings, halos and their noise look the same then, a crystal does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from napari_emdl.diffraction.find.maxima import local_maxima

Floats = NDArray[np.float64]

#: Patterns looked at, and the brightest places of each.
_PATTERNS, _PLACES = 24, 12
#: Fewer patterns than this say no more together than one does.
_LEAST_PATTERNS = 6
#: Radius of a disk after binning, in px: enough for its place, and quick.
_BINNED_RADIUS_PX = 2.0
_HALF_HEIGHT = 1.177
#: Places this near the opposite of another are its partners; those this near the beam (in radii) are the beam.
_NEAR_PX, _OF_BEAM = 1.5, 1.7
#: The direct beam of a scan is where so many patterns have their brightest place, within this part of the detector; in the
#: others, where a crystal is thick, a reflection outshines it.
_COMMON, _DRIFT = 0.25, 0.04
#: Turns about the beam (degrees) that show what chance makes: no symmetry of a lattice, opposites left out.
TURNS_DEG = (17.0, 39.0, 71.0, 103.0, 137.0, 163.0)
#: Pairs over chance: in standard deviations (each pair is seen from both its ends), as a ratio, and as a share of all places.
_SIGMAS, _RATIO, _SHARE = 7.0, 2.0, 0.12


def shows_crystal(images: Sequence[Floats], radius_px: float) -> bool:
    """Whether patterns of one scan together have more pairs about their direct beam than chance makes.

    Parameters
    ----------
    images
        Patterns (rows, cols) of one detector, without hot or missing pixels.
    radius_px
        Of the disks.

    Returns
    -------
    bool
        False as well where the patterns are few or have no direct beam in common: then each must tell for itself.
    """
    if len(images) < _LEAST_PATTERNS:
        return False
    picked = np.unique(np.linspace(0, len(images) - 1, min(_PATTERNS, len(images))).astype(int))
    block = max(1, int(radius_px / _BINNED_RADIUS_PX))
    sigma = max(radius_px / block / _HALF_HEIGHT, 0.9)
    small = np.stack([_binned(images[i], block) for i in picked])
    root = np.sqrt(np.maximum(small - small.min(axis=(1, 2), keepdims=True), 0))
    bands = ndimage.gaussian_filter(root, (0, sigma, sigma)) - ndimage.gaussian_filter(root, (0, 2 * sigma, 2 * sigma))
    centres = _beams(ndimage.gaussian_filter(small, (0, sigma, sigma)), max(2 * sigma, _DRIFT * min(small.shape[1:])))
    places = [_brightest(band) for band in bands]
    if centres is None:  # found in every other pattern, tried on the rest, so that the choice makes no pairs
        centres = np.tile(_middle_of_pairs(places[::2]), (len(places[1::2]), 1))
        places = places[1::2]
    hits, tests, chance = 0, 0, 0
    for own, centre in zip(places, centres, strict=True):
        around = own - centre
        around = around[np.linalg.norm(around, axis=1) > _OF_BEAM * radius_px / block + 1][:_PLACES]
        if len(around) < 2:
            continue
        tree = cKDTree(around)
        hits += _partners(tree, -around)
        tests += len(around)
        chance += sum(_partners(tree, turned(-around, angle)) for angle in TURNS_DEG)
    usual = (chance + 1) / len(TURNS_DEG)
    return bool(hits > usual + _SIGMAS * np.sqrt(usual) and hits > _RATIO * usual and hits > _SHARE * tests)


def _binned(image: Floats, block: int) -> NDArray[np.float32]:
    rows, cols = (n // block for n in image.shape)
    cut = image[: rows * block, : cols * block].astype(np.float32)
    return np.asarray(cut.reshape(rows, block, cols, block).sum(axis=(1, 3)))


def _beams(smooth: NDArray[np.float32], reach: float) -> Floats | None:
    """(n, 2) direct beam (row, col) of every pattern, near the place that many have in common; None where they have none."""
    brightest = np.array([np.unravel_index(int(image.argmax()), image.shape) for image in smooth], float)
    together = np.linalg.norm(brightest[:, None] - brightest, axis=2) < reach
    most = together.sum(axis=1)
    if most.max() < _COMMON * len(brightest):
        return None
    middle = brightest[together[most.argmax()]].mean(axis=0)
    rows, cols = np.ogrid[: smooth.shape[1], : smooth.shape[2]]
    far = np.hypot(rows - middle[0], cols - middle[1]) > reach
    return np.array([np.unravel_index(int(np.where(far, -np.inf, image).argmax()), far.shape) for image in smooth], float)


def _middle_of_pairs(places: list[Floats]) -> Floats:
    """(row, col) about which most places of all patterns lie in pairs."""
    middles = np.concatenate([0.5 * (own[:, None] + own)[np.triu_indices(len(own), 1)] for own in places])
    if not len(middles):
        return np.zeros(2)
    counts = cKDTree(middles).query_ball_point(middles, _NEAR_PX / 2, return_length=True)
    return np.asarray(middles[counts.argmax()])


def _brightest(band: NDArray[np.float32]) -> Floats:
    """(n, 2) brightest places (row, col), a few more than are asked for: the beam may be among them."""
    _, row, col, height = local_maxima(band[None], 0.0)
    order = np.argsort(-height)[: _PLACES + 4]
    return np.stack([row, col], axis=1)[order].astype(float)


def _partners(tree: cKDTree, places: Floats) -> int:
    return int((tree.query(places, distance_upper_bound=_NEAR_PX)[0] < np.inf).sum())


def turned(away: Floats, angle_deg: float) -> Floats:
    """(n, 2) places relative to the beam, turned about it."""
    angle = np.deg2rad(angle_deg)
    return np.asarray(away @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))
