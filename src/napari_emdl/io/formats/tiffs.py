"""TIFF: read page by page, or straight from the file where it is contiguous; axes and pixel size of ImageJ, OME and DM."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import SMALL_ARRAY_BYTES, first_line
from napari_emdl.base.signals import Calibration
from napari_emdl.base.unpacking import check_unpacks
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.formats.pictures import LUMINANCE_NOTE, to_grey
from napari_emdl.io.formats.tiffscales import ome_timing, scales_of
from napari_emdl.io.formats.tiffshown import Paletted, palette, shown_otherwise
from napari_emdl.io.sources import MAX_FRAME_BYTES, FramesSource, RawSource, Source
from napari_emdl.io.views import TransposedSource

#: Red, green, blue and opacity; more samples a pixel are frames. Fewer images of one size than this are several images.
_MOST_CHANNELS, _FEWEST_ALIKE = 4, 4
_LETTERS = {"T": "T", "Y": "Y", "X": "X"}

#: Packings that are unpacked to their end, however long (by code: deflate twice, lzma), and how much a byte can become.
_UNBOUNDED = {8: "deflate", 32946: "deflate", 34925: "lzma"}
_MOST_PACKED = {"deflate": 1032, "lzma": 8000}


class _Pages:
    """Reads page i of a series; reopens the file after unpickling. Decoding runs in parallel, reading under a lock."""

    def __init__(self, path: Path, series: int) -> None:
        self.path, self.series = path, series
        self._open()

    def _open(self) -> None:
        import tifffile

        self._file = tifffile.TiffFile(self.path)
        self._file.filehandle.set_lock(True)
        self.pages: Any = self._file.series[self.series].pages

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "series": self.series}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _check(self, page: Any) -> None:
        """Refuse pieces that unpack to more than they say, before tifffile unpacks them whole."""
        method = _UNBOUNDED.get(int(page.compression))
        if method is None or sum(page.databytecounts) * _MOST_PACKED[method] < SMALL_ARRAY_BYTES:
            return
        # the last strip or tile may be padded, none is larger than the page
        limit = _decoded_bytes(page) + SMALL_ARRAY_BYTES
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if count * _MOST_PACKED[method] > SMALL_ARRAY_BYTES:
                with self._file.filehandle.lock:
                    self._file.filehandle.seek(offset)
                    packed = self._file.filehandle.read(count)
                check_unpacks(packed, limit, f"{self.path.name}: a page", method)

    def __call__(self, index: int) -> NDArray[Any]:
        page = self.pages[index]
        if page is None:
            raise ValueError("the page is missing")
        self._check(page)
        return page.asarray(lock=self._file.filehandle.lock, maxworkers=1)


def read_tiff(path: Path, dataset: str | None = None, as_frames: bool = False) -> Found:
    """Open a TIFF, OME-TIFF or ImageJ stack lazily.

    Parameters
    ----------
    path
        File.
    dataset
        Index of the series, for files with several.
    as_frames
        Take three planes of bytes for three frames, not for red, green and blue.
    """
    import tifffile

    try:
        with _complaints() as complaints, tifffile.TiffFile(path) as file:
            found = _found(path, file, dataset, as_frames)
            if complaints:
                raise OpenError(f"{path.name} is a damaged or truncated TIFF ({complaints[0]})")
            return found
    except OpenError:
        raise
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise OpenError(f"{path.name} is not a readable TIFF ({first_line(error)}); is it truncated?") from error


def list_series(path: Path) -> list[tuple[str, tuple[int, ...], Any]]:
    """Image series of a file: (number, shape, type); none where it is damaged, which opening it says."""
    import tifffile

    try:
        with _complaints(), tifffile.TiffFile(path) as file:
            return [(str(i), tuple(series.shape), series.dtype) for i, series in enumerate(file.series)]
    except Exception:  # tifffile raises many kinds on damaged files
        return []


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Errors that tifffile only logs: it opens what is left of a truncated file without raising."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage().splitlines()[0][:150])

    logger, handler = logging.getLogger("tifffile"), Collect(level=logging.ERROR)
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _found(path: Path, file: Any, dataset: str | None, as_frames: bool) -> Found:
    alike = _alike(file) if dataset is None else []
    if alike:
        return _images_alike(path, file, alike)
    number, notes = _choose(path, file.series, dataset)
    chosen = file.series[number]
    letters, shape = chosen.axes, tuple(int(n) for n in chosen.shape)
    samples = shape[letters.index("S")] if "S" in letters else 0
    if samples > _MOST_CHANNELS:
        return _samples_as_frames(path, chosen, number)
    colour = letters[-3:] != "SYX" or (np.dtype(chosen.dtype).itemsize == 1 and not as_frames)
    if "S" in letters and (colour or _same_planes(path, chosen, number)):
        data, coloured = _grey_source(path, chosen, number)
        letters, shape = letters.replace("S", ""), tuple(n for n, letter in zip(shape, letters, strict=True) if letter != "S")
        if coloured:
            planes = "; `kind='movie'` opens its three planes as frames" if chosen.axes == "SYX" else ""
            notes.append(LUMINANCE_NOTE + planes)
    else:
        # three or four images written in one go, such as a focal series, get the tag of colour planes from many programs
        letters = letters.replace("S", "I")
        data = _source(path, chosen, number)
    if palette(chosen.keyframe) is not None:
        data, coloured = _palette_source(path, chosen, number)
        notes += [LUMINANCE_NOTE] if coloured else []
    scales, said = scales_of(file, chosen, number)
    notes += [*said, *shown_otherwise(chosen.keyframe)]
    axes = tuple(_axis(letter, size, scales) for letter, size in zip(letters, shape, strict=True))
    axes = _name_stack_axes(axes, letters, file)
    if chosen.kind == "shaped" and '"axes"' not in chosen.keyframe.description:  # the letters are tifffile's guess
        axes = tuple(replace(axis, name="", letter="") for axis in axes)
    if "C" in letters and any(axis.letter == "F" and letter == "C" for axis, letter in zip(axes, letters, strict=True)):
        notes.append("the channels of the file are taken for focus values; save one channel alone if they are detectors")
    facts = {"format": f"TIFF ({chosen.kind})"}
    frames = next((a.size for a in axes if a.letter == "T"), 1)
    timing = partial(ome_timing, file.ome_metadata, number, frames) if file.is_ome and frames > 1 else None
    return Found(data, axes, Calibration(), path.stem, metadata=facts, notes=tuple(notes), timing=timing)


def _alike(file: Any) -> list[int]:
    """Numbers of the series that are single images of one size and type, where most are: programs write stacks so, too."""
    if file.is_ome or len(file.series) < _FEWEST_ALIKE:
        return []
    first = max(file.series, key=lambda series: series.size)
    same = [i for i, s in enumerate(file.series) if (s.shape, s.dtype, s.axes) == (first.shape, first.dtype, "YX")]
    return same if len(same) > len(file.series) / 2 and len(same) >= _FEWEST_ALIKE else []


def _images_alike(path: Path, file: Any, numbers: list[int]) -> Found:
    """Images of one size that stand in a file one by one, as the frames of a movie."""
    first = file.series[numbers[0]]
    scales, said = scales_of(file, first, numbers[0])
    _check_page(path, first.keyframe)
    source = FramesSource(_Single(path, numbers), (len(numbers),), first.shape, first.dtype, path.name)
    others = [i for i in range(len(file.series)) if i not in numbers]
    rest = f"; left out are {', '.join(f'{path.name}::{i}' for i in others[:4])}" if others else ""
    notes = (
        f"{len(numbers)} images of one size are taken for the frames of a movie{rest}",
        *said,
        *shown_otherwise(first.keyframe),
    )
    axes = (Axis(len(numbers), letter="T"), *(_axis(letter, n, scales) for letter, n in zip("YX", first.shape, strict=True)))
    facts = {"format": f"TIFF ({first.kind})"}
    return Found(source, axes, Calibration(), path.stem, metadata=facts, notes=notes)


def _samples_as_frames(path: Path, series: Any, number: int) -> Found:
    """An image with more samples a pixel than colours and opacity have: each sample is a frame."""
    pages = _Pages(path, number)
    _check_page(path, series.keyframe)
    page = series.keyframe.shape
    last = series.axes.endswith("S")
    if len(page) != 3 or len(pages.pages) != 1:
        raise OpenError(f"{path.name} stores {series.shape} as pages of {page}, which is not supported")
    rows, cols, frames = page if last else (*page[1:], page[0])
    source = FramesSource(_Samples(pages, last), (frames,), (rows, cols), series.dtype, path.name)
    axes = (Axis(frames, letter="T"), Axis(rows, letter="Y"), Axis(cols, letter="X"))
    note = f"the {frames} values of each pixel are taken for {frames} frames"
    return Found(source, axes, Calibration(), path.stem, metadata={"format": f"TIFF ({series.kind})"}, notes=(note,))


def _palette_source(path: Path, series: Any, number: int) -> tuple[Source, bool]:
    """Images of a palette as one channel, and whether it has colours."""
    luminance, colours = palette(series.keyframe), np.asarray(series.keyframe.colormap)
    assert luminance is not None
    leading, frame = tuple(series.shape[:-2]), series.shape[-2:]
    source: Source = FramesSource(Paletted(_Pages(path, number), luminance), leading or (1,), frame, np.uint16, path.name)
    return (source if leading else TransposedSource(source, (1, 2))), not (colours == colours[0]).all()


def _choose(path: Path, series: Any, dataset: str | None) -> tuple[int, list[str]]:
    """Number of the series to open, and what must be said of the choice."""
    if not series:
        raise OpenError(f"{path.name} holds no images")
    if dataset is not None:
        if not dataset.isdigit() or int(dataset) >= len(series):
            raise OpenError(f"{path.name} has {len(series)} image series, numbered from 0; there is no {dataset!r}")
        return int(dataset), []
    counts = [i for i, s in enumerate(series) if "S" not in s.axes or (s.axes == "SYX" and np.dtype(s.dtype).itemsize > 1)]
    candidates = counts or list(range(len(series)))
    large = [i for i in candidates if series[i].size == max(series[j].size for j in candidates)]
    listed = ", ".join(
        f"{path.name}::{i} ({' x '.join(map(str, s.shape))} {s.dtype}{', colour' if i not in counts else ''})"
        for i, s in enumerate(series[:8])
    )
    # bytes beside deeper images are a picture of them, however many pixels they have
    deep = [i for i in candidates if np.dtype(series[i].dtype).itemsize > np.dtype(series[large[0]].dtype).itemsize == 1]
    if len(large) > 1 or deep:
        numbers = tuple(str(i) for i in range(len(series)))
        raise OpenError(f"{path.name} holds several image series; choose one of {listed}", numbers)
    return large[0], [f"the file holds {len(series)} image series, ::{large[0]} was opened; there are {listed}"] if len(
        series
    ) > 1 else []


def _same_planes(path: Path, series: Any, number: int) -> bool:
    """True for one grey image written as three equal planes of colour."""
    if series.axes != "SYX" or _decoded_bytes(series.keyframe) > 2**26:
        return False
    planes = _Pages(path, number)(0)
    return planes.ndim == 3 and not np.all(planes == planes.flat[0]) and not to_grey(np.moveaxis(planes, 0, -1))[1]


def _decoded_bytes(page: Any) -> int:
    return int(np.prod([float(n) for n in page.shape])) * np.dtype(page.dtype).itemsize


def _check_page(path: Path, page: Any) -> None:
    """Refuse pages that are unreasonably larger decoded than in the file."""
    if _decoded_bytes(page) > MAX_FRAME_BYTES:
        raise OpenError(f"{path.name} says that one image has {' x '.join(map(str, page.shape))} values; it is damaged")


class _Grey:
    """Reads page i of a series as one channel."""

    def __init__(self, pages: _Pages, channels_last: bool) -> None:
        self.pages, self.channels_last = pages, channels_last

    def colours(self, index: int) -> NDArray[Any]:
        page = self.pages(index)
        return page if self.channels_last else np.moveaxis(page, 0, -1)

    def __call__(self, index: int) -> NDArray[Any]:
        return to_grey(self.colours(index))[0]


class _Planes:
    """Reads plane i of pages that hold several images each."""

    def __init__(self, pages: _Pages, each: int) -> None:
        self.pages, self.each = pages, each

    def __call__(self, index: int) -> NDArray[Any]:
        page, plane = divmod(index, self.each)
        return np.asarray(self.pages(page)[plane])


class _Single(_Pages):
    """Reads image i of several series of one page."""

    def __init__(self, path: Path, numbers: list[int]) -> None:
        self.numbers = numbers
        super().__init__(path, numbers[0])

    def _open(self) -> None:
        super()._open()
        self.pages = [self._file.series[i].pages[0] for i in self.numbers]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"numbers": self.numbers}


class _Samples:
    """Reads sample i of the pixels of one page."""

    def __init__(self, pages: _Pages, last: bool) -> None:
        self.pages, self.last = pages, last

    def __call__(self, index: int) -> NDArray[Any]:
        page = self.pages(0)
        return np.ascontiguousarray(page[..., index] if self.last else page[index])


def _grey_source(path: Path, series: Any, number: int) -> tuple[Source, bool]:
    """Colour images as one channel, and whether the first one really has colours."""
    pages = _Pages(path, number)
    last = series.axes.endswith("S")
    _check_page(path, series.keyframe)
    rows, cols = series.keyframe.shape[:2] if last else series.keyframe.shape[-2:]
    leading = tuple(n for n, letter in zip(series.shape, series.axes, strict=True) if letter not in "SYX")
    if len(series.keyframe.shape) != 3 or len(pages.pages) != int(np.prod(leading, dtype=np.int64)):
        raise OpenError(
            f"{path.name} stores colour images {series.shape} as pages of {series.keyframe.shape}; save them as one channel"
        )
    grey = _Grey(pages, last)
    coloured = _decoded_bytes(series.keyframe) > 2**28 or to_grey(grey.colours(0))[1]
    source: Source = FramesSource(grey, leading or (1,), (rows, cols), series.dtype, path.name)
    return (source if leading else TransposedSource(source, (1, 2))), coloured


def _source(path: Path, series: Any, number: int) -> Source:
    size = path.stat().st_size
    if series.dataoffset is not None:
        return RawSource(path, series.shape, np.dtype(series.dtype).newbyteorder(series.parent.byteorder), series.dataoffset)
    pages = _Pages(path, number)
    _check_page(path, series.keyframe)
    page_shape = tuple(int(n) for n in series.keyframe.shape)
    frame_shape, each = page_shape[-2:], int(np.prod(page_shape[:-2], dtype=np.int64))
    if tuple(series.shape[-2:]) != frame_shape or len(page_shape) > 3 or len(pages.pages) * each != _count(series.shape):
        raise OpenError(f"{path.name} stores {series.shape} as pages of {page_shape}, which is not supported")
    last = pages.pages[len(pages.pages) - 1]
    ends = [o + n for o, n in zip(last.dataoffsets, last.databytecounts, strict=False)] if last is not None else []
    if ends and max(ends) > size:
        raise OpenError(f"{path.name} is truncated: its last image ends at byte {max(ends)}, the file has {size}")
    read = pages if len(page_shape) == 2 else _Planes(pages, each)
    return FramesSource(read, series.shape[:-2], frame_shape, series.dtype, path.name)


def _count(shape: Any) -> int:
    return int(np.prod(shape[:-2], dtype=np.int64))


def _axis(letter: str, size: int, scales: Mapping[str, tuple[float, str]]) -> Axis:
    scale, units = scales.get(letter, (None, None))
    return Axis(int(size), letter, scale, units, _LETTERS.get(letter, ""))


def _name_stack_axes(axes: tuple[Axis, ...], letters: str, file: Any) -> tuple[Axis, ...]:
    """Letters for the axes before the images: Z beside T is focus, alone any of Z, C, I, Q, ... is a series in time."""
    stack = [i for i, a in enumerate(axes) if a.letter == "" and a.size > 1]
    out = list(axes)
    has_time = any(a.letter == "T" for a in axes)
    for n, i in enumerate(stack):
        if letters[i] in "ZC" and has_time and n == 0:
            letter = "F"
        else:
            letter = "T" if n == 0 and not has_time and len(stack) == 1 else ""
        out[i] = Axis(axes[i].size, axes[i].name, axes[i].scale, axes[i].units, letter)
    return tuple(out)
