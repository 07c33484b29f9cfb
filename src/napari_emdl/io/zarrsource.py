"""The only way into zarr stores, folders and zip files alike: sizes are checked before a piece is unpacked."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import SMALL_ARRAY_BYTES
from napari_emdl.base.unpacking import check_packed
from napari_emdl.io.sources import MAX_CHUNK_BYTES, ArraySource, AxisIndex

#: Metadata of a store that is no piece of an array, and how large it may be.
_METADATA, _METADATA_BYTES = (".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json"), 64 * 2**20


def open_store(path: Path) -> Any:
    """Group or array of a zarr folder or zip file, for reading.

    Raises
    ------
    OpenError
        When a member of a zip file is larger than any piece may be, or the store is of a newer version than the library reads.
    """
    import zarr

    if path.is_file():
        _check_members(path)
        return zarr.open(zarr.storage.ZipStore(str(path), mode="r"), mode="r")
    if (path / "zarr.json").is_file() and not hasattr(zarr.storage, "LocalStore"):
        from napari_emdl.io.zarr3 import open_zarr3

        return open_zarr3(path)
    return zarr.open(str(path), mode="r")


def _check_members(path: Path) -> None:
    """Refuse members that unpack to more than a piece or its description may have."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            limit = _METADATA_BYTES if member.filename.rpartition("/")[2] in _METADATA else MAX_CHUNK_BYTES
            if member.file_size > limit:
                raise OpenError(
                    f"{path.name}: {member.filename} unpacks to {member.file_size / 2**20:.0f} MB, and at most "
                    f"{limit // 2**20} MB can be read at once; pack it anew, a frame a piece"
                )


@dataclass(frozen=True)
class _Opener:
    path: Path
    dataset: str

    def __call__(self) -> Any:
        store = open_store(self.path)
        return store[self.dataset] if self.dataset else store


class ZarrSource(ArraySource):
    """Array of a zarr store, read piece by piece.

    Parameters
    ----------
    path
        Folder or zip file.
    dataset
        Path of the array in the store, "" for the store itself.
    """

    def __init__(self, path: Path, dataset: str) -> None:
        super().__init__(_Opener(path, dataset), path.name)
        piece = float(np.prod([float(n) for n in getattr(self._array, "chunks", None) or (1,)])) * self.dtype.itemsize
        if piece > MAX_CHUNK_BYTES:
            raise OpenError(
                f"{path.name} is packed in pieces of {piece / 2**20:.0f} MB, and at most {MAX_CHUNK_BYTES // 2**20} MB can be "
                "read at once; pack it anew, a frame a piece"
            )

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`."""
        if self._array is None:
            self._array = self._opener()
        self._check_pieces(index)
        return super().read(index)

    def _check_pieces(self, index: tuple[AxisIndex, ...]) -> None:
        """Refuse pieces that unpack to more than a piece has."""
        array = self._array
        compressor, store = getattr(array, "_compressor", None), getattr(array, "chunk_store", None)
        if compressor is None or store is None or not hasattr(array, "_chunk_key"):
            return
        unpacked = int(np.prod(array.chunks, dtype=np.int64)) * max(1, array.dtype.itemsize)
        for coords in _pieces(index, array.chunks):
            try:
                packed = store[array._chunk_key(coords)]
            except Exception:  # never written, or damaged, which reading it says in one line
                continue
            check_packed(packed, compressor.codec_id, unpacked + SMALL_ARRAY_BYTES, f"{self.name}: a piece of {array.name}")


def _pieces(index: tuple[AxisIndex, ...], chunks: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Numbers of the pieces in which a selection lies."""
    ranges = []
    for part, size in zip(index, chunks, strict=True):
        first, stop = (part.start, part.stop) if isinstance(part, slice) else (part, part + 1)
        ranges.append(range(first // size, -(-max(stop, first + 1) // size)))
    return itertools.product(*ranges)
