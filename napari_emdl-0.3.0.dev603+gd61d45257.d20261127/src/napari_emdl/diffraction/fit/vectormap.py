"""Bragg vector map that follows a slider: where every disk falls is worked out once, a threshold only counts anew."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.peaks import PeakTable


class VectorMap:
    """Vector map of one table for any limits.

    Every disk goes to its nearest bin. :func:`napari_emdl.diffraction.lattice.bragg_vector_map` shares it among four, which
    takes longer and shows the same at bins of half a pixel.

    Parameters
    ----------
    disks
        All disks of the scan.
    origin_px
        Origin of every position, broadcast to (positions, 2).
    shape
        (rows, cols) of the detector.
    centre_px
        Where the common origin lies in the map.
    upsample
        Bins per pixel.
    """

    def __init__(
        self,
        disks: PeakTable,
        origin_px: ArrayLike,
        shape: tuple[int, int],
        centre_px: tuple[float, float],
        upsample: int = 2,
    ) -> None:
        origin = np.broadcast_to(np.asarray(origin_px, float).reshape(-1, 2), (disks.n_positions, 2))
        self.shape = (shape[0] * upsample, shape[1] * upsample)
        place = np.rint((disks.positions_px() - origin[disks.flat_index()] + centre_px) * upsample)
        weight = disks.column("intensity").astype(float) if "intensity" in disks.fields else np.ones(len(place))
        inside = np.isfinite(weight) & np.all((place >= 0) & (place < self.shape), axis=1)
        self._bin = np.where(inside, place[:, 0] * self.shape[1] + place[:, 1], 0).astype(np.int32)
        self._weight = np.where(inside, np.clip(weight, 0, None), 0.0)

    def image(self, kept: PeakTable) -> NDArray[np.float32]:
        """Map of a view of the table, (rows, cols) float32: intensity a bin."""
        mask = kept.mask
        bins, weight = (self._bin, self._weight) if mask is None else (self._bin[mask], self._weight[mask])
        counted = np.bincount(bins, weights=weight, minlength=self.shape[0] * self.shape[1])
        return counted.reshape(self.shape).astype(np.float32)
