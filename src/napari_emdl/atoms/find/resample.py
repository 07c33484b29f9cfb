"""Frames at another pixel size, and where points lie on either grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi


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
        """Frame (rows, cols) on the grid, cubic; low-passed first where the grid is coarser."""
        image = np.asarray(frame, np.float32)
        if self.same:
            return image
        coarser = np.maximum(1 / self.factor, 1.0)
        if np.any(coarser > 1.0):
            # a Gaussian that brings the pixel's width up to that of the coarser pixel
            image = ndi.gaussian_filter(image, np.sqrt(coarser**2 - 1) / np.sqrt(12), mode="reflect")
        step = 1 / self.factor
        return ndi.affine_transform(
            image, step, offset=0.5 * step - 0.5, output_shape=self.shape, order=3, mode="reflect", output=np.float32
        )
