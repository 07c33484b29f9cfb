"""DECTRIS files (ARINA, EIGER, QUADRO, ELA): frames in one or several data files, named by a master file.

A master file holds ``entry/data/data_000001``, ... as external links to files beside it, and in ``entry/instrument/detector``
what the detector knows of itself: pixel mask, count time, number of images a trigger. Its flat field is not data.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.formats.h5meta import attribute, positive_number
from napari_emdl.io.hdf5gate import Gate, check_dataset, is_hdf5, read_small
from napari_emdl.io.hdf5source import ConcatSource, Hdf5Source

_DETECTOR = "entry/instrument/detector"
_MASKS = (f"{_DETECTOR}/detectorSpecific/pixel_mask", f"{_DETECTOR}/pixel_mask")


def frame_sets(gate: Gate) -> list[h5py.Dataset]:
    """Datasets ``entry/data/data_000001``, ... in order, or the one ``entry/data/data`` of a data file alone.

    Raises
    ------
    OpenError
        When a file with frames is missing or lies elsewhere.
    """
    group = gate.get("entry/data")
    if not isinstance(group, h5py.Group):
        return []
    names = sorted(name for name in group if re.fullmatch(r"data_\d+", name))
    if not names:
        lone = gate.get("data", group)
        known = gate.get(_DETECTOR) is not None or (isinstance(lone, h5py.Dataset) and "image_nr_low" in lone.attrs)
        names = ["data"] if isinstance(lone, h5py.Dataset) and lone.ndim in (2, 3) and known else []
    try:
        items = [gate.item(name, group) for name in names]
    except KeyError as error:
        raise OpenError(f"{gate.path.name} names entry/data/{names[0]}, which its data file does not hold ({error})") from error
    return [item for item in items if isinstance(item, h5py.Dataset) and item.ndim in (2, 3) and item.dtype.kind in "biuf"]


def read_frames(gate: Gate, parts: list[h5py.Dataset]) -> Found:
    """All frames of a master or data file as one stack of patterns."""
    for part in parts:
        check_dataset(part, gate.path.name, Path(part.file.filename).resolve().parent)
    sources = [Hdf5Source(Path(part.file.filename), part.name) for part in parts]
    source: Any = sources[0] if len(sources) == 1 and sources[0].ndim == 3 else ConcatSource(sources)
    count, rows, cols = source.shape
    facts: dict[str, Any] = {"format": "DECTRIS", "dataset": "entry/data"}
    count_time, frame_time = _number(gate, "count_time"), _number(gate, "frame_time")
    facts |= {"count_time_s": count_time} if count_time else {}
    facts |= {"frame_time_s": frame_time} if frame_time else {}
    images, triggers = (int(_number(gate, f"detectorSpecific/{name}") or 0) for name in ("nimages", "ntrigger"))
    notes: tuple[str, ...] = ()
    scan = None
    if images > 1 and triggers > 1 and images * triggers == count:
        scan = (triggers, images)
        notes = (f"the scan shape {triggers} x {images} is triggers x images a trigger; `shape=(rows, cols)` sets another",)
    calibration = Calibration().override(
        "file", pixel_nm=_arina_step_nm(gate), energy_keV=_energy_keV(gate), frame_interval_s=frame_time or count_time
    )
    axes = (Axis(count, navigate=True), Axis(rows, letter="Q"), Axis(cols, letter="K"))
    mask = pixel_mask(gate, (rows, cols))
    return Found(source, axes, calibration, gate.path.stem, None, facts, "diffraction", mask, notes, scan)


def pixel_mask(gate: Gate, frame_shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Pixels that the detector says are gaps, dead, hot or noisy; None where it says nothing, or of another shape."""
    for name in _MASKS:
        item = gate.get(name)
        if isinstance(item, h5py.Dataset) and item.shape == frame_shape and item.dtype.kind in "biu":
            mask = np.asarray(read_small(item, gate.path.name)) != 0
            return mask if mask.any() else None
    return None


def _number(gate: Gate, name: str) -> float | None:
    item = gate.get(f"{_DETECTOR}/{name}")
    if not isinstance(item, h5py.Dataset) or item.size != 1 or item.dtype.kind not in "iuf":
        return None
    return positive_number(read_small(item, gate.path.name, 64))


def _energy_keV(gate: Gate) -> float | None:
    """Beam energy; DECTRIS writes eV."""
    item = gate.get("entry/instrument/beam/incident_energy")
    if not isinstance(item, h5py.Dataset) or item.size != 1 or item.dtype.kind not in "iuf":
        return None
    energy_eV = positive_number(read_small(item, gate.path.name, 64))
    return energy_eV / 1e3 if energy_eV is not None and 1e4 <= energy_eV <= 3e6 else None


def _arina_step_nm(gate: Gate) -> tuple[float, float] | None:
    """Scan step from the file NAME.h5 that ARINA's control software puts beside NAME_master.h5."""
    beside = gate.path.with_name(gate.path.name.replace("_master.h5", ".h5"))
    if beside == gate.path or not beside.is_file() or not is_hdf5(beside):
        return None
    with Gate(beside) as other:
        group = other.get("STEM Metadata")
        step = positive_number(np.ravel(attribute(group, "Pixel Size", ()))[:1]) if group is not None else None
    return None if step is None else (step, step)
