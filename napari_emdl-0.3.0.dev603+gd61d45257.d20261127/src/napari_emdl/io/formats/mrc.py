"""MRC stacks of cameras, and the ``_info.txt`` that Direct Electron writes beside its movies.

Header as CCP-EM's MRC2014. A cell of exactly 1 \u00c5 a pixel is what programs write where they know none; it stays unknown.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.sources import RawSource

_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_IMOD_STAMP = 1146047817


def read_mrc(path: Path) -> Found:
    """Open an MRC stack lazily: a movie, or the scan that Direct Electron's info file describes."""
    with one_line(path.name, ".mrc file"):
        return _read(path)


def _read(path: Path) -> Found:
    with path.open("rb") as file:
        head = file.read(1024)
        if len(head) < 1024:
            raise OpenError(f"{path.name} is truncated: an MRC header has 1024 bytes, the file has {len(head)}")
        order = ">" if head[212:214] == b"\x11\x11" else "<"
        cols, rows, count, mode = struct.unpack(order + "4i", head[:16])
        if not 0 <= mode <= 101:
            order = ">" if order == "<" else "<"
            cols, rows, count, mode = struct.unpack(order + "4i", head[:16])
        cells = struct.unpack(order + "3i", head[28:40])
        lengths_A = struct.unpack(order + "3f", head[40:52])
        beyond = struct.unpack(order + "i", head[92:96])[0]
        file.seek(1024)
        extended = file.read(48) if beyond == 128 * 1024 else b""
    if mode not in _TYPES:
        raise OpenError(f"{path.name} holds MRC data of mode {mode}; 0, 1, 2, 6 and 12 are read")
    if min(cols, rows, count) < 1 or beyond < 0:
        raise OpenError(f"{path.name} says that it holds {count} images of {rows} x {cols}; it is damaged")
    dtype = np.dtype(order + _TYPES[mode])
    if mode == 0 and struct.unpack(order + "i", head[152:156])[0] == _IMOD_STAMP and not head[156] & 1:
        dtype = np.dtype("u1")
    source = RawSource(path, (count, rows, cols), dtype, 1024 + beyond)
    notes: list[str] = []
    pixel_nm = _cell_nm(cells, lengths_A, extended, order)
    if pixel_nm == (0.1, 0.1):
        pixel_nm = None
        notes.append("a pixel of exactly 1 \u00c5 is what programs write where they know none; give the pixel size")
    facts: dict[str, Any] = {"format": "MRC"}
    info = _direct_electron(path)
    if info:
        return _with_info(path, source, info, facts)
    axes: tuple[Axis, ...] = (Axis(count, letter="T"), Axis(rows, letter="Y"), Axis(cols, letter="X"))
    if count == 1:
        source, axes = RawSource(path, (rows, cols), dtype, 1024 + beyond), axes[1:]
    calibration = Calibration().override("file", pixel_nm=pixel_nm)
    return Found(source, axes, calibration, path.stem, metadata=facts, notes=tuple(notes))


def _cell_nm(cells: tuple[int, ...], lengths_A: tuple[float, ...], extended: bytes, order: str) -> tuple[float, float] | None:
    """(row, col) pixel size in nm from the cell, or from FEI's extended header (m)."""
    if extended:
        pixel_m = struct.unpack(order + "f", extended[44:48])[0]
        if 1e-13 < pixel_m < 1e-5:
            return pixel_m * 1e9, pixel_m * 1e9
    sizes = [lengths_A[i] / cells[i] * 0.1 if cells[i] > 0 else 0.0 for i in (1, 0)]
    if not all(np.isfinite(s) and 0 < s < 1e6 for s in sizes):
        return None
    return round(sizes[0], 12), round(sizes[1], 12)


def _direct_electron(path: Path) -> dict[str, str]:
    """Entries of the info file beside a movie of Direct Electron; empty when there is none."""
    match = re.match(r"(\d{8}_\d+)_", path.name)
    if match is None or "movie" not in path.name:
        return {}
    for candidate in sorted(path.parent.glob(f"{match.group(1)}_*info.txt")):
        if candidate.stat().st_size > 2**20:
            continue
        lines = candidate.read_bytes().decode("utf-8", "replace").splitlines()
        return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines) if value}
    return {}


def _positive(info: dict[str, str], name: str) -> float | None:
    """A value of the info file; -1 means that the camera did not know it."""
    try:
        value = float(info.get(name, "-1"))
    except ValueError:
        return None
    return value if np.isfinite(value) and value > 0 else None


def _pair(info: dict[str, str], name: str, factor: float) -> tuple[float, float] | None:
    row, col = (_positive(info, name.format(axis)) for axis in "YX")
    return None if row is None or col is None else (row * factor, col * factor)


def _with_info(path: Path, source: RawSource, info: dict[str, str], facts: dict[str, Any]) -> Found:
    count, rows, cols = source.shape
    scanning = info.get("Scan - Enable", "").lower().startswith("enable")
    raster = info.get("Scan - Type", "Raster").lower().startswith("raster")
    mode = info.get("Instrument Project TEMorSTEM Mode", "-1")
    stem = scanning and mode != "0"
    facts = facts | {"camera": info["Camera Model"]} if "Camera Model" in info else facts
    step = _pair(info, "Specimen Pixel Size {} (nanometers)", 1.0)
    if not stem:
        fps, summed = _positive(info, "Frames Per Second"), _positive(info, "Autosave Movie Sum Count") or 1.0
        calibration = Calibration().override("file", pixel_nm=step, frame_interval_s=summed / fps if fps else None)
        axes = (Axis(count, letter="T"), Axis(rows, letter="Y"), Axis(cols, letter="X"))
        return Found(source, axes, calibration, path.stem, metadata=facts)
    part = "ROI Size" if info.get("Scan - ROI Enable", "").lower().startswith("enable") else "Size"
    shape = [int(_positive(info, f"Scan - {part} {axis}") or 0) for axis in "YX"]
    notes: tuple[str, ...] = ()
    scan = None
    if not raster:
        notes = ("the scan is not a raster: patterns stand in the order of recording",)
    elif min(shape) > 0:
        scan = (shape[0], shape[1])
        if scan[0] * scan[1] > count and count >= scan[1]:
            notes = (f"the recording was stopped: {count // scan[1]} of {scan[0]} rows of the scan are whole",)
            scan = (count // scan[1], scan[1])
        elif scan[0] * scan[1] > count:
            scan = None
    calibration = Calibration().override(
        "file",
        pixel_nm=step,
        q_pixel_invA=_pair(info, "Diffraction Pixel Size {}", 0.1),  # 1/nm
    )
    axes = (Axis(count, navigate=True), Axis(rows, letter="Q"), Axis(cols, letter="K"))
    return Found(source, axes, calibration, path.stem, metadata=facts, signal_type="diffraction", notes=notes, scan=scan)
