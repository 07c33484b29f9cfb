"""Job files: an analysis as a list of stages, made of the parameter models. What a panel saves, ``napari-emdl run`` does."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from napari_emdl.base.params import ColumnParams, DiskParams, OccupancyParams, Params, RunParams, StrainParams
from napari_emdl.base.params.common import field


class OpenStage(Params):
    """Open a datacube, an image, movie or focal series, or a result to go on from."""

    stage: Literal["open"] = "open"
    path: str = field(..., "FILE or FILE::DATASET")
    options: dict[str, Any] = field({}, "What the file does not say itself, such as kind, shape or pixel_nm")


class FindStage(Params):
    """Find disks or columns."""

    stage: Literal["find"] = "find"
    disks: DiskParams | None = field(None, "Find Bragg disks, with these parameters")
    columns: ColumnParams | None = field(None, "Find atomic columns, with these parameters")
    output: str | None = field(None, "Result file; empty keeps the peaks for the next stage only")
    keep_candidates: bool = field(False, "Write all candidates above the floor, not only those above the threshold")

    @model_validator(mode="after")
    def _one_kind(self) -> FindStage:
        return _exactly_one(self, "disks", "columns")


class FitStage(Params):
    """Fit strain to disks, or occupancy to columns."""

    stage: Literal["fit"] = "fit"
    strain: StrainParams | None = field(None, "Fit strain, with these parameters")
    occupancy: OccupancyParams | None = field(None, "Fit occupancy, with these parameters")
    output: str | None = field(None, "Result file")

    @model_validator(mode="after")
    def _one_kind(self) -> FitStage:
        return _exactly_one(self, "strain", "occupancy")


class ExportStage(Params):
    """Write the last result as CSV, OME-TIFF, PNG figures and JSON provenance."""

    stage: Literal["export"] = "export"
    to: str = field(..., "Folder")


Stage = Annotated[OpenStage | FindStage | FitStage | ExportStage, Field(discriminator="stage")]
_Kind = TypeVar("_Kind", FindStage, FitStage)


def _exactly_one(stage: _Kind, first: str, second: str) -> _Kind:
    if (getattr(stage, first) is None) == (getattr(stage, second) is None):
        raise ValueError(f"the stage {stage.stage!r} needs one of the sections {first!r} and {second!r}")
    return stage


class Job(Params):
    """Job file: what a panel saves with "Save job" and ``napari-emdl run`` reads. One file reproduces an analysis."""

    stages: tuple[Stage, ...] = field(..., "What is done, in order: open, find, fit, export")
    run: RunParams = RunParams()

    @property
    def input(self) -> str:
        """File that is opened."""
        first = self.stages[0]
        assert isinstance(first, OpenStage)
        return first.path

    def section(self, name: str) -> Any:
        """Parameters of the last stage with a section "disks", "columns", "strain" or "occupancy"; None without one."""
        found = [getattr(stage, name, None) for stage in self.stages]
        return next((params for params in reversed(found) if params is not None), None)

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, values: Any) -> Any:
        """Until version 0.2 a job was one command with an input, an output and sections."""
        if not isinstance(values, dict) or "command" not in values:
            return values
        unknown = sorted(set(values) - {"command", "input", "output", "run", *_SECTIONS})
        if unknown:
            raise ValueError(f"there is no entry {unknown[0]!r} in a job")
        command, missing = values["command"], [name for name in ("input", "output") if not values.get(name)]
        if missing:
            raise ValueError(f"the job has no {missing[0]!r}")
        if command not in _SECTIONS:
            raise ValueError(f"there is no command {command!r}; choose {', '.join(_SECTIONS)}")
        if values.get(command) is None:
            raise ValueError(f"the job runs {command!r} but has no section {command!r}")
        last = {"stage": _SECTIONS[command], command: values[command], "output": values["output"]}
        stages = [{"stage": "open", "path": values["input"]}]
        if command == "occupancy":  # left out by the runner where the input holds columns already
            stages.append({"stage": "find", "columns": values.get("columns") or {}})
        return {"stages": [*stages, last], **({"run": values["run"]} if values.get("run") is not None else {})}

    @model_validator(mode="after")
    def _makes_sense(self) -> Job:
        names = [stage.stage for stage in self.stages]
        if not names or names[0] != "open" or names.count("open") > 1:
            raise ValueError("a job begins with one stage 'open'")
        if len(names) == 1:
            raise ValueError("the job opens a file and does nothing with it; add a stage 'find', 'fit' or 'export'")
        results = [stage for stage in self.stages if isinstance(stage, (FindStage, FitStage))]
        if results and results[-1].output is None and names[-1] != "export":
            raise ValueError(f"the stage {results[-1].stage!r} needs an output, its result would be lost")
        return self


_SECTIONS = {"disks": "find", "columns": "find", "strain": "fit", "occupancy": "fit"}
