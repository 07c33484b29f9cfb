"""Project files: both sciences in one, version 1 understood, moved with their data, and a session kept against a crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.earlier import unpack_earlier
from napari_emdl import load
from napari_emdl.base.errors import OpenError
from napari_emdl.base.params import ColumnParams, StrainParams
from napari_emdl.workflow import autosave
from napari_emdl.workflow.project import (
    AtomsProject,
    Collected,
    DiffractionProject,
    Project,
    open_cube,
    open_movie,
    read_project,
    write_project,
)


def no_sample(**_: object) -> None:
    raise AssertionError("there is a file")


def test_a_project_of_version_1_opens(tmp_path: Path) -> None:
    folder = unpack_earlier(tmp_path)
    project, parts = read_project(folder / "project.emdl-project", {"disks.h5": load})
    assert project.atoms is None and project.diffraction is not None
    assert project.diffraction.min_score == 40.0 and project.diffraction.position == (1, 2)
    assert project.diffraction.strain.reference == (0, 2, 0, 1) and project.diffraction.fitted
    assert open_cube(project.diffraction, folder / "project.emdl-project", no_sample).shape == (2, 3, 40, 40)
    assert parts["disks.h5"].n_peaks == load(folder / "disks.h5").n_peaks


def test_both_sciences_in_one_file_that_moves_with_its_data(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    np.save(here / "cube.npy", np.zeros((2, 3, 8, 8), np.uint8))
    np.save(here / "movie.npy", np.zeros((4, 16, 16), np.uint8))
    np.save(here / "labels.npy", np.zeros((2, 3), np.uint8))
    cube = DiffractionProject(
        datacube=str(here / "cube.npy"), scan_shape=(2, 3), detector_shape=(8, 8),
        strain=StrainParams(regions=str(here / "labels.npy")),
    )  # fmt: skip
    movie = AtomsProject(
        movie=str(here / "movie.npy"), shape=(4, 16, 16), pixel_A=0.3, pixel_source="user", columns=ColumnParams(model="log"),
        min_score=0.7,
    )  # fmt: skip
    written = {name: (lambda text: lambda path: path.write_text(text))(name) for name in ("a.txt", "b.txt")}
    both = Collected(Project(diffraction=cube), {"a.txt": written["a.txt"]}, ["big"]) | Collected(
        Project(atoms=movie), {"b.txt": written["b.txt"]}
    )
    assert both.left_out == ["big"]
    write_project(here / "p.emdl-project", both.project, both.parts)
    shutil.move(here, there)
    project, parts = read_project(there / "p.emdl-project", dict.fromkeys(("a.txt", "b.txt", "c.txt"), Path.read_text))
    assert parts == {"a.txt": "a.txt", "b.txt": "b.txt"}
    assert project.diffraction.strain.regions == str(there / "labels.npy")
    assert open_cube(project.diffraction, there / "p.emdl-project", no_sample).scan_shape == (2, 3)
    opened = open_movie(project.atoms, there / "p.emdl-project", no_sample)
    assert opened.pixel_A == pytest.approx(0.3) and opened.calibration.source["pixel_nm"] == "user"
    assert project.atoms.min_score == 0.7 and project.atoms.columns.model == "log"


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    movie = AtomsProject(movie=str(tmp_path / "movie.npy"), shape=(4, 16, 16))
    path = write_project(tmp_path / "p.emdl-project", Project(atoms=movie), {})
    project, _ = read_project(path, {})
    with pytest.raises(OpenError, match=r"the movie of this project is missing: .*movie.npy; put movie.npy back"):
        open_movie(project.atoms, path, no_sample)
    np.save(tmp_path / "movie.npy", np.zeros((5, 16, 16), np.uint8))
    with pytest.raises(OpenError, match="another movie"):
        open_movie(project.atoms, path, no_sample)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OpenError, match="not a readable project file"):
        read_project(path, {})


def test_a_newer_or_an_empty_project_is_refused(tmp_path: Path) -> None:
    import zipfile

    for entries, why in (({"version": 3, "atoms": {}}, "newer"), ({"version": 2}, "neither a datacube nor a movie")):
        with zipfile.ZipFile(tmp_path / "p.emdl-project", "w") as file:
            file.writestr("project.yaml", yaml.safe_dump(entries))
        with pytest.raises(OpenError, match=why):
            read_project(tmp_path / "p.emdl-project", {})


KILLED = """
import os, sys
from napari_emdl.workflow.autosave import SessionFile
from napari_emdl.workflow.project import AtomsProject, Project
SessionFile().write(Project(atoms=AtomsProject(movie=sys.argv[1], shape=(4, 16, 16))), {})
os._exit(9)
"""


def test_a_killed_session_is_offered_to_its_science(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    own = autosave.SessionFile()
    own.write(Project(atoms=AtomsProject(shape=(1, 8, 8))), {})
    assert own.path.exists() and autosave.crashed_sessions() == []
    own.end()
    assert not own.path.exists()
    own.write(Project(atoms=AtomsProject(shape=(1, 8, 8))), {})
    assert not own.path.exists()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "movie.npy")], check=False, env=os.environ)
    assert len(autosave.crashed_sessions("atoms")) == 1 and autosave.crashed_sessions("diffraction") == []
