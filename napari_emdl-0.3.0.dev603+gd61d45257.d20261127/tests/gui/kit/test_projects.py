"""A project saved from one science's panel holds what the other has set in the same viewer."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_emdl.base.errors import EmdlError
from napari_emdl.gui.kit.projects import collect_all, share, unshare
from napari_emdl.workflow.project import AtomsProject, Collected, DiffractionProject, Project, read_project, write_project


class Viewer:
    """Anything that can be weakly referenced."""


class Science:
    def __init__(self, science: str, section: object) -> None:
        self.science, self.section = science, section

    def collect(self, copy_results: bool = True) -> Collected:
        if self.section is None:
            raise EmdlError("nothing is open")
        return Collected(Project(**{self.science: self.section}), {f"{self.science}.txt": lambda path: path.write_text("x")})


def test_both_sciences_in_one_project(tmp_path: Path) -> None:
    viewer, elsewhere = Viewer(), Viewer()
    cubes = Science("diffraction", DiffractionProject(datacube="/data/c.h5", scan_shape=(2, 3), detector_shape=(8, 8)))
    movies = Science("atoms", AtomsProject(movie="/data/m.tif", shape=(4, 16, 16)))
    share(viewer, cubes)
    share(viewer, movies)
    share(elsewhere, Science("atoms", AtomsProject(movie="/data/other.tif", shape=(1, 8, 8))))
    for asked in (cubes, movies):
        collected = collect_all(viewer, asked)
        assert collected.project.diffraction is not None and collected.project.atoms.movie == "/data/m.tif"
        assert set(collected.parts) == {"diffraction.txt", "atoms.txt"}
    write_project(tmp_path / "both.emdl-project", collected.project, collected.parts)
    assert read_project(tmp_path / "both.emdl-project", {})[0] == collected.project
    unshare(viewer, movies)
    assert collect_all(viewer, cubes).project.atoms is None


def test_what_is_not_open_is_left_out() -> None:
    viewer = Viewer()
    empty, movies = Science("diffraction", None), Science("atoms", AtomsProject(movie="/data/m.tif", shape=(4, 16, 16)))
    share(viewer, empty)
    share(viewer, movies)
    assert collect_all(viewer, movies).project.diffraction is None
    with pytest.raises(EmdlError, match="nothing is open"):
        collect_all(viewer, empty)
