"""Calibration in HDF5 files: py4DSTEM's metadata, Prismatic's parameters, NeXus axes and loose attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.physics import wavelength_A
from napari_emdl.base.signals import Calibration
from napari_emdl.base.units import parse_unit
from napari_emdl.io.hdf5gate import Gate, read_small

# Loose attributes on the file, a group or the dataset: name -> (field, factor to its unit).
_LOOSE = {
    "kev": ("energy_keV", 1.0),
    "energy_kev": ("energy_keV", 1.0),
    "accelerating_voltage_kv": ("energy_keV", 1.0),
    "energy_ev": ("energy_keV", 1e-3),
    "semiangle_mrad": ("semiangle_mrad", 1.0),
    "convergence_semiangle_mrad": ("semiangle_mrad", 1.0),
    "semiangle_cutoff": ("semiangle_mrad", 1.0),
    "step_a": ("pixel_nm", 0.1),
    "step_nm": ("pixel_nm", 1.0),
    "scan_step_a": ("pixel_nm", 0.1),
    "scan_step_nm": ("pixel_nm", 1.0),
    "pixel_size_nm": ("pixel_nm", 1.0),
    "pixel_size_a": ("pixel_nm", 0.1),
    "q_pixel_inva": ("q_pixel_invA", 1.0),
    "q_pixel_size_inva": ("q_pixel_invA", 1.0),
    "frame_interval_s": ("frame_interval_s", 1.0),
}


def text_of(value: Any) -> str:
    """Text of an attribute or scalar dataset, whatever its encoding."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8").rstrip("\0")
        except UnicodeDecodeError:
            return value.decode("latin-1").rstrip("\0")
    if isinstance(value, np.ndarray):
        return text_of(value.flat[0]) if value.size else ""
    return str(value)


def attribute(item: Any, name: str, default: Any = "") -> Any:
    """Attribute of a group or dataset; `default` where it is not there or cannot be read."""
    try:
        return item.attrs.get(name, default)
    except (OSError, RuntimeError, TypeError, ValueError, UnicodeDecodeError):
        return default


def attributes(item: Any) -> dict[str, Any]:
    """All attributes that can be read."""
    out = {}
    for name in item.attrs:
        value = attribute(item, name, None)
        if value is not None:
            out[str(name)] = value
    return out


def class_of(group: h5py.Group) -> str:
    """Class that py4DSTEM wrote into a group: ``python_class`` since 0.14, ``py4dstem_class`` before."""
    return text_of(attribute(group, "python_class", attribute(group, "py4dstem_class")))


def positive_pair(value: Any) -> tuple[float, float] | None:
    """One or two positive numbers as (row, col), else None."""
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=float)).ravel()
    except (TypeError, ValueError, OverflowError):
        return None
    if numbers.size not in (1, 2) or not np.all(np.isfinite(numbers)) or not np.all(numbers > 0):
        return None
    return float(numbers[0]), float(numbers[-1])


def positive_number(value: Any) -> float | None:
    """A positive number, else None."""
    pair = positive_pair(value)
    return None if pair is None else pair[0]


def scalars(group: h5py.Group) -> dict[str, Any]:
    """Attributes and scalar datasets of a metadata group; links out of the group are not followed."""
    out = attributes(group)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item = group[name]
        if isinstance(item, h5py.Dataset) and item.shape in ((), (1,), (2,)):
            try:
                value = read_small(item, group.file.filename, 4096)
            except OpenError:
                continue
            out[name] = text_of(value) if isinstance(value, bytes) else value
    return out


def calibration_from(group: h5py.Group, base: Calibration) -> Calibration:
    """Calibration metadata of py4DSTEM, which stands above dim vectors and loose attributes."""
    values = scalars(group)
    found: dict[str, Any] = {
        "energy_keV": positive_number(values.get("beam_energy", values.get("energy", values.get("accelerating_voltage")))),
        "semiangle_mrad": positive_number(values.get("convergence_semiangle_mrad", values.get("probe_semiangle_mrad"))),
    }
    if found["energy_keV"] is not None and found["energy_keV"] > 3000:  # py4DSTEM has no rule: volts in some files
        found["energy_keV"] /= 1e3
    energy = found["energy_keV"] or base.energy_keV
    for name, size, units, dimension in (
        ("pixel_nm", "R_pixel_size", "R_pixel_units", "length"),
        ("q_pixel_invA", "Q_pixel_size", "Q_pixel_units", "reciprocal"),
    ):
        pair, parsed = positive_pair(values.get(size)), parse_unit(text_of(values.get(units, "")))
        if pair is None or parsed is None:
            continue
        if parsed[0] == dimension:
            found[name] = (pair[0] * parsed[1], pair[1] * parsed[1])
        elif parsed[0] == "angle" and dimension == "reciprocal" and energy:
            factor = parsed[1] * 1e-3 / wavelength_A(energy)
            found[name] = (pair[0] * factor, pair[1] * factor)
    rotation = values.get("QR_rotation")
    if rotation is None and isinstance(values.get("QR_rotation_degrees"), (int, float, np.floating, np.integer)):
        rotation = np.deg2rad(values["QR_rotation_degrees"])
    if isinstance(rotation, (float, np.floating, np.integer, int)) and np.isfinite(rotation):
        found["qr_rotation_rad"] = float(rotation)
    if isinstance(values.get("QR_flip"), (bool, np.bool_)):
        found["qr_flip"] = bool(values["QR_flip"]) or None
    return base.override("file", **found)


def detector_pixel_mrad(group: h5py.Group) -> tuple[float, float] | None:
    """Detector pixel of py4DSTEM's metadata where it is an angle (mrad), which needs the beam energy to become 1/angstrom."""
    values = scalars(group)
    pair, parsed = positive_pair(values.get("Q_pixel_size")), parse_unit(text_of(values.get("Q_pixel_units", "")))
    if pair is None or parsed is None or parsed[0] != "angle":
        return None
    return pair[0] * parsed[1], pair[1] * parsed[1]


def calibration_group(dataset: h5py.Dataset, gate: Gate) -> h5py.Group | None:
    """Calibration of a py4DSTEM file: the nearest group of that class or name in the groups above the dataset.

    EMD 1.0 keeps it in the root's metadata bundle, 0.13 beside the datacube, and earlier versions in the metadata of the top
    group.
    """
    parent = dataset.parent
    while parent.name != "/":
        for place in ("", "metadatabundle", "_metadata", "metadata", "metadata/metadata_0"):
            group = gate.get(place, parent) if place else parent
            if not isinstance(group, h5py.Group):
                continue
            for name, item in gate.children(group):
                if isinstance(item, h5py.Group) and (name == "calibration" or class_of(item) == "Calibration"):
                    return item
        parent = parent.parent
    return None


def prismatic_calibration(gate: Gate, base: Calibration) -> Calibration:
    """Beam energy in keV and probe semiangle in mrad from the parameters that Prismatic keeps (flags -E and -sa)."""
    group = gate.get("4DSTEM_simulation/metadata/metadata_0/original/simulation_parameters")
    if not isinstance(group, h5py.Group):
        return base
    return base.override(
        "file",
        energy_keV=positive_number(attribute(group, "E", None)),
        semiangle_mrad=positive_number(attribute(group, "sa", None)),
    )


def loose_calibration(dataset: h5py.Dataset) -> Calibration:
    """Well-known attribute names on the dataset and the groups above it; the nearest wins."""
    found: dict[str, Any] = {}
    item: Any = dataset
    while True:
        values: Mapping[str, Any] = attributes(item)
        for name, value in values.items():
            field, factor = _LOOSE.get(name.lower(), ("", 1.0))
            pair = positive_pair(value) if field and field not in found else None
            if pair is not None:
                scaled = (pair[0] * factor, pair[1] * factor)
                found[field] = scaled if field in ("pixel_nm", "q_pixel_invA") else scaled[0]
        if item.name == "/":
            return Calibration().override("file", **found)
        item = item.parent
