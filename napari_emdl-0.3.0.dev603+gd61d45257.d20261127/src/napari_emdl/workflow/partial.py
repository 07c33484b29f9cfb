"""Peaks of a run that is not finished: blocks come in any order, single images are found ahead, frames go on arriving."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable


class PartialPeaks:
    """Peaks of the positions found so far.

    Parameters
    ----------
    shape
        (scan rows, scan cols) or (frames,).
    growing
        Let :meth:`put` add frames at the end; one axis only.

    Attributes
    ----------
    attrs
        Facts about the whole, joined from the tables put in.
    """

    def __init__(self, shape: Sequence[int], growing: bool = False) -> None:
        self.shape = tuple(int(n) for n in shape)
        if growing and len(self.shape) != 1:
            raise ValueError("only a row of frames can grow")
        self.growing = growing
        self.attrs: dict[str, Any] = {}
        self._blocks: list[tuple[int, PeakTable]] = []
        self._block_of = np.full(int(np.prod(self.shape, dtype=np.int64)), -1, np.int32)

    @classmethod
    def of(cls, table: PeakTable, done: ArrayLike | None = None) -> PartialPeaks:
        """From a table; `done` (its shape) says which positions are found, all when None."""
        made = cls(table.shape)
        made.put(0, table)
        if done is not None:
            made._block_of[~np.asarray(done, bool).ravel()] = -1
        return made

    @property
    def n_positions(self) -> int:
        """Number of positions, found or not."""
        return len(self._block_of)

    @property
    def done(self) -> NDArray[np.bool_]:
        """(shape) True where peaks were looked for."""
        return (self._block_of >= 0).reshape(self.shape)

    @property
    def n_done(self) -> int:
        """Number of positions found."""
        return int(np.count_nonzero(self._block_of >= 0))

    @property
    def complete(self) -> bool:
        """True when every position is found, and there is one."""
        return self.n_positions > 0 and self.n_done == self.n_positions

    def put(self, start: int, table: PeakTable) -> None:
        """Take in the peaks of the flat positions from `start` on; the newest word counts.

        Raises
        ------
        EmdlError
            When they lie beyond the end, or have other fields than those before.
        """
        stop = start + table.n_positions
        if self.growing and stop > self.n_positions:
            more = np.full(stop - self.n_positions, -1, np.int32)
            self._block_of = np.r_[self._block_of, more]
            self.shape = (stop,)
        if start < 0 or stop > self.n_positions:
            raise EmdlError(f"peaks of positions {start} to {stop} do not belong to a run over {self.shape}")
        if self._blocks and set(table.fields) != set(self._blocks[0][1].fields):
            raise EmdlError("these peaks were found by another method than those before: start the run again")
        self.attrs = {**self.attrs, **table.attrs}
        if table.n_positions == self.n_positions:
            self._blocks.clear()
        self._blocks.append((start, table))
        self._block_of[start:stop] = len(self._blocks) - 1

    def rows(self, flat: int) -> NDArray[np.void] | None:
        """All peaks of a flat position, None when it is not found yet or there is none."""
        block = int(self._block_of[flat]) if 0 <= flat < self.n_positions else -1
        if block < 0:
            return None
        start, table = self._blocks[block]
        return table.at(flat - start)

    def counts(self, **limits: float | None) -> NDArray[np.float64]:
        """(shape) number of peaks within limits (see :meth:`PeakTable.filter`), NaN where nothing is found yet."""
        counts = np.full(self.n_positions, np.nan)
        for number, (start, table) in enumerate(self._blocks):
            mine = np.flatnonzero(self._block_of[start : start + table.n_positions] == number)
            if len(mine):
                counts[start + mine] = table.filter(**limits).counts().ravel()[mine]
        return counts.reshape(self.shape)

    def table(self) -> PeakTable | None:
        """Table over all positions, None until every one is found."""
        return self.filled() if self.complete else None

    def filled(self) -> PeakTable:
        """Table over all positions; those not found yet have no peaks, see :attr:`done`.

        Raises
        ------
        EmdlError
            When nothing is found yet.
        """
        if not self._blocks:
            raise EmdlError("nothing is found yet")
        if len(self._blocks) == 1 and self._blocks[0][1].shape == self.shape and self.complete:
            return self._blocks[0][1]
        joined = PeakTable.concatenate(list(self._pieces()), self.shape)
        joined.attrs = dict(self.attrs)
        return joined

    def select(self, flat: Sequence[int]) -> PeakTable:
        """Table of the given flat positions in that order, of shape ``(len(flat),)``.

        Raises
        ------
        EmdlError
            When one of them is not found yet.
        """
        wanted = np.asarray(flat, np.int64)
        if (self._block_of[wanted] < 0).any():
            raise EmdlError("some of these positions are not found yet")
        parts = []
        for flat_position in wanted.tolist():
            start, table = self._blocks[int(self._block_of[flat_position])]
            whole = table.n_positions == 1
            parts.append(table if whole else table.select_positions([flat_position - start]))
        chosen = PeakTable.concatenate(parts, (len(wanted),))
        chosen.attrs = dict(self.attrs)
        return chosen

    def _pieces(self) -> Iterator[PeakTable]:
        """Runs of positions of one block, and of none, in order."""
        like = self._blocks[0][1]
        bounds = np.r_[0, np.flatnonzero(np.diff(self._block_of)) + 1, self.n_positions]
        for first, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            block = int(self._block_of[first]) if stop > first else -1
            if block < 0:
                columns = {name: np.zeros(0, like.column(name).dtype) for name in like.fields}
                yield PeakTable((stop - first,), np.zeros(stop - first + 1, np.int64), columns)
                continue
            start, table = self._blocks[block]
            whole = first == start and stop == start + table.n_positions
            yield table if whole else table.select_positions(np.arange(first - start, stop - start))
