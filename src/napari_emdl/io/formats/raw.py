"""Plain arrays: .npy and .npz files, and raw binary whose shape and type the user gives."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import npy_header, one_line, read_small_npy
from napari_emdl.io.axes import Axis, Found, pick
from napari_emdl.io.sources import ArraySource, RawSource, RecordSource, Source

#: Packed arrays cannot be read in part; larger ones are refused.
_MOST_PACKED_BYTES = 512 * 2**20


@dataclass(frozen=True)
class RawLayout:
    """What surrounds the frames of raw binary.

    Attributes
    ----------
    offset, trailer
        Bytes before the first frame and after the last one.
    header_rows, footer_rows
        Rows of the frame's type before and after each frame that are not data.
    frame_header, frame_footer
        Bytes before and after each frame (before its header rows and after its footer rows).
    """

    offset: int = 0
    header_rows: int = 0
    footer_rows: int = 0
    frame_header: int = 0
    frame_footer: int = 0
    trailer: int = 0

    def around(self, row_bytes: int) -> tuple[int, int]:
        """Bytes before and after each frame."""
        return self.frame_header + self.header_rows * row_bytes, self.footer_rows * row_bytes + self.frame_footer


def read_npy(path: Path) -> Found:
    """Open a .npy file without reading its array."""
    with one_line(path.name, ".npy file"):
        with path.open("rb") as file:
            shape, fortran, dtype = npy_header(file, path.name)
            offset = file.tell()
        source = RawSource(path, shape, dtype, offset, "F" if fortran else "C")
        return Found(source, tuple(Axis(n) for n in shape), name=path.stem, metadata={"format": "NumPy .npy"})


@dataclass(frozen=True)
class _PackedArray:
    """Reads an array of a .npz file whole."""

    path: Path
    member: str

    def __call__(self) -> NDArray[Any]:
        with one_line(self.path.name, ".npz file"), zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            return read_small_npy(file, f"{self.path.name}::{self.member.removesuffix('.npy')}", _MOST_PACKED_BYTES)  # type: ignore[arg-type]


def read_npz(path: Path, dataset: str | None = None) -> Found:
    """Open the only array of a .npz file, or the one named; straight from the file where it is stored unpacked."""
    with one_line(path.name, ".npz file"):
        with zipfile.ZipFile(path) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
            chosen = dataset if dataset is not None else pick(_images(archive, members), "arrays", path.name)
            if chosen not in members:
                raise OpenError(f"{path.name} has no array {chosen!r}; it holds {', '.join(members) or 'none'}")
            member = members[chosen]
            with archive.open(member) as file:
                shape, fortran, dtype = npy_header(file, f"{path.name}::{chosen}")  # type: ignore[arg-type]
                head = file.tell()
        facts = {"format": "NumPy .npz", "dataset": chosen}
        axes = tuple(Axis(n) for n in shape)
        if member.compress_type == zipfile.ZIP_STORED:
            with path.open("rb") as raw:
                raw.seek(member.header_offset + 26)
                name, extra = (int.from_bytes(raw.read(2), "little") for _ in range(2))
            start = member.header_offset + 30 + name + extra + head
            source: Source = RawSource(path, shape, dtype, start, "F" if fortran else "C")
            return Found(source, axes, name=path.stem, metadata=facts)
        nbytes = float(np.prod([float(n) for n in shape])) * dtype.itemsize
        if nbytes > _MOST_PACKED_BYTES:
            raise OpenError(
                f"{path.name} packs {nbytes / 2**30:.1f} GB into one piece, which cannot be read in part; save it with np.save"
            )
        return Found(ArraySource(_PackedArray(path, member.filename), path.name), axes, name=path.stem, metadata=facts)


def check_unpacked_size(path: Path) -> None:
    """Refuse a zip file whose arrays would not fit in memory."""
    with one_line(path.name, "zip file"), zipfile.ZipFile(path) as archive:
        nbytes = sum(member.file_size for member in archive.infolist())
    if nbytes > _MOST_PACKED_BYTES:
        raise OpenError(f"{path.name} packs {nbytes / 2**30:.1f} GB, which cannot be read in part; save it as HDF5 or TIFF")


def list_arrays(path: Path) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    """Arrays of a .npz file that can be images: (name, shape, type)."""
    with one_line(path.name, ".npz file"), zipfile.ZipFile(path) as archive:
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
        return _held(archive, members)


def _held(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    found = []
    for name, member in list(members.items())[:1000]:
        with archive.open(member) as file:
            shape, _, dtype = npy_header(file, name)  # type: ignore[arg-type]
        if len(shape) >= 2 and dtype.kind in "biuf":
            found.append((name, tuple(shape), dtype))
    return found


def _images(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> list[str]:
    """Arrays that can be images: of two axes and more; those of the most axes where there are several."""
    held = _held(archive, members)
    most = max((len(shape) for _, shape, _ in held), default=0)
    return [name for name, shape, _ in held if len(shape) == most]


def read_raw(path: Path, shape: Sequence[int], dtype: Any, layout: RawLayout | int = 0) -> Found:
    """Open raw binary (C order) of the given shape and type.

    Parameters
    ----------
    path
        File.
    shape
        Of the array; one entry may be -1 and is taken from the file's size.
    dtype
        numpy type such as "uint16" or ">u2".
    layout
        What surrounds the frames, or the bytes before the array.

    Raises
    ------
    OpenError
        When the file is shorter or longer than declared; for a longer one, naming the readings that would fit.
    """
    layout = RawLayout(offset=layout) if isinstance(layout, int) else layout
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise OpenError(f"unknown data type {dtype!r}; use a numpy name such as uint16, >u2 or float32") from error
    if kind.hasobject or kind.itemsize == 0 or kind.kind not in "biufc":
        raise OpenError(f"{dtype!r} is not a numeric type; use a numpy name such as uint16, >u2 or float32")
    sizes = [int(n) for n in shape]
    if len(sizes) < 2 or sizes.count(-1) > 1 or any(n == 0 or n < -1 for n in sizes):
        raise OpenError(
            f"cannot read raw binary of shape {tuple(sizes)} at byte {layout.offset}; it has two sizes or more, which must be "
            "positive (one may be -1)"
        )
    before, after = layout.around(sizes[-1] * kind.itemsize if sizes[-1] > 0 else 0)
    have = path.stat().st_size - layout.offset - layout.trailer
    if -1 in sizes[:-2]:
        frame = sizes[-2] * sizes[-1] * kind.itemsize + before + after
        known = int(np.prod([n for n in sizes[:-2] if n != -1], dtype=np.int64)) * frame
        sizes[sizes.index(-1)] = max(0, have) // known
    elif -1 in sizes:
        if before or after:
            raise OpenError("with headers or footers a frame, give rows and cols of the frames; the count may be -1")
        rest = int(np.prod([n for n in sizes if n != -1], dtype=np.int64)) * kind.itemsize
        sizes[sizes.index(-1)] = max(0, have) // rest
    if 0 in sizes:
        raise OpenError(f"{path.name} is too short for even one slice of shape {tuple(shape)} and type {kind}")
    _check_length(path, sizes, kind, layout, have)
    source = frames_source(path, sizes[:-2], sizes[-2:], kind, layout)
    return Found(source, tuple(Axis(n) for n in sizes), name=path.stem, metadata={"format": "raw binary"})


def frames_source(path: Path, leading: Sequence[int], frame: Sequence[int], kind: np.dtype[Any], layout: RawLayout) -> Source:
    """Source of raw frames with what surrounds them."""
    before, after = layout.around(int(frame[-1]) * kind.itemsize)
    if not before and not after:
        return RawSource(path, (*leading, *frame), kind, layout.offset)
    return RecordSource(path, tuple(leading) or (1,), frame, kind, before, layout.offset, footer=after)


def _check_length(path: Path, sizes: Sequence[int], kind: np.dtype[Any], layout: RawLayout, have: int) -> None:
    """Refuse a file that is longer than declared, with the readings that fit."""
    rows, cols = sizes[-2:]
    count = int(np.prod([float(n) for n in sizes[:-2]])) if len(sizes) > 2 else 1
    row_bytes = cols * kind.itemsize
    before, after = layout.around(row_bytes)
    need = count * (rows * row_bytes + before + after)
    extra = have - need
    if extra <= 0:
        return
    readings = []
    each, uneven = divmod(extra, count)
    if not uneven and each % row_bytes == 0:
        readings.append(
            f"{each // row_bytes} rows after each frame are not data (`footer_rows={layout.footer_rows + each // row_bytes}`)"
        )
    elif not uneven:
        readings.append(f"{each} bytes before each frame (`frame_header={layout.frame_header + each}`)")
    readings.append(f"{extra} bytes before the array (`offset={layout.offset + extra}`)")
    frame = rows * row_bytes + before + after
    if extra % frame == 0:
        readings.append(f"{extra // frame} more frames (a longer shape)")
    shape = " x ".join(map(str, sizes))
    raise OpenError(
        f"{path.name} is longer than declared: {shape} of {kind} takes {need} bytes, it has {have}; what fits is "
        f"{', or '.join(readings)}, or `trailer={layout.trailer + extra}` to leave the rest out"
    )
