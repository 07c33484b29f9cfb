"""Frames at another pixel size, and where points lie on either grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

#: rows that are resampled together
_STRIP = 128


@dataclass(frozen=True)
class Grid:
    """A frame's pixel grid and a finer or coarser one over the same area; pixel centres lie at integers on both.

    Attributes
    ----------
    frame_shape, shape
        (rows, cols) of the frame and of the other grid.
    """

    frame_shape: tuple[int, int]
    shape: tuple[int, int]

    @classmethod
    def scaled(cls, frame_shape: Sequence[int], factor: float) -> Grid:
        """Grid with about `factor` times as many pixels an axis; exactly the area of the frame."""
        rows, cols = frame_shape
        return cls((rows, cols), (max(1, round(rows * factor)), max(1, round(cols * factor))))

    @property
    def same(self) -> bool:
        """True when nothing has to be done."""
        return self.frame_shape == self.shape

    @property
    def factor(self) -> NDArray[np.float64]:
        """(2,) pixels of the grid per pixel of the frame."""
        return np.array(self.shape, np.float64) / np.array(self.frame_shape, np.float64)

    def to_grid(self, points_px: NDArray[np.floating]) -> NDArray[np.float64]:
        """Frame positions (..., 2) on the grid."""
        return (np.asarray(points_px, np.float64) + 0.5) * self.factor - 0.5

    def to_frame(self, points_px: NDArray[np.floating]) -> NDArray[np.float64]:
        """Grid positions (..., 2) in the frame."""
        return (np.asarray(points_px, np.float64) + 0.5) / self.factor - 0.5

    def resample(self, frame: NDArray[np.floating]) -> NDArray[np.float32]:
        """Frame (rows, cols) on the grid: cubic, over as many pixels as the coarser of the two grids needs (no aliasing)."""
        image = np.asarray(frame, np.float32)
        if self.same:
            return image
        rows = _weights(self.frame_shape[0], self.shape[0])
        cols = _weights(self.frame_shape[1], self.shape[1])
        out = np.empty(self.shape, np.float32)
        for top in range(0, self.shape[0], _STRIP):  # what is turned round stays in the cache
            strip = rows[top : top + _STRIP] @ image
            out[top : top + _STRIP] = (cols @ np.ascontiguousarray(strip.T)).T
        return out


@lru_cache(maxsize=16)
def _weights(before: int, after: int) -> sparse.csr_array:
    """Sparse matrix (after, before) of the cubic kernel with a = -0.5, stretched where the new grid is coarser.

    The same as ``torch.nn.functional.interpolate(mode="bicubic", antialias=True)``, with which networks are trained.
    """
    step = before / after
    stretch = max(step, 1.0)
    centre = (np.arange(after) + 0.5) * step - 0.5
    reach = int(np.ceil(2 * stretch)) + 1
    index = np.round(centre).astype(int)[:, None] + np.arange(-reach, reach + 1)
    x = np.abs(index - centre[:, None]) / stretch
    inner, outer = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = np.where(x < 1, inner, np.where(x < 2, outer, 0.0)) * ((index >= 0) & (index < before))
    weight /= weight.sum(1, keepdims=True)
    used = weight != 0
    row = np.broadcast_to(np.arange(after)[:, None], index.shape)
    return sparse.csr_array((weight[used].astype(np.float32), (row[used], index[used])), shape=(after, before))
