"""Job files on disk. Every path in one is relative to it, so that a job moves with its data; in memory they are absolute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.reading import read_yaml
from napari_emdl.base.stages import ExportStage, FindStage, FitStage, Job, OpenStage
from napari_emdl.io.outputs import atomic_path
from napari_emdl.workflow.parameters import validated

Change = Callable[[str], str]


def read_job(path: str | Path) -> Job:
    """Read a job file; its paths are made absolute.

    Raises
    ------
    EmdlError
        Naming the entry that is wrong.
    """
    source = Path(path).expanduser()
    try:
        entries = read_yaml(source)
    except OpenError as error:
        raise EmdlError(f"the job file {error}") from error
    folder = source.resolve().parent
    return _each_path(validated(Job, entries, f"the job file {path}"), lambda text: str(folder / Path(text).expanduser()))


def write_job(path: str | Path, job: Job) -> Path:
    """Write a job file; what lies beside or below it is named relative to it.

    Raises
    ------
    EmdlError
        When it cannot be written.
    """
    target = Path(path).expanduser().absolute()

    def relative(text: str) -> str:
        file = Path(text).expanduser()
        return file.relative_to(target.parent).as_posix() if file.is_relative_to(target.parent) else text

    entries = _each_path(job, relative).model_dump(mode="json", exclude_none=True)
    with atomic_path(target) as temporary:
        temporary.write_text(yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return target


def _each_path(job: Job, change: Change) -> Job:
    """Job with every file name changed; what follows ``::`` stays."""
    return job.model_copy(update={"stages": tuple(_stage(stage, change) for stage in job.stages)})


def _stage(stage: Any, change: Change) -> Any:
    if isinstance(stage, OpenStage):
        return _changed(stage, change, "path")
    if isinstance(stage, ExportStage):
        return _changed(stage, change, "to")
    stage = _changed(stage, change, "output")
    if isinstance(stage, FindStage) and stage.disks is not None:
        disks = stage.disks.model_copy(update={"probe": _changed(stage.disks.probe, change, "file")})
        return stage.model_copy(update={"disks": disks})
    if isinstance(stage, FitStage) and stage.strain is not None:
        return stage.model_copy(update={"strain": _changed(stage.strain, change, "regions")})
    return stage


def _changed(holder: Any, change: Change, name: str) -> Any:
    text = getattr(holder, name)
    if not text:
        return holder
    file, colons, dataset = text.partition("::")
    return holder.model_copy(update={name: f"{change(file)}{colons}{dataset}"})
