"""Unfinished tables: any order, found twice, arriving, and the whole the same as one run's."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.workflow.partial import PartialPeaks


def table(counts: list[int], first: float = 0.0) -> PeakTable:
    total = sum(counts)
    values = first + np.arange(total, dtype=np.float32)
    columns = {"row": values, "col": values, "score": values / 100, "species": np.ones(total, np.int8)}
    return PeakTable((len(counts),), np.r_[0, np.cumsum(counts)], columns)


def test_blocks_in_any_order_make_the_whole() -> None:
    whole = table([2, 0, 3, 1, 4, 2])
    parts = PartialPeaks((2, 3))
    assert parts.rows(0) is None and parts.table() is None
    parts.put(4, whole.select_positions([4, 5]))
    parts.put(0, whole.select_positions([0, 1, 2]))
    assert parts.n_done == 5 and not parts.complete
    assert parts.done.tolist() == [[True, True, True], [False, True, True]]
    np.testing.assert_array_equal(parts.counts(), [[2, 0, 3], [np.nan, 4, 2]])
    np.testing.assert_array_equal(parts.counts(min_score=0.1), [[0, 0, 0], [np.nan, 0, 2]])
    filled = parts.filled()
    assert filled.shape == (2, 3) and filled.counts().ravel().tolist() == [2, 0, 3, 0, 4, 2]
    assert filled.column("species").dtype == np.int8
    parts.put(3, whole.select_positions([3]))
    joined = parts.table()
    assert joined is not None
    for name in whole.fields:
        np.testing.assert_array_equal(joined.column(name), whole.column(name))
    np.testing.assert_array_equal(joined.offset, whole.offset)


def test_the_newest_word_counts_and_attrs_are_joined() -> None:
    parts = PartialPeaks((3,))
    first, second = table([1, 1, 1]), table([2], first=50)
    first.attrs, second.attrs = {"a": 1, "b": 1}, {"b": 2}
    parts.put(0, first)
    parts.put(1, second)
    assert parts.rows(1)["row"].tolist() == [50, 51]
    joined = parts.table()
    assert joined.counts().tolist() == [1, 2, 1] and joined.attrs == {"a": 1, "b": 2}
    parts.put(0, first)
    assert parts.table() is first


def test_part_of_a_table() -> None:
    parts = PartialPeaks.of(table([1, 2, 3]), [True, False, True])
    assert parts.n_done == 2 and parts.rows(1) is None and len(parts.rows(2)) == 3


def test_arriving_frames_in_another_order() -> None:
    parts = PartialPeaks((0,), growing=True)
    assert not parts.complete and parts.table() is None
    for at, count in enumerate([3, 1, 2]):
        parts.put(at, table([count], first=10 * at))
    assert parts.shape == (3,) and parts.complete
    chosen = parts.select([2, 0])
    assert chosen.counts().tolist() == [2, 3] and chosen.at(0)["row"].tolist() == [20, 21]


def test_what_does_not_belong() -> None:
    parts = PartialPeaks((3,))
    with pytest.raises(EmdlError, match="nothing is found"):
        parts.filled()
    with pytest.raises(EmdlError, match="do not belong"):
        parts.put(2, table([1, 1]))
    parts.put(0, table([1]))
    with pytest.raises(EmdlError, match="another method"):
        parts.put(1, PeakTable.empty((1,)))
    with pytest.raises(EmdlError, match="not found yet"):
        parts.select([1])
