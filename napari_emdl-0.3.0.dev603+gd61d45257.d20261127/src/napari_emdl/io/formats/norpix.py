"""Norpix StreamPix ``.seq``, which Direct Electron's Celeritas and other fast cameras write: plain, stamped frames.

Layout after the readers of PIMS and LiberTEM.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.base.signals import Calibration
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
    interval = _interval_s(path, offset, record, image_bytes, count)
    if interval is None and np.isfinite(rate_Hz) and 1e-3 < rate_Hz < 1e6:
        interval = 1.0 / rate_Hz
    facts: dict[str, Any] = {"format": "Norpix .seq", "bits": real_bits or bits}
    axes = (Axis(count, letter="T"), Axis(rows, letter="Y"), Axis(cols, letter="X"))
    calibration = Calibration().override("file", frame_interval_s=interval)
    return Found(source, axes, calibration, path.stem, metadata=facts, notes=tuple(notes))


def _interval_s(path: Path, offset: int, record: int, image_bytes: int, count: int) -> float | None:
    """Mean time between frames by the stamps (s, ms, \u00b5s) after the first and the last one."""
    if count < 2 or record < image_bytes + 8:
        return None
    times = []
    with path.open("rb") as file:
        for number in (0, count - 1):
            file.seek(offset + number * record + image_bytes)
            seconds, milli, micro = struct.unpack("<iHH", file.read(8))
            times.append(seconds + milli * 1e-3 + micro * 1e-6)
    interval = (times[1] - times[0]) / (count - 1)
    return interval if 1e-7 < interval < 1e5 else None
