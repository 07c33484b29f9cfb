"""TIA .ser series, lazily by frame, and .emi files that point to them.

The layout is the one described by C. B. Boothroyd and used by TIA 2.x-4.x: a header with the number of elements and the scan or
series dimensions, a table of offsets, then one element (calibration, type, size, data) an image, each followed by a tag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Calibration
from napari_emdl.io.axes import Axis, Found, pick
from napari_emdl.io.sources import FramesSource, first_line

_TYPES = {1: "u1", 2: "<u2", 3: "<u4", 4: "i1", 5: "<i2", 6: "<i4", 7: "<f4", 8: "<f8", 9: "<c8", 10: "<c16"}
_IMAGES, _SPECTRA = 0x4122, 0x4120
_POSITION_TAG = 0x4142
_ELEMENT_HEADER = np.dtype(
    [
        ("x0", "<f8"),
        ("dx", "<f8"),
        ("xe", "<i4"),
        ("y0", "<f8"),
        ("dy", "<f8"),
        ("ye", "<i4"),
        ("type", "<i2"),
        ("cols", "<i4"),
        ("rows", "<i4"),
    ]
)


@dataclass(frozen=True)
class _Dimension:
    size: int
    delta: float
    units: str


@dataclass(frozen=True)
class _Frames:
    """Reads frame i; opens the file for each read, so threads share nothing."""

    path: Path
    offsets: NDArray[np.int64]
    rows: int
    cols: int
    dtype: str

    def __call__(self, index: int) -> NDArray[Any]:
        count = self.rows * self.cols
        with open(self.path, "rb") as file:
            file.seek(int(self.offsets[index]) + _ELEMENT_HEADER.itemsize)
            values = np.fromfile(file, dtype=self.dtype, count=count)
        if values.size != count:
            raise ValueError("the file ends within the frame")
        # TIA keeps the bottom row first.
        return values.reshape(self.rows, self.cols)[::-1]


def read_ser(path: Path) -> Found:
    """Open a .ser file of images lazily; the .emi file beside it, if any, gives imaging mode and beam energy."""
    try:
        with open(path, "rb") as file:
            return _read(path, file)
    except OpenError:
        raise
    except (OSError, ValueError, IndexError, OverflowError) as error:
        raise OpenError(f"{path.name} is not a readable .ser file ({first_line(error)}); is it truncated?") from error


def read_emi(path: Path, dataset: str | None) -> Found:
    """Open the image series that an .emi file describes: NAME_1.ser, NAME_2.ser, ... beside it.

    Parameters
    ----------
    path
        The .emi file.
    dataset
        Number of the series, for files with several.
    """
    series = {
        m.group(1): p
        for p in sorted(path.parent.glob("*.ser"))
        if (m := re.fullmatch(re.escape(path.stem) + r"_(\d+)", p.stem))
    }
    if not series:
        raise OpenError(f"{path.name} describes data that lies in {path.stem}_1.ser, which is not beside it")
    if dataset is not None and dataset not in series:
        raise OpenError(f"{path.name} has the series {', '.join(series)}; there is no {dataset!r}")
    images = [n for n, p in series.items() if _data_type(p) == _IMAGES]
    number = dataset or (pick(images, "image series", path.name) if images else next(iter(series)))
    return read_ser(series[number])


def _data_type(path: Path) -> int:
    with open(path, "rb") as file:
        head = file.read(10)
    return int(np.frombuffer(head[6:10], "<i4")[0]) if len(head) == 10 else 0


def _ints(file: BinaryIO, dtype: str, count: int) -> NDArray[Any]:
    values = np.fromfile(file, dtype=dtype, count=count)
    if values.size != count:
        raise ValueError("the file ends within its header")
    return values


def _read(path: Path, file: BinaryIO) -> Found:
    _, series_id, version = _ints(file, "<i2", 3)
    data_type, tag_type, total, valid = (int(v) for v in _ints(file, "<i4", 4))
    if series_id != 0x0197:
        raise OpenError(f"{path.name} is not a .ser file")
    if data_type == _SPECTRA:
        raise OpenError(f"{path.name} holds spectra, not images")
    if data_type != _IMAGES or not 0 < valid <= total:
        raise OpenError(f"{path.name} holds no images ({valid} of {total} recorded)")
    width = "<i4" if version <= 528 else "<i8"
    table = int(_ints(file, width, 1)[0])
    dimensions = [_dimension(file) for _ in range(int(_ints(file, "<i4", 1)[0]))]
    size = path.stat().st_size
    if table + 2 * total * np.dtype(width).itemsize > size:
        raise OpenError(f"{path.name} is truncated: its table of {total} images lies beyond its end")
    file.seek(table)
    offsets = _ints(file, width, total)[:valid].astype(np.int64)
    tags = _ints(file, width, total)[:valid].astype(np.int64)
    file.seek(int(offsets[0]))
    element = np.frombuffer(file.read(_ELEMENT_HEADER.itemsize), _ELEMENT_HEADER)[0]
    rows, cols, kind = int(element["rows"]), int(element["cols"]), _TYPES.get(int(element["type"]))
    if kind is None or rows <= 0 or cols <= 0:
        raise OpenError(f"{path.name} holds images of an unknown type ({int(element['type'])}, {rows} x {cols})")
    last = int(offsets.max()) + _ELEMENT_HEADER.itemsize + rows * cols * np.dtype(kind).itemsize
    if last > size:
        raise OpenError(f"{path.name} is truncated: its last image ends at byte {last}, the file has {size}")
    leading = _leading(dimensions, _fast_x(file, tags, tag_type), valid)
    mode = _mode(path)
    reciprocal = _reciprocal(element)
    if reciprocal is None:
        reciprocal = mode.diffraction(bool(leading) and dimensions[0].units != "")
    image_units = "1/m" if reciprocal else "m"
    axes = [Axis(d.size, "", d.delta, "m" if d.units == "meters" else d.units, navigate=True) for d in leading]
    axes.append(Axis(rows, "y", float(element["dy"]), image_units, navigate=False))
    axes.append(Axis(cols, "x", float(element["dx"]), image_units, navigate=False))
    frames = _Frames(path, offsets, rows, cols, kind)
    source = FramesSource(frames, [d.size for d in leading], (rows, cols), kind, path.name)
    calibration = Calibration().override("file", energy_keV=mode.energy_keV)
    return Found(source, tuple(axes), calibration, path.stem, metadata={"format": "TIA .ser"} | mode.metadata)


def _reciprocal(element: Any) -> bool | None:
    """True for pixels in 1/m, False for pixels in m, None where their size fits neither.

    The size decides before the mode: a STEM image is taken with the projector in diffraction mode, too.
    """
    step = abs(float(element["dx"]))
    if 1e-14 < step < 1e-3:
        return False
    return True if 1e3 < step < 1e12 else None


def _dimension(file: BinaryIO) -> _Dimension:
    size = int(_ints(file, "<i4", 1)[0])
    _, delta = _ints(file, "<f8", 2)
    _, length = _ints(file, "<i4", 2)
    file.read(int(length))
    units = file.read(int(_ints(file, "<i4", 1)[0])).decode("utf-8", "replace")
    return _Dimension(size, float(delta), units)


def _fast_x(file: BinaryIO, tags: NDArray[np.int64], tag_type: int) -> bool:
    """True when x changes first from element to element."""
    if tag_type != _POSITION_TAG or len(tags) < 2:
        return False
    y = []
    for at in tags[:2]:
        file.seek(int(at) + 16)  # tag type, time, x
        y.append(float(_ints(file, "<f8", 1)[0]))
    return y[0] == y[1]


def _leading(dimensions: list[_Dimension], fast_x: bool, valid: int) -> list[_Dimension]:
    """Axes before the image; a series that was stopped early has as many as were recorded."""
    leading = [d for d in (dimensions[::-1] if fast_x else dimensions) if d.size != 1]
    count = int(np.prod([d.size for d in leading], dtype=np.int64)) if leading else 1
    if count == valid:
        return leading
    if len(leading) == 2 and valid >= leading[1].size:  # whole scan lines only
        return [_Dimension(valid // leading[1].size, leading[0].delta, leading[0].units), leading[1]]
    return [_Dimension(valid, leading[0].delta if len(leading) == 1 else 1.0, leading[0].units if len(leading) == 1 else "")]


@dataclass(frozen=True)
class _Mode:
    """What the .emi file says of how the images were taken."""

    name: str = ""
    camera: bool = False
    energy_keV: float | None = None

    def diffraction(self, scanned: bool) -> bool:
        """True when the images are diffraction patterns."""
        return "Diffraction" in self.name or ("STEM" in self.name and (self.camera or scanned))

    @property
    def metadata(self) -> dict[str, Any]:
        return {"mode": self.name} if self.name else {}


def _mode(path: Path) -> _Mode:
    match = re.fullmatch(r"(.+)_(\d+)", path.stem)
    emi = path.with_name(match.group(1) + ".emi") if match else path.with_suffix(".emi")
    if match is None or not emi.is_file():
        return _Mode()
    text = emi.read_bytes().decode("latin-1")
    objects = re.findall(r"<ObjectInfo>.*?</ObjectInfo>", text, re.DOTALL)
    number = int(match.group(2)) - 1
    if number >= len(objects):
        return _Mode()
    info = objects[number]
    mode = re.search(r"<Label>Mode</Label>\s*<Value>(.*?)</Value>", info)
    tension = re.search(r"<Label>High tension</Label>\s*<Value>([-+.\deE]+)</Value>\s*<Unit>kV</Unit>", info)
    return _Mode(mode.group(1) if mode else "", "<CameraNamePath>" in info, float(tension.group(1)) if tension else None)
