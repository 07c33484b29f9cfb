"""Nion Swift: what its properties say of the axes of a ``.npy`` export, an ``.ndata`` file or its HDF5 store."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line, read_json
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.formats.raw import read_npy, read_npz

_MOST_BYTES = 16 * 2**20
_CALIBRATIONS = ("dimensional_calibrations", "spatial_calibrations")


def read_npy_export(path: Path) -> Found:
    """Open a .npy file, with the axes of the .json file that Swift writes beside it, where there is one."""
    found, beside = read_npy(path), path.with_suffix(".json")
    if not beside.is_file() or beside.stat().st_size > _MOST_BYTES:
        return found
    try:
        properties = read_json(beside)
    except OpenError:  # some other program's file
        return found
    return described(found, properties)


def read_ndata(path: Path) -> Found:
    """Open an .ndata file: a zip of ``data.npy`` and ``metadata.json``."""
    with one_line(path.name, ".ndata file"):
        found = read_npz(path, "data")
        with zipfile.ZipFile(path) as archive:
            if "metadata.json" not in archive.namelist() or archive.getinfo("metadata.json").file_size > _MOST_BYTES:
                return found
            properties = json.loads(archive.read("metadata.json"))
        return described(found, properties)


def described(found: Found, properties: Any) -> Found:
    """`found` with axes and beam energy as Swift's properties tell them; as it was where they are none of this array."""
    at = _of_array(properties)
    shape = found.data.shape
    steps = next((at[name] for name in _CALIBRATIONS if isinstance(at.get(name), list)), None)
    if steps is None or len(steps) != len(shape) or not all(isinstance(step, Mapping) for step in steps):
        return found
    sequence = 1 if at.get("is_sequence") else 0
    collection = _count(at.get("collection_dimension_count"))
    letters = ["T"] * sequence + (["R", "C"] if collection == 2 else [""] * collection)
    datum = len(shape) - len(letters)
    if datum < 1:
        return found
    axes: list[Axis] = []
    for size, step, letter in zip(shape, steps, [*letters, *[""] * datum], strict=True):
        units = step.get("units")
        scale = step.get("scale") if isinstance(units, str) and units else None
        number = float(scale) if isinstance(scale, (int, float)) else None
        axes.append(Axis(size, "", number, units if number is not None else None, letter, len(axes) < len(shape) - datum))
    if collection == 2 and datum == 2:
        axes[-2:] = [replace(axis, letter=letter) for axis, letter in zip(axes[-2:], "QK", strict=True)]
    facts = {**found.metadata, "format": f"Nion Swift ({found.metadata.get('format', '')})"}
    calibration = Calibration().override("file", energy_keV=_energy_keV(at))
    return replace(found, axes=tuple(axes), metadata=facts, calibration=calibration)


def described_by(found: Found, text: str) -> Found:
    """:func:`described` by properties as they stand in an attribute of HDF5."""
    try:
        return described(found, json.loads(text))
    except (ValueError, RecursionError):
        return found


def _of_array(properties: Any) -> Mapping[str, Any]:
    """The properties of the array itself: later versions keep them in a list of one."""
    if not isinstance(properties, Mapping):
        return {}
    for name in ("data_source", "data_sources"):
        inner = properties.get(name)
        if isinstance(inner, list) and len(inner) == 1 and isinstance(inner[0], Mapping):
            return inner[0]
    return properties


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int) and 0 <= value <= 2 else 0


def _energy_keV(properties: Mapping[str, Any]) -> float | None:
    at: Any = properties.get("metadata")
    for name in ("hardware_source", "autostem", "high_tension"):
        at = at.get(name) if isinstance(at, Mapping) else None
    return float(at) / 1e3 if isinstance(at, (int, float)) and at > 0 else None
