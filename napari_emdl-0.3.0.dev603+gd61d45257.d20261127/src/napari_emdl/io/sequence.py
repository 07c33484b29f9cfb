"""Image sequences: a folder, a pattern with * or ?, or a Gatan in-situ tree, as one movie read frame by frame."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.formats.pictures import LUMINANCE_NOTE, read_plain, read_plain_frame
from napari_emdl.io.formats.raw import read_npy
from napari_emdl.io.formats.tiffs import read_tiff
from napari_emdl.io.sources import FramesSource, RawSource

_PLAIN = {".png", ".jpg", ".jpeg", ".bmp"}
_ENDINGS = {".tif", ".tiff", ".dm3", ".dm4", ".npy", ".ser", ".mrc", *_PLAIN}


def natural_key(path: Path) -> tuple[Any, ...]:
    """Sort key under which frame_9 comes before frame_10."""
    return tuple(int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", str(path)))


def insitu_frames(folder: Path) -> list[Path]:
    """Frames of a Gatan in-situ tree (Hour_00/Minute_00/Second_00/*_Frame_0000.dm4) in order; empty for other folders."""
    if not any(folder.glob("Hour_*")) and not any(folder.glob("*/Hour_*")):
        return []
    found = [
        p for p in folder.glob("**/Hour_*/Minute_*/Second_*/*") if re.search(r"_Frame_\d+\.dm[34]$", p.name, re.IGNORECASE)
    ]
    return sorted(found, key=natural_key)


def folder_frames(folder: Path) -> list[Path]:
    """Image files of a folder, of its most frequent kind, in natural order."""
    files = [p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in _ENDINGS and not p.name.startswith(".")]
    if not files:
        raise OpenError(f"{folder} holds no images; give a file, or a folder with one image a frame")
    ending = Counter(p.suffix.lower() for p in files).most_common(1)[0][0]
    return sorted((p for p in files if p.suffix.lower() == ending), key=natural_key)


def read_folder(folder: Path) -> Found:
    """Open a folder: a Gatan in-situ tree, or one image a frame."""
    frames = insitu_frames(folder)
    if frames:
        found = read_sequence(frames, folder.name)
        interval_s = _insitu_interval_s(frames)
        calibration = found.calibration.override("file", frame_interval_s=interval_s)
        return replace(found, calibration=calibration, metadata={**found.metadata, "format": "Gatan in-situ tree"})
    return read_sequence(folder_frames(folder), folder.name)


def _insitu_interval_s(frames: Sequence[Path]) -> float | None:
    """Frame interval from the frames in each whole Second_ folder; the first and last second may be partial."""
    counts = list(Counter(p.parent for p in frames).values())
    whole = counts[1:-1]
    return 1.0 / float(np.median(whole)) if whole else None


@dataclass(frozen=True)
class _Files:
    """Reads frame i from its own file."""

    paths: tuple[Path, ...]
    read: Callable[[Path], NDArray[Any]]

    def __call__(self, index: int) -> NDArray[Any]:
        return self.read(self.paths[index])


def read_sequence(paths: Sequence[Path], name: str) -> Found:
    """Open image files as one movie; shape, type and pixel size are those of the first.

    Parameters
    ----------
    paths
        One file a frame, in order, all of one kind.
    name
        Of the layer.
    """
    first = paths[0]
    ending = first.suffix.lower()
    read: Callable[[Path], NDArray[Any]]
    notes: tuple[str, ...] = ()
    if ending in _PLAIN:
        frame, coloured = read_plain(first)
        notes = (LUMINANCE_NOTE,) if coloured else ()
        shape, dtype, calibration, read = frame.shape, frame.dtype, Calibration(), read_plain_frame
        axes: tuple[Axis, ...] = (Axis(shape[0], letter="Y"), Axis(shape[1], letter="X"))
    else:
        found = _read_one(first)
        notes = found.notes
        shape, dtype, calibration = found.data.shape, found.data.dtype, found.calibration
        if len(shape) != 2:
            raise OpenError(f"{first.name} holds {shape}, not one image; open it alone, or move it out of the folder")
        read = _DmFrame.like(found) if isinstance(found.data, RawSource) and ending in (".dm3", ".dm4") else _read_frame
        axes = tuple(replace(a, letter=letter, navigate=None) for a, letter in zip(found.axes, "YX", strict=True))
    source = FramesSource(_Files(tuple(paths), read), (len(paths),), shape, dtype, name)
    facts = {"format": f"{ending[1:]} sequence", "first": first.name, "last": paths[-1].name}
    return Found(source, (Axis(len(paths), letter="T"), *axes), calibration, name, "movie", facts, notes=notes)


def _read_one(path: Path) -> Found:
    """Open one image file of a sequence."""
    ending = path.suffix.lower()
    if ending in (".tif", ".tiff"):
        return read_tiff(path)
    if ending == ".npy":
        return read_npy(path)
    if ending == ".ser":
        from napari_emdl.io.formats.ser import read_ser

        return read_ser(path)
    if ending == ".mrc":
        from napari_emdl.io.formats.mrc import read_mrc

        return read_mrc(path)
    from napari_emdl.io.formats.vendor import PLUGINS, read_vendor

    return read_vendor(path, PLUGINS[ending])


def _read_frame(path: Path) -> NDArray[Any]:
    return _read_one(path).data[...]


@dataclass(frozen=True)
class _DmFrame:
    """Reads DM frames at the place where the first one has its array, after checking that this one has it there as well.

    The tag of the array ends in its length: 8 bytes in DM4, 4 bytes in DM3, both big endian, right before the data.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def like(cls, found: Found) -> _DmFrame:
        source = found.data
        assert isinstance(source, RawSource)
        return cls(source.offset, source.shape, source.dtype)

    def __call__(self, path: Path) -> NDArray[Any]:
        count = int(np.prod(self.shape))
        width = 8 if path.suffix.lower() == ".dm4" else 4
        with open(path, "rb") as file:
            file.seek(self.offset - width)
            if int.from_bytes(file.read(width), "big") == count:
                values = np.fromfile(file, dtype=self.dtype, count=count)
                if values.size == count:
                    return values.reshape(self.shape)
        return _read_frame(path)
