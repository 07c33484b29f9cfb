"""The file a result was made from, found and opened in one way."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.earlier import unpack_earlier
from napari_emdl import load, open_movie, save
from napari_emdl.base.errors import OpenError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.provenance import provenance
from napari_emdl.workflow.source import input_of, locate, source_of, with_options


def test_locate(tmp_path: Path) -> None:
    data, result = tmp_path / "data", tmp_path / "results"
    data.mkdir()
    result.mkdir()
    (data / "a.h5").touch()
    assert locate(f"{data / 'a.h5'}::/exp/1") == f"{data / 'a.h5'}::/exp/1"
    shutil.move(data / "a.h5", result / "a.h5")
    assert locate(f"{data / 'a.h5'}::/exp/1") is None
    assert locate(f"{data / 'a.h5'}::/exp/1", result / "r.h5") == f"{result / 'a.h5'}::/exp/1"
    assert locate(r"D:\microscope\a.h5", result / "r.h5") == str(result / "a.h5")
    assert locate("") is None


def made_from(movie) -> PeakTable:
    table = PeakTable.empty((movie.n_frames,))
    table.attrs |= {"provenance": provenance({}, movie), "species": ["atom"], "pixel_A": 0.25}
    return table


def test_opened_as_it_was(tmp_path: Path) -> None:
    """Raw binary and a typed pixel size: both come back."""
    frames = np.arange(3 * 16 * 20, dtype=np.uint16).reshape(3, 16, 20)
    frames.tofile(tmp_path / "movie.raw")
    options = {"shape": (3, 16, 20), "dtype": "uint16"}
    movie = with_options(open_movie(tmp_path / "movie.raw", **options), options)
    save(made_from(movie), tmp_path / "columns.h5")
    found = source_of(load(tmp_path / "columns.h5"), tmp_path / "columns.h5")
    np.testing.assert_array_equal(found.data[1], frames[1])
    assert found.pixel_A == pytest.approx(0.25) and found.calibration.source["pixel_nm"] == "user"


def test_what_cannot_be_found(tmp_path: Path) -> None:
    np.save(tmp_path / "movie.npy", np.zeros((3, 16, 16), np.uint8))
    table = made_from(open_movie(tmp_path / "movie.npy"))
    assert source_of(table).shape == (3, 16, 16)
    np.save(tmp_path / "movie.npy", np.zeros((4, 16, 16), np.uint8))
    with pytest.raises(OpenError, match="another file"):
        source_of(table)
    (tmp_path / "movie.npy").unlink()
    with pytest.raises(OpenError, match="is gone"):
        source_of(table)
    with pytest.raises(OpenError, match="does not say"):
        source_of(PeakTable.empty((3,)))


def test_results_of_version_0_2_find_their_files(tmp_path: Path) -> None:
    folder = unpack_earlier(tmp_path)
    for name in ("disks", "strain", "columns", "occupancy"):
        result = load(folder / f"{name}.h5")
        if not input_of(result):
            continue
        assert source_of(result, folder / f"{name}.h5").shape == (
            (2, 3, 40, 40) if name in ("disks", "strain") else (8, 64, 64)
        )
    assert input_of(load(folder / "disks.h5")) and input_of(load(folder / "columns.h5"))
