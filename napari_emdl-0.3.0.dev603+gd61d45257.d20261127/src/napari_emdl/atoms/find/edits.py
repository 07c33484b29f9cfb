"""Columns added, moved and deleted by hand, laid over the candidates of a finder, with undo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.peaks import PeakTable

#: Row keys of columns set by hand are below zero; candidates of the finder have their index in the frame.
FIRST_HAND_KEY = -1
#: Evidence of a column set by hand: as sure as finders get.
HAND_LOGIT = 8.0


@dataclass(frozen=True)
class HandColumn:
    """Column set by hand: position in pixels, species as an index, and its key in the frame."""

    key: int
    row: float
    col: float
    species: int = 0


@dataclass(frozen=True)
class FrameEdits:
    """Edits of one frame: candidates taken out (by index) and columns set by hand."""

    removed: frozenset[int] = frozenset()
    added: tuple[HandColumn, ...] = ()

    @property
    def empty(self) -> bool:
        """True when nothing was edited."""
        return not self.removed and not self.added


class ColumnEdits:
    """Edits by frame; every change can be undone and done again.

    A candidate below the threshold stays a candidate: it comes back when the slider goes down, unless it was taken out.
    """

    def __init__(self) -> None:
        self._frames: dict[int, FrameEdits] = {}
        self._undo: list[tuple[int, FrameEdits]] = []
        self._redo: list[tuple[int, FrameEdits]] = []
        self._next_key = FIRST_HAND_KEY

    def of(self, frame: int) -> FrameEdits:
        """Edits of one frame."""
        return self._frames.get(frame, FrameEdits())

    @property
    def edited_frames(self) -> list[int]:
        """Frames that hold an edit."""
        return sorted(frame for frame, edits in self._frames.items() if not edits.empty)

    @property
    def can_undo(self) -> bool:
        """True when there is a change to undo."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """True when there is a change to do again."""
        return bool(self._redo)

    def change(
        self,
        frame: int,
        *,
        remove: Iterable[int] = (),
        add: Iterable[tuple[float, float, int]] = (),
    ) -> tuple[int, ...]:
        """Take out the rows with the given keys and add columns (row, col, species) as one step.

        Returns
        -------
        tuple of int
            Keys of the added columns.
        """
        before = self.of(frame)
        keys = set(remove)
        new = []
        for row, col, species in add:
            new.append(HandColumn(self._next_key, float(row), float(col), int(species)))
            self._next_key -= 1
        after = FrameEdits(
            before.removed | {key for key in keys if key > FIRST_HAND_KEY},
            tuple(column for column in before.added if column.key not in keys) + tuple(new),
        )
        if after != before:
            self._undo.append((frame, before))
            self._redo.clear()
            self._frames[frame] = after
        return tuple(column.key for column in new)

    def undo(self) -> int | None:
        """Take the last change back; returns its frame, None when there was none."""
        return self._swap(self._undo, self._redo)

    def redo(self) -> int | None:
        """Do the last undone change again; returns its frame, None when there was none."""
        return self._swap(self._redo, self._undo)

    def _swap(self, source: list[tuple[int, FrameEdits]], target: list[tuple[int, FrameEdits]]) -> int | None:
        if not source:
            return None
        frame, edits = source.pop()
        target.append((frame, self.of(frame)))
        self._frames[frame] = edits
        return frame

    def clear(self) -> None:
        """Forget all edits and the undo stack (another movie or a new run)."""
        self._frames.clear()
        self._undo.clear()
        self._redo.clear()

    def to_json(self) -> list[dict[str, Any]]:
        """All edits as plain values; what can be undone is not kept."""
        return [
            {
                "frame": frame,
                "removed": sorted(self._frames[frame].removed),
                "added": [[c.row, c.col, c.species] for c in self._frames[frame].added],
            }
            for frame in self.edited_frames
        ]

    @classmethod
    def from_json(cls, entries: Iterable[Mapping[str, Any]]) -> ColumnEdits:
        """What :meth:`to_json` made."""
        edits = cls()
        for entry in entries:
            added = [(float(row), float(col), int(species)) for row, col, species in entry["added"]]
            edits.change(int(entry["frame"]), remove=[int(key) for key in entry["removed"]], add=added)
        edits._undo.clear()
        return edits

    def merge(self, frame: int, candidates: NDArray[np.void], min_score: float) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        """Columns of a frame as they are shown.

        Parameters
        ----------
        candidates
            (k,) structured array of the finder's candidates in the frame.
        min_score
            Threshold; columns set by hand are always shown, with score 1 and no sigma.

        Returns
        -------
        rows
            (n,) structured array of the same dtype.
        key
            (n,) key of every row.
        """
        edits = self.of(frame)
        key = np.arange(len(candidates), dtype=np.int64)
        keep = candidates["score"] >= min_score
        if edits.removed:
            keep &= ~np.isin(key, list(edits.removed))
        rows, key = candidates[keep], key[keep]
        if edits.added:
            hand = np.zeros(len(edits.added), candidates.dtype)
            for name in candidates.dtype.names or ():
                if np.issubdtype(candidates.dtype[name], np.floating):
                    hand[name] = np.nan
            hand["row"] = [column.row for column in edits.added]
            hand["col"] = [column.col for column in edits.added]
            hand["score"] = 1
            if "logit" in (candidates.dtype.names or ()):
                hand["logit"] = HAND_LOGIT
            if "species" in (candidates.dtype.names or ()):
                hand["species"] = [column.species for column in edits.added]
            rows = np.concatenate([rows, hand])
            key = np.r_[key, [column.key for column in edits.added]]
        return rows, key

    def apply(self, table: PeakTable, min_score: float | None = None) -> PeakTable:
        """Table with the edits in it; a threshold leaves the rest of the candidates out."""
        floor = -np.inf if min_score is None else min_score
        if not self.edited_frames:
            return table if min_score is None else table.filter(min_score=min_score).compact()
        parts = []
        start = 0
        for frame in [f for f in self.edited_frames if f < table.n_positions]:
            parts.append(table.select_positions(np.arange(start, frame)).filter(min_score=floor).compact())
            rows, _ = self.merge(frame, table.at(frame), floor)
            columns = {name: rows[name] for name in table.fields}
            parts.append(PeakTable((1,), [0, len(rows)], columns, table.attrs))
            start = frame + 1
        parts.append(table.select_positions(np.arange(start, table.n_positions)).filter(min_score=floor).compact())
        merged = PeakTable.concatenate(parts, table.shape)
        return PeakTable(table.shape, merged.offset, {n: merged.column(n) for n in merged.fields}, table.attrs)
