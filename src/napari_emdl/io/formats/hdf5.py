"""HDF5 natively: py4DSTEM and EMD 1.0, EMD 0.x (NCEM, py4DSTEM, Prismatic), NeXus, MATLAB v7.3, HDF5 dimension scales."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.base.timing import Timing, by_stamps
from napari_emdl.base.units import parse_unit
from napari_emdl.io.axes import Axis, Found, pick
from napari_emdl.io.formats import app5, dectris, dm5, electrons, nion
from napari_emdl.io.formats.h5meta import (
    attribute,
    calibration_from,
    calibration_group,
    class_of,
    detector_pixel_mrad,
    loose_calibration,
    prismatic_calibration,
    text_of,
)
from napari_emdl.io.hdf5gate import Gate, check_dataset, open_h5, read_small
from napari_emdl.io.hdf5source import Hdf5Source
from napari_emdl.io.views import TransposedSource

__all__ = ["calibration_from", "image_datasets", "open_h5", "point_list_type", "read_hdf5", "written_by"]

_ROLE = {"rx": "R", "ry": "C", "r_x": "R", "r_y": "C", "qx": "Q", "qy": "K", "q_x": "Q", "q_y": "K", "kx": "Q", "ky": "K"}
#: Images that detectors keep beside their frames; opened when named only.
_CORRECTIONS = re.compile(
    r"(^|/)(flat_?field|pixel_mask|dark_?(field|current|reference)?|gain_?(map|reference)?)$", re.IGNORECASE
)


def read_hdf5(path: Path, dataset: str | None = None) -> Found:
    """Open an array of an HDF5 file lazily, by the layouts named above.

    Parameters
    ----------
    path
        File.
    dataset
        Path of a dataset (or of a group in one of the layouts) inside the file; needed where several could be meant.
    """
    with one_line(path.name, "HDF5 file"), Gate(path) as gate:
        if dataset is None and "emdl_result" in gate.file.attrs:
            kind = text_of(attribute(gate.file, "emdl_result"))
            raise OpenError(f"{path.name} holds a result ({kind[:40]}); load it instead of opening it as data")
        if dataset is None and app5.is_app5(gate):
            return app5.read_app5(gate)
        if dataset is None and (parts := dectris.frame_sets(gate)):
            return dectris.read_frames(gate, parts)
        if dataset is None and electrons.is_counted(gate):
            return electrons.read_counted(gate)
        if (dataset is None or dataset.isdigit()) and dm5.is_dm5(gate):
            return dm5.read_dm5(gate, dataset)
        chosen = _resolve(gate, dataset)
        check_dataset(chosen, path.name, gate.folder)
        return _describe(chosen, gate)


def written_by(gate: Gate) -> str:
    """ "velox" or "hyperspy" for files that RosettaSciIO reads, "" for all that is read here."""
    file = gate.file
    if gate.get("Data/Image") is not None and any(name in file for name in ("Application", "Operations", "Version")):
        return "velox"
    if "Experiments" in file and "HyperSpy" in text_of(attribute(file, "file_format")):
        return "hyperspy"
    return ""


def _resolve(gate: Gate, dataset: str | None) -> h5py.Dataset:
    name = gate.path.name
    if dataset is not None:
        return _named(gate, dataset)
    default = _nexus_default(gate)
    if default is not None:
        return default
    found = dict(image_datasets(gate))
    if flat := [n for n in found if attribute(found[n], "Position_Indices", None) is not None]:
        raise OpenError(
            f"{name} keeps {flat[0]} as a table of positions and values (USID of pycroscopy), not as images; save it as NSID"
        )
    names = [n for n in found if not _CORRECTIONS.search(n)]
    if found and not names:
        raise OpenError(
            f"{name} holds no frames, only what corrects them: {', '.join(found)}; name one with ::DATASET to see it"
        )
    four = [n for n in names if found[n].ndim >= 4]
    cubes = [n for n in names if class_of(found[n].parent) == "DataCube" or re.search(r"(CBED_array|4DSTEM)", n)]
    for group in ([n for n in four if n in cubes], four, [n for n in names if found[n].ndim == 3], names):
        if group:
            return found[pick(group, "arrays", name)]
    if any(point_list_type(item) is not None for _, item in gate.datasets()):
        raise OpenError(f"{name} holds peak lists, no images; load it as a result")
    refused = gate.refused() or [line for _, group in _groups(gate) for line in gate.refused(group)]
    raise OpenError(refused[0] if refused else f"{name} holds no image, movie or datacube")


def _groups(gate: Gate, depth: int = 4) -> Iterator[tuple[str, h5py.Group]]:
    """Groups of the first levels."""
    level: list[tuple[str, h5py.Group]] = [("", gate.file)]
    for _ in range(depth):
        level = [
            (f"{prefix}/{n}", item)
            for prefix, group in level
            for n, item in gate.children(group)
            if isinstance(item, h5py.Group)
        ][:1000]
        yield from level


def _named(gate: Gate, dataset: str) -> h5py.Dataset:
    """The dataset of that path, or the array of the group of that path; never another one."""
    name = gate.path.name
    try:
        item = gate.item(dataset)
    except KeyError:
        held = ", ".join(n for n, _ in image_datasets(gate)) or "none"
        raise OpenError(f"{name} has no dataset {dataset!r}; arrays it holds: {held[:300]}") from None
    if isinstance(item, h5py.Dataset):
        return item
    if not isinstance(item, h5py.Group):
        raise OpenError(f"{name}::{dataset} is neither a dataset nor a group")
    for inner in ("data", "datacube", "array"):
        if isinstance(found := gate.get(inner, item), h5py.Dataset):
            return found
    members = dict(image_datasets(gate, item))
    return members[pick(members, "arrays", f"{name}::{dataset}")]


def _nexus_default(gate: Gate) -> h5py.Dataset | None:
    """Signal that a NeXus file says is to be shown: attributes ``default`` down to an NXdata with ``signal``."""
    at: Any = gate.file
    for _ in range(4):
        following = text_of(attribute(at, "default"))
        item = gate.get(following, at) if following else None
        if item is None:
            break
        at = item
    if at is gate.file:
        entries = [
            g for _, g in gate.children(at) if isinstance(g, h5py.Group) and text_of(attribute(g, "NX_class")) == "NXentry"
        ]
        data = [
            d
            for entry in entries
            for _, d in gate.children(entry)
            if isinstance(d, h5py.Group) and text_of(attribute(d, "NX_class")) == "NXdata" and attribute(d, "signal")
        ]
        if len(data) != 1:
            return None
        at = data[0]
    if isinstance(at, h5py.Dataset):
        return at
    signal = text_of(attribute(at, "signal"))
    item = gate.get(signal, at) if signal else None
    if item is None:  # before 2014 the dataset itself was marked
        marked = [d for _, d in gate.children(at) if isinstance(d, h5py.Dataset) and text_of(attribute(d, "signal")) == "1"]
        item = marked[0] if len(marked) == 1 else None
    return item if isinstance(item, h5py.Dataset) and item.ndim >= 2 else None


def point_list_type(dataset: h5py.Dataset) -> np.dtype[Any] | None:
    """Type of the points when `dataset` is a grid of py4DSTEM point lists with qx and qy, else None."""
    vlen = h5py.check_vlen_dtype(dataset.dtype)
    return vlen if isinstance(vlen, np.dtype) and vlen.names is not None and {"qx", "qy"} <= set(vlen.names) else None


def image_datasets(gate: Gate, group: h5py.Group | None = None) -> Iterator[tuple[str, h5py.Dataset]]:
    """Numeric datasets that can be images: at least two axes longer than 1."""
    for name, item in gate.datasets(group):
        if item.shape is not None and item.ndim >= 2 and item.dtype.kind in "biuf" and sum(n > 1 for n in item.shape) >= 2:
            yield name, item


def _describe(dataset: h5py.Dataset, gate: Gate) -> Found:
    """Axes and calibration of a dataset by the layout it lies in."""
    calibration = loose_calibration(dataset)
    vectors = _emd_vectors(dataset, gate) or _nexus_vectors(dataset, gate) or _scale_vectors(dataset)
    axes = tuple(_dim_axis(*vector, size, gate.path.name) for vector, size in zip(vectors, dataset.shape, strict=False))
    axes = axes or tuple(Axis(int(n)) for n in dataset.shape)
    timing = _time_axis(vectors, axes, gate)
    layout = "HDF5"
    group = calibration_group(dataset, gate)
    if group is not None:
        calibration = calibration_from(group, calibration)
        layout = "py4DSTEM EMD"
    if "4DSTEM_simulation" in dataset.name:
        calibration = prismatic_calibration(gate, calibration)
        layout = "Prismatic"
    signal_type = ""
    if dataset.ndim == 4 and layout != "HDF5":
        letters = "".join(a.letter for a in axes)
        if sorted(letters) != sorted("RCQK"):
            axes = tuple(replace(a, letter=letter) for a, letter in zip(axes, "RCQK", strict=True))
        signal_type = "diffraction"
        angle = detector_pixel_mrad(group) if group is not None and calibration.q_pixel_invA is None else None
        if angle is not None:
            steps = dict(zip("QK", angle, strict=True))
            axes = tuple(replace(a, scale=steps[a.letter], units="mrad") if a.letter in steps else a for a in axes)
    elif layout == "Prismatic" and dataset.ndim in (2, 3):
        axes = tuple(replace(a, letter=letter) for a, letter in zip(axes, "YXT", strict=False))
    source: Any = Hdf5Source(Path(dataset.file.filename), dataset.name)
    notes: tuple[str, ...] = ()
    if attribute(dataset, "MATLAB_class") and dataset.ndim >= 2:
        # MATLAB counts the first index fastest: what it calls (rows, cols, ...) lies in the file as (..., cols, rows)
        source, axes, layout = TransposedSource(source, range(dataset.ndim)[::-1]), axes[::-1], "MATLAB v7.3"
        order = " x ".join(map(str, source.shape))
        notes = (f"axes are in MATLAB's order ({order}); give the axis order (such as `axes='QKRC'`) if the scan comes last",)
    if _by_hyperspy(dataset):
        source, axes, layout = TransposedSource(source, range(dataset.ndim)[::-1]), axes[::-1], "EMD by HyperSpy"
    mask = dectris.pixel_mask(gate, tuple(dataset.shape[-2:]))
    metadata = {"format": layout, "dataset": dataset.name}
    found = Found(source, axes, calibration, gate.path.stem, None, metadata, signal_type, mask, notes, timing=timing)
    properties = text_of(attribute(dataset, "properties"))
    return nion.described_by(found, properties) if properties.startswith("{") else found


def _by_hyperspy(dataset: h5py.Dataset) -> bool:
    """True for EMD 0.x as HyperSpy and RosettaSciIO write it: the last axis of theirs is the first one in the file."""
    group = dataset.parent
    return group.parent.name == "/signals" and attribute(group, "signal_type", None) is not None and "dim1" in group


#: Axis vector of a dataset and the name it has in the file; None where there is none.
_Vector = tuple[Any, str]


def _emd_vectors(dataset: h5py.Dataset, gate: Gate) -> list[_Vector]:
    """Dim vectors beside an EMD array: dim0, dim1, ... of EMD 1.0, dim1, dim2, ... of EMD 0.x."""
    parent = dataset.parent
    first = 0 if "dim0" in parent else 1
    vectors = [gate.get(f"dim{i + first}", parent) for i in range(dataset.ndim)]
    if any(not isinstance(v, h5py.Dataset) or v.ndim != 1 for v in vectors):
        return []
    return [(vector, "") for vector in vectors]


def _nexus_vectors(dataset: h5py.Dataset, gate: Gate) -> list[_Vector]:
    """Axes that an NXdata group names for its signal."""
    names = attribute(dataset.parent, "axes", None)
    if names is None or np.size(names) != dataset.ndim:
        return []
    found = [gate.get(text_of(name), dataset.parent) for name in np.ravel(names)]
    usable = [v if isinstance(v, h5py.Dataset) and v.ndim == 1 else None for v in found]
    return [(vector, text_of(name)) for vector, name in zip(usable, np.ravel(names), strict=True)]


def _scale_vectors(dataset: h5py.Dataset) -> list[_Vector]:
    """Dimension scales of HDF5, as netCDF-4, NSID (pycroscopy) and h5py's users attach them.

    They are read by the attributes that hold them: the library's own functions crash on damaged ones.
    """
    labels = np.ravel(attribute(dataset, "DIMENSION_LABELS", ()))
    out: list[_Vector] = []
    for number, size in enumerate(dataset.shape):
        scale = _scale(dataset, number)
        name = text_of(labels[number]) if len(labels) == dataset.ndim and isinstance(labels[number], (str, bytes)) else ""
        fits = scale is not None and scale.shape == (size,)
        out.append((scale if fits else None, name or (scale.name.rpartition("/")[2] if scale is not None else "")))
    return out if any(vector is not None or name for vector, name in out) else []


def _scale(dataset: h5py.Dataset, number: int) -> h5py.Dataset | None:
    """First scale of an axis, in the same file."""
    held = attribute(dataset, "DIMENSION_LIST", None)
    if not isinstance(held, np.ndarray) or held.dtype != object or held.shape != (dataset.ndim,):
        return None
    named = held[number]
    if not isinstance(named, np.ndarray) or not named.size or not isinstance(named.flat[0], h5py.Reference):
        return None
    try:
        scale = dataset.file[named.flat[0]]
    except (OSError, RuntimeError, KeyError, ValueError):  # damaged, or the scale is gone
        return None
    return scale if isinstance(scale, h5py.Dataset) and scale.ndim == 1 else None


def _time_axis(vectors: list[_Vector], axes: tuple[Axis, ...], gate: Gate) -> Callable[[], Timing] | None:
    """Timing by the axis of a movie that is in units of time and has a value for every frame."""
    for (vector, _), axis in zip(vectors, axes, strict=False):
        parsed = parse_unit(axis.units)
        if parsed is not None and parsed[0] == "time" and vector is not None and vector.shape == (axis.size,) and axis.size > 2:
            times = np.asarray(read_small(vector, gate.path.name), np.float64) * parsed[1]
            return partial(by_stamps, times)
    return None


def _dim_axis(vector: Any, name: str, size: int, file: str) -> Axis:
    if vector is None:
        return Axis(int(size), name)
    name, units = name or text_of(attribute(vector, "name")), text_of(attribute(vector, "units"))
    units = units.replace("_", " ").replace("n m", "nm")
    scale = None
    if vector.dtype.kind in "iuf" and vector.shape[0] > 1:
        values = np.asarray(read_small(vector, file, selection=slice(0, 2)), dtype=float)
        scale = float(values[1] - values[0])
    return Axis(int(size), name, scale, units, _ROLE.get(name.strip().lower().lstrip("/"), ""))
