"""Job files: a list of stages (open, find, fit, export) that one command does again. Paths in a job are relative to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams, ExportStage, FindStage, FitStage, Job, OpenStage, RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube, Movie
from napari_emdl.cli import work
from napari_emdl.cli.console import say_note
from napari_emdl.workflow.parameters import validated


def read_job(path: Path) -> Job:
    """Read a job file.

    Raises
    ------
    EmdlError
        Naming the entry that is wrong.
    """
    try:
        entries = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise EmdlError(f"the job file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise EmdlError(f"the job file {path} is not YAML: {' '.join(str(error).split())}") from error
    return validated(Job, entries, f"the job file {path}")


def run_job(job: Job, path: Path, run: Mapping[str, Any], output: Path | None = None) -> None:
    """Do every stage of a job.

    Parameters
    ----------
    path
        The job file, which its paths are relative to.
    run
        Run parameters that win over those in the job.
    output
        Where the last result goes instead.
    """
    results = [stage for stage in job.stages if isinstance(stage, (FindStage, FitStage))]
    outputs = {id(stage): _beside(path, stage.output) for stage in results if stage.output is not None}
    if output is not None:
        if not results:
            raise EmdlError(f"the job {path} writes no result; leave out --output")
        outputs[id(results[-1])] = output
    opened = job.stages[0]
    assert isinstance(opened, OpenStage)
    source = str(_beside(path, opened.path))
    for target in outputs.values():
        work.check_output(target, source)
    running = validated(RunParams, {**job.run.model_dump(), **run})
    _Run(path, source, opened, running, {key: target.expanduser() for key, target in outputs.items()}).stages(job)


class _Run:
    """What the stages of a job hand on."""

    def __init__(self, path: Path, source: str, opened: OpenStage, run: RunParams, outputs: dict[int, Path]) -> None:
        from napari_emdl import io

        self.path, self.source, self.opened, self.run, self.outputs = path, source, opened, run, outputs
        self.result: Any = None
        self.signal: Datacube | Movie | None = None
        if "::" not in source and not opened.options and io.is_result(source):
            self.result = io.load(source)

    def stages(self, job: Job) -> None:
        for stage in job.stages[1:]:
            if isinstance(stage, FindStage):
                self.find(stage, job)
            elif isinstance(stage, FitStage):
                self.fit(stage)
            elif isinstance(stage, ExportStage):
                self.export(stage)

    def find(self, stage: FindStage, job: Job) -> None:
        if isinstance(self.result, PeakTable):
            say_note(f"{self.opened.path} holds peaks already: they are used, nothing is found anew")
            return
        output = self.outputs.get(id(stage))
        beside = output or next(iter(self.outputs.values()), None)
        if beside is None:
            raise EmdlError(f"the job {self.path} needs an output for its stage 'find'")
        if stage.disks is not None:
            cube = self.signal = work.open_cube(self.source, self.opened.options)
            params = _disks_beside(self.path, stage.disks)
            if output is not None:
                self.result = work.disks(cube, output, params, self.run, stage.keep_candidates)
            else:
                self.result = work.find_disks(cube, beside, params, self.run)
        else:
            assert stage.columns is not None
            movie = self.signal = work.open_movie(self.source, self.opened.options)
            if output is not None:
                self.result = work.columns(movie, output, stage.columns, self.run, stage.keep_candidates)
            else:
                self.result = work.find_columns(movie, beside, stage.columns, self.run)

    def fit(self, stage: FitStage) -> None:
        output = self.outputs.get(id(stage))
        wanted = "disks" if stage.strain is not None else "columns"
        peaks = self.result
        if not isinstance(peaks, PeakTable) or (len(peaks.shape) == 2) != (wanted == "disks"):
            raise EmdlError(f"the job {self.path} has nothing to fit: open a file of {wanted}, or find {wanted} first")
        if stage.strain is not None:
            self.result = work.strain(peaks, output, _strain_beside(self.path, stage.strain), self.run)
            return
        assert stage.occupancy is not None
        movie = self.signal if isinstance(self.signal, Movie) else None
        if movie is None:
            movie = work.movie_for(peaks, self.source, stage.occupancy, None, None)
        self.result = work.occupancy(peaks, movie, output, stage.occupancy, self.run)

    def export(self, stage: ExportStage) -> None:
        from napari_emdl.exporting.folder import export

        if self.result is None:
            raise EmdlError(f"the job {self.path} has nothing to export: open a result, or add a stage 'find' or 'fit'")
        for written in export(self.result, _beside(self.path, stage.to)):
            typer.echo(str(written))


def _beside(job: Path, name: str) -> Path:
    """Path in a job file, absolute; what follows ``::`` stays."""
    path = Path(name).expanduser()
    return path if path.is_absolute() else job.expanduser().resolve().parent / path


def _disks_beside(job: Path, params: DiskParams) -> DiskParams:
    if params.probe.file is None:
        return params
    return params.model_copy(update={"probe": params.probe.model_copy(update={"file": str(_beside(job, params.probe.file))})})


def _strain_beside(job: Path, params: StrainParams) -> StrainParams:
    return params if params.regions is None else params.model_copy(update={"regions": str(_beside(job, params.regions))})
