"""DM5: the HDF5 files of GMS 3.5 and later, whose groups are the tags of a DM4 file."""

from __future__ import annotations

import re
from typing import Any

import h5py
import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found, pick
from napari_emdl.io.formats.h5meta import attribute, positive_number, text_of
from napari_emdl.io.hdf5gate import Gate, check_dataset
from napari_emdl.io.hdf5source import Hdf5Source


def is_dm5(gate: Gate) -> bool:
    """Whether a file holds the image list of DigitalMicrograph."""
    return isinstance(gate.get("ImageList"), h5py.Group) and bool(_images(gate))


def _images(gate: Gate) -> dict[str, h5py.Dataset]:
    """Datasets of the image list by their number; the first one beside others is a thumbnail."""
    listed = gate.item("ImageList")
    found = {}
    for name, item in gate.children(listed):
        data = gate.get("ImageData/Data", item) if isinstance(item, h5py.Group) else None
        if re.fullmatch(r"\[\d+\]", name) and isinstance(data, h5py.Dataset) and data.ndim >= 2:
            found[name.strip("[]")] = data
    return found


def _shown(gate: Gate) -> str | None:
    """Number of the image that the first object of the document shows."""
    at = gate.get("DocumentObjectList/[0]")
    number = attribute(at, "ImageSource", None) if at is not None else None
    source = gate.get(f"ImageSourceList/[{int(number)}]") if isinstance(number, (int, np.integer)) else None
    reference = attribute(source, "ImageRef", None) if source is not None else None
    return str(int(reference)) if isinstance(reference, (int, np.integer)) else None


def read_dm5(gate: Gate, dataset: str | None = None) -> Found:
    """Open the image that a DM5 file shows, or number `dataset` of its list."""
    name, images = gate.path.name, _images(gate)
    number = dataset if dataset is not None else _shown(gate)
    if number is None or (dataset is None and number not in images):
        real = [n for n in images if n != "0" or len(images) == 1]
        number = pick(real, "images", name)
    if number not in images:
        raise OpenError(f"{name} has no image {number!r}; it holds {', '.join(images)}")
    data = images[number]
    check_dataset(data, name, gate.folder)
    axes = tuple(_axis(gate, data, i) for i in range(data.ndim))
    if any((axis.units or "").strip() in ("eV", "keV") for axis in axes):
        raise OpenError(f"{name} holds no images, only spectra")
    tags = gate.get("ImageTags", data.parent.parent)
    microscope = gate.get("Microscope Info", tags) if isinstance(tags, h5py.Group) else None
    volts = positive_number(attribute(microscope, "Voltage", None)) if microscope is not None else None
    calibration = Calibration().override("file", energy_keV=volts / 1e3 if volts else None)
    facts = {"format": "DM5", "dataset": data.name}
    return Found(Hdf5Source(gate.path, data.name), axes, calibration, gate.path.stem, metadata=facts)


def _axis(gate: Gate, data: h5py.Dataset, place: int) -> Axis:
    """Axis of the array; DigitalMicrograph counts its dimensions from the fastest."""
    held: Any = gate.get(f"Calibrations/Dimension/[{data.ndim - 1 - place}]", data.parent)
    units = text_of(attribute(held, "Units")).strip() if held is not None else ""
    scale: Any = attribute(held, "Scale", None) if held is not None and units else None
    known = isinstance(scale, (float, int, np.floating, np.integer)) and np.isfinite(scale)
    return Axis(int(data.shape[place]), "", float(scale) if known else None, units or None)
