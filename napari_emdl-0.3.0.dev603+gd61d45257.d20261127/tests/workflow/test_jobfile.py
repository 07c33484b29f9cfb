"""Job files move with their data: relative on disk, absolute in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from helpers.earlier import unpack_earlier
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams, ProbeParams, StrainParams
from napari_emdl.base.stages import ExportStage, FindStage, FitStage, Job, OpenStage
from napari_emdl.workflow.jobfile import read_job, write_job


def test_relative_on_disk_absolute_in_memory(tmp_path: Path) -> None:
    job = Job(
        stages=(
            OpenStage(path=f"{tmp_path / 'data' / 'scan.h5'}::/exp/data"),
            FindStage(disks=DiskParams(probe=ProbeParams(file=f"{tmp_path / 'probe.h5'}::/p"))),
            FitStage(strain=StrainParams(regions=str(tmp_path / "labels.npy")), output=str(tmp_path / "strain.h5")),
            ExportStage(to="/elsewhere/figures"),
        )
    )
    write_job(tmp_path / "job.yaml", job)
    entries = yaml.safe_load((tmp_path / "job.yaml").read_text(encoding="utf-8"))["stages"]
    assert entries[0]["path"] == "data/scan.h5::/exp/data"
    assert entries[1]["disks"]["probe"]["file"] == "probe.h5::/p"
    assert entries[2]["strain"]["regions"] == "labels.npy" and entries[2]["output"] == "strain.h5"
    assert entries[3]["to"] == "/elsewhere/figures"
    assert read_job(tmp_path / "job.yaml") == job
    assert job.section("strain").regions and job.section("occupancy") is None


def test_jobs_of_version_0_2(tmp_path: Path) -> None:
    folder = unpack_earlier(tmp_path)
    job = read_job(folder / "job_occupancy.yaml")
    assert [stage.stage for stage in job.stages] == ["open", "find", "fit"]
    assert job.input == str(folder / "movie.npy") and job.stages[-1].output == str(folder / "out_occupancy.h5")
    assert job.section("columns").model == "log" and job.section("occupancy").method == "hmm"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("stages: [", "is not valid YAML"),
        ("5", "valid dictionary"),
        ("command: cook\ninput: a\noutput: b", "no command 'cook'"),
        ("command: disks\noutput: b\ndisks: {}", "no 'input'"),
        ("command: disks\ninput: a\noutput: b\ndisks: {}\nspeed: 3", "no entry 'speed'"),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(EmdlError, match=why) as told:
        read_job(tmp_path / "job.yaml")
    assert "\n" not in str(told.value)
