"""Where runs are kept: one folder for both sciences, and nobody deletes another's."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import Calibration, in_memory
from napari_emdl.jobs.checkpoint import part_path
from napari_emdl.workflow.runs import COLUMN_RUNS, DISK_RUNS

OLD_S = 15 * 86400


def signal(path: str = ""):
    return in_memory(np.zeros((2, 8, 8), np.uint8), "movie", name="a movie", path=path)


def test_one_file_a_signal_and_settings(tmp_path: Path) -> None:
    store = replace(COLUMN_RUNS, folder=tmp_path)
    movie = signal("/data/my movie.tif")
    file = store.file(movie, ColumnParams())
    assert file.parent == tmp_path and file.name.startswith("my_movie-") and file.name.endswith("_columns.h5")
    assert file == store.file(movie, ColumnParams())
    assert file != store.file(movie, ColumnParams(contrast="dark"))
    other = replace(movie, calibration=Calibration().override("user", pixel_nm=(0.02, 0.02)))
    assert file != store.file(other, ColumnParams())
    assert store.file(signal()) != store.file(signal())  # arrays in memory


def test_resume(tmp_path: Path) -> None:
    store = replace(DISK_RUNS, folder=tmp_path / "runs")
    file = store.file(signal("/data/cube.h5"))
    assert not store.can_resume(file)
    store.prepare(file)
    part_path(file).write_bytes(b"x")
    assert store.can_resume(file) and store.partial(file) == part_path(file)


def test_pruning_takes_only_its_own(tmp_path: Path) -> None:
    """Pruning old HRTEM runs once deleted every partial file in the folder, those of 4D-STEM too."""
    columns, disks = replace(COLUMN_RUNS, folder=tmp_path), replace(DISK_RUNS, folder=tmp_path)
    old = [
        part_path(columns.file(signal("/data/movie.tif"), ColumnParams())),
        tmp_path / f"{'0a' * 10}.h5.part",  # as version 0.2 named runs of columns
    ]
    kept = [
        part_path(disks.file(signal("/data/cube.h5"))),
        columns.file(signal("/data/movie.tif"), ColumnParams()),
        part_path(columns.file(signal("/data/new.tif"), ColumnParams())),
        tmp_path / "somebody_else.part",
    ]
    for path in (*old, *kept):
        path.write_bytes(b"x")
        if path != kept[2]:
            os.utime(path, (time.time() - OLD_S,) * 2)
    assert disks.prune() == []
    assert sorted(columns.prune()) == sorted(old)
    assert all(path.exists() for path in kept)


def test_a_run_that_goes_on_is_not_old(tmp_path: Path) -> None:
    store = replace(COLUMN_RUNS, folder=tmp_path)
    file = store.file(signal("/data/movie.tif"), ColumnParams())
    part_path(file).write_bytes(b"x")
    os.utime(part_path(file), (time.time() - OLD_S,) * 2)
    store.prepare(file)
    assert store.can_resume(file)
