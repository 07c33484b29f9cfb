"""Running job files: a list of stages (open, find, fit, export) that one command does again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube, Movie
from napari_emdl.base.stages import ExportStage, FindStage, FitStage, Job, OpenStage
from napari_emdl.cli import work
from napari_emdl.cli.console import say_note
from napari_emdl.workflow.parameters import validated


def run_job(job: Job, path: Path, run: Mapping[str, Any], output: Path | None = None) -> None:
    """Do every stage of a job.

    Parameters
    ----------
    job
        As :func:`napari_emdl.workflow.jobfile.read_job` gives it.
    path
        Its file, for messages.
    run
        Run parameters that win over those in the job.
    output
        Where the last result goes instead.
    """
    results = [stage for stage in job.stages if isinstance(stage, (FindStage, FitStage))]
    outputs = {id(stage): Path(stage.output) for stage in results if stage.output is not None}
    if output is not None:
        if not results:
            raise EmdlError(f"the job {path} writes no result; leave out --output")
        outputs[id(results[-1])] = output
    exports = [Path(stage.to) for stage in job.stages if isinstance(stage, ExportStage)]
    _ask_outside([target for target in [*outputs.values(), *exports] if target != output], path)
    checked = {key: work.check_output(target, job.input) for key, target in outputs.items()}
    _Run(job, path, validated(RunParams, {**job.run.model_dump(), **run}), checked).stages()


def _ask_outside(targets: list[Path], path: Path) -> None:
    """Ask before a job writes outside its own folder; without a terminal to ask on, say where.

    A job file comes with data from others, and need not have its reader's good in mind.

    Raises
    ------
    EmdlError
        When the answer is no.
    """
    home = path.expanduser().resolve().parent
    resolved = [target.expanduser().resolve() for target in targets]
    outside = [str(target) for target in resolved if not target.is_relative_to(home)]
    if not outside:
        return
    line = f"the job {path} writes outside its folder: {', '.join(outside)}"
    if not sys.stdin.isatty():
        say_note(line)
    elif not typer.confirm(f"{line}. Go on?", default=False, err=True):
        raise EmdlError(f"{line}; name another place with --output")


class _Run:
    """What the stages of a job hand on."""

    def __init__(self, job: Job, path: Path, run: RunParams, outputs: dict[int, Path]) -> None:
        from napari_emdl import io

        self.job, self.path, self.run, self.outputs = job, path, run, outputs
        self.source = job.input
        first = job.stages[0]
        self.options = first.options if isinstance(first, OpenStage) else {}
        self.result: Any = None
        self.signal: Datacube | Movie | None = None
        if "::" not in self.source and not self.options and io.is_result(self.source):
            self.result = io.load(self.source)

    def stages(self) -> None:
        for stage in self.job.stages[1:]:
            if isinstance(stage, FindStage):
                self.find(stage)
            elif isinstance(stage, FitStage):
                self.fit(stage)
            elif isinstance(stage, ExportStage):
                self.export(stage)

    def find(self, stage: FindStage) -> None:
        if isinstance(self.result, PeakTable):
            say_note(f"{Path(self.source).name} holds peaks already: they are used, nothing is found anew")
            return
        output = self.outputs.get(id(stage))
        beside = output or next(iter(self.outputs.values()), None)
        if beside is None:
            raise EmdlError(f"the job {self.path} needs an output for its stage 'find'")
        if stage.disks is not None:
            cube = self.signal = work.open_cube(self.source, self.options)
            if output is not None:
                self.result = work.disks(cube, output, stage.disks, self.run, stage.keep_candidates)
            else:
                self.result = work.find_disks(cube, beside, stage.disks, self.run)
        elif stage.columns is not None:
            movie = self.signal = work.open_movie(self.source, self.options)
            if output is not None:
                self.result = work.columns(movie, output, stage.columns, self.run, stage.keep_candidates)
            else:
                self.result = work.find_columns(movie, beside, stage.columns, self.run)

    def fit(self, stage: FitStage) -> None:
        output, peaks = self.outputs.get(id(stage)), self.result
        wanted = "disks" if stage.strain is not None else "columns"
        if not isinstance(peaks, PeakTable) or (len(peaks.shape) == 2) != (wanted == "disks"):
            raise EmdlError(f"the job {self.path} has nothing to fit: open a file of {wanted}, or find {wanted} first")
        if stage.strain is not None:
            cube = self.signal if isinstance(self.signal, Datacube) else None
            self.result = work.strain(peaks, output, stage.strain, self.run, self.source, cube)
        elif stage.occupancy is not None:
            movie = self.signal if isinstance(self.signal, Movie) else None
            movie = movie or work.movie_for(peaks, self.source, stage.occupancy, None, None)
            self.result = work.occupancy(peaks, movie, output, stage.occupancy, self.run)

    def export(self, stage: ExportStage) -> None:
        from napari_emdl.exporting.folder import export

        if self.result is None:
            raise EmdlError(f"the job {self.path} has nothing to export: open a result, or add a stage 'find' or 'fit'")
        for written in export(self.result, stage.to):
            typer.echo(str(written))
