"""PeakTable: ragged peaks over any leading shape, one type for Bragg disks and atomic columns.

Peaks lie flat in columns (one array a field) with an offset array that says where each scan position or frame begins.
A threshold is a mask over the same columns: filtering copies no field and never runs a network again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.showing import ShownResult

if TYPE_CHECKING:  # files are opened by `io`; a table alone needs no HDF5 library
    import h5py

#: Fields that every finder gives; further ones (species, logit, ...) may follow.
REQUIRED_FIELDS = ("row", "col", "score")


class PeakTable(ShownResult):
    """Ragged table of peaks.

    Parameters
    ----------
    shape
        Leading shape, such as (scan rows, scan cols) or (frames,).
    offset
        (prod(shape) + 1,) int, not decreasing; peaks of flat position i are rows offset[i]:offset[i + 1].
    columns
        Field name -> (n,) array. `row` and `col` are positions in pixels, pixel centres at integers.
    attrs
        Small facts about the whole table (species names, detector shape, ...), kept when saved.
    mask
        (n,) bool of the peaks shown; None shows all. Set by :meth:`where` and :meth:`filter`.

    Attributes
    ----------
    source
        Signal the peaks were found in, for :meth:`show`; None when the table comes from a file. It is not saved.

    Raises
    ------
    EmdlError
        When lengths do not fit each other.
    """

    def __init__(
        self,
        shape: Sequence[int],
        offset: ArrayLike,
        columns: Mapping[str, ArrayLike],
        attrs: Mapping[str, Any] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self._offset = np.asarray(offset, dtype=np.int64)
        self._columns = {name: np.asarray(values) for name, values in columns.items()}
        self.attrs: dict[str, Any] = dict(attrs or {})
        self._mask = mask
        self._kept_offset: NDArray[np.int64] | None = None
        self.source: Any = None
        self._check()

    def _check(self) -> None:
        positions = int(np.prod(self.shape, dtype=np.int64))
        if self._offset.shape != (positions + 1,):
            raise EmdlError(f"a peak table of shape {self.shape} needs {positions + 1} offsets, got {self._offset.shape}")
        if self._offset[0] != 0 or np.any(np.diff(self._offset) < 0):
            raise EmdlError("peak table offsets must start at 0 and not decrease; the file may be damaged")
        total = int(self._offset[-1])
        for name, values in self._columns.items():
            if values.shape != (total,):
                raise EmdlError(f"peak table field {name!r} has shape {values.shape}, expected ({total},)")
        if self._mask is not None and self._mask.shape != (total,):
            raise EmdlError(f"peak mask has shape {self._mask.shape}, expected ({total},)")

    @classmethod
    def from_lists(cls, peaks: Sequence[Mapping[str, ArrayLike]], shape: Sequence[int] | None = None) -> PeakTable:
        """Build from one mapping of equally long arrays a position, in scan order.

        Parameters
        ----------
        peaks
            One mapping field -> (k,) a position; all have the same fields.
        shape
            Leading shape; ``(len(peaks),)`` when None.
        """
        if not peaks:
            return cls.empty(shape or (0,))
        names = list(peaks[0])
        counts = [len(np.atleast_1d(np.asarray(p[names[0]]))) for p in peaks]
        columns = {name: np.concatenate([np.atleast_1d(np.asarray(p[name])) for p in peaks]) for name in names}
        return cls(shape or (len(peaks),), np.r_[0, np.cumsum(counts)], columns)

    @classmethod
    def empty(cls, shape: Sequence[int], fields: Sequence[str] = REQUIRED_FIELDS) -> PeakTable:
        """Table without a single peak."""
        positions = int(np.prod(tuple(shape), dtype=np.int64))
        return cls(shape, np.zeros(positions + 1, np.int64), {name: np.zeros(0, np.float32) for name in fields})

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(self._columns)

    @property
    def offset(self) -> NDArray[np.int64]:
        """(positions + 1,) offsets of the shown peaks."""
        if self._mask is None:
            return self._offset
        if self._kept_offset is None:
            running = np.r_[0, np.cumsum(self._mask)]
            self._kept_offset = running[self._offset].astype(np.int64)
        return self._kept_offset

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Which peaks of the table it is a view of are shown; None for all."""
        return self._mask

    @property
    def n_positions(self) -> int:
        """Number of scan positions or frames."""
        return len(self._offset) - 1

    @property
    def n_peaks(self) -> int:
        """Number of peaks shown."""
        return int(self.offset[-1])

    def __len__(self) -> int:
        return self.n_positions

    def __repr__(self) -> str:
        return f"PeakTable(shape={self.shape}, {self.n_peaks} peaks, fields={self.fields})"

    def counts(self) -> NDArray[np.int64]:
        """Number of peaks shown at each position, of shape `shape`."""
        return np.diff(self.offset).reshape(self.shape)

    def column(self, name: str) -> NDArray[Any]:
        """Values of one field of all peaks shown, flat in scan order."""
        try:
            values = self._columns[name]
        except KeyError:
            raise EmdlError(f"peaks have no field {name!r}; they have {', '.join(self.fields)}") from None
        return values if self._mask is None else values[self._mask]

    def positions_px(self) -> NDArray[np.float64]:
        """(n, 2) row, col of all peaks shown, flat in scan order."""
        return np.stack([self.column("row"), self.column("col")], axis=-1).astype(np.float64)

    def flat_index(self) -> NDArray[np.int64]:
        """(n,) flat scan position or frame each shown peak belongs to."""
        return np.repeat(np.arange(self.n_positions), np.diff(self.offset))

    def _flat_position(self, index: int | tuple[int, ...]) -> int:
        position = (index,) if isinstance(index, (int, np.integer)) else tuple(index)
        if len(position) == 1 and len(self.shape) > 1:
            raise IndexError(f"peaks lie over shape {self.shape}: give {len(self.shape)} indices")
        wrapped = [i + n if i < 0 else i for i, n in zip(position, self.shape, strict=True)]
        return int(np.ravel_multi_index(wrapped, self.shape)) if self.shape else 0

    def __getitem__(self, index: int | tuple[int, ...]) -> NDArray[np.void]:
        """Peaks of one position as a structured array with the fields of the table."""
        return self.at(self._flat_position(index))

    def at(self, flat: int) -> NDArray[np.void]:
        """Peaks of flat position `flat` as a structured array."""
        rows = slice(int(self._offset[flat]), int(self._offset[flat + 1]))
        keep = slice(None) if self._mask is None else self._mask[rows]
        parts = {name: values[rows][keep] for name, values in self._columns.items()}
        count = len(next(iter(parts.values()))) if parts else 0
        out = np.empty(count, dtype=[(name, values.dtype) for name, values in parts.items()])
        for name, values in parts.items():
            out[name] = values
        return out

    def __iter__(self) -> Iterator[NDArray[np.void]]:
        return (self.at(i) for i in range(self.n_positions))

    def where(self, mask: ArrayLike) -> PeakTable:
        """View with only the peaks for which `mask` is True.

        Parameters
        ----------
        mask
            Bool over the peaks now shown, flat in scan order.
        """
        chosen = np.asarray(mask, dtype=bool)
        if chosen.shape != (self.n_peaks,):
            raise EmdlError(f"peak mask has shape {chosen.shape}, expected ({self.n_peaks},)")
        if self._mask is not None:
            full = np.zeros_like(self._mask)
            full[self._mask] = chosen
            chosen = full
        return self._same_positions(PeakTable(self.shape, self._offset, self._columns, self.attrs, chosen))

    def _same_positions(self, table: PeakTable) -> PeakTable:
        """`table`, which lies over the positions of this one, with its source."""
        table.source = self.source
        return table

    def filter(self, **limits: float | None) -> PeakTable:
        """View of the peaks within limits, such as ``filter(min_score=0.5, max_sigma_px=0.4)``.

        Every keyword is ``min_FIELD`` or ``max_FIELD``; None is not a limit, both ends are included. A peak whose value is NaN
        fails the limit.
        """
        keep = np.ones(self.n_peaks, bool)
        for key, limit in limits.items():
            side, _, name = key.partition("_")
            if side not in ("min", "max") or not name:
                raise EmdlError(f"unknown limit {key!r}: use min_FIELD or max_FIELD with a field of {', '.join(self.fields)}")
            if limit is None:
                continue
            values = self.column(name)
            keep &= values >= limit if side == "min" else values <= limit
        return self.where(keep)

    def compact(self) -> PeakTable:
        """Copy that holds only the shown peaks."""
        columns = {name: self.column(name).copy() for name in self.fields}
        return self._same_positions(PeakTable(self.shape, self.offset.copy(), columns, self.attrs))

    def with_columns(self, **columns: ArrayLike) -> PeakTable:
        """Table of the shown peaks with fields added or replaced; each is (n_peaks,)."""
        merged = {name: self.column(name) for name in self.fields} | columns
        return self._same_positions(PeakTable(self.shape, self.offset, merged, self.attrs))

    def reshape(self, shape: Sequence[int]) -> PeakTable:
        """Same peaks over another leading shape with as many positions."""
        return PeakTable(shape, self._offset, self._columns, self.attrs, self._mask)

    def select_positions(self, flat: ArrayLike) -> PeakTable:
        """Table of the given flat positions, in the given order, of shape ``(len(flat),)``."""
        wanted = np.atleast_1d(np.asarray(flat, dtype=np.int64))
        start, count = self._offset[wanted], np.diff(self._offset)[wanted]
        new_offset = np.r_[0, np.cumsum(count)]
        rows = np.repeat(start - new_offset[:-1], count) + np.arange(new_offset[-1])
        if self._mask is not None:
            kept = self._mask[rows]
            rows, new_offset = rows[kept], np.r_[0, np.cumsum(kept)][new_offset]
        columns = {name: values[rows] for name, values in self._columns.items()}
        return PeakTable((len(wanted),), new_offset, columns, self.attrs)

    @staticmethod
    def concatenate(tables: Sequence[PeakTable], shape: Sequence[int] | None = None) -> PeakTable:
        """Join tables one behind the other in scan order.

        Parameters
        ----------
        tables
            At least one table, all with the same fields.
        shape
            Leading shape of the result; flat ``(positions,)`` when None.
        """
        if not tables:
            raise EmdlError("no peak tables to join")
        names = tables[0].fields
        if any(set(t.fields) != set(names) for t in tables):
            raise EmdlError(f"peak tables with different fields cannot be joined: {[t.fields for t in tables]}")
        counts = np.concatenate([np.diff(t.offset) for t in tables])
        columns = {name: np.concatenate([t.column(name) for t in tables]) for name in names}
        return PeakTable(shape or (len(counts),), np.r_[0, np.cumsum(counts)], columns, tables[0].attrs)

    def to_hdf5(self, group: h5py.Group) -> None:
        """Write `offset` and one flat dataset a field into `group`; the shape goes into its attributes."""
        group.attrs["shape"] = self.shape
        group.create_dataset("offset", data=self.offset)
        for name in self.fields:
            group.create_dataset(name, data=self.column(name), compression="gzip", compression_opts=1, shuffle=True)

    @classmethod
    def from_hdf5(cls, group: h5py.Group) -> PeakTable:
        """Read what :meth:`to_hdf5` wrote."""
        if "offset" not in group:
            raise EmdlError(f"{group.name!r} holds no peaks (no 'offset' dataset)")
        offset = group["offset"][()]
        columns = {name: item[()] for name, item in group.items() if name != "offset" and hasattr(item, "dtype")}
        return cls(group.attrs.get("shape", (len(offset) - 1,)), offset, columns)
