"""Two finds of the same disks: which pairs agree, what only one of them has, and how far the strain from them differs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.pairing import pair_disks, share_of
from napari_emdl.diffraction.fit.strain import COMPONENTS, StrainMap
from napari_emdl.jobs.control import Control

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How far two tables agree at every position.

    Attributes
    ----------
    agreed, only_first, only_second
        Number of pairs and of disks without partner, of the tables' leading shape.
    share
        ``agreed / (agreed + only_first + only_second)``, NaN where neither has a disk.
    distance_px
        Median distance within the pairs of a position, NaN where there is none.
    median_distance_px
        The same over all pairs.
    """

    agreed: NDArray[np.int64]
    only_first: NDArray[np.int64]
    only_second: NDArray[np.int64]
    share: Floats
    distance_px: Floats
    median_distance_px: float

    @property
    def total_share(self) -> float:
        """Share over all positions together."""
        return share_of(int(self.agreed.sum()), int(self.only_first.sum()), int(self.only_second.sum()))


def compare_disks(first: PeakTable, second: PeakTable, max_distance_px: float, control: Control | None = None) -> Agreement:
    """Agreement of two tables at every position; see :func:`pair_disks`."""
    pairs = pair_disks(first, second, max_distance_px, control)
    n = first.n_positions
    of_first, of_second = first.flat_index(), second.flat_index()
    agreed = np.bincount(of_first[pairs.first], minlength=n)
    alone_a = np.bincount(of_first[pairs.only_first], minlength=n)
    alone_b = np.bincount(of_second[pairs.only_second], minlength=n)
    total = agreed + alone_a + alone_b
    share = np.where(total > 0, agreed / np.maximum(total, 1), np.nan)
    distance = np.full(n, np.nan)
    order = np.lexsort((pairs.distance_px, of_first[pairs.first]))
    begin = np.r_[0, np.cumsum(agreed)[:-1]]
    some = agreed > 0
    distance[some] = pairs.distance_px[order][begin[some] + (agreed[some] - 1) // 2]
    median = float(np.median(pairs.distance_px)) if len(pairs.distance_px) else float("nan")
    shape = first.shape
    return Agreement(
        agreed.reshape(shape),
        alone_a.reshape(shape),
        alone_b.reshape(shape),
        share.reshape(shape),
        distance.reshape(shape),
        median,
    )


def strain_difference(first: StrainMap, second: StrainMap) -> Floats:
    """(R, C, 4) second minus first in exx, eyy, exy, theta_rad; NaN where either is masked.

    Raises
    ------
    EmdlError
        When they cover different scans or have different axes.
    """
    if first.shape != second.shape:
        raise EmdlError(f"strain over {first.shape} and over {second.shape} cannot be compared; they must be of the same scan")
    if not np.isclose(first.axis_deg, second.axis_deg):
        raise EmdlError(f"the x axes differ ({first.axis_deg:g} and {second.axis_deg:g} degrees); fit both on the same axes")
    frames = [(strain.attrs.get("axes") or {}).get("text", "") for strain in (first, second)]
    if all(frames) and frames[0] != frames[1]:
        raise EmdlError(f"the axes differ ({frames[0]} / {frames[1]}); fit both on the same axes")
    return np.stack([second.component(name) - first.component(name) for name in COMPONENTS], axis=-1)
