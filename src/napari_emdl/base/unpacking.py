"""How large packed bytes become, told before they are unpacked."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from napari_emdl.base.errors import OpenError

_ZSTD_MAGIC, _ZSTD_SKIPPABLE = 0xFD2FB528, range(0x184D2A50, 0x184D2A60)
_ZSTD_BLOCK = 128 * 1024
#: Most a byte becomes, of packings that do not say how long they are; a stream too short for the limit is not looked at.
_MOST = {"zlib": 1032, "gzip": 1032, "lzma": 8000, "bz2": 10**9}


def check_packed(packed: Any, codec: str, limit: int, name: str) -> None:
    """Refuse bytes that unpack to more than `limit`; never more than a megabyte of them is unpacked at a time.

    Parameters
    ----------
    packed
        Packed bytes.
    codec
        Name of the packing in zarr: zlib, gzip, bz2, lzma, blosc, lz4, zstd; others pass.
    limit
        Most bytes it may become.
    name
        For the message.

    Raises
    ------
    OpenError
        In one line.
    """
    data = memoryview(packed).cast("B")
    if codec in _MOST:
        size = _streamed(bytes(data), codec, limit) if len(data) * _MOST[codec] > limit else 0
    elif codec == "blosc":
        size = int.from_bytes(data[4:8], "little")
    elif codec == "lz4":
        size = int.from_bytes(data[:4], "little")
    elif codec == "zstd":
        size = _zstd_bound(data)
    else:
        return
    _refuse(size, limit, name)


def check_unpacks(packed: bytes, limit: int, name: str, method: str = "deflate") -> None:
    """Refuse a packed stream that unpacks to more than `limit` bytes; no more than a megabyte of it is in memory at a time.

    A stream says nowhere how long it is, and libraries unpack all of it: a megabyte can hold a gigabyte of zeros.

    Parameters
    ----------
    packed
        Stream of zlib ("deflate") or xz ("lzma"). What is damaged passes: whoever reads it says so.
    limit
        What the file says that it holds.
    name
        For the message.

    Raises
    ------
    OpenError
        In one line.
    """
    _refuse(_streamed(packed, "zlib" if method == "deflate" else "lzma", limit), limit, name)


def _refuse(size: int, limit: int, name: str) -> None:
    if size > limit:
        raise OpenError(f"{name} unpacks to more than the {limit} bytes it says; it is made to fill memory")


def _streamed(packed: bytes, codec: str, limit: int) -> int:
    """Bytes that a stream without a length unpacks to, counted up to `limit`; 0 where it is damaged, which its reader says."""
    makers: dict[str, Callable[[], Any]] = {
        "zlib": zlib.decompressobj,
        "gzip": lambda: zlib.decompressobj(wbits=31),
        "lzma": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_AUTO),
        "bz2": bz2.BZ2Decompressor,
    }
    found, unpacker = 0, makers[codec]()
    try:
        while not unpacker.eof and found <= limit:
            piece = unpacker.decompress(packed, 2**20)
            packed = unpacker.unconsumed_tail if codec in ("zlib", "gzip") else b""
            if not piece and not packed:
                break
            found += len(piece)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        return 0
    return found


def _zstd_bound(data: memoryview) -> int:
    """Most bytes that zstd frames can become, by their headers and blocks alone; 0 where they are damaged."""
    at, total = 0, 0
    while at + 4 <= len(data):
        magic = int.from_bytes(data[at : at + 4], "little")
        if magic in _ZSTD_SKIPPABLE:
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            continue
        if magic != _ZSTD_MAGIC or at + 5 > len(data):
            return total
        descriptor = data[at + 4]
        single, checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
        at += 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
        width = (single, 2, 4, 8)[descriptor >> 6]
        declared = int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
        at += width
        bound, last = 0, False
        while not last and at + 3 <= len(data):
            header = int.from_bytes(data[at : at + 3], "little")
            last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            bound += _ZSTD_BLOCK if kind == 2 else size
            at += 3 + (1 if kind == 1 else size)
        # the library makes room for what the frame says, whatever its blocks hold
        total += max(bound, declared) if width else bound
        at += 4 * checksum
    return total
