"""A peak table that does not hold together is refused in one line; views and joins keep what belongs where."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Calibration, in_memory

TABLE = PeakTable((2, 2), [0, 2, 2, 3, 5], {"row": np.arange(5.0), "col": np.arange(5.0) * 2, "score": np.linspace(0, 1, 5)})


@pytest.mark.parametrize(
    ("offset", "columns", "mask", "line"),
    [
        ([0, 1], {"row": [1.0]}, None, "needs 5 offsets"),
        ([1, 1, 1, 1, 1], {"row": [1.0]}, None, "start at 0 and not decrease"),
        ([0, 2, 1, 2, 2], {"row": [1.0, 2.0]}, None, "start at 0 and not decrease"),
        ([0, 1, 1, 1, 1], {"row": [1.0, 2.0]}, None, r"'row' has shape \(2,\), expected \(1,\)"),
        ([0, 1, 1, 1, 1], {"row": [1.0]}, np.ones(2, bool), r"mask has shape \(2,\)"),
    ],
)
def test_tables_that_do_not_hold_together(offset, columns, mask, line):
    with pytest.raises(EmdlError, match=line):
        PeakTable((2, 2), offset, columns, mask=mask)


def test_what_is_not_there_is_named():
    with pytest.raises(EmdlError, match="no field 'sigma_px'; they have row, col, score"):
        TABLE.column("sigma_px")
    with pytest.raises(EmdlError, match="unknown limit 'score'"):
        TABLE.filter(score=0.5)
    with pytest.raises(EmdlError, match=r"mask has shape \(4,\), expected \(5,\)"):
        TABLE.where(np.ones(4))
    with pytest.raises(IndexError, match="give 2 indices"):
        TABLE[1]
    with pytest.raises(EmdlError, match="no peak tables"):
        PeakTable.concatenate([])
    with pytest.raises(EmdlError, match="different fields"):
        PeakTable.concatenate([TABLE, PeakTable.empty((1,), ("row",))])


def test_views_of_views_and_places():
    assert repr(TABLE) == "PeakTable(shape=(2, 2), 5 peaks, fields=('row', 'col', 'score'))"
    high = TABLE.filter(min_score=0.25, max_score=None).where([True, False, True, True])
    assert list(high.column("row")) == [1, 3, 4] and high.counts().tolist() == [[1, 0], [0, 2]]
    assert high.mask is not None and high.mask.tolist() == [False, True, False, True, True]
    assert list(TABLE[-1, -1]["row"]) == [3, 4] == list(high[1, 1]["row"])
    assert [len(peaks) for peaks in TABLE] == [2, 0, 1, 2] == np.diff(TABLE.offset).tolist()
    assert high.flat_index().tolist() == [0, 3, 3]
    chosen = high.select_positions([3, 1, 0])
    assert chosen.shape == (3,) and list(chosen.column("row")) == [3, 4, 1] and chosen.offset.tolist() == [0, 2, 2, 3]
    assert high.reshape((4,)).at(3)["col"].tolist() == [6, 8]
    assert PeakTable.from_lists([], (2, 0)).shape == (2, 0)


def test_peaks_in_hdf5_there_and_back(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        TABLE.filter(min_score=0.5).to_hdf5(file.create_group("peaks"))
        file.create_group("nothing")
        again = PeakTable.from_hdf5(file["peaks"])
        assert again.shape == (2, 2) and list(again.column("row")) == [2, 3, 4] and again.offset.tolist() == [0, 0, 0, 1, 3]
        with pytest.raises(EmdlError, match="holds no peaks"):
            PeakTable.from_hdf5(file["nothing"])


def test_calibration_knows_its_sources_and_the_disk():
    known = Calibration(q_pixel_invA=(0.01, 0.03)).override("file", energy_keV=300.0, semiangle_mrad=None)
    assert known.source == {"energy_keV": "file"} and known.probe_radius_px() is None
    radius = known.override(semiangle_mrad=10.0).probe_radius_px()
    assert radius == pytest.approx(0.010 / 0.0196875 / 0.02, rel=1e-5)


def test_arrays_of_the_wrong_shape_are_refused():
    with pytest.raises(EmdlError, match="a focal series has 4 axes"):
        in_memory(np.zeros((3, 4, 5)), "focal_series")
