"""Arrays on disk: indexing reads just that part, from any thread, and gives numpy.

No source keeps a file mapped or a whole array in memory. Sources can be pickled (they reopen the file), so that blocks may be
read by other processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import first_line

#: One frame or pattern larger than this cannot be meant: every reader reads at least one.
MAX_FRAME_BYTES = 8 * 2**30
#: Largest piece (chunk) of a packed array that is unpacked; the largest detectors have 200 MB a frame.
MAX_CHUNK_BYTES = 256 * 2**20

AxisIndex = int | slice
Index = AxisIndex | EllipsisType | tuple[AxisIndex | EllipsisType, ...]


def full_index(index: Any, shape: Sequence[int]) -> tuple[AxisIndex, ...]:
    """Write `index` as one int (not negative) or slice (with plain bounds) an axis.

    Parameters
    ----------
    index
        Ints, slices and at most one Ellipsis, as numpy takes them.
    shape
        Shape indexed.

    Raises
    ------
    IndexError
        When `index` is out of range, too long, or of another type.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    ellipses = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index can have only one ellipsis")
    at = ellipses[0] if ellipses else len(parts)
    before, after = parts[:at], parts[at + 1 :]
    missing = len(shape) - len(before) - len(after)
    if missing < 0:
        raise IndexError(f"too many indices: the array has {len(shape)} axes, got {len(before) + len(after)}")
    out: list[AxisIndex] = []
    for axis, (part, size) in enumerate(zip([*before, *[slice(None)] * missing, *after], shape, strict=True)):
        if isinstance(part, slice):
            out.append(slice(*part.indices(size)))
        elif isinstance(part, (int, np.integer)) and not isinstance(part, (bool, np.bool_)):
            if not -size <= part < size:
                raise IndexError(f"index {part} is out of bounds for axis {axis} of size {size}")
            out.append(int(part) % size)
        else:
            raise IndexError(f"arrays on disk are indexed by ints and slices, got {type(part).__name__}")
    return tuple(out)


class Source(ABC):
    """Array on disk (a ``LazyArray``)."""

    def __init__(self, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Size of the whole array, unpacked, in bytes."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        parts = full_index(index, self.shape)
        turned = [(_positive(part) if isinstance(part, slice) else (part, False)) for part in parts]
        out = self.read(tuple(part for part, _ in turned))
        back = [backwards for part, backwards in turned if isinstance(part, slice)]
        return np.ascontiguousarray(out[tuple(slice(None, None, -1 if b else 1) for b in back)]) if any(back) else out

    @abstractmethod
    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`: for every axis an int that is not negative, or a plain slice that runs forwards."""


def _positive(part: slice) -> tuple[slice, bool]:
    """Slice that runs forwards and picks the same elements, and whether they come out reversed."""
    if part.step > 0:
        return slice(part.start, max(part.start, part.stop), part.step), False
    count = len(range(part.start, part.stop, part.step))
    if count == 0:
        return slice(0, 0, 1), False
    last = part.start + (count - 1) * part.step
    return slice(last, part.start + 1, -part.step), True


def indices(part: slice) -> range:
    return range(part.start, part.stop, part.step)


def contiguous_run(index: tuple[AxisIndex, ...], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(first element, number of elements) that `index` picks when they lie in one run in C order, else None."""
    start, stride = 0, int(np.prod(shape, dtype=np.int64))
    for axis, (part, size) in enumerate(zip(index, shape, strict=True)):
        stride //= size
        if not isinstance(part, slice):
            start += part * stride
            continue
        count = len(indices(part))
        if count == 1:
            start += part.start * stride
            continue
        rest = zip(index[axis + 1 :], shape[axis + 1 :], strict=True)
        whole = all(isinstance(p, slice) and p.step == 1 and len(indices(p)) == n for p, n in rest)
        return (start + part.start * stride, count * stride) if part.step == 1 and whole and count else None
    return start, 1


def shape_of(index: tuple[AxisIndex, ...]) -> tuple[int, ...]:
    return tuple(len(indices(part)) for part in index if isinstance(part, slice))


class RawSource(Source):
    """Uncompressed array at a place in a file (.npy, raw binary, contiguous TIFF, DM).

    The file is mapped for the length of one read only: mapped pages count as memory of the process, and a file that was
    shortened or removed meanwhile gives an error.

    Parameters
    ----------
    path
        File.
    shape, dtype
        Of the array; dtype holds the byte order.
    offset
        Bytes before the array.
    order
        "C" or "F".
    """

    def __init__(self, path: str | Path, shape: Sequence[int], dtype: DTypeLike, offset: int = 0, order: str = "C") -> None:
        self.stored = np.dtype(dtype)
        super().__init__(shape, self.stored.newbyteorder("="))
        self.path = Path(path)
        self.offset = int(offset)
        self.order = order
        self._check_size(self.nbytes)

    def _check_size(self, nbytes: int) -> None:
        try:
            have = self.path.stat().st_size
        except OSError as error:
            raise OpenError(f"{self.path.name} cannot be read any more ({error.strerror}); was it moved or removed?") from error
        need = self.offset + nbytes
        if have < need:
            raise OpenError(
                f"{self.path.name} is too short: {self.shape} of {self.dtype} needs {need} bytes, the file has {have}; "
                "it is truncated, or the shape is wrong"
            )

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`."""
        if self.size == 0:
            return np.zeros(self.shape, self.dtype)[index]
        self._check_size(self.nbytes)
        run = contiguous_run(index, self.shape) if self.order == "C" else None
        if run is not None:
            return self._values(self.stored, *run).reshape(shape_of(index)).astype(self.dtype, copy=False)
        order: Any = self.order
        mapped = np.memmap(self.path, dtype=self.stored, mode="r", offset=self.offset, shape=self.shape, order=order)
        return np.array(mapped[index], dtype=self.dtype)

    def _values(self, dtype: np.dtype[Any], start: int, count: int) -> NDArray[Any]:
        """Plain read of a run of values; much faster than touching mapped pages one by one."""
        values = np.fromfile(self.path, dtype=dtype, count=count, offset=self.offset + start * dtype.itemsize)
        if values.size != count:
            raise OpenError(f"{self.path.name} became shorter while it was read; was it truncated?")
        return values


class RecordSource(RawSource):
    """Frames of one size, each behind a header of fixed length (Merlin, blockfile).

    Parameters
    ----------
    path
        File.
    leading
        Shape of the frames; may be fewer than the file holds.
    frame_shape, dtype
        Of a frame as stored.
    header
        Bytes before each frame.
    offset
        Bytes before the first header.
    flip
        True where the bottom row is stored first.
    footer
        Bytes after each frame.
    """

    def __init__(
        self,
        path: str | Path,
        leading: Sequence[int],
        frame_shape: Sequence[int],
        dtype: DTypeLike,
        header: int,
        offset: int = 0,
        flip: bool = False,
        footer: int = 0,
    ) -> None:
        self.leading = tuple(int(n) for n in leading)
        frame = tuple(int(n) for n in frame_shape)
        size = int(np.prod(frame, dtype=np.int64)) * np.dtype(dtype).itemsize
        self.record = np.dtype(
            {"names": ["frame"], "formats": [(np.dtype(dtype), frame)], "offsets": [header], "itemsize": header + size + footer}
        )
        self.flip = flip
        super().__init__(path, (*self.leading, *frame), dtype, offset)

    def _check_size(self, nbytes: int) -> None:
        count = int(np.prod(self.leading, dtype=np.int64))
        super()._check_size(count * self.record.itemsize)

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`."""
        self._check_size(self.nbytes)
        outer, inner = index[: len(self.leading)], index[len(self.leading) :]
        run = contiguous_run(outer, self.leading)
        if run is not None:
            frames = self._values(self.record, *run)["frame"]
            frames = (frames[..., ::-1, :] if self.flip else frames)[(slice(None), *inner)]
            return frames.reshape((*shape_of(outer), *frames.shape[1:])).astype(self.dtype)
        mapped = np.memmap(self.path, dtype=self.record, mode="r", offset=self.offset, shape=self.leading)["frame"]
        return np.array((mapped[..., ::-1, :] if self.flip else mapped)[index], dtype=self.dtype)


class ArraySource(Source):
    """Any array-like that reads lazily by ints and slices (zarr, dask, numpy).

    Parameters
    ----------
    opener
        Gives the array; called once a process. A picklable callable makes the source picklable.
    name
        File name for messages.
    """

    def __init__(self, opener: Callable[[], Any], name: str) -> None:
        self._opener = opener
        self.name = name
        self._array: Any = opener()
        super().__init__(self._array.shape, self._array.dtype.newbyteorder("="))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_array": None}

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`."""
        if self._array is None:
            self._array = self._opener()
        try:
            out = self._array[index]
            # The caller's threads already run in parallel: dask must not start a pool for every read.
            out = out.compute(scheduler="synchronous") if hasattr(out, "compute") else out
        except OpenError:
            raise
        except Exception as error:  # stores raise anything on damaged data
            raise OpenError(f"{self.name} cannot be read ({first_line(error)}); was it moved, or is it damaged?") from error
        return np.array(out, dtype=self.dtype)


class FramesSource(Source):
    """Stack read frame by frame: the leading axes count frames, the last two are the frame.

    Parameters
    ----------
    read_frame
        Gives frame i (flat) as (rows, cols); must be safe to call from several threads.
    leading
        Shape of the leading axes.
    frame_shape, dtype
        Of a frame.
    name
        File name for messages.
    """

    def __init__(
        self,
        read_frame: Callable[[int], NDArray[Any]],
        leading: Sequence[int],
        frame_shape: Sequence[int],
        dtype: DTypeLike,
        name: str,
    ) -> None:
        super().__init__((*leading, *frame_shape), np.dtype(dtype).newbyteorder("="))
        self._read_frame = read_frame
        self.name = name

    def frame(self, flat: int) -> NDArray[Any]:
        """Frame `flat`, with errors in one line."""
        try:
            frame = np.asarray(self._read_frame(flat))
        except OpenError:
            raise
        except Exception as error:  # decoders raise anything on damaged data
            raise OpenError(
                f"{self.name}: frame {flat} cannot be read ({first_line(error)}); was the file moved, or is it damaged?"
            ) from error
        if frame.shape != self.shape[-2:]:
            raise OpenError(f"{self.name}: frame {flat} has shape {frame.shape}, the first has {self.shape[-2:]}")
        return frame

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`."""
        lead, inner = index[:-2], index[-2:]
        flat = np.arange(int(np.prod(self.shape[:-2], dtype=np.int64))).reshape(self.shape[:-2])[lead]
        if np.ndim(flat) == 0:
            return np.array(self.frame(int(flat))[inner], dtype=self.dtype)
        inner_shape = tuple(len(indices(i)) for i in inner if isinstance(i, slice))
        out = np.empty((*flat.shape, *inner_shape), self.dtype)
        for place in np.ndindex(*flat.shape):
            out[place] = self.frame(int(flat[place]))[inner]
        return out
