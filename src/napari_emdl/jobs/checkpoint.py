"""Finished blocks kept beside the output, so that a job goes on after a crash, a kill -9 or a power cut.

The partial file is a journal: a header, then one record a block, each with its length and checksum, flushed to the disk
before the next begins. A record cut off by a crash is recognised and dropped; everything before it stays. (An HDF5 file
that is being appended to when its process is killed may be unreadable as a whole, so the journal is none.)
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from napari_emdl.base.errors import EmdlError, OtherJobError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.blocks import Block

MAGIC = b"EMDLPART1\n"
_RECORD = struct.Struct("<QQQI")  # start, stop, bytes of payload, crc32 of payload


def part_path(output: str | Path) -> Path:
    """Partial file of a result file."""
    return Path(f"{output}.part")


def discard_part(output: str | Path) -> None:
    """Remove the partial file of `output`; call it once the result itself is on disk."""
    part_path(output).unlink(missing_ok=True)


class Checkpoint:
    """Journal of finished blocks at ``<output>.part``.

    Parameters
    ----------
    output
        The result file the job will write.
    fingerprint
        Identifies parameters, model and input; a partial file with another one belongs to another job.
    resume
        True goes on with a partial file, False throws it away, None takes neither for granted.

    Raises
    ------
    EmdlError
        When a partial file lies there and `resume` is None, when it belongs to another job, or when the folder cannot be
        written to.
    """

    def __init__(self, output: str | Path, fingerprint: str, resume: bool | None = None) -> None:
        self.path = part_path(output)
        self.fingerprint = fingerprint
        self._records: dict[int, tuple[int, int, int]] = {}  # start -> stop, position and length of the payload
        self._fields: tuple[str, ...] | None = None
        if resume is False:
            discard_part(output)
        if self.path.exists() and self.path.stat().st_size:
            self._file = self._reopen(resume)
        else:
            self._file = self._create()

    def _create(self) -> BinaryIO:
        try:
            file = open(self.path, "w+b")  # noqa: SIM115 (stays open until close)
        except OSError as error:
            raise EmdlError(f"cannot write {self.path}: {error.strerror}; choose another output folder") from error
        header = json.dumps({"fingerprint": self.fingerprint}).encode()
        self._append(file, MAGIC + struct.pack("<I", len(header)) + header)
        return file

    def _reopen(self, resume: bool | None) -> BinaryIO:
        try:
            file = open(self.path, "r+b")  # noqa: SIM115
        except OSError as error:
            raise EmdlError(f"cannot go on with {self.path}: {error.strerror}") from error
        try:
            if file.read(len(MAGIC)) != MAGIC:
                raise EmdlError(f"{self.path} is no partial result; delete it or give another output")
            (length,) = struct.unpack("<I", file.read(4))
            found = json.loads(file.read(length))["fingerprint"]
            self._scan(file)
            if found != self.fingerprint:
                raise OtherJobError(
                    f"{self.path} holds the start of another job (other input, parameters or model); "
                    "use --restart to throw it away"
                )
            if resume is None:
                raise EmdlError(
                    f"{self.path} holds the start of this job; use --resume to go on with it or --restart to begin again"
                )
        except (struct.error, ValueError, KeyError) as error:
            file.close()
            if isinstance(error, EmdlError):
                raise
            raise EmdlError(f"{self.path} is damaged at its start; use --restart to throw it away") from error
        return file

    def _scan(self, file: BinaryIO) -> None:
        """Find all whole records and cut off what a crash left behind them."""
        end = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(end)
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            start, stop, length, checksum = _RECORD.unpack(head)
            position = file.tell()
            if position + length > size or zlib.crc32(file.read(length)) != checksum:
                break
            self._records[start] = (stop, position, length)
            end = position + length
        file.truncate(end)
        file.seek(end)

    @property
    def done(self) -> set[int]:
        """First items of the blocks that are finished."""
        return set(self._records)

    def missing(self, total: int, size: int) -> list[Block]:
        """Blocks of at most `size` items that cover what is not finished, whatever size earlier blocks had."""
        gaps, at = [], 0
        for start in sorted(self._records):
            if start > at:
                gaps.append((at, start))
            at = max(at, self._records[start][0])
        if at < total:
            gaps.append((at, total))
        bounds = [(a, min(a + size, end)) for begin, end in gaps for a in range(begin, end, size)]
        return [Block(i, start, stop) for i, (start, stop) in enumerate(bounds)]

    def write(self, block: Block, table: PeakTable) -> None:
        """Append a finished block; it is on the disk when this returns.

        Raises
        ------
        EmdlError
            When the disk is full or gone; blocks written before stay.
        """
        payload = _pack(table)
        head = _RECORD.pack(block.start, block.stop, len(payload), zlib.crc32(payload))
        position = self._file.seek(0, os.SEEK_END)
        try:
            self._append(self._file, head + payload)
        except OSError as error:
            raise EmdlError(f"cannot write {self.path}: {error.strerror}; free some space and go on with --resume") from error
        self._records[block.start] = (block.stop, position + len(head), len(payload))

    @staticmethod
    def _append(file: BinaryIO, data: bytes) -> None:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

    def read(self, start: int) -> PeakTable:
        """Table of the finished block that begins at `start`."""
        _, position, length = self._records[start]
        self._file.seek(position)
        return _unpack(self._file.read(length))

    def blocks(self) -> Iterator[tuple[Block, PeakTable]]:
        """Finished blocks in scan order."""
        for i, start in enumerate(sorted(self._records)):
            yield Block(i, start, self._records[start][0]), self.read(start)

    def table(self, shape: Sequence[int]) -> PeakTable:
        """All peaks in scan order, read into memory once.

        Raises
        ------
        EmdlError
            When blocks are missing.
        """
        total = int(np.prod(tuple(shape), dtype=np.int64))
        if self.missing(total, total or 1):
            raise EmdlError(f"{self.path} is not complete; go on with --resume")
        counts = np.zeros(total, np.int64)
        attrs: list[dict[str, Any]] = []
        dtypes: dict[str, np.dtype[Any]] = {}
        for block, part in self.blocks():
            counts[block.start : block.stop] = np.diff(part.offset)
            attrs.append(part.attrs)
            dtypes = dtypes or {name: part.column(name).dtype for name in part.fields}
        offset = np.r_[0, np.cumsum(counts)]
        columns = {name: np.empty(offset[-1], dtype) for name, dtype in dtypes.items()}
        for block, part in self.blocks():
            for name, values in columns.items():
                values[offset[block.start] : offset[block.stop]] = part.column(name)
        return PeakTable(shape, offset, columns, merge_attrs(attrs))

    def close(self) -> None:
        """Close the file and leave it where it is."""
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)


def merge_attrs(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Attributes of a joined table: counts (int) are added up, anything else is taken from the first block that has it."""
    merged: dict[str, Any] = {}
    for attrs in parts:
        for name, value in attrs.items():
            if isinstance(value, int) and not isinstance(value, bool):
                merged[name] = merged.get(name, 0) + value
            else:
                merged.setdefault(name, value)
    return merged


def _pack(table: PeakTable) -> bytes:
    buffer = io.BytesIO()
    columns = {f"field_{name}": table.column(name) for name in table.fields}
    facts = json.dumps({name: value for name, value in table.attrs.items() if isinstance(value, (str, int, float, bool))})
    np.savez(buffer, offset=table.offset, attrs=np.frombuffer(facts.encode(), np.uint8), **columns)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpack(payload: bytes) -> PeakTable:
    with np.load(io.BytesIO(payload), allow_pickle=False) as data:
        columns = {name.removeprefix("field_"): data[name] for name in data.files if name.startswith("field_")}
        attrs = json.loads(data["attrs"].tobytes())
        offset = data["offset"]
    return PeakTable((len(offset) - 1,), offset, columns, attrs)
