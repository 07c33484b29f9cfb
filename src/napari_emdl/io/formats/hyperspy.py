"""HyperSpy's own files, folders and zip files (``.zspy``) and HDF5 (``.hspy``): data, axes and some metadata, natively.

Markers, models and learning results are left alone: ragged markers keep readers of whole files from opening them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.io.axes import Found
from napari_emdl.io.formats.vendor import choose_image, found_in_signal, images_of
from napari_emdl.io.hdf5gate import Gate
from napari_emdl.io.hdf5source import Hdf5Source
from napari_emdl.io.zarrsource import ZarrSource, open_store

_METADATA = ("General", "Signal", "Acquisition_instrument/TEM")


def read_zspy(path: Path, dataset: str | None = None) -> Found:
    """Open a ``.zspy`` folder or zip file lazily.

    Parameters
    ----------
    path
        Folder or file.
    dataset
        Title or number of the signal, for files with several.
    """
    with one_line(path.name, ".zspy file"):
        store = open_store(path)
        if "Experiments" not in store:
            raise OpenError(f"{path.name} holds no signal of HyperSpy")
        names = sorted(store["Experiments"])
        signals = [_signal(store["Experiments"][name], name) for name in names]
        images = images_of(signals, path.name)
        number = choose_image(images, dataset, path.name)
        source = ZarrSource(path, f"Experiments/{names[number]}/data")
        return found_in_signal(images[number], source, "zspy", path.stem)


def read_hspy(path: Path, gate: Gate, dataset: str | None = None) -> Found | None:
    """Open a ``.hspy`` file lazily; None where it is older than the layout with a group an axis (before HyperSpy 1.5).

    Parameters
    ----------
    path, gate
        File, and the gate that holds it open.
    dataset
        Title or number of the signal, for files with several.
    """
    experiments = gate.get("Experiments")
    if not isinstance(experiments, h5py.Group):
        return None
    groups = {name: item for name, item in gate.children(experiments) if isinstance(item, h5py.Group) and "data" in item}
    if not groups or any("axis-0" not in group for group in groups.values()):
        return None
    names = sorted(groups)
    images = images_of([_signal(groups[name], name) for name in names], path.name)
    number = choose_image(images, dataset, path.name)
    source = Hdf5Source(path, f"/Experiments/{names[number]}/data")
    return found_in_signal(images[number], source, "hspy", path.stem)


def _signal(group: Any, name: str) -> dict[str, Any]:
    """What RosettaSciIO would say of a signal."""
    data = group["data"]
    axes = [_attributes(group[f"axis-{i}"]) for i in range(len(data.shape)) if f"axis-{i}" in group]
    if len(axes) != len(data.shape):
        raise OpenError(f"{name} has {len(data.shape)} axes, and {len(axes)} are described; the file is damaged")
    metadata: dict[str, Any] = {}
    for place in _METADATA:
        if "metadata" in group and place in group["metadata"]:
            at = metadata
            for part in place.split("/"):
                at = at.setdefault(part, {})
            at.update(_attributes(group["metadata"][place]))
    if not metadata.get("General", {}).get("title"):
        metadata.setdefault("General", {})["title"] = "" if name == "__unnamed__" else name
    return {"data": data, "axes": axes, "metadata": metadata}


def _attributes(group: Any) -> Mapping[str, Any]:
    values = {key: None if isinstance(value, str) and value == "_None_" else value for key, value in dict(group.attrs).items()}
    return {key: bool(value) if isinstance(value, np.bool_) else value for key, value in values.items()}
