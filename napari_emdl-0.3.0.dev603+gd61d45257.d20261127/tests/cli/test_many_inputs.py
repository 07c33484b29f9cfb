"""`run JOB.yaml INPUT ...`: one job on files and folders, each with results of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.helpers.disks_made import G, lattice_points, pattern

from napari_emdl import load
from napari_emdl.base.peaks import PeakTable
from napari_emdl.cli.app import main

ORIGIN = np.array([64.0, 64.0])


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    stages = [
        {"stage": "open", "path": "other.npy"},
        {"stage": "find", "disks": {"method": "template", "probe": {"radius_px": 5.0}}, "output": "disks.h5"},
    ]
    path.write_text(yaml.safe_dump({"stages": stages, "run": {"device": "cpu", "workers": 1}}))
    return path


@pytest.fixture
def cubes(tmp_path: Path) -> Path:
    folder = tmp_path / "cubes"
    folder.mkdir()
    image = pattern(lattice_points(G, ORIGIN, (128, 128))[0], (128, 128))
    for seed, name in enumerate(("a", "b")):
        data = np.random.default_rng(seed).poisson(image, (2, 2, 128, 128)).astype(np.uint16)
        np.save(folder / f"{name}.npy", data)
    (folder / "notes.txt").write_text("sample 7")
    return folder


def test_a_folder_is_one_job(job: Path, cubes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = tmp_path / "out"
    assert main(["run", str(job), str(cubes), "--into", str(into)]) == 0
    assert sorted(path.name for path in into.iterdir()) == ["a", "b"]
    for name in ("a", "b"):
        table = load(into / name / "disks.h5")
        assert isinstance(table, PeakTable) and table.shape == (2, 2) and table.n_peaks > 40
    said = capsys.readouterr()
    assert "notes is left out" in said.err
    before = (into / "a" / "disks.h5").stat().st_mtime_ns
    assert main(["run", str(job), str(cubes / "a.npy"), "--into", str(into), "--resume"]) == 0
    assert (into / "a" / "disks.h5").stat().st_mtime_ns == before and "a is done already" in capsys.readouterr().err


def test_a_bad_input_does_not_stop_the_others(
    job: Path, cubes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "out"
    assert main(["run", str(job), str(tmp_path / "gone.npy"), str(cubes / "b.npy"), "--into", str(into)]) == 1
    assert (into / "b" / "disks.h5").is_file() and not (into / "gone").exists()
    assert "1 of 2 inputs failed: gone" in capsys.readouterr().err
    assert main(["run", str(job), str(cubes / "b.npy"), str(cubes / "b.npy"), "--into", str(into)]) == 1
    assert "two inputs are called b" in capsys.readouterr().err
