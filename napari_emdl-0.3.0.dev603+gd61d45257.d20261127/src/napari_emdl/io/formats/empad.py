"""EMPAD (Cornell, Thermo Fisher): 128 x 128 pixels and two rows of bookkeeping a frame, float32, with or without its XML."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line, parse_xml
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.formats.raw import RawLayout, frames_source

_PIXELS, _FOOTER_ROWS = 128, 2
_FRAME_BYTES = (_PIXELS + _FOOTER_ROWS) * _PIXELS * 4


def read_empad_xml(path: Path) -> Found:
    """Open the scan that an EMPAD XML file describes; its ``.raw`` file lies beside it."""
    with one_line(path.name, "EMPAD .xml file"):
        root = parse_xml(path.read_bytes(), path.name)
        named = root.find(".//raw_file")
        if named is None or not named.get("filename"):
            raise OpenError(f"{path.name} is not an EMPAD file: it names no raw_file")
        name = re.split(r"[\\/]", str(named.get("filename")))[-1]
        raw = _beside(path, name)
        series = _number(root, "series_count")
        scan = _size(root, "pix_y"), _size(root, "pix_x")
        found = _read(raw, None if series else scan if all(scan) else _scan_in_name(name))
        step = _step_nm(root, found.scan)
        pixel = _float(_text(root, "calibrated_pixelsize"))
        calibration = Calibration().override(
            "file", pixel_nm=step, q_pixel_invA=(pixel * 0.1 * 1e9,) * 2 if pixel else None, energy_keV=_energy_keV(root)
        )
        facts = {"format": "EMPAD", "raw": raw.name}
        return Found(
            found.data,
            found.axes,
            calibration,
            path.stem,
            metadata=facts,
            signal_type="diffraction",
            notes=found.notes,
            scan=found.scan,
        )


def read_empad_raw(path: Path, scan_given: bool = False) -> Found | None:
    """Open an EMPAD ``.raw`` file alone; None when it is none by its size and values.

    Parameters
    ----------
    path
        File; a name that ends in ``_x128_y64`` tells the scan.
    scan_given
        True when the user gives the scan, so that nothing need be said of it.
    """
    size = path.stat().st_size
    if size == 0 or size % _FRAME_BYTES or not _plausible(path):
        return None
    return _read(path, _scan_in_name(path.name))


def _beside(path: Path, name: str) -> Path:
    for candidate in (path.with_name(name), path.with_suffix(".raw")):
        if candidate.is_file():
            return candidate
    raise OpenError(f"{path.name} describes {name}, which is not beside it; put both files into one folder")


def _read(raw: Path, scan: tuple[int, int] | None) -> Found:
    layout = RawLayout(footer_rows=_FOOTER_ROWS)
    count, rest = divmod(raw.stat().st_size, _FRAME_BYTES)
    if count == 0 or rest:
        raise OpenError(f"{raw.name} does not hold whole EMPAD frames ({_FRAME_BYTES} bytes each); is it truncated?")
    source = frames_source(raw, (count,), (_PIXELS, _PIXELS), np.dtype("<f4"), layout)
    if scan is not None and scan[0] * scan[1] > count:
        whole = count // scan[1]
        if not whole:
            raise OpenError(f"{raw.name} holds {count} frames; its scan of {scan[0]} x {scan[1]} needs {scan[0] * scan[1]}")
        notes: tuple[str, ...] = (f"the recording was stopped: {whole} of {scan[0]} rows of the scan are whole",)
        scan = (whole, scan[1])
    else:
        notes = ()
    axes = (Axis(count, navigate=True), Axis(_PIXELS, letter="Q"), Axis(_PIXELS, letter="K"))
    facts: dict[str, Any] = {"format": "EMPAD .raw"}
    return Found(source, axes, name=raw.stem, metadata=facts, signal_type="diffraction", notes=notes, scan=scan)


def _plausible(path: Path) -> bool:
    """True when the first frame can be EMPAD's: finite, moderate float32 values."""
    with path.open("rb") as file:
        values = np.fromfile(file, "<f4", _PIXELS * _PIXELS)
    if not np.isfinite(values).all():
        return False
    size = np.abs(values[values != 0])
    return size.size == 0 or bool(np.median(size) > 1e-12 and size.max() < 1e12)


def _scan_in_name(name: str) -> tuple[int, int] | None:
    match = re.search(r"_x(\d{1,5})_y(\d{1,5})(?=\D|$)", name, re.IGNORECASE)
    return (int(match.group(2)), int(match.group(1))) if match and int(match.group(1)) and int(match.group(2)) else None


def _text(root: ElementTree.Element, name: str) -> str:
    item = root.find(f".//{name}")
    return (item.text or "").strip() if item is not None else ""


def _number(root: ElementTree.Element, name: str) -> int:
    text = _text(root, name)
    return int(text) if text.isdigit() and len(text) < 9 else 0


def _size(root: ElementTree.Element, name: str) -> int:
    return _number(root, name)


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _step_nm(root: ElementTree.Element, scan: tuple[int, int] | None) -> tuple[float, float] | None:
    """Scan step from the field of view (m), in the two ways it was written."""
    if scan is None:
        return None
    field = _text(root, "get_full_scan_field_of_view")
    if field:
        try:
            sizes = [float(v) for v in ast.literal_eval(field)]
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
        return (sizes[0] / scan[0] * 1e9, sizes[1] / scan[1] * 1e9) if len(sizes) == 2 and min(sizes) > 0 else None
    view = root.find(".//full_scan_field_of_view")
    if view is None:
        return None
    # the field of view of the larger dimension, multiplied by the factor to the microscope's own scan
    width, factor = _float(_text(view, "x")), _float(_text(view, "scale_factor")) or 1.0
    return (width / factor / max(scan) * 1e9,) * 2 if width else None


def _energy_keV(root: ElementTree.Element) -> float | None:
    for name in ("high_voltage", "get_high_voltage"):
        value = _float(_text(root, name))
        if value is not None:
            kilo = value / 1e3 if value > 3000 else value
            return kilo if 1 <= kilo <= 3000 else None
    return None
