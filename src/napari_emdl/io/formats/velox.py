"""When the frames of a Velox movie were taken: every frame has its own metadata, with the camera's time stamp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.timing import Timing, by_stamps
from napari_emdl.io.hdf5gate import Gate, read_small

#: Frames whose metadata (60 kB of JSON each) are read.
_MOST_FRAMES = 1000


def velox_timing(path: Path, shape: tuple[int, ...]) -> Timing:
    """Interval and gaps of the only image of this shape (frames, rows, cols) by ``Detectors[...].TimeStamp`` (\u00b5s).

    STEM images have no stamp of their own: their interval stays that of the scan.
    """
    frames, rows, cols = shape
    if frames > _MOST_FRAMES:
        return Timing()
    with Gate(path) as gate:
        images = gate.get("Data/Image")
        groups = [g for _, g in gate.children(images)] if isinstance(images, h5py.Group) else []
        pairs = [(g.get("Data"), g.get("Metadata")) for g in groups if isinstance(g, h5py.Group)]
        tables = [
            m
            for d, m in pairs
            if isinstance(d, h5py.Dataset) and d.shape == (rows, cols, frames) and isinstance(m, h5py.Dataset) and m.ndim == 2
        ]
        if len(tables) != 1 or tables[0].shape[1] != frames or tables[0].dtype != np.uint8:
            return Timing()
        try:
            columns = np.asarray(read_small(tables[0], path.name)).T
        except OpenError:
            return Timing()
    stamps = [_stamp_s(column.tobytes()) for column in columns]
    known = [stamp for stamp in stamps if stamp is not None]
    return by_stamps(known, 1e-6) if len(known) == frames else Timing()


def _stamp_s(raw: bytes) -> float | None:
    try:
        facts: Any = json.loads(raw.split(b"\0", 1)[0])
        properties = facts["CustomProperties"]
        return next(float(item["value"]) * 1e-6 for name, item in properties.items() if name.endswith("].TimeStamp"))
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        return None
