"""TIFF: read page by page, or straight from the file where it is contiguous; axes and pixel size of ImageJ, OME and DM."""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found, pick
from napari_emdl.io.sources import FramesSource, RawSource, Source, first_line

_LETTERS = {"T": "T", "Y": "Y", "X": "X"}
_RESOLUTION_UNIT = {2: "inch", 3: "cm"}


class _Pages:
    """Reads page i of a series; reopens the file after unpickling. Decoding runs in parallel, reading under a lock."""

    def __init__(self, path: Path, series: int) -> None:
        self.path, self.series = path, series
        self._open()

    def _open(self) -> None:
        import tifffile

        self._file = tifffile.TiffFile(self.path)
        self._file.filehandle.set_lock(True)
        self.pages = self._file.series[self.series].pages

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "series": self.series}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __call__(self, index: int) -> NDArray[Any]:
        page = self.pages[index]
        if page is None:
            raise ValueError("the page is missing")
        return page.asarray(lock=self._file.filehandle.lock, maxworkers=1)


def read_tiff(path: Path, dataset: str | None = None) -> Found:
    """Open a TIFF, OME-TIFF or ImageJ stack lazily.

    Parameters
    ----------
    path
        File.
    dataset
        Index of the series, for files with several.
    """
    import tifffile

    try:
        with _complaints() as complaints, tifffile.TiffFile(path) as file:
            found = _found(path, file, dataset)
            if complaints:
                raise OpenError(f"{path.name} is a damaged or truncated TIFF ({complaints[0]})")
            return found
    except OpenError:
        raise
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise OpenError(f"{path.name} is no readable TIFF ({first_line(error)}); is it truncated?") from error


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


def _found(path: Path, file: Any, dataset: str | None) -> Found:
    series = file.series
    if not series:
        raise OpenError(f"{path.name} holds no images")
    large = [i for i, s in enumerate(series) if s.size == max(s.size for s in series)]
    number = int(dataset) if dataset is not None and dataset.isdigit() else None
    if dataset is not None and (number is None or number >= len(series)):
        raise OpenError(f"{path.name} has {len(series)} image series, numbered from 0; there is no {dataset!r}")
    if number is None:
        number = int(pick(map(str, large), "image series", path.name))
    chosen = series[number]
    letters = chosen.axes
    # three or four images written in one go, such as a focal series, get the tag of colour planes from many programs
    if letters == "SYX" and np.dtype(chosen.dtype).itemsize > 1:
        letters = "IYX"
    if "S" in letters:
        raise OpenError(f"{path.name} holds colour images {chosen.shape}; convert them to one channel first")
    data = _source(path, chosen, number)
    scales = _scales(file, chosen)
    axes = tuple(_axis(letter, size, scales) for letter, size in zip(letters, chosen.shape, strict=True))
    axes = _name_stack_axes(axes, letters, file)
    return Found(data, axes, Calibration(), path.stem, metadata={"format": f"TIFF ({chosen.kind})"})


def _source(path: Path, series: Any, number: int) -> Source:
    size = path.stat().st_size
    if series.dataoffset is not None:
        return RawSource(path, series.shape, np.dtype(series.dtype).newbyteorder(series.parent.byteorder), series.dataoffset)
    pages = _Pages(path, number)
    frame_shape = series.keyframe.shape
    if tuple(series.shape[-2:]) != tuple(frame_shape) or len(pages.pages) != int(np.prod(series.shape[:-2])):
        raise OpenError(f"{path.name} stores {series.shape} as pages of {frame_shape}, which is not supported")
    last = pages.pages[len(pages.pages) - 1]
    ends = [o + n for o, n in zip(last.dataoffsets, last.databytecounts, strict=False)] if last is not None else []
    if ends and max(ends) > size:
        raise OpenError(f"{path.name} is truncated: its last image ends at byte {max(ends)}, the file has {size}")
    return FramesSource(pages, series.shape[:-2], frame_shape, series.dtype, path.name)


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


def _scales(file: Any, series: Any) -> dict[str, tuple[float, str]]:
    """Axis letter -> (step, unit) from OME, ImageJ, DM or plain resolution tags."""
    page = series.keyframe
    tags = page.tags
    if file.is_ome:
        return _ome_scales(file.ome_metadata)
    if 65003 in tags and 65009 in tags:  # DigitalMicrograph: units 65003-65005 and scales 65009-65011 of x, y, z
        out = {}
        for letter, unit_tag, scale in (("X", 65003, 65009), ("Y", 65004, 65010), (series.axes[0], 65005, 65011)):
            if unit_tag in tags and scale in tags and isinstance(tags[unit_tag].value, str) and letter not in out:
                out[letter] = (float(tags[scale].value), tags[unit_tag].value)
        return out
    out = {}
    imagej = file.imagej_metadata or {}
    unit = imagej.get("unit") if file.is_imagej else _RESOLUTION_UNIT.get(_tag(tags, "ResolutionUnit"))
    unit = None if unit in ("inch", "inches") else unit  # 72 dpi and the like say nothing about the specimen
    if unit:
        for letter, name in (("Y", "YResolution"), ("X", "XResolution")):
            pixels, per = _tag(tags, name) or (0, 0)
            if pixels and per:
                out[letter] = (per / pixels, str(unit))
    if imagej.get("finterval"):
        time = {"T": (float(imagej["finterval"]), str(imagej.get("tunit", "s")))}
        # a stack whose only other axis is Z or C is a movie, see _name_stack_axes
        out |= time | {letter: time["T"] for letter in "ZC" if "T" not in series.axes}
    if imagej.get("spacing") and "T" in series.axes:
        out["Z"] = (float(imagej["spacing"]), str(imagej.get("zunit", unit or "")))
    return out


def _tag(tags: Any, name: str) -> Any:
    tag = tags.get(name)
    return None if tag is None else (int(tag.value) if isinstance(tag.value, int) else tag.value)


def _ome_scales(xml: str) -> dict[str, tuple[float, str]]:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return {}
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return {}
    out = {}
    for letter, size, unit, default in (
        ("X", "PhysicalSizeX", "PhysicalSizeXUnit", "µm"),
        ("Y", "PhysicalSizeY", "PhysicalSizeYUnit", "µm"),
        ("Z", "PhysicalSizeZ", "PhysicalSizeZUnit", "µm"),
        ("T", "TimeIncrement", "TimeIncrementUnit", "s"),
    ):
        if size in pixels.attrib:
            out[letter] = (float(pixels.attrib[size]), pixels.attrib.get(unit, default))
    return out
