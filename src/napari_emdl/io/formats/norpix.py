"""Norpix StreamPix ``.seq``, which Direct Electron's Celeritas and other fast cameras write: plain, stamped frames.

Layout after the readers of PIMS and LiberTEM.
"""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.base.signals import Calibration
from napari_emdl.base.timing import Timing, by_stamps
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.sources import RecordSource

_MOST_PIXELS = 2**28


def read_seq(path: Path) -> Found:
    """Open a ``.seq`` file lazily as a movie (a stack of patterns with ``shape=(rows, cols)``)."""
    with one_line(path.name, ".seq file"):
        return _read(path)


def _read(path: Path) -> Found:
    with path.open("rb") as file:
        head = file.read(1024)
    if len(head) < 1024:
        raise OpenError(f"{path.name} is truncated: its header has 1024 bytes, the file has {len(head)}")
    version = struct.unpack("<i", head[28:32])[0]
    cols, rows, bits, real_bits, image_bytes, _kind, allocated, _, record = struct.unpack("<9I", head[548:584])
    rate_Hz = struct.unpack("<d", head[584:592])[0]
    packed = struct.unpack("<I", head[620:624])[0]
    if packed:
        raise OpenError(f"{path.name} holds compressed frames (format {packed}), which are not read; export it uncompressed")
    if bits not in (8, 16, 32) or not (0 < rows * cols <= _MOST_PIXELS):
        raise OpenError(
            f"{path.name} says that its frames have {rows} x {cols} pixels of {bits} bit; it is damaged, or in colour"
        )
    dtype = np.dtype(f"<u{bits // 8}")
    frame_bytes = rows * cols * dtype.itemsize
    if record < frame_bytes or image_bytes < frame_bytes:
        raise OpenError(f"{path.name} says that a frame of {frame_bytes} bytes lies in {record}; it is damaged, or compressed")
    offset = 8192 if version >= 5 else 1024
    count = (path.stat().st_size - offset) // record
    if count < 1:
        raise OpenError(f"{path.name} is truncated: it holds no whole frame of {rows} x {cols}")
    notes = [f"the header counts {allocated} frames, the file holds {count}"] if 0 < allocated != count else []
    notes += [
        f"{path.name}{ending} lies beside the file and is not applied"
        for ending in (".dark.mrc", ".gain.mrc")
        if path.with_name(path.name + ending).is_file()
    ]
    source = RecordSource(path, (count,), (rows, cols), dtype, 0, offset, footer=record - frame_bytes)
    interval = 1.0 / rate_Hz if np.isfinite(rate_Hz) and 1e-3 < rate_Hz < 1e6 else None
    facts: dict[str, Any] = {"format": "Norpix .seq", "bits": real_bits or bits}
    axes = (Axis(count, letter="T"), Axis(rows, letter="Y"), Axis(cols, letter="X"))
    calibration = Calibration().override("file", frame_interval_s=interval)
    timing = partial(_timing, path, offset, record, image_bytes, count)
    return Found(source, axes, calibration, path.stem, metadata=facts, notes=tuple(notes), timing=timing)


def _timing(path: Path, offset: int, record: int, image_bytes: int, count: int) -> Timing:
    """Interval and gaps by the stamps (s, ms, \u00b5s) behind the frames."""
    if record < image_bytes + 8:
        return Timing()
    layout = np.dtype(
        {
            "names": ["s", "ms", "us"],
            "formats": ["<i4", "<u2", "<u2"],
            "offsets": [image_bytes, image_bytes + 4, image_bytes + 6],
            "itemsize": record,
        }
    )
    stamps = np.memmap(path, layout, "r", offset, (count,))
    times = stamps["s"].astype(np.float64) + stamps["ms"] * 1e-3 + stamps["us"] * 1e-6
    # cameras without microseconds leave them at zero
    return by_stamps(times, 1e-6 if np.any(stamps["us"]) else 1e-3)
