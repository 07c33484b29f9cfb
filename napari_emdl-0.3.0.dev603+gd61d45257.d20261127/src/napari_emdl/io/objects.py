"""Arrays and signals of other programs in memory: numpy, dask, HyperSpy and pyxem signals, py4DSTEM datacubes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.formats.vendor import found_in_signal
from napari_emdl.io.sources import ArraySource


@dataclass(frozen=True)
class _Given:
    """Gives an array that is there already; picklable when the array is."""

    array: Any

    def __call__(self) -> Any:
        return self.array


def is_object(thing: Any) -> bool:
    """Whether this is an array or a signal in memory, not the name of a file."""
    return hasattr(thing, "axes_manager") or hasattr(thing, "shape") or hasattr(thing, "__array__")


def found_in_object(thing: Any) -> Found:
    """What an object in memory holds; nothing is read or computed.

    Parameters
    ----------
    thing
        numpy, dask, zarr or h5py array; HyperSpy or pyxem signal (lazy ones stay lazy); py4DSTEM DataCube.

    Raises
    ------
    OpenError
        When it holds no array of numbers.
    """
    if hasattr(thing, "axes_manager") and hasattr(thing, "data"):
        return _found_in_hyperspy(thing)
    if hasattr(thing, "calibration") and hasattr(thing, "data") and hasattr(thing.calibration, "get_Q_pixel_size"):
        return _found_in_py4dstem(thing)
    array = thing if hasattr(thing, "shape") and hasattr(thing, "dtype") else np.asarray(thing)
    source = _source(array, "the array")
    return Found(source, tuple(Axis(n) for n in source.shape), name="array")


def _source(array: Any, name: str) -> ArraySource:
    try:
        return ArraySource(_Given(array), name)
    except (AttributeError, TypeError) as error:
        raise OpenError(f"{name} holds {type(array).__name__}, not an array of numbers") from error


def _found_in_hyperspy(signal: Any) -> Found:
    """A signal of HyperSpy, pyxem or LiberTEM's loaders: axes in the order of the array."""
    axes = signal.axes_manager.as_dictionary()
    ordered = [axes[key] for key in sorted(axes, key=lambda key: int(str(key).rpartition("-")[2]))]
    metadata = signal.metadata.as_dictionary()
    name = str((metadata.get("General") or {}).get("title") or type(signal).__name__)
    record: Mapping[str, Any] = {"data": signal.data, "axes": ordered, "metadata": metadata}
    return found_in_signal(record, _source(signal.data, name), "hyperspy", name)


def _found_in_py4dstem(cube: Any) -> Found:
    """A DataCube of py4DSTEM: (scan row, scan col, detector row, detector col) with its calibration."""
    source, known = _source(cube.data, "the DataCube"), cube.calibration
    if len(source.shape) != 4:
        raise OpenError(f"a DataCube has 4 axes, this one has shape {source.shape}")
    steps = [(known.get_R_pixel_size(), known.get_R_pixel_units())] * 2
    steps += [(known.get_Q_pixel_size(), known.get_Q_pixel_units())] * 2
    axes = tuple(
        Axis(n, letter, None if step is None else float(step), units, letter, letter in "RC")
        for n, letter, (step, units) in zip(source.shape, "RCQK", steps, strict=True)
    )
    calibration = Calibration()
    if (rotation := known.get_QR_rotation()) is not None:  # its flip is False where nobody measured anything
        calibration = calibration.override("file", qr_rotation_rad=float(rotation), qr_flip=bool(known.get_QR_flip()))
    return Found(source, axes, calibration, str(getattr(cube, "name", "") or "datacube"), "datacube")
