"""Frames that arrive one by one: files in a folder, a Gatan in-situ tree, a growing TIFF or MRC stack.

A frame counts as arrived once it is whole: its file has stopped growing and opens, or its bytes all lie inside the stack.
Nothing is ever skipped silently; what stays broken is named.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.signals import Calibration, Movie
from napari_emdl.io import open_movie
from napari_emdl.io.sequence import folder_frames, image_names, insitu_frames, natural_key

#: a file that has not changed for so long and still does not open is broken
PATIENCE_S = 10.0
#: a file must not have changed for so long
SETTLED_S = 0.15
_MRC_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


class Arrivals(Protocol):
    """Where frames come from; a frame is known by its key, which sorts in time."""

    waiting: int
    broken: list[str]

    def poll(self) -> list[str]:
        """Keys of whole frames not handed out before."""

    def frame(self, key: str) -> NDArray[Any]:
        """One frame (rows, cols)."""

    def movie(self, keys: list[str]) -> Movie:
        """The frames `keys` as a lazy movie, in that order."""


def watch_place(path: str | Path) -> Arrivals:
    """Arrivals of a folder or of a stack.

    Raises
    ------
    EmdlError
        When there is no such folder or file, or the file cannot grow.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return FolderArrivals(place)
    if place.suffix.lower() in (".tif", ".tiff"):
        return TiffArrivals(place)
    if place.suffix.lower() in (".mrc", ".mrcs", ".st"):
        return MrcArrivals(place)
    if not place.exists():
        raise EmdlError(f"there is no folder {place} to watch: create it, or check the path")
    raise EmdlError(f"{place.name} is not a stack that can grow: watch a folder, or a TIFF or MRC stack")


@dataclass
class FolderArrivals:
    """One file a frame, also in a Gatan in-situ tree."""

    folder: Path
    waiting: int = 0
    broken: list[str] = field(default_factory=list)
    _done: set[str] = field(default_factory=set)
    _sizes: dict[str, tuple[int, float]] = field(default_factory=dict)

    def poll(self) -> list[str]:
        """Keys (paths inside the folder) of files that have settled and open."""
        now, ready = time.monotonic(), []
        self.waiting = 0
        for key in self._unseen():
            state = self._settled(self.folder / key, key, now)
            if state == "ready":
                self._done.add(key)
                ready.append(key)
            elif state == "broken":
                self.broken.append(key)
            else:
                self.waiting += 1
        return sorted(ready, key=lambda k: natural_key(Path(k)))

    def _unseen(self) -> list[str]:
        """Keys of files that were not handed out: all are listed, those alone are looked at."""
        try:
            with os.scandir(self.folder) as listing:
                entries = list(listing)
            if any(entry.is_dir() for entry in entries):
                names = [str(path.relative_to(self.folder)) for path in self._files()]
            else:
                names = image_names(entries)
        except OSError:
            return []
        return [name for name in names if name not in self._done and name not in self.broken]

    def _files(self) -> list[Path]:
        try:
            return insitu_frames(self.folder) or folder_frames(self.folder)
        except EmdlError:  # an empty folder: frames are still to come
            return []

    def _settled(self, path: Path, key: str, now: float) -> str:
        try:
            size = path.stat().st_size
        except OSError:
            return "waiting"
        known = self._sizes.get(key)
        if known is None or known[0] != size:
            self._sizes[key] = (size, now)
            return "waiting"
        if now - known[1] < SETTLED_S or size == 0:
            return "waiting"
        try:
            self.frame(key)
        except Exception:  # readers of many formats raise anything on half a file
            return "broken" if now - known[1] > PATIENCE_S else "waiting"
        return "ready"

    def frame(self, key: str) -> NDArray[Any]:
        """One frame; raises what the reader raises on half a file."""
        movie = open_movie([self.folder / key])
        return np.asarray(movie.frame(0))

    def movie(self, keys: list[str]) -> Movie:
        """The files `keys` as a movie."""
        paths = [self.folder / key for key in keys]
        if len(keys) >= len(self._done) and paths == self._files():
            with contextlib.suppress(EmdlError):  # several series, or files that it leaves out: each was analysed
                whole = open_movie(self.folder)
                if whole.n_frames == len(paths):
                    return whole
        return open_movie(paths)


@dataclass
class TiffArrivals:
    """Pages appended to a TIFF file."""

    path: Path
    waiting: int = 0
    broken: list[str] = field(default_factory=list)
    _handed: int = 0
    _offsets: list[int] = field(default_factory=list)  # where the directories of whole pages begin
    _calibration: Calibration | None = None

    def poll(self) -> list[str]:
        """Keys of pages whose bytes all lie inside the file."""
        self.waiting = int(self._look_on())
        whole = len(self._offsets)
        keys = [f"{i:08d}" for i in range(self._handed, whole)]
        self._handed = max(self._handed, whole)
        return keys

    def _look_on(self) -> bool:
        """Find the pages behind those that are known; True when another one is being written."""
        import tifffile

        if not self.path.exists():
            return False
        size = self.path.stat().st_size
        try:
            with tifffile.TiffFile(self.path) as file:
                offset = _next_directory(file, self._offsets[-1]) if self._offsets else file.pages.first.offset
                while offset:
                    page = _page(file, offset, len(self._offsets))
                    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
                    if not ends or max(ends) > size:
                        return True
                    self._offsets.append(offset)
                    offset = _next_directory(file, offset)
        except (OSError, ValueError, struct.error, IndexError, KeyError, TypeError, tifffile.TiffFileError):
            return True  # the directory of the last page is being written
        return False

    def frame(self, key: str) -> NDArray[Any]:
        """One page."""
        import tifffile

        index = int(key)
        if index >= len(self._offsets):
            self._look_on()
        with tifffile.TiffFile(self.path) as file:
            return np.asarray(_page(file, self._offsets[index], index).asarray())

    def movie(self, keys: list[str]) -> Movie:
        """The pages `keys` as a movie."""
        if self._calibration is None or (int(keys[0]) == 0 and len(keys) > 1):
            self._calibration = Calibration()
            for name in (str(self.path), f"{self.path}::0"):  # pages written one by one are a series each
                try:
                    opened = open_movie(name)
                except EmdlError:
                    continue
                if opened.kind == "movie" and opened.n_frames == len(keys):
                    return opened
                self._calibration = opened.calibration
                break
        return Movie(_Growing(self, keys), "movie", self._calibration, str(self.path), self.path.stem)


def _page(file: Any, offset: int, index: int) -> Any:
    """The page of an open TIFF file whose directory begins at a byte, without going through those before it."""
    import tifffile

    file.filehandle.seek(offset)
    return tifffile.TiffPage(file, index=index)


def _next_directory(file: Any, offset: int) -> int:
    """Where the directory after the one at a byte begins; 0 behind the last."""
    form, handle = file.tiff, file.filehandle
    handle.seek(offset)
    (tags,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
    handle.seek(offset + form.tagnosize + tags * form.tagsize)
    (following,) = struct.unpack(form.offsetformat, handle.read(form.offsetsize))
    return int(following)


@dataclass
class MrcArrivals:
    """Sections appended to an MRC file, whatever its header says of their number."""

    path: Path
    waiting: int = 0
    broken: list[str] = field(default_factory=list)
    _handed: int = 0

    def poll(self) -> list[str]:
        """Keys of sections that lie inside the file."""
        self.waiting = 0
        try:
            shape, dtype, offset, _ = self._header()
            rest = self.path.stat().st_size - offset
        except (OSError, struct.error):
            return []
        count, partial = divmod(max(0, rest), shape[0] * shape[1] * dtype.itemsize)
        self.waiting = int(partial > 0)
        keys = [f"{i:08d}" for i in range(self._handed, count)]
        self._handed = max(self._handed, count)
        return keys

    def _header(self) -> tuple[tuple[int, int], np.dtype[Any], int, float | None]:
        with open(self.path, "rb") as file:
            head = file.read(1024)
        if len(head) < 1024:
            raise OSError("header is not written yet")
        order = ">" if head[212:214] == b"\x11\x11" else "<"
        cols, rows, _, mode = struct.unpack(order + "4i", head[:16])
        if mode not in _MRC_TYPES or not (0 < cols < 1 << 17 and 0 < rows < 1 << 17):
            raise EmdlError(f"{self.path.name}: MRC mode {mode} with {cols} x {rows} pixels is not a movie")
        mx = struct.unpack(order + "i", head[28:32])[0]
        width_A = struct.unpack(order + "f", head[40:44])[0]
        extended = struct.unpack(order + "i", head[92:96])[0]
        pixel_A = width_A / mx if mx > 0 and width_A > 0 else None
        return (rows, cols), np.dtype(order + _MRC_TYPES[mode]), 1024 + max(0, extended), pixel_A

    def frame(self, key: str) -> NDArray[Any]:
        """One section."""
        shape, dtype, offset, _ = self._header()
        count = shape[0] * shape[1]
        return np.fromfile(self.path, dtype, count, offset=offset + int(key) * count * dtype.itemsize).reshape(shape)

    def movie(self, keys: list[str]) -> Movie:
        """The sections `keys` as a movie."""
        pixel_A = self._header()[3]
        nm = None if pixel_A is None else (pixel_A / 10, pixel_A / 10)
        calibration = Calibration().override("file", pixel_nm=nm)
        return Movie(_Growing(self, keys), "movie", calibration, str(self.path), self.path.stem)


class _Growing:
    """Lazy (time, row, col) array over some frames of a stack that still grows."""

    def __init__(self, arrivals: TiffArrivals | MrcArrivals, keys: list[str]) -> None:
        self._arrivals, self._keys = arrivals, list(keys)
        first = arrivals.frame(keys[0])
        self.shape = (len(keys), *first.shape)
        self.dtype = first.dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:
        time_index, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(time_index, slice):
            frames = [self._arrivals.frame(key) for key in self._keys[time_index]]
            stack = np.stack(frames) if frames else np.zeros((0, *self.shape[1:]), self.dtype)
            return stack[(slice(None), *rest)]
        return self._arrivals.frame(self._keys[int(time_index)])[tuple(rest)]
