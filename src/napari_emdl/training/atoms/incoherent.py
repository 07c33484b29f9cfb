"""Incoherent images (HAADF, ADF, ABF as a negative, phase): columns as a probe with tails, on carbon, with scan noise.

An annular detector far out sees every column as the probe times a height that grows as thickness times Z^1.7 (Nellist and
Pennycook 1999), so no multislice is needed: images are sums of probes, made in Fourier space and sampled exactly. In annular
bright field and in phase images (integrated differential phase contrast, ptychography) heights grow more slowly with Z (Findlay
et al. 2010; Lazic et al. 2016): heights of the first kind are raised to a power below one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from napari_emdl.training.atoms.lattices import COLUMN, WEAK, rotation
from napari_emdl.training.atoms.scan import Detector, draw_scan
from napari_emdl.training.atoms.sheets import honeycomb

#: columns below the second share of the strongest one near them are left out of the loss; below the first (oxygen beside
#: heavy metals) they are no columns
INVISIBLE, WEAKEST = 0.11, 0.15
#: columns below this share are left out of the loss where the noise-free image has no maximum within this distance: what is
#: only a shoulder of its neighbours cannot be told from the overlap of their tails
SHOULDER, SHOWN_A = 0.6, 0.4
#: nearer columns than this share of the probe's width are one blob
MERGED = 0.8
#: kinds of projected crystals and their shares
CELLS = {
    "fcc110": 0.17, "square": 0.09, "hexagonal": 0.09, "bcc110": 0.07, "perovskite": 0.16, "dumbbell": 0.13, "rocksalt": 0.06,
    "rocksalt110": 0.06, "zigzag": 0.05, "any": 0.12,
}  # fmt: skip
SQRT3 = float(np.sqrt(3))
#: detectors' powers of an annular detector's heights
POWERS = {"haadf": (1.0, 1.0), "abf": (0.25, 1.0), "phase": (0.4, 0.8)}


@dataclass
class Scene:
    """Columns of a field of view: positions (n, 2) in A, heights (n,) relative to the strongest, class and edge flag."""

    xy_A: np.ndarray
    height: np.ndarray
    column_class: np.ndarray
    surface: np.ndarray


def _second(rng: np.random.Generator) -> float:
    """Height of a second element's columns: from as strong as the first to hardly seen."""
    return float(np.exp(rng.uniform(np.log(0.02), 0.0)))


def random_cell(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two-dimensional cell (rows are vectors, A), fractions (k, 2) and heights (k,) of a projected crystal."""
    kind = rng.choice(list(CELLS), p=list(CELLS.values()))
    a = rng.uniform(3.5, 4.3)
    centred = np.array([(0, 0), (0.5, 0.5)])
    if kind == "fcc110":
        return np.diag([a, a / np.sqrt(2)]), centred, np.ones(2)
    if kind == "square":
        return np.diag([1.0, 1.0]) * rng.uniform(1.8, 3.0), np.zeros((1, 2)), np.ones(1)
    if kind == "hexagonal":
        b = rng.uniform(2.2, 3.2)
        return np.array([[b, 0], [-b / 2, b * SQRT3 / 2]]), np.zeros((1, 2)), np.ones(1)
    if kind == "bcc110":
        b = rng.uniform(2.85, 3.3)
        return np.diag([b, b * np.sqrt(2)]), centred, np.ones(2)
    if kind == "perovskite":
        b, oxygen = rng.uniform(3.8, 6.2), rng.uniform(0.0, 0.12)
        frac = np.array([(0, 0), (0.5, 0.5), (0.5, 0), (0, 0.5)])
        return np.diag([b, b * rng.uniform(0.98, 1.03)]), frac, np.array([1, _second(rng), oxygen, oxygen])
    if kind == "dumbbell":
        b = rng.uniform(5.4, 6.5)
        frac = np.array([(0, 0), (0.5, 0.5), (0.25, 0), (0.75, 0.5)])
        light = 1.0 if rng.random() < 0.4 else _second(rng)
        return np.diag([b, b / np.sqrt(2)]), frac, np.array([1, 1, light, light])
    if kind == "rocksalt":
        b = rng.uniform(4.0, 6.0) / 2
        return np.array([[b, b], [b, -b]]), np.array([(0, 0), (0.5, 0.5)]), np.array([1, _second(rng)])
    if kind == "rocksalt110":
        b, light = rng.uniform(4.0, 6.5), _second(rng)
        frac = np.array([(0, 0), (0.5, 0.5), (0.5, 0), (0, 0.5)])
        return np.diag([b, b / np.sqrt(2)]), frac, np.array([1, 1, light, light])
    if kind == "zigzag":
        b, c = rng.uniform(2.5, 3.2), rng.uniform(4.0, 5.2)
        return np.diag([b * SQRT3 / 2 * 2, c]), np.array([(0, 0), (1 / 3, 0.5)]), np.ones(2)
    while True:
        angle = rng.uniform(np.pi / 3, np.pi / 2)
        b, c, k = rng.uniform(2.2, 5.5), rng.uniform(2.2, 5.5), int(rng.integers(1, 4))
        cell = np.array([[b, 0], [c * np.cos(angle), c * np.sin(angle)]])
        frac = rng.random((k, 2))
        images = np.concatenate([(frac + np.array([i, j])) @ cell for i in (-1, 0, 1) for j in (-1, 0, 1)])
        if cKDTree(images).query(images, k=2)[0][:, 1].min() > 1.3:
            return cell, frac, np.r_[1, rng.uniform(0.15, 1, k - 1)]


def _grain(
    rng: np.random.Generator, extent_A: float, cell: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    vectors, frac, height = cell
    n = int(np.ceil(1.5 * extent_A / np.min(np.abs(np.linalg.svd(vectors)[1])))) + 1
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1), indexing="ij")
    xy = ((np.c_[i.ravel(), j.ravel()][:, None] + frac[None]) @ vectors).reshape(-1, 2)
    strain = np.eye(2) + rng.normal(0, 0.01, (2, 2))
    xy = xy @ (rotation(rng.uniform(0, 2 * np.pi)) @ strain).T + rng.uniform(-3, 3, 2)
    keep = np.max(np.abs(xy), axis=1) < extent_A / 2 + 2
    return xy[keep], np.tile(height, i.size)[keep]


def _outline_depth(rng: np.random.Generator, xy: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Depth below the nearest side of an irregular polygon, negative outside."""
    k = int(rng.integers(5, 10))
    t = np.linspace(0, 2 * np.pi, k, endpoint=False) + rng.normal(0, 0.2, k)
    normal, distance = np.c_[np.cos(t), np.sin(t)], radius * rng.uniform(0.8, 1.15, k)
    return np.min(distance[None] - (xy - centre) @ normal.T, axis=1)


def random_scene(rng: np.random.Generator, extent_A: float) -> Scene:
    """Columns in a square field around the origin: a crystal that fills it, particles, an edge, grains, or a support."""
    layout = rng.choice(["full", "particle", "edge", "grains", "support", "hole"], p=[0.24, 0.36, 0.1, 0.12, 0.1, 0.08])
    cell = random_cell(rng)
    xy, h = _grain(rng, extent_A, cell)
    reach = extent_A / 2
    depth = np.full(len(xy), 30.0)
    direction = rotation(rng.uniform(0, 2 * np.pi))[0]
    if layout == "particle":
        depth = _outline_depth(rng, xy, rng.normal(0, 0.3 * reach, 2), rng.uniform(5, max(8, 0.95 * reach)))
        if rng.random() < 0.35:
            xy2, h2 = _grain(rng, extent_A, cell if rng.random() < 0.6 else random_cell(rng))
            depth2 = _outline_depth(rng, xy2, rng.uniform(-reach, reach, 2), rng.uniform(5, max(8, 0.6 * reach)))
            xy, h, depth = _joined((xy, h * rng.uniform(0.5, 1), depth), (xy2, h2, depth2), rng)
    elif layout == "edge":
        depth = rng.uniform(-0.6, 0.8) * reach - xy @ direction
    elif layout == "hole":
        depth = -_outline_depth(rng, xy, rng.normal(0, 0.4 * reach, 2), rng.uniform(3, max(5, 0.5 * reach)))
    elif layout in ("grains", "support"):
        same = layout == "grains" and rng.random() < 0.7
        xy2, h2 = _grain(rng, extent_A, cell if same else random_cell(rng))
        offset = rng.normal(0, 0.3) * reach
        if layout == "support":
            h2 = h2 * rng.uniform(0.15, 0.7)
        xy, h, depth = _joined((xy, h, offset - xy @ direction), (xy2, h2, xy2 @ direction - offset), rng, flat=True)
    inside = depth > 0
    edge = (depth < 2.6) & inside
    inside &= ~(edge & (rng.random(len(xy)) < rng.uniform(0, 0.35))) & (rng.random(len(xy)) > rng.choice([0, 0, 0.02]))
    xy, h, depth, edge = xy[inside], h[inside], depth[inside], edge[inside]
    if len(xy):
        thick = np.minimum(1.0, rng.uniform(0.2, 1) + depth / rng.uniform(3, 25))
        if rng.random() < 0.5:  # a wedge
            thick = thick * np.clip(1 + rng.uniform(0.2, 1.2) * (xy @ rotation(rng.uniform(0, 6.28))[0]) / extent_A, 0.1, None)
        h = h * thick * np.exp(rng.normal(0, rng.uniform(0, 0.2), len(xy)))
        xy = xy + rng.normal(0, rng.uniform(0, 0.06), xy.shape)
    return Scene(xy, h, np.full(len(xy), COLUMN), edge)


def _joined(
    a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...], rng: np.random.Generator, flat: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns of two grains within their outlines, those of `b` that touch `a` left out."""
    a, b = (tuple(v[p[2] > 0] for v in p) for p in (a, b))
    if len(a[0]) and len(b[0]):
        far = cKDTree(a[0]).query(b[0])[0] > rng.uniform(1.4, 2.4)
        b = tuple(v[far] for v in b)
    xy, h, depth = (np.concatenate([p, q]) for p, q in zip(a, b, strict=True))
    return xy, h, np.full(len(xy), 30.0) if flat else depth


@dataclass
class Rendered:
    """Counts (channels, size, size) of the middle frame and of its neighbours' means, and the columns in pixels."""

    image: torch.Tensor
    column_px: np.ndarray
    column_class: np.ndarray
    surface: np.ndarray


def _strongest_near(xy_A: np.ndarray, height: np.ndarray, reach_A: float = 6.0) -> np.ndarray:
    """Largest height (n,) among a column and those within reach."""
    if len(xy_A) < 2:
        return np.maximum(height, 1e-9)
    distance, index = cKDTree(xy_A).query(xy_A, k=min(20, len(xy_A)), distance_upper_bound=reach_A)
    values = np.where(np.isfinite(distance), np.r_[height, 0.0][index], 0.0)
    return np.maximum(values.max(1), 1e-9)


def _shows(clean: np.ndarray, at_px: np.ndarray, reach_px: float) -> np.ndarray:
    """Whether the noise-free image has a maximum within reach of each position (n, 2)."""
    tops = np.argwhere((clean == maximum_filter(clean, 3)) & (clean > clean.min()))
    if not len(tops) or not len(at_px):
        return np.zeros(len(at_px), bool)
    return np.asarray(cKDTree(tops).query(at_px)[0] < reach_px)


def _merged(scene: Scene, least_A: float) -> Scene:
    """Columns nearer than `least_A` as one, at the mean weighted by height."""
    pairs = cKDTree(scene.xy_A).query_pairs(least_A, output_type="ndarray") if len(scene.xy_A) else np.zeros((0, 2), int)
    if not len(pairs):
        return scene
    xy, h, keep = scene.xy_A.copy(), scene.height.copy(), np.ones(len(scene.xy_A), bool)
    for a, b in pairs:
        if keep[a] and keep[b]:
            xy[a] = (h[a] * xy[a] + h[b] * xy[b]) / (h[a] + h[b])
            h[a], keep[b] = h[a] + h[b], False
    return Scene(xy[keep], h[keep], scene.column_class[keep], scene.surface[keep])


def render(
    rng: np.random.Generator, size: int, sampling_A: float, frames: tuple[int, int] = (0, 0), detector: Detector = "haadf",
    sheet: bool = False,
) -> Rendered:  # fmt: skip
    """A random incoherent image of `size` pixels a side, with the means of `frames` (near, far) neighbouring frames.

    Surface columns come and go between frames where there are neighbours; the truth is that of the middle frame. A `sheet` is a
    honeycomb instead of a crystal.
    """
    extent = size * sampling_A
    scene = _sheet_scene(rng, extent) if sheet else random_scene(rng, extent)
    scene.height = np.maximum(scene.height, 0) ** rng.uniform(*POWERS[detector])
    # mostly a probe that resolves the nearest columns, at times one that sees dumbbells as one
    spacing = np.median(cKDTree(scene.xy_A).query(scene.xy_A, k=2)[0][:, 1]) if len(scene.xy_A) > 1 else 2.5
    if spacing < 2.0 and not sheet and rng.random() < 0.4:
        spacing *= 2
    width = float(np.clip(rng.uniform(0.42, 0.92) * spacing, max(0.5, 2.0 * sampling_A), 2.0))
    scene = _merged(scene, MERGED * width)
    strongest = np.max(scene.height) if len(scene.height) else 1.0
    height = scene.height / max(strongest, 1e-9)
    states = _states(rng, scene.surface, frames)
    scan = draw_scan(rng, scene.xy_A, height, size, sampling_A, (width, spacing), detector, sheet)
    seen = scan.columns(height * states[0])
    images = []
    for state, count in zip(states, (1, *frames), strict=True):
        if count:
            images.append(torch.as_tensor(scan.record(rng, height * state, count), dtype=torch.float32))
        else:
            images.append(torch.zeros(size, size))
    share = height / _strongest_near(scene.xy_A, height)
    there = (states[0] > 0.5) & (share > INVISIBLE) & (height > 0.01)
    shows = np.ones(len(height), bool)
    shows[scan.near] = _shows(seen, scan.at_px[scan.near], max(SHOWN_A / sampling_A, 1.5))
    weak = (share < WEAKEST) | (height < 0.03) | ((share < SHOULDER) & ~shows) | scan.under_dirt
    kind = np.where(weak, WEAK, scene.column_class)
    at = scene.xy_A[there] / sampling_A + (size - 1) / 2
    shown = np.all((at > -4) & (at < size + 3), axis=1)
    return Rendered(torch.stack(images), at[shown], kind[there][shown], scene.surface[there][shown])


def _states(rng: np.random.Generator, surface: np.ndarray, frames: tuple[int, int]) -> list[np.ndarray]:
    """Occupancy (n,) of columns in the middle frame and on average in its neighbours; some at the surface come and go."""
    blink = surface & (rng.random(len(surface)) < rng.uniform(0.3, 0.9)) if any(frames) else np.zeros(len(surface), bool)
    occupied = rng.uniform(0.2, 0.9)
    return [np.where(blink, rng.binomial(max(n, 1), occupied, len(surface)) / max(n, 1), 1.0) for n in (1, *frames)]


def _sheet_scene(rng: np.random.Generator, extent_A: float) -> Scene:
    """A honeycomb sheet in a square field around the origin."""
    xy, h, edge = honeycomb(rng, extent_A)
    return Scene(xy, h, np.full(len(xy), COLUMN), edge)
