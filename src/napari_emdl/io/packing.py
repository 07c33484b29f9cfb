"""Dataclasses and attributes in HDF5: arrays as datasets, dataclasses as groups, the rest as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import h5py
import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.io.hdf5gate import read_small

#: Dataclasses that may lie inside a result, by name.
Classes = Mapping[str, type]

_SMALL_BYTES = 16 << 20
_MOST_PACKED = 1100  # gzip packs zeros 1:1032
_LARGE_BYTES, _USUALLY_PACKED = 256 << 20, 50  # larger arrays are no mere zeros


def write_dataclass(group: h5py.Group, value: Any, classes: Classes) -> None:
    """Write a dataclass: arrays as datasets, dataclasses as groups, the rest as JSON in the attribute ``values``."""
    group.attrs["class"] = type(value).__name__
    plain = {}
    for entry in dataclasses.fields(value):
        item = getattr(value, entry.name)
        if isinstance(item, np.ndarray):
            packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if item.size > 1000 else {}
            group.create_dataset(entry.name, data=item, **packed)
        elif dataclasses.is_dataclass(item) and not isinstance(item, type):
            write_dataclass(group.create_group(entry.name), item, classes)
        elif isinstance(item, dict) and entry.name == "attrs":
            write_attrs(group.create_group("attrs"), item, classes)
        else:
            plain[entry.name] = item
    group.attrs["values"] = json.dumps(plain, default=jsonable)


def read_dataclass(group: h5py.Group, classes: Classes) -> Any:
    """Read what :func:`write_dataclass` wrote; `classes` are the dataclasses that may lie inside, by name.

    Raises
    ------
    OpenError
        When it holds a class that is not among them.
    """
    name = str(group.attrs["class"])
    cls = classes.get(name)
    if cls is None:
        raise OpenError(f"{group.name[:80]} holds a {name[:40]}, which is not known here; update napari-emdl")
    known = {entry.name for entry in dataclasses.fields(cls)}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(group.attrs["values"]).items()}
    for key, item in group.items():
        if key == "attrs":
            values[key] = read_attrs(item, classes)
        else:
            values[key] = read_array(item) if isinstance(item, h5py.Dataset) else read_dataclass(item, classes)
    return cls(**{key: value for key, value in values.items() if key in known})


def write_attrs(group: h5py.Group, attrs: Mapping[str, Any], classes: Classes) -> None:
    """Arrays as datasets, dataclasses (calibration) as groups, all else as one JSON attribute."""
    plain = {}
    for key, value in attrs.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            group.create_dataset(key, data=value)
        elif classes.get(type(value).__name__) is type(value):
            write_dataclass(group.create_group(key), value, classes)
        else:
            plain[key] = value
    group.attrs["values"] = json.dumps(plain, default=jsonable)


def read_attrs(group: h5py.Group, classes: Classes) -> dict[str, Any]:
    """Read what :func:`write_attrs` wrote."""
    out = json.loads(group.attrs.get("values", "{}"))
    for key, item in group.items():
        out[key] = read_array(item) if isinstance(item, h5py.Dataset) else read_dataclass(item, classes)
    if isinstance(out.get("detector_shape"), list):
        out["detector_shape"] = tuple(out["detector_shape"])
    return out


def read_array(dataset: h5py.Dataset) -> Any:
    """Value of a dataset of a result, refused where the file promises more than it can hold.

    A packed file of a few kilobytes can name an array of any size. No packing here makes more than a thousandfold, so what
    claims more is damaged or hostile.

    Raises
    ------
    OpenError
        When the array would be implausibly large.
    """
    n_bytes = dataset.size * dataset.dtype.itemsize if dataset.shape is not None else 0
    stored = dataset.id.get_storage_size()
    if n_bytes > max(_SMALL_BYTES, min(_MOST_PACKED * stored, max(_LARGE_BYTES, _USUALLY_PACKED * stored))):
        raise OpenError(f"{dataset.name} names {n_bytes / 1e6:,.0f} MB but the file does not hold them; it is damaged")
    return read_small(dataset, PurePath(str(dataset.file.filename)).name, n_bytes)


def jsonable(value: Any) -> Any:
    """What JSON does not know: numpy values, paths, mappings and dataclasses."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, tuple)):
        return list(value)
    return str(value)
