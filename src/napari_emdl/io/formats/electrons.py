"""Counted electrons of the 4D Camera as stempy keeps them: for each frame the pixels that an electron hit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.formats.h5meta import attribute
from napari_emdl.io.hdf5gate import Gate, check_dataset, read_small
from napari_emdl.io.sources import FramesSource

_FRAMES, _POSITIONS = "electron_events/frames", "electron_events/scan_positions"
#: Version of the format from which on the frames lie in scan order, the same number at each position.
_IN_ORDER = 3
_MOST_SIDE, _MOST_ELECTRONS = 2**15, 2**26


def is_counted(gate: Gate) -> bool:
    """Whether a file holds counted electrons."""
    frames = gate.get(_FRAMES)
    vlen = h5py.check_vlen_dtype(frames.dtype) if isinstance(frames, h5py.Dataset) else None
    return isinstance(vlen, np.dtype) and vlen.kind in "iu" and isinstance(gate.get(_POSITIONS), h5py.Dataset)


class _Counted:
    """Reads the pattern of position i; reopens the file after unpickling."""

    def __init__(self, path: Path, frames: tuple[NDArray[np.int64], NDArray[np.int64]], shape: tuple[int, int]) -> None:
        self.path, self.shape = path, shape
        self.order, self.starts = frames
        self._gate: Gate | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_gate": None}

    def __call__(self, index: int) -> NDArray[np.uint16]:
        if self._gate is None:
            self._gate = Gate(self.path)
        held = self._gate.item(_FRAMES)
        pixels = self.shape[0] * self.shape[1]
        out = np.zeros(pixels, np.int64)
        for frame in self.order[self.starts[index] : self.starts[index + 1]]:
            hits = np.asarray(held[np.unravel_index(int(frame), held.shape)], np.int64)
            if hits.size > _MOST_ELECTRONS or (hits.size and not 0 <= hits.min() <= hits.max() < pixels):
                raise ValueError("electrons lie outside the detector")
            out += np.bincount(hits, minlength=pixels)
        return np.minimum(out, 2**16 - 1).astype(np.uint16).reshape(self.shape)


def read_counted(gate: Gate) -> Found:
    """Open counted electrons as the datacube of their counts."""
    name = gate.path.name
    frames, positions = gate.item(_FRAMES), gate.item(_POSITIONS)
    check_dataset(frames, name, gate.folder)
    detector = _sides(frames, name)
    cols, rows = _sides(positions, name)
    count, held = rows * cols, int(np.prod(frames.shape, dtype=np.int64))
    version = attribute(gate.file, "version", 1)
    if isinstance(version, (int, np.integer)) and version >= _IN_ORDER:
        if held % count:
            raise OpenError(f"{name} holds {held} frames for a scan of {rows} x {cols}; it is damaged")
        where = np.repeat(np.arange(count), held // count)
    else:
        where = np.asarray(read_small(positions, name), np.int64).ravel()[:held]
        if where.size != held or (held and not 0 <= where.min() <= where.max() < count):
            raise OpenError(f"{name} names scan positions outside its scan of {rows} x {cols}; it is damaged")
    order = np.argsort(where, kind="stable")
    starts = np.searchsorted(where[order], np.arange(count + 1))
    source = FramesSource(_Counted(gate.path, (order, starts), detector), (rows, cols), detector, np.uint16, name)
    axes = tuple(Axis(n, letter=letter) for n, letter in zip(source.shape, "RCQK", strict=True))
    empty = int(np.sum(np.diff(starts) == 0))
    notes = (f"{empty} of {count} scan positions have no frame and are empty",) if empty else ()
    return Found(source, axes, name=gate.path.stem, metadata={"format": "stempy counted electrons"}, notes=notes)


def _sides(dataset: h5py.Dataset, name: str) -> tuple[int, int]:
    """The attributes Nx and Ny."""
    sides = [attribute(dataset, side, None) for side in ("Nx", "Ny")]
    if not all(isinstance(n, (int, np.integer)) and 0 < n <= _MOST_SIDE for n in sides):
        raise OpenError(f"{name} does not say the size of {dataset.name} (Nx, Ny); it is damaged")
    return int(sides[0]), int(sides[1])
