"""Honeycomb sheets for annular detectors: graphene with grain boundaries and dopants, binary sheets, holes, dirt."""

from __future__ import annotations

import numpy as np
from scipy.spatial import Delaunay, cKDTree
from scipy.special import expit

from napari_emdl.training.atoms.degrade import smooth_field
from napari_emdl.training.atoms.lattices import rotation
from napari_emdl.training.atoms.specimens import ring_centres
from napari_emdl.training.atoms.structures import GRAPHENE_A

SQRT3 = float(np.sqrt(3))
#: share of sheets of one element, and of these the share that is graphene
ONE_ELEMENT, GRAPHENE = 0.6, 0.8
#: lattice parameters of the other sheets, A. Boron nitride lies between graphene and these, silicene beyond them: both
#: are kept for validation
BINARY_A, OTHER_A = (2.9, 3.6), (2.7, 3.4)
#: contamination thicker than this, in heights of the strongest column, hides columns
HIDING = 1.0


def honeycomb(rng: np.random.Generator, extent_A: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms (n, 2) of a random sheet around the origin, their heights (n,), and whether they lie at an edge (n,)."""
    if rng.random() < ONE_ELEMENT:
        a = GRAPHENE_A if rng.random() < GRAPHENE else rng.uniform(*OTHER_A)
        xy, h = one_element(rng, extent_A, a)
    else:
        xy, h = binary(rng, extent_A, rng.uniform(*BINARY_A), float(np.exp(rng.uniform(np.log(0.12), 0.0))))
    return _with_defects(rng, extent_A, xy, h)


def one_element(rng: np.random.Generator, extent_A: float, a_A: float) -> tuple[np.ndarray, np.ndarray]:
    """A sheet of one element with one or two grains, as the dual of its ring centres; some atoms are heavier dopants."""
    scale = a_A / GRAPHENE_A
    rings = scale * ring_centres(rng, (extent_A / 2 + 4) / scale)
    corner = rings[Delaunay(rings).simplices]
    longest = np.max(np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2), axis=1)
    xy = corner.mean(1)[longest < 1.75 * a_A]
    h = np.ones(len(xy))
    if rng.random() < 0.25:
        h[rng.random(len(xy)) < rng.choice([0.002, 0.01, 0.03])] *= rng.uniform(1.4, 5.0)
    return xy, h


def binary(rng: np.random.Generator, extent_A: float, a_A: float, other: float) -> tuple[np.ndarray, np.ndarray]:
    """A sheet of two elements, the second one `other` times as high; at times its atoms are pairs of which some are single."""
    vectors = a_A * np.array([[1, 0], [-0.5, SQRT3 / 2]]) @ rotation(rng.uniform(0, 2 * np.pi)).T
    n = int(1.6 * extent_A / a_A) + 2
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1), indexing="ij")
    cell = np.c_[i.ravel(), j.ravel()] @ vectors + rng.uniform(-2, 2, 2)
    second = cell + np.array([1 / 3, 2 / 3]) @ vectors
    light = np.full(len(second), other)
    if rng.random() < 0.3:
        light[rng.random(len(second)) < rng.uniform(0, 0.08)] /= 2
    return np.r_[cell, second], np.r_[np.ones(len(cell)), light]


def _with_defects(
    rng: np.random.Generator, extent_A: float, xy: np.ndarray, h: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strain, a hole or an edge, vacancies, and heights that vary a little."""
    keep = np.max(np.abs(xy), axis=1) < extent_A / 2 + 2
    bond = float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))
    whole = cKDTree(xy).query_ball_point(xy, 1.3 * bond, return_length=True)
    if rng.random() < 0.25:
        hole, radius = rng.uniform(-extent_A / 2, extent_A / 2, 2), rng.uniform(0.08, 0.4) * extent_A
        keep &= np.linalg.norm((xy - hole) * rng.uniform(0.7, 1.4, 2), axis=1) > radius
    if rng.random() < 0.12:
        keep &= xy @ rotation(rng.uniform(0, 2 * np.pi))[0] < rng.uniform(-0.2, 0.4) * extent_A
    keep &= rng.random(len(xy)) > rng.choice([0, 0, 0.004, 0.02])
    left = cKDTree(xy[keep]).query_ball_point(xy, 1.3 * bond, return_length=True) if keep.any() else np.zeros(len(xy), int)
    keep &= left > 1  # an atom without a neighbour is none of the sheet
    edge = (left < whole)[keep]
    xy = xy[keep] @ (np.eye(2) + rng.normal(0, 0.012, (2, 2))).T
    xy = xy + rng.normal(0, rng.uniform(0, 0.05), xy.shape)
    return xy, h[keep] * np.exp(rng.normal(0, rng.uniform(0, 0.12), len(xy))), edge


def contamination(rng: np.random.Generator, n: int, sampling_A: float) -> np.ndarray:
    """Patches of amorphous dirt (n, n), in heights of the strongest column."""
    patch = smooth_field(rng, n, rng.uniform(6, 25) / sampling_A)
    soft = expit((patch - rng.uniform(0.6, 1.8)) / rng.uniform(0.08, 0.4))
    grain = 1 + rng.uniform(0.05, 0.4) * smooth_field(rng, n, rng.uniform(0.6, 2.0) / sampling_A)
    thick = float(np.exp(rng.uniform(np.log(0.2), np.log(4.0))))
    return np.asarray(thick * soft * np.maximum(grain, 0))
