"""Large frames in overlapping tiles."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tile:
    """Part of a frame: where it starts, its padded size, and the core (start, stop) an axis that counts."""

    start: tuple[int, int]
    size: tuple[int, int]
    core: tuple[tuple[int, int], tuple[int, int]]


def tiles(shape: tuple[int, int], tile: int, margin: int, multiple: int) -> list[Tile]:
    """Tiles of a frame, at most `tile` pixels a side, whose cores lie `margin` pixels inside."""
    rows, cols = (spans(n, tile, margin, multiple) for n in shape)
    return [Tile((r[0], c[0]), (r[1], c[1]), (r[2], c[2])) for r in rows for c in cols]


def spans(length: int, tile: int, margin: int, multiple: int) -> list[tuple[int, int, tuple[int, int]]]:
    """(start, padded size, core) of the tiles along one axis; all starts and cores are multiples of `multiple`."""

    if length <= tile:
        return [(0, _padded(length, multiple), (0, length))]
    step = tile - 2 * _padded(margin, multiple)
    # of equal size, so that no tile is nearly all margin
    step = _padded(-(-length // -(-length // step)), multiple)
    return [_span(core, min(length, core + step), length, margin, multiple) for core in range(0, length, step)]


def quartered(tile: Tile, shape: tuple[int, int], margin: int, multiple: int) -> list[Tile]:
    """Up to four tiles whose cores make up the core of `tile` in a frame of `shape`; none where it is as small as they get."""
    parts = []
    for (start, stop), length in zip(tile.core, shape, strict=True):
        half = -(-(stop - start) // (2 * multiple)) * multiple
        if stop - start <= max(2 * multiple, margin):
            return []
        parts.append([_span(low, min(low + half, stop), length, margin, multiple) for low in range(start, stop, half)])
    return [Tile((r[0], c[0]), (r[1], c[1]), (r[2], c[2])) for r, c in itertools.product(*parts)]


def _span(core: int, end: int, length: int, margin: int, multiple: int) -> tuple[int, int, tuple[int, int]]:
    """(start, padded size, core) of one tile along an axis."""
    margin, start = _padded(margin, multiple), max(0, core - _padded(margin, multiple))
    return start, min(_padded(length, multiple), _padded(end, multiple) + margin) - start, (core, end)


def _padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def spread(length: int, size: int, multiple: int, most: int = 3) -> list[int]:
    """Starts of up to `most` parts of `size` pixels along an axis, evenly from end to end; multiples of `multiple`."""
    count = min(most, max(1, length // size))
    ends = np.linspace(0, max(0, length - size), count) if count > 1 else [max(0, length - size) / 2]
    return [int(end) // multiple * multiple for end in ends]


def cut(images: NDArray[np.float32], tile: Tile) -> NDArray[np.float32]:
    """Tile of images (n, channels, rows, cols), filled up with zeros (the mean)."""
    (r0, c0), (height, width) = tile.start, tile.size
    part = images[:, :, r0 : r0 + height, c0 : c0 + width]
    pad = [(0, 0), (0, 0), (0, height - part.shape[2]), (0, width - part.shape[3])]
    return np.pad(part, pad) if any(p[1] for p in pad) else np.ascontiguousarray(part)


def in_core(candidates: NDArray[np.float32], tile: Tile) -> NDArray[np.float32]:
    """Candidates (row, col, score, ...) of a tile that lie in its core, in pixels of the whole grid."""
    moved = candidates[candidates[:, 2] > 0].copy()
    moved[:, 0] += tile.start[0]
    moved[:, 1] += tile.start[1]
    (r0, r1), (c0, c1) = tile.core
    inside = (moved[:, 0] >= r0 - 0.5) & (moved[:, 0] < r1 - 0.5) & (moved[:, 1] >= c0 - 0.5) & (moved[:, 1] < c1 - 0.5)
    return moved[inside]
