"""Plain arrays: .npy files and raw binary whose shape and type the user gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.sources import RawSource, first_line


def read_npy(path: Path) -> Found:
    """Open a .npy file without reading its array."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            offset = file.tell()
    except (OSError, ValueError, EOFError) as error:
        raise OpenError(f"{path.name} is no readable .npy file ({first_line(error)})") from error
    if dtype.hasobject:
        raise OpenError(f"{path.name} holds Python objects, not an array of numbers")
    source = RawSource(path, shape, dtype, offset, "F" if fortran else "C")
    return Found(source, tuple(Axis(n) for n in shape), name=path.stem, metadata={"format": "NumPy .npy"})


def read_raw(path: Path, shape: Sequence[int], dtype: Any, offset: int = 0) -> Found:
    """Open raw binary (C order) of the given shape and type.

    Parameters
    ----------
    path
        File.
    shape
        Of the array; one entry may be -1 and is taken from the file's size.
    dtype
        numpy type such as "uint16" or ">u2".
    offset
        Bytes before the array.
    """
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise OpenError(f"unknown data type {dtype!r}; use a numpy name such as uint16, >u2 or float32") from error
    sizes = [int(n) for n in shape]
    if offset < 0 or sizes.count(-1) > 1 or any(n == 0 or n < -1 for n in sizes):
        raise OpenError(
            f"cannot read raw binary of shape {tuple(sizes)} at byte {offset}; sizes must be positive (one may be -1)"
        )
    if -1 in sizes:
        rest = int(np.prod([n for n in sizes if n != -1], dtype=np.int64)) * kind.itemsize
        sizes[sizes.index(-1)] = max(0, path.stat().st_size - offset) // rest
        if 0 in sizes:
            raise OpenError(f"{path.name} is too short for even one slice of shape {tuple(shape)} and type {kind}")
    source = RawSource(path, sizes, kind, offset)
    return Found(source, tuple(Axis(n) for n in sizes), name=path.stem, metadata={"format": "raw binary"})
