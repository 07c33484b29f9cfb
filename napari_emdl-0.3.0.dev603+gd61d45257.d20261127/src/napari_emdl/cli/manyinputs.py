"""One job on many inputs: a list of files, or all files of a folder; a bad one does not stop the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from napari_emdl.base.errors import Cancelled, EmdlError, OpenError
from napari_emdl.base.stages import ExportStage, FindStage, FitStage, Job, OpenStage
from napari_emdl.cli.console import error_line, say_note
from napari_emdl.cli.jobfile import run_job
from napari_emdl.jobs.checkpoint import part_path

#: Files that make a folder one data set.
_STORES = (".zgroup", ".zarray", "zarr.json")


def run_on_many(job: Job, path: Path, inputs: Sequence[str], run: Mapping[str, Any], into: Path) -> None:
    """Do a job on each of `inputs`; the outputs of each lie in a folder of `into` that is named after it.

    Parameters
    ----------
    job, path
        As :func:`napari_emdl.cli.jobfile.run_job`; the input that the job names is not used.
    inputs
        Files, FILE::DATASET, or folders, all of whose files are taken.
    run
        Run parameters that win over those in the job. With ``resume``, inputs whose last output is there are left out.

    Raises
    ------
    EmdlError
        Before anything is done, where two inputs would write one output; afterwards, where some inputs failed.
    """
    files = _files_of(inputs)
    names = [_name_of(file) for file, _ in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EmdlError(f"two inputs are called {twice[0]}, so that they would write the same results; run them one by one")
    failed: list[str] = []
    for number, ((file, listed), name) in enumerate(zip(files, names, strict=True), 1):
        own = job_for(job, file, into / name)
        last = _last_output(own)
        if run.get("resume") and last is not None and last.exists() and not part_path(last).exists():
            say_note(f"{name} is done already")
            continue
        typer.echo(f"{number} of {len(files)}: {file}")
        try:
            (into / name).mkdir(parents=True, exist_ok=True)
            run_job(own, path, run)
        except Cancelled:
            raise
        except EmdlError as error:
            if listed and isinstance(error, OpenError):  # a folder holds notes and probes as well
                say_note(f"{name} is left out: {error_line(error)}")
            else:
                say_note(f"{name} failed: {error_line(error)}")
                failed.append(name)
            if not any((into / name).iterdir()):
                (into / name).rmdir()
    if failed:
        raise EmdlError(f"{len(failed)} of {len(files)} inputs failed: {', '.join(failed)}")


def job_for(job: Job, file: str, folder: Path) -> Job:
    """The job with another input, its outputs in `folder`."""

    def moved(stage: Any) -> Any:
        if isinstance(stage, OpenStage):
            return stage.model_copy(update={"path": file})
        if isinstance(stage, (FindStage, FitStage)) and stage.output is not None:
            return stage.model_copy(update={"output": str(folder / Path(stage.output).name)})
        if isinstance(stage, ExportStage):
            return stage.model_copy(update={"to": str(folder / Path(stage.to).name)})
        return stage

    return job.model_copy(update={"stages": tuple(moved(stage) for stage in job.stages)})


def _files_of(inputs: Sequence[str]) -> list[tuple[str, bool]]:
    """Each input, and whether it was found in a folder."""
    found: list[tuple[str, bool]] = []
    for text in inputs:
        folder = Path(text).expanduser()
        if "::" in text or not folder.is_dir() or any((folder / name).exists() for name in _STORES):
            found.append((text, False))
            continue
        inside = [item for item in sorted(folder.iterdir()) if not item.name.startswith(".") and item.suffix != ".part"]
        if not inside:
            raise EmdlError(f"the folder {text} is empty; name a folder of datacubes or movies")
        found += [(str(item), True) for item in inside]
    return found


def _name_of(file: str) -> str:
    path, _, dataset = file.partition("::")
    return Path(path).stem + ("_" + dataset.strip("/").replace("/", "_") if dataset else "")


def _last_output(job: Job) -> Path | None:
    outputs = [stage.output for stage in job.stages if isinstance(stage, (FindStage, FitStage)) and stage.output is not None]
    return Path(outputs[-1]) if outputs else None
