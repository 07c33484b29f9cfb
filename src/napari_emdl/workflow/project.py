"""Project file: everything that was set for a datacube, a movie or both, to be opened again as it was.

A project is one zip file (``.emdl-project``): ``project.yaml`` (settings, plain text), ordinary result files (``disks.h5``,
``columns.h5``, ``occupancy.h5``) and ``*.emdl.h5`` (ordinary layer files). A zip, because every part is written and read by
what writes and reads it on its own, can be taken out with any tool, and the whole still moves as one file. Results are copied
in: a project depends on no cache. The datacube or movie is named, not copied, relative to the project when it lies beside or
below it.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from napari_emdl.base.errors import OpenError
from napari_emdl.base.params import ColumnParams, DiskParams, OccupancyParams, Params, RunParams, StrainParams
from napari_emdl.base.reading import check_zip, one_line, read_yaml
from napari_emdl.base.signals import Datacube, Movie
from napari_emdl.io.outputs import atomic_path
from napari_emdl.workflow.parameters import problem_line
from napari_emdl.workflow.source import locate

ENDING = ".emdl-project"
SETTINGS = "project.yaml"
VERSION = 2


class DiffractionProject(Params):
    """What is set in a 4D-STEM workspace.

    Attributes
    ----------
    datacube, open_options
        File (``FILE`` or ``FILE::DATASET``) and the options it was opened with, such as the shape of raw binary.
    sample
        How the sample datacube is made (arguments of
        :func:`napari_emdl.samples.diffraction.strained_datacube`), instead of a file.
    scan_shape, detector_shape
        Shape of the datacube, to tell another file of that name.
    position
        (row, col) of the cross-hair.
    min_score, default_min_score
        Least score as set, and the method's own.
    reference
        What counts as unstrained; a region lies in the layers.
    disks_file
        Result file with the disks, where they are not copied into the project (autosave).
    fitted
        True when there was a strain map.
    peaks_for_now
        True when it was fitted to the peaks alone because a slider was followed.
    display
        What the window showed; of no effect on results.
    """

    datacube: str = ""
    open_options: dict[str, Any] = {}
    sample: dict[str, Any] = {}
    scan_shape: tuple[int, int]
    detector_shape: tuple[int, int]
    position: tuple[int, int] = (0, 0)
    disks: DiskParams = DiskParams()
    strain: StrainParams = StrainParams()
    run: RunParams = RunParams()
    min_score: float | None = None
    default_min_score: float | None = None
    reference: Literal["median", "region", "lattice"] = "median"
    live: bool = True
    output: str | None = None
    disks_file: str | None = None
    fitted: bool = False
    peaks_for_now: bool = False
    display: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _of_before_fits(cls, values: Any) -> Any:
        """A project writes all its settings; one that does not name the fit is of a version that knew only the peaks."""
        if isinstance(values, Mapping) and isinstance(values.get("strain"), Mapping):
            return {**values, "strain": {"fit": "peaks", **values["strain"]}}
        return values


class AtomsProject(Params):
    """What is set in the HRTEM panels.

    Attributes
    ----------
    movie, open_options
        File (``FILE`` or ``FILE::DATASET``) and the options it was opened with.
    sample
        How the sample movie is made, instead of a file.
    shape
        Shape of the movie, to tell another file of that name.
    pixel_A, pixel_source
        Pixel size, and where it comes from ("file", "user", "measured").
    frame
        Frame shown.
    columns, occupancy, run
        Parameters.
    min_score, default_min_score
        Least score as set, and the finder's own.
    columns_file
        Partial file of the run that holds the columns, where they are not copied into the project (autosave).
    fitted
        True when there was an occupancy.
    display
        What the window showed; of no effect on results.
    """

    movie: str = ""
    open_options: dict[str, Any] = {}
    sample: dict[str, Any] = {}
    shape: tuple[int, ...]
    pixel_A: float | None = None
    pixel_source: str = "file"
    frame: int = 0
    columns: ColumnParams = ColumnParams()
    occupancy: OccupancyParams = OccupancyParams()
    run: RunParams = RunParams()
    min_score: float | None = None
    default_min_score: float | None = None
    columns_file: str | None = None
    fitted: bool = False
    display: dict[str, Any] = Field(default_factory=dict)


class Project(Params):
    """What is set, as ``project.yaml`` holds it: one science or both."""

    version: int = VERSION
    diffraction: DiffractionProject | None = None
    atoms: AtomsProject | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, values: Any) -> Any:
        """Version 1 knew 4D-STEM only and kept its settings at the top."""
        if isinstance(values, Mapping) and "scan_shape" in values:
            return {"version": VERSION, "diffraction": {name: v for name, v in values.items() if name != "version"}}
        return values

    @model_validator(mode="after")
    def _holds_something(self) -> Project:
        if self.diffraction is None and self.atoms is None:
            raise ValueError("the project holds neither a datacube nor a movie")
        return self


Part = Callable[[Path], Any]


@dataclass
class Collected:
    """A workspace as it is at one moment; writing it needs neither the window nor its thread.

    Attributes
    ----------
    project
        Settings, paths absolute.
    parts
        Name in the zip -> function that writes that part to the path it is given.
    left_out
        Names of layers that are too large, or lazy.
    digest
        Differs when what `parts` would write differs.
    """

    project: Project
    parts: dict[str, Part]
    left_out: list[str] = field(default_factory=list)
    digest: str = ""

    def __or__(self, other: Collected) -> Collected:
        """Both sciences in one project."""
        ours, theirs = self.project, other.project
        both = Project(diffraction=ours.diffraction or theirs.diffraction, atoms=ours.atoms or theirs.atoms)
        parts = {**other.parts, **self.parts}
        return Collected(both, parts, [*self.left_out, *other.left_out], f"{self.digest}|{other.digest}")

    @property
    def fingerprint(self) -> str:
        """Differs when anything that would be written differs."""
        return f"{self.project.model_dump_json()}|{self.digest}"


def write_project(path: str | Path, project: Project, parts: Mapping[str, Part]) -> Path:
    """Write a project; it appears whole or not at all.

    Parameters
    ----------
    path
        File to write; replaced when it exists.
    project
        Settings, paths absolute.
    parts
        Name in the zip -> function that writes that part to the path it is given.

    Raises
    ------
    EmdlError
        When it cannot be written.
    """
    target = Path(path).expanduser().absolute()
    settings = _each_path(project, lambda text: _relative(text, target.parent)).model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    with (
        tempfile.TemporaryDirectory(prefix="emdl-project-") as scratch,
        atomic_path(target) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file,  # HDF5 is packed already
    ):
        file.writestr(SETTINGS, text)
        for name, write in parts.items():
            part = Path(scratch) / name
            write(part)
            file.write(part, name)
    return target


def is_project(path: str | Path) -> bool:
    """True for a file that :func:`write_project` wrote."""
    if not Path(path).is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return SETTINGS in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def read_project(path: str | Path, readers: Mapping[str, Part]) -> tuple[Project, dict[str, Any]]:
    """Read a project and its parts.

    Parameters
    ----------
    readers
        Name in the zip -> function that reads that part whole; parts that are not there are left out.

    Returns
    -------
    Project
        Settings, with paths that begin at the project made absolute.
    dict
        Name -> what its reader returned.

    Raises
    ------
    OpenError
        In one line, when it is damaged, none, or of a newer version.
    """
    source = Path(path).expanduser().absolute()
    try:
        with (
            one_line(source.name, "project file"),
            zipfile.ZipFile(source) as file,
            tempfile.TemporaryDirectory(prefix="emdl-project-") as scratch,
        ):
            check_zip(file, source.name)
            settings = read_yaml(file.read(SETTINGS), f"{source.name}: {SETTINGS}")
            if isinstance(settings, dict) and int(settings.get("version", VERSION)) > VERSION:
                raise OpenError(f"{source.name} was written by a newer napari-emdl; update to open it")
            project = Project.model_validate(settings)
            there = set(file.namelist())
            found = {name: read(Path(file.extract(name, scratch))) for name, read in readers.items() if name in there}
    except OpenError as error:
        if isinstance(error.__cause__, ValidationError):
            raise OpenError(f"{source.name}: {problem_line(error.__cause__)}") from None
        raise
    return _each_path(project, lambda text: _absolute(text, source.parent)), found


def open_cube(project: DiffractionProject, path: str | Path, make_sample: Callable[..., Any]) -> Datacube:
    """Datacube of a project, where it was or beside the project file at `path`.

    Parameters
    ----------
    make_sample
        Makes the sample datacube from ``project.sample``.

    Raises
    ------
    OpenError
        In one line, when it is not there or is another one.
    """
    from napari_emdl.io import open_datacube

    if project.sample:
        made: Datacube = make_sample(**project.sample)
        return made
    cube = open_datacube(_place(project.datacube, path, "datacube"), **project.open_options)
    _check_same(cube, (*project.scan_shape, *project.detector_shape), "datacube")
    return cube


def open_movie(project: AtomsProject, path: str | Path, make_sample: Callable[..., Any]) -> Movie:
    """Movie of a project with the pixel size as it was set, where it was or beside the project file at `path`.

    Raises
    ------
    OpenError
        In one line, when it is not there or is another one.
    """
    from dataclasses import replace

    from napari_emdl import io

    if project.sample:
        movie: Movie = make_sample(**project.sample)
    else:
        movie = io.open_movie(_place(project.movie, path, "movie"), **project.open_options)
        _check_same(movie, project.shape, "movie")
    if project.pixel_A and project.pixel_source != "file":
        pixel_nm = (project.pixel_A / 10, project.pixel_A / 10)
        movie = replace(movie, calibration=movie.calibration.override(project.pixel_source, pixel_nm=pixel_nm))
    return movie


def _place(recorded: str, path: str | Path, what: str) -> str:
    place = locate(recorded, path)
    if place is None:
        file = Path(recorded.partition("::")[0])
        raise OpenError(
            f"the {what} of this project is missing: {file}; put {file.name} back there, or beside {Path(path).name}"
        )
    return place


def _check_same(signal: Datacube | Movie, shape: tuple[int, ...], what: str) -> None:
    if signal.shape != tuple(shape):
        raise OpenError(
            f"{signal.path} is another {what}: it has the shape {signal.shape}, the project was made with {tuple(shape)}"
        )


def _each_path(project: Project, change: Callable[[str], str]) -> Project:
    """Project with every file name changed; what follows ``::`` stays."""

    def of(text: str | None) -> str | None:
        if not text:
            return text
        file, colons, dataset = text.partition("::")
        return f"{change(file)}{colons}{dataset}"

    def changed(section: Any, *names: str) -> Any:
        return section.model_copy(update={name: of(getattr(section, name)) for name in names})

    sections: dict[str, Any] = {}
    if project.diffraction is not None:
        found = changed(project.diffraction, "datacube", "output", "disks_file")
        disks = found.disks.model_copy(update={"probe": changed(found.disks.probe, "file")})
        strain = changed(found.strain, "regions")
        sections["diffraction"] = found.model_copy(update={"disks": disks, "strain": strain})
    if project.atoms is not None:
        sections["atoms"] = changed(project.atoms, "movie", "columns_file")
    return project.model_copy(update=sections)


def _relative(text: str, folder: Path) -> str:
    path = Path(text).expanduser().absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _absolute(text: str, folder: Path) -> str:
    return str(folder / Path(text).expanduser())
