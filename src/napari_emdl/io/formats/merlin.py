"""Quantum Detectors Merlin ``.mib``: processed (U08, U16, U32) and raw (R64) frames, each behind a text header.

Layout of the header and of the raw modes after LiberTEM's reader (``libertem.io.dataset.mib``). The scan shape comes from the
``.hdr`` file beside it. Without one, time stamps may suggest it: a scan that waits at the end of each row leaves a longer gap
after every n-th frame. A suggestion is said to be one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import one_line
from napari_emdl.base.timing import Timing, by_stamps
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.hdf5source import ConcatSource
from napari_emdl.io.sources import FramesSource, RecordSource, Source

_TYPES = {"U08": ">u1", "U16": ">u2", "U32": ">u4", "U64": ">u8"}
_RAW_BYTES = {1: 0.125, 6: 1.0, 12: 2.0, 24: 4.0}
_MAX_FRAME_PX = 2**28
#: Time stamps read to suggest a scan shape: two rows at least, and few enough for slow disks.
_READ_STAMPS = 4096
#: A gap at the end of a row is longer than the others by this many times their spread; so is a single one.
_LONG_GAP, _LONE_GAP = 12.0, 100.0
#: Frames of a movie whose time stamps are read; each is a look at another place of the file.
_TIMED_FRAMES = 50_000
_DAY_S = 86_400.0


@dataclass(frozen=True)
class MibHeader:
    """What the header of the first frame says.

    Attributes
    ----------
    head
        Bytes of a header.
    rows, cols
        Of a frame.
    mode
        "U08", "U16", "U32" or "R64".
    bits
        Counter depth, which tells how raw frames are packed.
    chips
        Number of chips.
    layout
        Chips along cols and rows.
    exposure_s
        Exposure of a frame.
    """

    head: int
    rows: int
    cols: int
    mode: str
    bits: int
    chips: int
    layout: tuple[int, int]
    exposure_s: float | None

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame without its header."""
        if self.mode == "R64":
            return int(self.rows * self.cols * _RAW_BYTES[self.bits])
        return self.rows * self.cols * np.dtype(_TYPES[self.mode]).itemsize


def read_mib(path: Path) -> Found:
    """Open a ``.mib`` file lazily."""
    with one_line(path.name, ".mib file"):
        return _read(path)


def _read(path: Path) -> Found:
    header = _header(path)
    size = path.stat().st_size
    count, rest = divmod(size, header.head + header.frame_bytes)
    if count == 0:
        raise OpenError(
            f"{path.name} is truncated: one frame has {header.head + header.frame_bytes} bytes, the file has {size}"
        )
    notes = [f"the file ends within a frame ({rest} bytes are left out)"] if rest else []
    facts: dict[str, Any] = {"format": f"Merlin .mib ({header.mode})"}
    facts |= {"exposure_s": header.exposure_s} if header.exposure_s else {}
    parts = _continued(path, header, count) if not rest else []
    source = _source(path, header, count)
    if parts:
        source = ConcatSource([source, *(_source(part, header, frames) for part, frames in parts)])
        count = source.shape[0]
        notes.append(f"the recording goes on in {', '.join(part.name for part, _ in parts)}: {count} frames in all")
    scan, said = _scan(path, count, header, whole=not parts)
    notes += said
    axes = (Axis(count, navigate=True), Axis(header.rows, letter="Q"), Axis(header.cols, letter="K"))
    timing = None if parts else partial(_timing, path, count, header)
    return Found(
        source, axes, name=path.stem, metadata=facts, signal_type="diffraction", notes=tuple(notes), scan=scan, timing=timing
    )


def _header(path: Path) -> MibHeader:
    with path.open("rb") as file:
        text = file.read(4096).decode("latin-1")
    parts = text.split(",")
    if len(parts) < 8 or parts[0] != "MQ1":
        raise OpenError(f"{path.name} is not a .mib file inside, or is damaged")
    head = int(parts[2])
    if not 64 <= head <= 65536:
        raise OpenError(f"{path.name} has headers of {head} bytes, which cannot be; it is damaged")
    fields = [part.strip() for part in text[:head].split(",") if part.strip(" \0")]
    chips, cols, rows, mode = int(parts[3]), int(parts[4]), int(parts[5]), parts[6].strip().upper()
    words = parts[7].strip().upper().removesuffix("G").split("X")
    layout = (int(words[0]), int(words[1])) if len(words) == 2 and all(w.isdigit() for w in words) else (1, 1)
    if mode not in _TYPES and mode != "R64":
        raise OpenError(f"{path.name} holds frames of the type {mode[:40]!r}; U08, U16, U32 and R64 are read")
    if not (rows > 0 and cols > 0 and rows * cols <= _MAX_FRAME_PX):
        raise OpenError(f"{path.name} says that a frame has {rows} x {cols} pixels; it is damaged")
    bits = int(fields[-1]) if fields[-1].isdigit() else 12
    if mode == "R64":
        if bits not in _RAW_BYTES:
            raise OpenError(f"{path.name} holds raw frames of {bits} bit; 1, 6, 12 and 24 are read")
        if bits == 24:
            cols = cols // 2  # the two halves of a 24-bit count are counted as pixels
        if chips == 4 and bits != 24 and rows * 4 == cols:
            rows, cols = rows * 2, cols // 2
        elif chips > 1 and rows * cols != rows * rows * chips:
            raise OpenError(
                f"{path.name} holds raw frames of {chips} chips ({layout[0]} x {layout[1]}), not read; save them processed"
            )
    return MibHeader(head, rows, cols, mode, bits, chips, layout, _exposure_s(fields))


def _exposure_s(fields: Sequence[str]) -> float | None:
    """Exposure written like 1000000ns, else the older one in seconds."""
    for text in reversed(fields[8:]):
        if text.endswith("ns"):
            try:
                return float(text[:-2]) * 1e-9 or None
            except ValueError:
                return None
    return None


def _source(path: Path, header: MibHeader, count: int) -> Source:
    shape = (header.rows, header.cols)
    if header.mode != "R64":
        return RecordSource(path, (count,), shape, _TYPES[header.mode], header.head, flip=True)
    dtype = {1: "u1", 6: "u1", 12: "u2", 24: "u4"}[header.bits]
    return FramesSource(_RawFrames(path, header), (count,), shape, dtype, path.name)


@dataclass(frozen=True)
class _RawFrames:
    """Unpacks raw frame i: words of 64 bits hold their pixels in reverse order."""

    path: Path
    header: MibHeader

    def __call__(self, index: int) -> NDArray[Any]:
        header = self.header
        with self.path.open("rb") as file:
            file.seek(index * (header.head + header.frame_bytes) + header.head)
            raw = file.read(header.frame_bytes)
        if len(raw) != header.frame_bytes:
            raise ValueError("the file ends within the frame")
        values = unpack_raw(np.frombuffer(raw, np.uint8), header.bits)
        if header.bits == 24:
            high, low = values.reshape(2, header.rows, header.cols).astype(np.uint32)
            return ((high << 12) + low)[::-1]
        if header.chips == 4:
            return _quad(values, header.rows, header.cols)[::-1]
        return values.reshape(header.rows, header.cols)[::-1]


def unpack_raw(raw: NDArray[np.uint8], bits: int) -> NDArray[Any]:
    """Pixels of raw words in order: 64 of 1 bit, 8 of 6 bit, 4 of 12 (or half of 24) bit a word of 8 bytes."""
    words = raw.reshape(-1, 8)[:, ::-1]
    if bits == 1:
        return np.unpackbits(words, axis=1, bitorder="little").ravel()
    if bits == 6:
        return words.ravel()
    return np.ascontiguousarray(words).view("<u2").ravel().astype(np.uint16)


def _quad(values: NDArray[Any], rows: int, cols: int) -> NDArray[Any]:
    """Assemble four chips: every row of the file holds a row of the chips 4, 3, 2, 1; 3 and 4 are turned by 180 degrees."""
    half = values.reshape(rows // 2, 4, cols // 2)
    top = np.concatenate([half[:, 3], half[:, 2]], axis=1)
    bottom = np.concatenate([half[::-1, 1, ::-1], half[::-1, 0, ::-1]], axis=1)
    return np.concatenate([top, bottom])


def _continued(path: Path, header: MibHeader, count: int) -> list[tuple[Path, int]]:
    """Further files of a recording and their frames: NAME2.mib after NAME1.mib, whose frame numbers go on where it ends."""
    match = re.fullmatch(r"(.*?)(\d+)", path.stem)
    number = _first_number(path)
    if match is None or number is None:
        return []
    found: list[tuple[Path, int]] = []
    while True:
        name = f"{match.group(1)}{int(match.group(2)) + len(found) + 1:0{len(match.group(2))}d}{path.suffix}"
        part = path.with_name(name)
        frames = part.stat().st_size // (header.head + header.frame_bytes) if part.is_file() else 0
        number += found[-1][1] if found else count
        # a recording of its own begins at 1, and one of other frames has another header
        if not frames or _first_number(part) != number or _header(part) != header:
            return found
        found.append((part, frames))


def _first_number(path: Path) -> int | None:
    """Number of the first frame of a file, from its header."""
    with path.open("rb") as file:
        parts = file.read(64).decode("latin-1").split(",")
    return int(parts[1]) if parts[0] == "MQ1" and len(parts) > 1 and parts[1].strip().isdigit() else None


def _hdr(path: Path) -> dict[str, str] | None:
    """Entries of the .hdr file beside a .mib, whatever the case of its ending and its encoding."""
    bare = path.stem.rstrip("0123456789")
    # the parts NAME1.mib, NAME2.mib of one recording share NAME.hdr, unless that belongs to a NAME.mib
    shared = [
        stem for stem in dict.fromkeys((bare, bare.rstrip("_-"))) if stem and not path.with_name(stem + path.suffix).exists()
    ]
    for candidate in (file for stem in (path.stem, *shared) for file in sorted(path.parent.glob(f"{_escaped(stem)}.*"))):
        if candidate.suffix.lower() == ".hdr" and candidate.stat().st_size < 2**20:
            raw = candidate.read_bytes()
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError:
                text = raw.decode("latin-1")
            pairs = (line.split("\t", 1) for line in text.splitlines() if "\t" in line)
            return {key.strip().rstrip(":"): value.strip() for key, value in pairs}
    return None


def _escaped(text: str) -> str:
    from glob import escape

    return escape(text)


def _int(entries: dict[str, str], name: str) -> int:
    try:
        return int(entries.get(name, "0"))
    except ValueError:
        return 0


def _scan(path: Path, count: int, header: MibHeader, whole: bool = True) -> tuple[tuple[int, int] | None, list[str]]:
    """(rows, cols) of the scan as the .hdr file says or the time stamps suggest, and what must be said of it.

    The stamps of a recording in several files (`whole` is False) are not looked at.
    """
    entries = _hdr(path)
    if entries is not None:
        cols, rows = _int(entries, "ScanX"), _int(entries, "ScanY")
        total, each = _int(entries, "Frames in Acquisition (Number)"), _int(entries, "Frames per Trigger (Number)")
        if not (rows > 0 and cols > 0) and each > 1 and total > 0:
            rows, cols = total // each, each
        if rows > 0 and cols > 1:
            if rows * cols <= count:
                return (rows, cols), []
            full = count // cols
            if full:
                lost = count - full * cols
                text = f"the recording was stopped: {full} of {rows} rows of the scan are whole"
                return (full, cols), [text + (f", {lost} frames of the next row are left out" if lost else "")]
    suggested = _suggested_cols(path, count, header) if whole else None
    if suggested is not None and count % suggested == 0:
        rows = count // suggested
        text = (
            f"the scan shape {rows} x {suggested} is a guess from the time stamps; give `shape=(rows, cols)` if it is another"
        )
        return (rows, suggested), [text]
    return None, []


def _suggested_cols(path: Path, count: int, header: MibHeader) -> int | None:
    """Frames a row, when a gap after every n-th frame, and only there, is clearly longer than the others."""
    if count < 4 or header.mode == "R64":
        return None
    stamps = _stamps_s(path, min(count, _READ_STAMPS), header)
    if stamps is None:
        return None
    gaps = np.diff(stamps)
    middle = float(np.median(gaps))
    spread = 1.4826 * float(np.median(np.abs(gaps - middle)))
    far = gaps - middle > np.array([[_LONG_GAP], [_LONE_GAP]]) * max(spread, 1e-7 * middle)
    long = np.flatnonzero(far[0])
    if not len(long) or middle <= 0:
        return None
    cols = int(long[0]) + 1
    expected = np.arange(cols - 1, len(gaps), cols)
    # a single gap is believed only when it is far longer than the clock's noise
    sure = len(expected) >= 2 or bool(far[1][long].all())
    return cols if cols > 1 and sure and np.array_equal(long, expected) else None


def _stamps_s(path: Path, count: int, header: MibHeader) -> NDArray[np.float64] | None:
    """Time stamps of the first frames, over midnight too; None where a frame has none."""
    record = np.dtype([("head", f"S{header.head}"), ("rest", f"V{header.frame_bytes}")])
    stamps = []
    for head in np.memmap(path, record, "r", shape=(count,))["head"]:
        stamp = _stamp_s(bytes(head))
        if stamp is None:
            return None
        stamps.append(stamp)
    days = np.cumsum(np.diff(stamps, prepend=stamps[:1]) < -_DAY_S / 2)
    return np.asarray(stamps) + _DAY_S * days


def _timing(path: Path, count: int, header: MibHeader) -> Timing:
    """Interval and gaps of a movie by its time stamps."""
    stamps = _stamps_s(path, count, header) if count <= _TIMED_FRAMES else None
    return Timing() if stamps is None else by_stamps(stamps, 1e-6)


def _stamp_s(head: bytes) -> float | None:
    """Time stamp of a frame in seconds since the day began."""
    for text in reversed(head.decode("latin-1").split(",")):
        if "T" in text and text.count(":") == 2:
            hours, minutes, seconds = text.partition("T")[2].rstrip("Z").split(":")
            try:
                return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
            except ValueError:
                return None
    return None
