"""zarr stores of version 3, as zarr-python 3 writes them: folders of arrays in regular pieces, read with numcodecs alone.

RosettaSciIO holds zarr-python at version 2, which cannot read them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import SMALL_ARRAY_BYTES, read_json
from napari_emdl.base.unpacking import check_packed
from napari_emdl.io.sources import MAX_CHUNK_BYTES, full_index, indices

_PACKED = {"gzip": "gzip", "zstd": "zstd", "blosc": "blosc"}
_DEPTH = 4


def open_zarr3(path: Path) -> Zarr3Group | Zarr3Array:
    """Group or array of a folder with a ``zarr.json``.

    Raises
    ------
    OpenError
        When it is packed in a way that is not read.
    """
    facts = read_json(path / "zarr.json")
    if not isinstance(facts, dict) or facts.get("zarr_format") != 3:
        raise OpenError(f"{path.name} is no zarr store of version 3")
    return Zarr3Array(path, facts) if facts.get("node_type") == "array" else Zarr3Group(path, facts.get("attributes") or {})


@dataclass(frozen=True)
class Zarr3Group:
    """Folder of arrays and groups."""

    path: Path
    attrs: Mapping[str, Any]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(p.name for p in self.path.iterdir() if (p / "zarr.json").is_file()))

    def __contains__(self, name: str) -> bool:
        return (self._at(name) / "zarr.json").is_file()

    def __getitem__(self, name: str) -> Zarr3Group | Zarr3Array:
        if name not in self:
            raise KeyError(name)
        return open_zarr3(self._at(name))

    def _at(self, name: str) -> Path:
        parts = [part for part in name.split("/") if part]
        if ".." in parts:
            raise KeyError(name)
        return self.path.joinpath(*parts)


class Zarr3Array:
    """Array in regular pieces, each a file.

    Parameters
    ----------
    path
        Folder of the array.
    facts
        Its ``zarr.json``.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.name = path, path.name
        self.attrs: Mapping[str, Any] = facts.get("attributes") or {}
        self.dimension_names = facts.get("dimension_names")
        self.shape = tuple(int(n) for n in facts["shape"])
        self.dtype = np.dtype(str(facts["data_type"]))
        grid = facts["chunk_grid"]
        if grid["name"] != "regular":
            raise OpenError(f"{self.name} lies in pieces of different sizes ({grid['name']}), which is not read")
        self.chunks = tuple(int(n) for n in grid["configuration"]["chunk_shape"])
        if len(self.chunks) != len(self.shape) or min(self.chunks, default=1) < 1:
            raise OpenError(f"{self.name} has {len(self.shape)} axes and pieces of {self.chunks}; it is damaged")
        encoding = facts.get("chunk_key_encoding") or {}
        self._prefix = "c" if encoding.get("name", "default") == "default" else ""
        self._separator = (encoding.get("configuration") or {}).get("separator", "/" if self._prefix else ".")
        fill = facts.get("fill_value")
        self._fill = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf, None: 0}.get(fill, fill)
        self._codecs = [(codec["name"], codec.get("configuration") or {}) for codec in facts["codecs"]]
        known = {"bytes", "transpose", "crc32c", *_PACKED}
        unknown = [name for name, _ in self._codecs if name not in known]
        if unknown:
            raise OpenError(f"{self.name} is packed by {unknown[0]}, which is not read; save it anew without, or as version 2")
        if self._separator not in ("/", "."):
            raise OpenError(f"{self.name} names its pieces with {str(self._separator)[:40]!r}; it is damaged")

    def __getitem__(self, index: Any) -> NDArray[Any]:
        parts = full_index(index, self.shape)
        wanted = [indices(part) if isinstance(part, slice) else range(part, part + 1) for part in parts]
        out = np.full([len(w) for w in wanted], self._fill, self.dtype)
        places = [np.asarray(w) for w in wanted]
        for corner in itertools.product(*[np.unique(p // c) for p, c in zip(places, self.chunks, strict=True)]):
            piece = self._piece(tuple(int(n) for n in corner))
            if piece is None:
                continue
            inside = [(p // c) == n for p, c, n in zip(places, self.chunks, corner, strict=True)]
            there = np.ix_(*[np.flatnonzero(use) for use in inside])
            here = np.ix_(*[p[use] - n * c for p, use, n, c in zip(places, inside, corner, self.chunks, strict=True)])
            out[there] = piece[here]
        return out[tuple(0 if not isinstance(part, slice) else slice(None) for part in parts)]

    def _piece(self, corner: tuple[int, ...]) -> NDArray[Any] | None:
        """A piece; None where it was never written."""
        key = self._separator.join([*([self._prefix] if self._prefix else []), *map(str, corner)])
        file = self.path.joinpath(*key.split("/"))
        if not file.is_file():
            return None
        unpacked = int(np.prod(self.chunks, dtype=np.int64)) * self.dtype.itemsize
        if file.stat().st_size > MAX_CHUNK_BYTES + SMALL_ARRAY_BYTES:
            raise OpenError(f"{self.name}: piece {key} has {file.stat().st_size} bytes, more than it can hold; it is damaged")
        raw: Any = file.read_bytes()
        for name, how in reversed(self._codecs):
            raw = self._decoded(raw, name, how, unpacked, key)
        return np.asarray(raw)

    def _decoded(self, raw: Any, name: str, how: Mapping[str, Any], unpacked: int, key: str) -> Any:
        import numcodecs

        if name == "crc32c":
            return raw[:-4]
        if name in _PACKED:
            check_packed(raw, _PACKED[name], unpacked + SMALL_ARRAY_BYTES, f"{self.name}: piece {key}")
            return bytes(numcodecs.get_codec({"id": _PACKED[name]}).decode(raw))
        if name == "bytes":
            order: Any = ">" if how.get("endian") == "big" else "<"
            values = np.frombuffer(raw, self.dtype.newbyteorder(order))
            return values.reshape(self._stored_shape()).astype(self.dtype, copy=False)
        return np.transpose(raw, np.argsort(how["order"]))

    def _stored_shape(self) -> tuple[int, ...]:
        shape = self.chunks
        for name, how in self._codecs:
            if name == "transpose":
                shape = tuple(shape[int(i)] for i in how["order"])
        return shape
