"""HDF5 natively: py4DSTEM and EMD 1.0, the EMD 0.x layouts (NCEM, py4DSTEM, Prismatic), abTEM, and datasets by path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.physics import wavelength_A
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found, parse_unit, pick
from napari_emdl.io.sources import Hdf5Source, first_line

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
_ROLE = {"rx": "R", "ry": "C", "r_x": "R", "r_y": "C", "qx": "Q", "qy": "K", "q_x": "Q", "q_y": "K", "kx": "Q", "ky": "K"}


def open_h5(path: Path) -> h5py.File:
    """Open for reading, with one clear line when that fails."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        text = first_line(error)
        why = "it is truncated" if "truncated" in text else "it is damaged, or another program is writing it"
        raise OpenError(f"{path.name} cannot be opened as HDF5: {why} ({text})") from error


def read_hdf5(path: Path, dataset: str | None = None) -> Found:
    """Open an array of an HDF5 file lazily, by the layouts named above.

    Parameters
    ----------
    path
        File.
    dataset
        Path of a dataset (or of a group in one of the layouts) inside the file; needed where several could be meant.
    """
    with open_h5(path) as file:
        if dataset is None and "emdl_result" in file.attrs:
            raise OpenError(f"{path.name} holds a result ({file.attrs['emdl_result']}); load it instead of opening it as data")
        try:
            chosen = _resolve(file, path.name, dataset)
            return _describe(chosen, path)
        except (OSError, RuntimeError) as error:
            raise OpenError(f"{path.name} is damaged ({first_line(error)})") from error


def written_by(file: h5py.File) -> str:
    """ "velox" or "hyperspy" for files that RosettaSciIO reads, "" for all that is read here."""
    if "Data/Image" in file and ("Application" in file or "Operations" in file or "Version" in file):
        return "velox"
    if "Experiments" in file and "HyperSpy" in _text(file.attrs.get("file_format", "")):
        return "hyperspy"
    return ""


def _resolve(file: h5py.File, name: str, dataset: str | None) -> h5py.Dataset:
    if dataset is not None:
        if dataset not in file:
            held = ", ".join(_image_datasets(file)) or "none"
            raise OpenError(f"{name} has no dataset {dataset!r}; arrays it holds: {held[:300]}")
        item = file[dataset]
        if isinstance(item, h5py.Dataset):
            return item
        inside = [n for n in ("data", "datacube", "array") if isinstance(item.get(n), h5py.Dataset)]
        if inside:
            return item[inside[0]]
        return item[pick(_image_datasets(item), "arrays", f"{name}::{dataset}")]
    names = list(_image_datasets(file))
    four = [n for n in names if file[n].ndim >= 4]
    cubes = [n for n in names if _datacube_group(file[n]) or re.search(r"(CBED_array|4DSTEM)", n)]
    for group in ([n for n in four if n in cubes], four, [n for n in names if file[n].ndim == 3], names):
        if group:
            return file[pick(group, "arrays", name)]
    if _has_point_lists(file):
        raise OpenError(f"{name} holds peak lists, no images; load it as a result")
    raise OpenError(f"{name} holds no image, movie or datacube")


def _has_point_lists(file: h5py.File) -> bool:
    """True when some dataset is a grid of py4DSTEM point lists."""
    return bool(file.visititems(lambda _, item: True if isinstance(item, h5py.Dataset) and point_list_type(item) else None))


def point_list_type(dataset: h5py.Dataset) -> np.dtype[Any] | None:
    """Type of the points when `dataset` is a grid of py4DSTEM point lists with qx and qy, else None."""
    vlen = h5py.check_vlen_dtype(dataset.dtype)
    return vlen if isinstance(vlen, np.dtype) and vlen.names is not None and {"qx", "qy"} <= set(vlen.names) else None


def _image_datasets(group: h5py.Group) -> Iterator[str]:
    """Paths of numeric datasets that can be images: at least two axes longer than 1."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if (
            isinstance(item, h5py.Dataset)
            and item.ndim >= 2
            and item.dtype.kind in "biuf"
            and sum(n > 1 for n in item.shape) >= 2
        ):
            found.append(name)

    group.visititems(visit)
    return iter(found)


def _datacube_group(dataset: h5py.Dataset) -> bool:
    return _class_of(dataset.parent) == "DataCube"


def _class_of(group: h5py.Group) -> str:
    """Class that py4DSTEM wrote into a group: ``python_class`` since 0.14, ``py4dstem_class`` before."""
    return _text(group.attrs.get("python_class", group.attrs.get("py4dstem_class", "")))


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8").rstrip("\0")
        except UnicodeDecodeError:
            return value.decode("latin-1").rstrip("\0")
    if isinstance(value, np.ndarray):
        return _text(value.flat[0]) if value.size else ""
    return str(value)


def _describe(dataset: h5py.Dataset, path: Path) -> Found:
    """Axes and calibration of a dataset by the layout it lies in."""
    file = dataset.file
    calibration = _loose_calibration(dataset)
    axes = _emd_axes(dataset) or tuple(Axis(int(n)) for n in dataset.shape)
    layout = "HDF5"
    group = _calibration_group(dataset)
    if group is not None:
        calibration = calibration_from(group, calibration)
        layout = "py4DSTEM EMD"
    if "4DSTEM_simulation" in dataset.name:
        calibration = _prismatic_calibration(file, calibration)
        layout = "Prismatic"
    signal_type = ""
    if dataset.ndim == 4 and layout != "HDF5":
        letters = "".join(a.letter for a in axes)
        if sorted(letters) != sorted("RCQK"):
            axes = tuple(replace(a, letter=letter) for a, letter in zip(axes, "RCQK", strict=True))
        signal_type = "diffraction"
    elif layout == "Prismatic" and dataset.ndim in (2, 3):
        axes = tuple(replace(a, letter=letter) for a, letter in zip(axes, "YXT", strict=False))
    metadata = {"format": layout, "dataset": dataset.name}
    return Found(Hdf5Source(path, dataset.name), axes, calibration, path.stem, metadata=metadata, signal_type=signal_type)


def _emd_axes(dataset: h5py.Dataset) -> tuple[Axis, ...]:
    """Axes from the dim vectors beside an EMD array: dim0, dim1, ... of EMD 1.0, dim1, dim2, ... of EMD 0.x."""
    parent = dataset.parent
    first = 0 if "dim0" in parent else 1
    vectors = [parent.get(f"dim{i + first}") for i in range(dataset.ndim)]
    if any(not isinstance(v, h5py.Dataset) or v.ndim != 1 for v in vectors):
        return ()
    return tuple(_dim_axis(vector, size) for vector, size in zip(vectors, dataset.shape, strict=True))


def _dim_axis(vector: h5py.Dataset, size: int) -> Axis:
    name, units = _text(vector.attrs.get("name", "")), _text(vector.attrs.get("units", ""))
    units = units.replace("[", "").replace("]", "").replace("_", " ").replace("n m", "nm")
    values = np.asarray(vector[:2], dtype=float) if vector.dtype.kind in "iuf" and len(vector) > 1 else None
    scale = float(values[1] - values[0]) if values is not None else None
    return Axis(int(size), name, scale, units, _ROLE.get(name.strip().lower().lstrip("/"), ""))


def _scalars(group: h5py.Group) -> dict[str, Any]:
    """Attributes and scalar datasets of a metadata group."""
    out = {name: group.attrs[name] for name in group.attrs}
    for name, item in group.items():
        if isinstance(item, h5py.Dataset) and item.shape in ((), (1,), (2,)):
            value = item[()]
            out[name] = _text(value) if isinstance(value, bytes) else value
    return out


def _pair(value: Any) -> tuple[float, float] | None:
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=float)).ravel()
    except (TypeError, ValueError):
        return None
    if numbers.size not in (1, 2) or not np.all(np.isfinite(numbers)) or not np.all(numbers > 0):
        return None
    return float(numbers[0]), float(numbers[-1])


def _number(value: Any) -> float | None:
    pair = _pair(value)
    return None if pair is None else pair[0]


def calibration_from(group: h5py.Group, base: Calibration) -> Calibration:
    """Calibration metadata of py4DSTEM, which stands above dim vectors and loose attributes."""
    values = _scalars(group)
    found: dict[str, Any] = {
        "energy_keV": _number(values.get("beam_energy", values.get("energy", values.get("accelerating_voltage")))),
        "semiangle_mrad": _number(values.get("convergence_semiangle_mrad", values.get("probe_semiangle_mrad"))),
    }
    if found["energy_keV"] is not None and found["energy_keV"] > 3000:  # py4DSTEM has no rule: volts in some files
        found["energy_keV"] /= 1e3
    energy = found["energy_keV"] or base.energy_keV
    for name, size, units, dimension in (
        ("pixel_nm", "R_pixel_size", "R_pixel_units", "length"),
        ("q_pixel_invA", "Q_pixel_size", "Q_pixel_units", "reciprocal"),
    ):
        pair, parsed = _pair(values.get(size)), parse_unit(_text(values.get(units, "")))
        if pair is None or parsed is None:
            continue
        if parsed[0] == dimension:
            found[name] = (pair[0] * parsed[1], pair[1] * parsed[1])
        elif parsed[0] == "angle" and dimension == "reciprocal" and energy:
            factor = parsed[1] * 1e-3 / wavelength_A(energy)
            found[name] = (pair[0] * factor, pair[1] * factor)
    rotation = values.get("QR_rotation")
    if rotation is None and values.get("QR_rotation_degrees") is not None:
        rotation = np.deg2rad(values["QR_rotation_degrees"])
    if isinstance(rotation, (float, np.floating, np.integer, int)) and np.isfinite(rotation):
        found["qr_rotation_rad"] = float(rotation)
    if isinstance(values.get("QR_flip"), (bool, np.bool_)):
        found["qr_flip"] = bool(values["QR_flip"]) or None
    return base.override("file", **found)


def _calibration_group(dataset: h5py.Dataset) -> h5py.Group | None:
    """Calibration of a py4DSTEM file: the nearest group of that class or name in the groups above the dataset.

    EMD 1.0 keeps it in the root's metadata bundle, 0.13 beside the datacube, and earlier versions in the metadata of the top
    group.
    """
    parent = dataset.parent
    while parent.name != "/":
        for place in ("", "metadatabundle", "_metadata", "metadata", "metadata/metadata_0"):
            group = parent.get(place) if place else parent
            if not isinstance(group, h5py.Group):
                continue
            for name, item in group.items():
                if isinstance(item, h5py.Group) and (name == "calibration" or _class_of(item) == "Calibration"):
                    return item
        parent = parent.parent
    return None


def _prismatic_calibration(file: h5py.File, base: Calibration) -> Calibration:
    """Beam energy in keV and probe semiangle in mrad from the parameters that Prismatic keeps (flags -E and -sa)."""
    group = file.get("4DSTEM_simulation/metadata/metadata_0/original/simulation_parameters")
    if not isinstance(group, h5py.Group):
        return base
    return base.override("file", energy_keV=_number(group.attrs.get("E")), semiangle_mrad=_number(group.attrs.get("sa")))


def _loose_calibration(dataset: h5py.Dataset) -> Calibration:
    """Well-known attribute names on the dataset and the groups above it; the nearest wins."""
    found: dict[str, Any] = {}
    item: Any = dataset
    while True:
        attributes: Mapping[str, Any] = item.attrs
        for name, value in attributes.items():
            field, factor = _LOOSE.get(name.lower(), ("", 1.0))
            pair = _pair(value) if field and field not in found else None
            if pair is not None:
                scaled = (pair[0] * factor, pair[1] * factor)
                found[field] = scaled if field in ("pixel_nm", "q_pixel_invA") else scaled[0]
        if item.name == "/":
            return Calibration().override("file", **found)
        item = item.parent
