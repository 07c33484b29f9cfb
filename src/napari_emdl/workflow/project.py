"""Project file: everything that was set in a 4D-STEM workspace, to be opened again as it was.

A project is one zip file (``.emdl-project``): ``project.yaml`` (settings, plain text), ``disks.h5`` (an ordinary result file)
and ``*.emdl.h5`` (ordinary layer files). A zip, because every part is written and read by what writes and reads it on its own,
can be taken out with any tool, and the whole still moves as one file. The disks are copied in: a project depends on no cache;
the datacube is named, not copied, relative to the project when it lies beside or below it.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.params import DiskParams, Params, RunParams, StrainParams
from napari_emdl.base.signals import Datacube
from napari_emdl.io.outputs import atomic_path

ENDING = ".emdl-project"
SETTINGS = "project.yaml"
VERSION = 1


class Project(Params):
    """What is set, as ``project.yaml`` holds it.

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
    display
        What the window showed; of no effect on results.
    """

    version: int = VERSION
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
    display: dict[str, Any] = Field(default_factory=dict)


def write_project(path: str | Path, project: Project, parts: Mapping[str, Callable[[Path], Any]]) -> Path:
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


def read_project(path: str | Path, readers: Mapping[str, Callable[[Path], Any]]) -> tuple[Project, dict[str, Any]]:
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
        with zipfile.ZipFile(source) as file, tempfile.TemporaryDirectory(prefix="emdl-project-") as scratch:
            settings = yaml.safe_load(file.read(SETTINGS))
            if isinstance(settings, dict) and int(settings.get("version", VERSION)) > VERSION:
                raise OpenError(f"{source.name} was written by a newer napari-emdl; update to open it")
            project = Project.model_validate(settings)
            there = set(file.namelist())
            found = {name: read(Path(file.extract(name, scratch))) for name, read in readers.items() if name in there}
    except ValidationError as error:
        first = error.errors()[0]
        raise OpenError(f"{source.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, yaml.YAMLError) as error:
        if isinstance(error, EmdlError):
            raise
        raise OpenError(f"{source.name} is no project file, or it is damaged ({str(error).splitlines()[0]})") from error
    return _each_path(project, lambda text: _absolute(text, source.parent)), found


def open_cube(project: Project, path: str | Path) -> Datacube:
    """Datacube of a project, where it was or beside the project file at `path`.

    Raises
    ------
    OpenError
        In one line, when it is not there or is another one.
    """
    from napari_emdl.io import open_datacube

    if project.sample:
        from napari_emdl.samples.diffraction import strained_datacube

        return strained_datacube(**project.sample)[0]
    file, colons, dataset = project.datacube.partition("::")
    beside = Path(path).expanduser().absolute().parent / Path(file).name
    place = next((p for p in (Path(file), beside) if p.exists()), None)
    if place is None:
        name = Path(file).name
        raise OpenError(f"the datacube of this project is missing: {file}; put {name} back there, or beside {Path(path).name}")
    cube = open_datacube(f"{place}{colons}{dataset}", **project.open_options)
    if (cube.scan_shape, cube.detector_shape) != (project.scan_shape, project.detector_shape):
        raise OpenError(
            f"{place} is another datacube: it has the shape {cube.shape}, the project was made with "
            f"{(*project.scan_shape, *project.detector_shape)}"
        )
    return cube


def _each_path(project: Project, change: Callable[[str], str]) -> Project:
    """Project with every file name changed; what follows ``::`` stays."""

    def of(text: str | None) -> str | None:
        if not text:
            return text
        file, colons, dataset = text.partition("::")
        return f"{change(file)}{colons}{dataset}"

    probe = project.disks.probe.model_copy(update={"file": of(project.disks.probe.file)})
    names = {name: of(getattr(project, name)) for name in ("datacube", "output", "disks_file")}
    return project.model_copy(update={**names, "disks": project.disks.model_copy(update={"probe": probe})})


def _relative(text: str, folder: Path) -> str:
    path = Path(text).expanduser().absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _absolute(text: str, folder: Path) -> str:
    return str(folder / Path(text).expanduser())
