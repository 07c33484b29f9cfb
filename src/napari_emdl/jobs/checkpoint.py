"""Finished blocks kept beside the output, so that a job goes on after a crash, a kill -9 or a power cut.

The partial file is a journal: a header, then one record a block, each with its length and checksum, flushed to the disk
before the next begins. A record cut off by a crash is recognised and dropped; everything before it stays. (An HDF5 file
that is being appended to when its process is killed may be unreadable as a whole, so the journal is none.)
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError, JournalError, OtherJobError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.reading import read_npz
from napari_emdl.jobs.blocks import Block

MAGIC = b"EMDLPART2\n"
_OLD_MAGIC = b"EMDLPART1\n"  # version 0.2: the checksum covers the payload alone
_RECORD = struct.Struct("<QQQI")  # start, stop, bytes of payload, crc32 of these three and the payload
_LONGEST_HEADER = 1 << 16

#: What a block gives: peaks, or arrays whose first axis runs along the items of the block.
BlockResult = PeakTable | Mapping[str, NDArray[Any]]


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
    JournalError
        When a partial file lies there and `resume` is None, when it belongs to another job, when another process writes it,
        or when the folder cannot be written to.
    """

    def __init__(self, output: str | Path, fingerprint: str, resume: bool | None = None) -> None:
        self.path = part_path(output)
        self.fingerprint = fingerprint
        self._records: dict[int, tuple[int, int, int]] = {}  # start -> stop, position and length of the payload
        self._seed_head = True
        self._file = open_locked(self.path)
        try:
            if not self._file.seek(0, os.SEEK_END):
                self._begin()
            elif resume is False:
                self._check_ours()
                self._begin()
            else:
                self._go_on(resume)
        except BaseException:
            self._file.close()
            raise

    def _begin(self) -> None:
        header = json.dumps({"fingerprint": self.fingerprint}).encode()
        self._file.seek(0)
        try:
            self._file.truncate(0)
            self._append(MAGIC + struct.pack("<I", len(header)) + header)
        except OSError as error:
            raise JournalError(f"cannot write {self.path}: {error.strerror}; free some space or give another output") from error

    def _check_ours(self) -> bytes:
        self._file.seek(0)
        magic = self._file.read(len(MAGIC))
        if magic not in (MAGIC, _OLD_MAGIC):
            raise JournalError(f"{self.path} is not a partial result; delete it or give another output")
        return magic

    def _go_on(self, resume: bool | None) -> None:
        """Accept the partial file as the start of this job, or refuse it and leave it as it is."""
        self._seed_head = self._check_ours() == MAGIC
        try:
            (length,) = struct.unpack("<I", self._file.read(4))
            if length > _LONGEST_HEADER:
                raise ValueError("header too long")
            found = json.loads(self._file.read(length))["fingerprint"]
        except (struct.error, ValueError, LookupError, TypeError) as error:
            raise JournalError(f"{self.path} is damaged at its start; use `resume=False` to throw it away") from error
        if found != self.fingerprint:
            raise OtherJobError(
                f"{self.path} holds the start of another job (other input, parameters or model); use "
                "`resume=False` to throw it away"
            )
        if resume is None:
            raise JournalError(
                f"{self.path} holds the start of this job; use `resume=True` to go on with it or `resume=False` to begin again"
            )
        end = self._scan()
        self._file.truncate(end)

    def _scan(self) -> int:
        """Find all whole records; the end of the last of them, behind which a crash may have left something."""
        end = self._file.tell()
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(end)
        while len(head := self._file.read(_RECORD.size)) == _RECORD.size:
            start, stop, length, checksum = _RECORD.unpack(head)
            position = self._file.tell()
            if not start < stop or position + length > size or self._overlaps(start, stop):
                break
            if self._checksum(head, self._file.read(length)) != checksum:
                break
            self._records[start] = (stop, position, length)
            end = position + length
        return end

    def _checksum(self, head: bytes, payload: bytes) -> int:
        return zlib.crc32(payload, zlib.crc32(head[:-4]) if self._seed_head else 0)

    def _overlaps(self, start: int, stop: int) -> bool:
        return any(start < other_stop and other < stop for other, (other_stop, _, _) in self._records.items())

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

    def write(self, block: Block, result: BlockResult) -> None:
        """Append a finished block; it is on the disk when this returns.

        Raises
        ------
        JournalError
            When the disk is full or gone; blocks written before stay.
        """
        payload = _pack(result)
        head = _RECORD.pack(block.start, block.stop, len(payload), 0)
        head = _RECORD.pack(block.start, block.stop, len(payload), self._checksum(head, payload))
        position = self._file.seek(0, os.SEEK_END)
        try:
            self._append(head + payload)
        except OSError as error:
            raise JournalError(
                f"cannot write {self.path}: {error.strerror}; free some space, then go on with `resume=True`"
            ) from error
        self._records[block.start] = (block.stop, position + len(head), len(payload))

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def read(self, start: int) -> Any:
        """Result of the finished block that begins at `start`.

        Raises
        ------
        JournalError
            When the record does not hold a result of that many items.
        """
        stop, position, length = self._records[start]
        self._file.seek(position)
        try:
            result = _unpack(self._file.read(length))
        except (EmdlError, LookupError, TypeError, ValueError) as error:
            raise JournalError(f"{self.path} is damaged; use `resume=False` to throw it away") from error
        if length_of(result) != stop - start:
            raise JournalError(f"{self.path} is damaged (a block has the wrong length); use `resume=False` to throw it away")
        return result

    def blocks(self) -> Iterator[tuple[Block, Any]]:
        """Finished blocks in scan order."""
        for i, start in enumerate(sorted(self._records)):
            yield Block(i, start, self._records[start][0]), self.read(start)

    def table(self, shape: Sequence[int]) -> PeakTable:
        """All peaks in scan order, read into memory once.

        Raises
        ------
        JournalError
            When blocks are missing.
        """
        total = int(np.prod(tuple(shape), dtype=np.int64))
        if self.missing(total, total or 1):
            raise JournalError(f"{self.path} is not complete; go on with `resume=True`")
        return merge_peaks(self.blocks, shape)

    def close(self) -> None:
        """Close the file and leave it where it is."""
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)


def open_locked(path: Path) -> BinaryIO:
    """Open a file for reading and writing, make it if it is not there, and keep other processes out until it is closed.

    Links are not followed and only plain files are opened, so that a name laid ready by somebody else leads nowhere.

    Raises
    ------
    JournalError
        When another process has it, or it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise JournalError(f"cannot write {path}: {reason}; choose another output") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise JournalError(f"cannot write {path}: it is not a plain file; choose another output")
    file = os.fdopen(descriptor, "r+b")
    try:
        _lock(descriptor)
    except OSError as error:
        file.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise JournalError(f"cannot lock {path}: {error.strerror}; choose an output on another disk") from error
        raise JournalError(f"another run is writing {path}; wait for it or give another output") from error
    return file


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        """Lock a byte far behind the content, so that reading is not blocked."""
        os.lseek(descriptor, 1 << 40, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # file systems without locks
                raise


def merge_peaks(blocks: Callable[[], Iterator[tuple[Block, PeakTable]]], shape: Sequence[int]) -> PeakTable:
    """Table of all blocks in scan order; read twice, so that no more than one block is in memory beside the whole."""
    counts = np.zeros(int(np.prod(tuple(shape), dtype=np.int64)), np.int64)
    attrs: list[dict[str, Any]] = []
    dtypes: dict[str, np.dtype[Any]] = {}
    for block, part in blocks():
        counts[block.start : block.stop] = np.diff(part.offset)
        attrs.append(part.attrs)
        dtypes = dtypes or {name: part.column(name).dtype for name in part.fields}
    offset = np.r_[0, np.cumsum(counts)]
    columns = {name: np.empty(offset[-1], dtype) for name, dtype in dtypes.items()}
    for block, part in blocks():
        for name, values in columns.items():
            values[offset[block.start] : offset[block.stop]] = part.column(name)
    return PeakTable(shape, offset, columns, merge_attrs(attrs))


def merge_arrays(
    blocks: Callable[[], Iterator[tuple[Block, Mapping[str, NDArray[Any]]]]], total: int
) -> dict[str, NDArray[Any]]:
    """Arrays of all blocks, each (total, ...)."""
    out: dict[str, NDArray[Any]] = {}
    for block, part in blocks():
        for name, values in part.items():
            if name not in out:
                out[name] = np.empty((total, *values.shape[1:]), values.dtype)
            out[name][block.start : block.stop] = values
    return out


def length_of(result: BlockResult) -> int:
    """Items a block's result is of."""
    if isinstance(result, PeakTable):
        return result.n_positions
    lengths = {len(values) for values in result.values()}
    return lengths.pop() if len(lengths) == 1 else -1


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


def _pack(result: BlockResult) -> bytes:
    buffer = io.BytesIO()
    if not isinstance(result, PeakTable):
        np.savez(buffer, **{f"array_{name}": values for name, values in result.items()})  # type: ignore[arg-type]
        return buffer.getvalue()
    columns = {f"field_{name}": result.column(name) for name in result.fields}
    facts = json.dumps({name: value for name, value in result.attrs.items() if isinstance(value, (str, int, float, bool))})
    np.savez(buffer, offset=result.offset, attrs=np.frombuffer(facts.encode(), np.uint8), **columns)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpack(payload: bytes) -> BlockResult:
    data = read_npz(io.BytesIO(payload), "a block", len(payload))  # it was not packed
    if "offset" not in data:
        return {name.removeprefix("array_"): values for name, values in data.items()}
    columns = {name.removeprefix("field_"): values for name, values in data.items() if name.startswith("field_")}
    attrs = json.loads(data["attrs"].tobytes())
    return PeakTable((len(data["offset"]) - 1,), data["offset"], columns, attrs)
