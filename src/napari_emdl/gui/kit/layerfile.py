"""Files of layers: scale, units, features and colours of any mixture in one HDF5 file, and images as TIFF with units.

napari's own savers lose scale and units; what is written here comes back as it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.gui.kit.styles import METADATA_KEY
from napari_emdl.io.hdf5gate import is_hdf5, open_h5, refuse_foreign_storage
from napari_emdl.io.packing import read_array

if TYPE_CHECKING:
    from napari.types import FullLayerData

MARK = "napari_emdl_layers"
VERSION = 1

#: Attributes kept, for every layer and by type.
_COMMON = ("name", "scale", "translate", "units", "axis_labels", "opacity", "blending", "visible")
_BY_TYPE = {
    "image": ("contrast_limits", "gamma", "interpolation2d", "rgb"),
    "labels": (),
    "points": ("symbol", "size", "face_color", "border_color", "border_width", "border_width_is_relative"),
    "shapes": ("shape_type", "edge_color", "face_color", "edge_width"),
    "vectors": ("edge_width", "edge_color", "vector_style", "length"),
    "tracks": ("tail_width", "tail_length"),
}


def write_layers(path: str, layers: list[FullLayerData]) -> list[str]:
    """Write layers to one HDF5 file (.emdl.h5).

    Parameters
    ----------
    path
        File to write; it appears whole or not at all.
    layers
        (data, attributes, type) of each.

    Raises
    ------
    EmdlError
        When it cannot be written.
    """
    from napari_emdl.io.outputs import atomic_path

    target = Path(path)
    with atomic_path(target) as temporary, h5py.File(temporary, "w") as file:
        file.attrs[MARK] = VERSION
        for index, (data, attributes, kind) in enumerate(layers):
            _write_layer(file.create_group(f"{index:04d}"), data, attributes, str(kind))
    return [str(target)]


def _write_layer(group: h5py.Group, data: Any, attributes: dict[str, Any], kind: str) -> None:
    group.attrs["type"] = kind
    if kind == "shapes":
        for index, vertices in enumerate(data):
            group.create_dataset(f"data/{index:06d}", data=np.asarray(vertices))
    else:
        array = np.asarray(data)
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.size > 1000 else {}
        group.create_dataset("data", data=array, **packed)
    from napari_emdl.gui.kit.units import own_units

    plain: dict[str, Any] = {}
    for name in _COMMON + _BY_TYPE.get(kind, ()):
        value = own_units(attributes) if name == "units" else attributes.get(name)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.size > 16:
            group.create_dataset(f"attributes/{name}", data=value)
        elif value is not None:
            plain[name] = value
    colormap = attributes.get("colormap")
    if kind == "image" and isinstance(colormap, dict):
        group.create_dataset("colormap", data=np.asarray(colormap["colors"], float))
        plain["colormap"] = str(colormap.get("name", "saved"))
    text = attributes.get("text")
    if isinstance(text, dict) and isinstance(text.get("string"), (str, dict)):
        plain["text"] = text
    group.attrs["attributes"] = json.dumps(plain, default=_plain)
    role = attributes.get("metadata", {}).get(METADATA_KEY, {})
    if isinstance(role, dict) and role.get("role"):
        group.attrs["role"] = str(role["role"])
    _write_features(group, attributes.get("features"))


def _write_features(group: h5py.Group, features: Any) -> None:
    if features is None or not len(getattr(features, "columns", ())):
        return
    table = group.create_group("features")
    table.attrs["columns"] = [str(name) for name in features.columns]
    for name in features.columns:
        values = np.asarray(features[name])
        if values.dtype.kind not in "biuf":
            values = values.astype(str).astype(h5py.string_dtype())
        table.create_dataset(str(name), data=values)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return (value if value.dtype.kind in "biuf" else value.astype(str)).tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def is_layer_file(path: str) -> bool:
    """True for a file written by :func:`write_layers`."""
    if not Path(path).is_file() or not is_hdf5(Path(path)):
        return False
    try:
        with open_h5(path) as file:
            return MARK in file.attrs
    except (OpenError, OSError):
        return False


def read_layers(path: str | Path) -> list[tuple[Any, dict[str, Any], str]]:
    """Read what :func:`write_layers` wrote."""
    name = Path(path).name
    with one_line(name, "layer file"), open_h5(path) as file:
        refuse_foreign_storage(file, name)
        if int(file.attrs[MARK]) > VERSION:
            raise OpenError(f"{name} was written by a newer napari-emdl; update to read it")
        return [_read_layer(file[group]) for group in sorted(file)]


def _read_layer(group: h5py.Group) -> tuple[Any, dict[str, Any], str]:
    import pandas as pd

    from napari_emdl.gui.kit.session import tag

    kind = str(group.attrs["type"])
    item = group.get("data")
    if isinstance(item, h5py.Dataset):
        data: Any = read_array(item)
    else:
        data = [read_array(item[name]) for name in sorted(item)] if item is not None else []
    attributes = json.loads(group.attrs["attributes"])
    for name in group.get("attributes", {}):
        attributes[name] = read_array(group["attributes"][name])
    if "colormap" in group:
        from napari.utils.colormaps import Colormap

        attributes["colormap"] = Colormap(group["colormap"][()], name=attributes.pop("colormap"))
    if "role" in group.attrs:
        attributes["metadata"] = tag(f"saved {group.attrs['role']}")
    if "features" in group:
        table = group["features"]
        columns = {name: _column(table[name]) for name in table.attrs["columns"]}
        attributes["features"] = pd.DataFrame(columns)
    return data, attributes, kind


def _column(dataset: h5py.Dataset) -> Any:
    return dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()]


def write_tiff(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one image as OME-TIFF with its pixel size and units.

    Raises
    ------
    EmdlError
        When the units are none a TIFF can hold, or it cannot be written.
    """
    import tifffile

    from napari_emdl.gui.kit.units import own_units
    from napari_emdl.io.outputs import atomic_path

    array = np.asarray(data)
    labels = [str(name)[:1].upper() for name in attributes.get("axis_labels", ())]
    axes = {2: "YX", 3: "TYX", 4: "TZYX"}.get(array.ndim)
    if axes is None:
        raise EmdlError(f"a TIFF holds 2 to 4 axes here, this image has {array.ndim}")
    scale = [float(s) for s in attributes.get("scale", (1.0,) * array.ndim)]
    units = [str(unit) for unit in own_units(attributes) or ("pixel",) * array.ndim]
    metadata: dict[str, Any] = {"axes": axes, "Name": attributes.get("name", ""), "Description": " ".join(labels)}
    for axis, step, unit in zip(axes[-2:], scale[-2:], units[-2:], strict=True):
        metadata[f"PhysicalSize{axis}"] = step
        metadata[f"PhysicalSize{axis}Unit"] = {"nanometer": "nm", "angstrom": "Å", "micrometer": "µm"}.get(unit, unit)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    target = Path(path)
    with atomic_path(target) as temporary:
        tifffile.imwrite(temporary, array, ome=True, metadata=metadata)
    return [str(target)]
