"""Hand edits over a table of candidates; needs no window."""

from __future__ import annotations

import numpy as np

from napari_emdl.atoms.find.edits import ColumnEdits
from napari_emdl.base.peaks import PeakTable


def table() -> PeakTable:
    """Two frames with three and two candidates, one of each below 0.5."""
    columns = {
        "row": np.array([1, 2, 3, 4, 5.0]),
        "col": np.array([1, 2, 3, 4, 5.0]),
        "score": np.array([0.9, 0.2, 0.8, 0.7, 0.1]),
        "sigma_px": np.full(5, 0.1),
        "species": np.zeros(5, np.int16),
        "logit": np.zeros(5),
    }
    return PeakTable((2,), [0, 3, 5], columns, {"species": ["column"]})


def test_threshold_and_edits_are_merged():
    edits = ColumnEdits()
    edits.change(0, remove=[0], add=[(7.5, 8.5, 0)])
    rows, keys = edits.merge(0, table().at(0), 0.5)
    assert keys.tolist() == [2, -1]
    assert rows["row"].tolist() == [3.0, 7.5]
    assert rows["score"][-1] == 1 and np.isnan(rows["sigma_px"][-1]) and rows["logit"][-1] > 0


def test_what_was_hidden_by_the_threshold_comes_back_but_not_what_was_deleted():
    edits = ColumnEdits()
    edits.change(0, remove=[0])
    assert edits.merge(0, table().at(0), 0.5)[1].tolist() == [2]
    assert edits.merge(0, table().at(0), 0.0)[1].tolist() == [1, 2]


def test_undo_and_redo_restore_every_step():
    edits = ColumnEdits()
    states = [edits.of(0)]
    (key,) = edits.change(0, add=[(1, 2, 0)])
    states.append(edits.of(0))
    edits.change(0, remove=[key], add=[(3, 4, 0)])  # a move
    states.append(edits.of(0))
    assert len(edits.of(0).added) == 1
    assert edits.undo() == 0 and edits.of(0) == states[1]
    assert edits.undo() == 0 and edits.of(0) == states[0]
    assert edits.undo() is None
    assert edits.redo() == 0 and edits.redo() == 0 and edits.of(0) == states[2]
    edits.undo()
    edits.change(0, remove=[2])
    assert not edits.can_redo


def test_apply_keeps_other_frames_and_attributes():
    edits = ColumnEdits()
    edits.change(1, remove=[0], add=[(9, 9, 0)])
    merged = edits.apply(table(), 0.5)
    assert merged.counts().tolist() == [2, 1]
    assert merged.at(1)["row"].tolist() == [9.0]
    assert merged.attrs["species"] == ["column"]
    everything = edits.apply(table())
    assert everything.counts().tolist() == [3, 2]
