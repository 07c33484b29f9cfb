"""Candidates out of correlation maps: local maxima, one per spacing, the strongest of each pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree


def local_maxima(maps: NDArray[np.float32], floor: float) -> tuple[NDArray[Any], ...]:
    """Places above `floor` and above all eight neighbours (ties: the first wins), not on the border.

    Returns
    -------
    which, row, col, value
        Flat arrays.
    """
    rows, cols = maps.shape[1:]
    flat = maps.ravel()
    place = np.flatnonzero(flat > floor)
    within = place % (rows * cols)
    row, col = within // cols, within % cols
    place = place[(row > 0) & (row < rows - 1) & (col > 0) & (col < cols - 1)]
    for step in (1, cols, cols + 1, cols - 1):
        value = flat[place]
        place = place[(value > flat[place - step]) & (value >= flat[place + step])]
    which, within = np.divmod(place, rows * cols)
    return which, within // cols, within % cols, flat[place]


def local_spread(maps: NDArray[np.float32], reach_px: float, crowded: bool = False) -> NDArray[np.float32]:
    """Standard deviation about each pixel of (n, rows, cols) maps of zero mean, what stands far above the rest clipped.

    With `crowded` peaks may cover a quarter of a map: everything above 1.4 standard deviations is clipped, the noise being
    taken for normal.
    """
    square = np.square(maps)
    middle = square.mean(axis=(1, 2), keepdims=True)
    for _ in range(3):
        middle = 1.15 * np.minimum(square, 6 * middle).mean(axis=(1, 2), keepdims=True)
    clip, left = 9.0, 1.0
    if crowded:
        usual = np.square(1.48) * np.median(square[:, ::2, ::2], axis=(1, 2), keepdims=True)
        middle, clip, left = np.minimum(middle, usual), 2.0, 0.6  # the mean of what is left of a normal variate
    size = int(np.clip(2 * reach_px + 1, 5, max(5, min(maps.shape[1:]) // 2)))
    np.minimum(square, clip * middle, out=square)
    out = ndimage.uniform_filter(square, (0, size, size), mode="reflect") / left
    return np.sqrt(np.maximum(out, 0.25 * middle)).astype(np.float32)


def parabola(maps: NDArray[np.floating], which: NDArray[Any], i: NDArray[Any], j: NDArray[Any]) -> tuple[Any, Any]:
    """Vertex of a parabola through each maximum and its neighbours, within half a step."""
    here = maps[which, i, j]

    def vertex(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
        curvature = before + after - 2 * here
        return np.clip(np.where(curvature < 0, 0.5 * (before - after) / np.where(curvature < 0, curvature, -1), 0), -0.5, 0.5)

    return vertex(maps[which, i - 1, j], maps[which, i + 1, j]), vertex(maps[which, i, j - 1], maps[which, i, j + 1])


def thin(
    which: NDArray[Any], row: NDArray[Any], col: NDArray[Any], score: NDArray[Any], spacing_px: float
) -> NDArray[np.bool_]:
    """Mask of the peaks that stay when, strongest first, each takes out the weaker ones within `spacing_px`."""
    keep = np.ones(len(which), bool)
    if spacing_px <= 0 or len(which) < 2:
        return keep
    apart = 10 * spacing_px + float(max(np.ptp(row), np.ptp(col)))
    pairs = cKDTree(np.stack([row + which * apart, col], axis=1)).query_pairs(spacing_px, output_type="ndarray")
    if not len(pairs):
        return keep
    rank = np.empty(len(which), np.intp)
    rank[np.lexsort((np.arange(len(which)), -score))] = np.arange(len(which))
    swap = rank[pairs[:, 0]] > rank[pairs[:, 1]]
    strong, weak = np.where(swap, pairs[:, 1], pairs[:, 0]), np.where(swap, pairs[:, 0], pairs[:, 1])
    undecided = np.zeros(len(which), bool)
    undecided[pairs] = True
    while undecided.any():
        blocked = np.zeros(len(which), bool)
        blocked[weak[undecided[strong]]] = True
        settled = undecided & ~blocked  # nothing stronger and undecided is near: these stay
        undecided &= ~settled
        gone = weak[settled[strong]]
        keep[gone] = False
        undecided[gone] = False
    return keep


def strongest(which: NDArray[Any], score: NDArray[Any], most: int) -> NDArray[np.bool_]:
    """Mask of the `most` highest scores of each pattern."""
    order = np.lexsort((-score, which))
    ordered = which[order]
    first = np.searchsorted(ordered, ordered)
    keep = np.empty(len(which), bool)
    keep[order] = np.arange(len(which)) - first < most
    return keep


def full_patterns(which: NDArray[Any], shown: NDArray[np.bool_], n: int, most: int) -> dict[str, int]:
    """How many of `n` patterns have more shown disks than the `most` that are kept: {"n_full": count}, empty where none."""
    full = int((np.bincount(which[shown], minlength=n) > most).sum())
    return {"n_full": full} if full else {}
