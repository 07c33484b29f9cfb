"""A datacube for disks whose patterns are elsewhere: peak lists alone are enough for lattice and strain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration, Datacube

#: Mark in the metadata of such a datacube.
DISKS_ONLY = "disks_only"


class _NoPatterns:
    """Array of zeros that takes no memory."""

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.shape = shape
        self.ndim = 4

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        return np.array(np.broadcast_to(np.zeros((), np.uint8), self.shape)[index])


def stand_in(disks: PeakTable, name: str = "disks") -> tuple[Datacube, PeakTable]:
    """Datacube of the shape of the scan with empty patterns, and the disks with the facts that a fit asks for.

    Parameters
    ----------
    disks
        Table over (scan rows, scan cols). Where it does not say how large the detector is, the disks say it.

    Raises
    ------
    EmdlError
        When there is no disk.
    """
    if len(disks.shape) != 2 or not disks.n_peaks:
        raise EmdlError("there are no disks over a scan in this file")
    known = disks.attrs.get("detector_shape")
    extent = [int(np.ceil(disks.column(axis).max())) + 1 for axis in ("row", "col")]
    rows, cols = (int(n) for n in known) if known is not None else extent
    calibration = disks.attrs.get("calibration")
    calibration = getattr(calibration, "calibration", calibration)
    calibration = calibration if isinstance(calibration, Calibration) else Calibration()
    data: Any = _NoPatterns((disks.shape[0], disks.shape[1], rows, cols))
    cube = Datacube(data, "datacube", calibration, name=name)
    cube = replace(cube, metadata={**cube.metadata, DISKS_ONLY: True})
    complete = disks.reshape(disks.shape)
    complete.attrs = {**disks.attrs, "detector_shape": (rows, cols), "calibration": calibration}
    return cube, complete


def is_stand_in(cube: Datacube | None) -> bool:
    """True for a datacube without patterns."""
    return cube is not None and bool(cube.metadata.get(DISKS_ONLY))
