"""TVIPS recordings: ``NAME_000.tvips`` and its further parts, each frame behind a header with its time.

Layout as in RosettaSciIO's and LiberTEM's readers. The camera writes its own pixel (15,600 nm, say), which is no pixel of an
image: only HyperSpy puts a calibration there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.base.signals import Calibration
from napari_emdl.base.timing import Timing, by_stamps
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.hdf5source import ConcatSource
from napari_emdl.io.sources import RecordSource, Source

_HEADER = np.dtype(
    [(name, "<u4") for name in ("size", "version", "cols", "rows", "bits", "offset_x", "offset_y", "bin_x", "bin_y")]
    + [("pixel", "<u4"), ("tension", "<u4"), ("magnification", "<u4"), ("frame_header", "<u4"), ("writer", "S204")]
)
#: Header of a frame: number, seconds since 1970, ms, ..., mode (1 image, 2 diffraction), ..., place in the scan.
_FRAME = {"s": (4, "<u4"), "ms": (8, "<u4"), "mode": (24, "<u4"), "scan": (48, "<u4")}
_LEAST_FRAME_HEADER, _OLD_FRAME_HEADER = 60, 12
_MOST_PIXELS = 2**28
#: Each header read is a look at another place of the file.
_MOST_HEADERS = 300_000


def read_tvips(path: Path) -> Found:
    """Open a recording lazily: all parts of it, whichever is named."""
    with one_line(path.name, ".tvips file"):
        return _read(path)


def _read(path: Path) -> Found:
    with path.open("rb") as file:
        header = np.frombuffer(file.read(_HEADER.itemsize), _HEADER, 1)[0]
    size, version, rows, cols, bits = (int(header[name]) for name in ("size", "version", "rows", "cols", "bits"))
    if version not in (1, 2) or bits not in (8, 16) or not 0 < rows * cols <= _MOST_PIXELS or not 256 <= size <= 65536:
        raise OpenError(
            f"{path.name} says that it is version {version} with frames of {rows} x {cols} pixels of {bits} bit; it is "
            "damaged, or no .tvips file inside"
        )
    behind = int(header["frame_header"]) if version == 2 else _OLD_FRAME_HEADER
    if not _OLD_FRAME_HEADER <= behind <= 65536:
        raise OpenError(f"{path.name} has headers of {behind} bytes before its frames, which cannot be; it is damaged")
    record = behind + rows * cols * bits // 8
    parts = _parts(path)
    sources, notes = [], []
    for number, part in enumerate(parts):
        start = size if number == 0 else 0
        count, rest = divmod(part.stat().st_size - start, record)
        if rest:
            notes.append(f"{part.name} ends within a frame ({rest} bytes are left out)")
        if count > 0:
            sources.append(RecordSource(part, (count,), (rows, cols), f"<u{bits // 8}", behind, start))
    if not sources:
        raise OpenError(f"{path.name} is truncated: it holds no whole frame of {rows} x {cols} ({record} bytes)")
    source: Source = sources[0] if len(sources) == 1 else ConcatSource(sources)
    fields = _fields(sources, behind)
    diffraction = behind >= _LEAST_FRAME_HEADER and _first_mode(path, size) == 2
    energy = float(header["tension"])
    calibration = Calibration().override("file", energy_keV=_keV(energy))
    scale, units = (
        (float(header["pixel"]), "1/nm" if diffraction else "nm") if b"HYPERSPY" in header["writer"] else (None, None)
    )
    axes = [Axis(source.shape[0], navigate=True)]
    axes += [Axis(n, scale=scale, units=units, navigate=False) for n in (rows, cols)]
    notes += _scan_note(fields) if diffraction and fields is not None else []
    timing = None if fields is None else partial(_timing, fields)
    name = re.sub(r"_\d{3}$", "", path.stem)
    return Found(
        source, tuple(axes), calibration, name, metadata={"format": "TVIPS"}, signal_type="diffraction" if diffraction else "",
        notes=tuple(notes), timing=timing,
    )  # fmt: skip


def _parts(path: Path) -> list[Path]:
    """All parts of a recording in order: NAME_000.tvips, NAME_001.tvips, ..."""
    match = re.fullmatch(r"(.+_)(\d{3})", path.stem)
    if match is None or match.group(2) != "000":
        return [path]
    out = [path]
    while (part := path.with_name(f"{match.group(1)}{len(out):03d}{path.suffix}")).is_file():
        out.append(part)
    return out


def _keV(tension: float) -> float | None:
    """Beam energy from the high tension, which is in kV or V."""
    kilo = tension / 1e3 if tension > 3000 else tension
    return kilo if 1 <= kilo <= 3000 else None


def _first_mode(path: Path, start: int) -> int:
    with path.open("rb") as file:
        file.seek(start + _FRAME["mode"][0])
        return int.from_bytes(file.read(4), "little")


def _fields(sources: Sequence[RecordSource], behind: int) -> NDArray[np.void] | None:
    """Fields of the header of every frame; None for the short header of old recordings, and where there are very many."""
    if behind < _LEAST_FRAME_HEADER or sum(s.shape[0] for s in sources) > _MOST_HEADERS:
        return None
    layout = np.dtype(
        {
            "names": list(_FRAME),
            "formats": [form for _, form in _FRAME.values()],
            "offsets": [at for at, _ in _FRAME.values()],
            "itemsize": sources[0].record.itemsize,
        }
    )
    out = np.concatenate([np.memmap(s.path, layout, "r", s.offset, (s.shape[0],))[list(_FRAME)] for s in sources])
    return np.asarray(out)


def _timing(fields: NDArray[np.void]) -> Timing:
    return by_stamps(fields["s"].astype(np.float64) + 1e-3 * fields["ms"], 1e-3)


def _scan_note(fields: Any) -> list[str]:
    """Frames before and after the scan, which the recorder's scan index tells; it is no calibration and moves nothing."""
    scan = fields["scan"].astype(np.int64)
    inside = np.flatnonzero(scan > 0)
    if not len(inside) or len(inside) == len(scan) or not (np.diff(scan[inside]) >= 0).all():
        return []
    first, last = int(inside[0]), int(inside[-1]) + 1
    return [
        f"the scan index of the recorder runs from frame {first} to {last - 1} of {len(scan)}: "
        f"`frames=({first}, {last})` leaves out what was recorded before and after it"
    ]
