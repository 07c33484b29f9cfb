"""Datasets of HDF5 files as sources, one or several in a row."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import first_line
from napari_emdl.io.sources import AxisIndex, Source, indices


class Hdf5Source(Source):
    """Dataset of an HDF5 file; h5py serialises its calls itself, so threads may share the handle.

    Parameters
    ----------
    path
        File.
    dataset
        Path of the dataset inside the file.
    """

    def __init__(self, path: str | Path, dataset: str) -> None:
        self.path = Path(path)
        self.dataset = dataset
        self._lock = threading.Lock()
        self._handle: Any = None
        self._gate: Any = None
        opened = self._open()
        super().__init__(opened.shape, opened.dtype.newbyteorder("="))

    def _open(self) -> Any:
        from napari_emdl.io.hdf5gate import Gate, check_dataset

        with self._lock:
            if self._handle is None:
                try:
                    self._gate = Gate(self.path)
                    handle = self._gate.item(self.dataset)
                    check_dataset(handle, self.path.name, self._gate.folder)
                except (OSError, KeyError, RuntimeError) as error:
                    raise OpenError(f"{self.path.name} cannot be read ({first_line(error)})") from error
                self._handle = handle
            return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None, "_lock": None, "_gate": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`."""
        from napari_emdl.io.hdf5gate import check_pieces

        try:
            handle = self._open()
            check_pieces(handle, self.path.name, index)
            return np.asarray(handle[index], dtype=self.dtype)
        except (OSError, RuntimeError) as error:
            raise OpenError(
                f"{self.path.name}: {self.dataset} cannot be read ({first_line(error)}); is the file damaged?"
            ) from error


class ConcatSource(Source):
    """Sources in a row along their first axis, such as the data files of a detector's master file.

    Parameters
    ----------
    parts
        Sources of one frame shape; those of two axes count as one frame.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = tuple(parts)
        frame = self.parts[0].shape[-2:]
        if any(part.shape[-2:] != frame or part.ndim not in (2, 3) for part in self.parts):
            raise OpenError(f"the parts of the data have different frames: {sorted({part.shape[-2:] for part in self.parts})}")
        counts = [part.shape[0] if part.ndim == 3 else 1 for part in self.parts]
        self.starts = np.r_[0, np.cumsum(counts)]
        super().__init__((int(self.starts[-1]), *frame), np.result_type(*[part.dtype for part in self.parts]))

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`, file by file."""
        chosen, inner = index[0], index[1:]
        if not isinstance(chosen, slice):
            number = int(np.searchsorted(self.starts, chosen, "right")) - 1
            return self._of(number, chosen - int(self.starts[number]), inner).astype(self.dtype, copy=False)
        flat = np.arange(self.shape[0])[chosen]
        inner_shape = tuple(len(indices(i)) for i in inner if isinstance(i, slice))
        out = np.empty((flat.size, *inner_shape), self.dtype)
        for number, (start, stop) in enumerate(zip(self.starts[:-1], self.starts[1:], strict=True)):
            places = np.flatnonzero((flat >= start) & (flat < stop))
            if places.size:
                first, last = int(flat[places[0]] - start), int(flat[places[-1]] - start)
                out[places] = self._of(number, slice(first, last + 1, chosen.step), inner)
        return out

    def _of(self, number: int, at: AxisIndex, inner: tuple[AxisIndex, ...]) -> NDArray[Any]:
        part = self.parts[number]
        if part.ndim == 3:
            return part[(at, *inner)]
        frame = part[inner]
        return frame[None] if isinstance(at, slice) else frame
