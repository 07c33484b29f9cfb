"""Image sequences: a folder, a pattern with * or ?, or a Gatan in-situ tree, as one movie read frame by frame."""

from __future__ import annotations

import itertools
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.params import OpenParams
from napari_emdl.base.reading import one_line
from napari_emdl.base.signals import Calibration
from napari_emdl.base.timing import Timing, by_numbers
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.formats.pictures import LUMINANCE_NOTE, read_plain, read_plain_frame
from napari_emdl.io.formats.raw import read_npy
from napari_emdl.io.formats.tiffs import read_tiff
from napari_emdl.io.sources import FramesSource, RawSource
from napari_emdl.io.untold import settle

_PLAIN = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
_ENDINGS = {".tif", ".tiff", ".dm3", ".dm4", ".npy", ".ser", ".mrc", *_PLAIN}
#: Files that are a recording each; pictures beside one are previews of it.
_RECORDINGS = (
    *(".mib", ".emd", ".h5", ".hdf5", ".nxs", ".hspy", ".dm5", ".blo", ".tvips", ".seq", ".prz", ".emi", ".app5"),
    *(".xml", ".npz", ".mp4", ".avi", ".mov", ".mkv"),
)
#: Pictures that may lie beside a recording, and files looked at in a folder.
_PREVIEWS, _MOST_NAMES = 2, 100_000
#: Each stays open while its frames are read.
_MOST_STACKS = 500


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
    with os.scandir(folder) as entries:
        names = image_names(entries)
    if not names:
        raise OpenError(f"{folder} holds no images{_inside(folder)}; give a file, or a folder with one image a frame")
    return sorted((folder / name for name in names), key=natural_key)


def _inside(folder: Path) -> str:
    """What else a folder holds, for the message that it holds no images."""
    with os.scandir(folder) as entries:
        held = [(e.name, e.is_dir()) for e in itertools.islice(entries, _MOST_NAMES) if not e.name.startswith(".")]
    files = sorted(name for name, is_folder in held if not is_folder and name.lower().endswith(_RECORDINGS))
    folders = sorted(name for name, is_folder in held if is_folder)
    if len(files) > 1:
        return f" but {len(files)} recordings, such as {files[0]}"
    return f" but the folders {', '.join(folders[:4])}{' ...' if len(folders) > 4 else ''}" if folders else ""


def only_recording(folder: Path) -> Path | None:
    """The only file of a folder that holds a whole recording; None where its images are the frames."""
    if insitu_frames(folder):
        return None
    with os.scandir(folder) as entries:
        files = [e for e in itertools.islice(entries, _MOST_NAMES) if not e.name.startswith(".") and e.is_file()]
    recordings = [e.name for e in files if e.name.lower().endswith(_RECORDINGS)]
    alone = len(recordings) == 1 and len(image_names(files)) <= _PREVIEWS
    return folder / recordings[0] if alone else None


def opened_note(path: Path) -> str:
    """Says which file of a folder was opened."""
    return f"{path.name} is the file of this folder that was opened"


def packed_images(path: Path) -> int:
    """How many files of images or recordings a zip file holds."""
    with one_line(path.name, "zip file"), zipfile.ZipFile(path) as archive:
        names = [name.lower() for name in archive.namelist()[:_MOST_NAMES] if not name.startswith("__MACOSX")]
    return sum(name.endswith((*_ENDINGS, *_RECORDINGS)) for name in names)


def _one_series(frames: Sequence[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The files of a folder that belong together by their names, and a line on what is left out.

    Names that differ in their numbers only are a series. A few strays (a mean, a reference) are left out, several series are
    not mixed.

    Raises
    ------
    OpenError
        When two series or more are as long as each other, or nearly.
    """
    series: dict[str, list[Path]] = {}
    for path in frames:
        series.setdefault(re.sub(r"\d+", "#", path.stem), []).append(path)
    longest = sorted(series.values(), key=len, reverse=True)
    if len(longest) < 2 or len(longest[0]) < 2:  # names of words: their order is all there is
        return list(frames), ()
    if 2 * len(longest[1]) > len(longest[0]):
        listed = ", ".join(f"{_pattern(paths)} ({len(paths)})" for paths in longest[:4])
        raise OpenError(
            f"{frames[0].parent} holds several series: {listed}; open one by its pattern, or put each into a folder of its own"
        )
    left = [path for paths in longest[1:] for path in paths]
    names = ", ".join(path.name for path in left[:4]) + (" ..." if len(left) > 4 else "")
    return longest[0], (f"{names} {'is' if len(left) == 1 else 'are'} not of the series {_pattern(longest[0])} and left out",)


def _pattern(paths: Sequence[Path]) -> str:
    """Names of a series with * where they differ."""
    parts = [re.split(r"(\d+)", path.stem) for path in paths]
    alike = [len({part[i] for part in parts}) == 1 for i in range(len(parts[0]))]
    return "".join(part if same else "*" for part, same in zip(parts[0], alike, strict=True)) + paths[0].suffix


def image_names(entries: Iterable[os.DirEntry[str]]) -> list[str]:
    """Names of the image files among the entries of a folder that are of the most frequent kind, in any order."""
    endings = {e.name: os.path.splitext(e.name)[1].lower() for e in entries if not e.name.startswith(".") and e.is_file()}
    count = Counter(ending for ending in endings.values() if ending in _ENDINGS)
    kind = count.most_common(1)[0][0] if count else None
    return [name for name, ending in endings.items() if ending == kind]


def read_folder(folder: Path) -> Found:
    """Open a folder: a Gatan in-situ tree, or one image a frame."""
    frames = insitu_frames(folder)
    if frames:
        found = read_sequence(frames, folder.name)
        facts = {**found.metadata, "format": "Gatan in-situ tree"}
        return replace(found, metadata=facts, timing=partial(_insitu_timing, tuple(frames)))
    frames, notes = _one_series(folder_frames(folder))
    found = read_sequence(frames, folder.name)
    return replace(found, notes=(*found.notes, *notes))


def _insitu_timing(frames: Sequence[Path]) -> Timing:
    """Interval by the frames in each whole Second_ folder (the first and last may be partial), gaps by folders and numbers."""
    counts = list(Counter(p.parent for p in frames).values())
    whole = counts[1:-1]
    if not whole:
        return Timing()
    a_second = int(round(float(np.median(whole))))
    places = [[int(n) for n in re.findall(r"(?:Hour|Minute|Second|Frame)_(\d+)", "/".join(p.parts[-4:]))] for p in frames]
    numbers = [
        3600 * h * a_second + 60 * m * a_second + s * a_second + place[-1] for place in places for h, m, s in [place[:3]]
    ]
    return replace(by_numbers(numbers, "frames"), interval_s=1.0 / float(np.median(whole)))


def _numbered_timing(paths: Sequence[Path]) -> Timing:
    """Gaps by the number in which the files' names differ."""
    parts = [re.split(r"(\d+)", path.stem) for path in paths]
    if len({len(part) for part in parts}) != 1:
        return Timing()
    differing = [i for i in range(len(parts[0])) if len({part[i] for part in parts}) > 1]
    if len(differing) != 1 or not parts[0][differing[0]].isdigit():
        return Timing()
    return by_numbers([int(part[differing[0]]) for part in parts])


def _check_pixel(paths: Sequence[Path], calibration: Calibration) -> tuple[str, ...]:
    """A line where some of the files that are looked at have another pixel size than the first."""
    known = calibration.pixel_nm
    others = {paths[len(paths) // 2], paths[-1]} - {paths[0]}
    for path in sorted(others) if known is not None else ():
        other = _frame_calibration(path).pixel_nm
        if known is not None and other is not None and not np.allclose(other, known, rtol=1e-3):
            return (
                f"{path.name} has another pixel size than {paths[0].name} ({other[0]:.4g} and {known[0]:.4g} nm); "
                "all frames are taken to have that of the first",
            )
    return ()


def _frame_calibration(path: Path) -> Calibration:
    """Calibration of one image file as it would be opened alone; an empty one where it cannot be read."""
    from napari_emdl.io.making import make_signal

    try:
        return make_signal(_read_one(path), str(path), "image").calibration
    except OpenError:
        return Calibration()


@dataclass(frozen=True)
class _Files:
    """Reads frame i from its own file; a file of a type that would lose values in that of the first is refused."""

    paths: tuple[Path, ...]
    read: Callable[[Path], NDArray[Any]]
    dtype: np.dtype[Any]

    def __call__(self, index: int) -> NDArray[Any]:
        frame = self.read(self.paths[index])
        if not np.can_cast(frame.dtype, self.dtype, "safe"):
            raise OpenError(
                f"{self.paths[index].name} holds {frame.dtype}, {self.paths[0].name} {self.dtype}; save all frames in one type"
            )
        return frame


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
        if len(shape) > 2 and len(paths) == 1:
            return replace(found, notes=(*found.notes, opened_note(first)))
        if len(shape) == 3 and ending not in (".dm3", ".dm4"):
            return _stacks_in_a_row(paths, found, name)
        if len(shape) != 2:
            raise OpenError(f"{first.name} holds {shape}, not one image; open it alone, or move it out of the folder")
        read = _DmFrame.like(found) if isinstance(found.data, RawSource) and ending in (".dm3", ".dm4") else _read_frame
        axes = tuple(replace(a, letter=letter, navigate=None) for a, letter in zip(found.axes, "YX", strict=True))
        notes += _check_pixel(paths, _frame_calibration(first))
    source = FramesSource(_Files(tuple(paths), read, np.dtype(dtype)), (len(paths),), shape, dtype, name)
    facts = {"format": f"{ending[1:]} sequence", "first": first.name, "last": paths[-1].name}
    timing = partial(_numbered_timing, tuple(paths))
    return Found(source, (Axis(len(paths), letter="T"), *axes), calibration, name, "movie", facts, notes=notes, timing=timing)


def _stacks_in_a_row(paths: Sequence[Path], first: Found, name: str) -> Found:
    """A recording that its program cut into several stacks, as one movie."""
    from napari_emdl.io.hdf5source import ConcatSource

    if len(paths) > _MOST_STACKS:
        raise OpenError(f"{name} holds {len(paths)} stacks of images; at most {_MOST_STACKS} are joined to a movie")
    data = ConcatSource([first.data, *(_read_one(path).data for path in paths[1:])])
    axes = (replace(first.axes[0], size=data.shape[0], letter="T", navigate=None), *first.axes[1:])
    note = f"the stacks of {len(paths)} files are joined, {paths[0].name} first and {paths[-1].name} last"
    return replace(first, data=data, axes=axes, name=name, notes=(*first.notes, note), timing=None)


def _read_one(path: Path) -> Found:
    """Open one image file of a sequence."""
    return settle(_read_file(path), OpenParams())


def _read_file(path: Path) -> Found:
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
