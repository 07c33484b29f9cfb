"""Commands that open, compute and export. The functions behind them are imported when a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.params import (
    ColumnParams,
    DiskParams,
    Job,
    OccupancyParams,
    RunParams,
    StrainParams,
)
from napari_emdl.base.reading import read_yaml
from napari_emdl.cli import work
from napari_emdl.cli.app import app
from napari_emdl.cli.opening import CUBE_OPENING, MOVIE_OPENING, OPENING, opening_keywords
from napari_emdl.cli.options import Section, with_sections

Output = Annotated[Path, typer.Option("-o", "--output", help="Result file (HDF5).", show_default=False)]
Keep = Annotated[
    bool, typer.Option("--keep-candidates", help="Write all candidates above the floor, not only those above the threshold.")
]
RUN = Section(RunParams)


@app.command()
@with_sections(opening=OPENING)
def info(
    file: Annotated[str, typer.Argument(help="File, folder, or FILE::DATASET.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    opening: Any,
) -> None:
    """Show what a file holds: kind, shape, calibration and where each value comes from; parameters of a result."""
    from napari_emdl import io

    facts = io.info(file, **opening_keywords(opening))
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False, default=str))
        return
    for line in _facts_lines(facts):
        typer.echo(line)


def _facts_lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        if name == "notes" and value:
            lines += [f"{indent}note: {text}" for text in value]
        elif isinstance(value, dict):
            lines += [f"{indent}{name}:", *_facts_lines(value, indent + "  ")] if value else []
        elif value is not None:
            text = " x ".join(map(str, value)) if name == "shape" and isinstance(value, (list, tuple)) else str(value)
            lines.append(f"{indent}{name:<{width}}  {text}")
    return lines


@app.command()
@with_sections(disks=Section(DiskParams), run=RUN, opening=CUBE_OPENING)
def disks(
    cube: Annotated[str, typer.Argument(help="4D-STEM datacube, or FILE::DATASET.")],
    *,
    output: Output,
    keep_candidates: Keep = False,
    disks: Any,
    run: Any,
    opening: Any,
) -> None:
    """Find the Bragg disks of every pattern."""
    work.disks(cube, output, disks, run, keep_candidates, opening_keywords(opening))


@app.command()
@with_sections(strain=Section(StrainParams, frozenset({"phases"})))
def strain(
    disks: Annotated[str, typer.Argument(help="Disks, as 'disks' or py4DSTEM writes them.")], *, output: Output, strain: Any
) -> None:
    """Fit a lattice at every position and write strain maps."""
    work.strain(disks, output, strain)


@app.command()
@with_sections(columns=Section(ColumnParams), run=RUN, opening=MOVIE_OPENING)
def columns(
    movie: Annotated[str, typer.Argument(help="Image, movie or focal series.")],
    *,
    output: Output,
    keep_candidates: Keep = False,
    columns: Any,
    run: Any,
    opening: Any,
) -> None:
    """Find the atomic columns of every frame."""
    work.columns(movie, output, columns, run, keep_candidates, opening_keywords(opening))


@app.command()
@with_sections(
    occupancy=Section(OccupancyParams),
    columns=Section(ColumnParams, frozenset({"min_score"}), as_dict=True),
    run=RUN,
    opening=MOVIE_OPENING,
)
def occupancy(
    source: Annotated[str, typer.Argument(metavar="COLUMNS.h5|MOVIE", help="Columns that 'columns' found, or a movie.")],
    *,
    output: Output,
    movie: Annotated[
        str | None, typer.Option("--movie", help="Movie of the columns, if it is not where it was.", show_default=False)
    ] = None,
    occupancy: Any,
    columns: Any,
    run: Any,
    opening: Any,
) -> None:
    """Follow how often each atomic site is occupied, and when it changes."""
    work.occupancy(source, output, occupancy, ColumnParams(**columns), run, movie, opening_keywords(opening))


@app.command()
@with_sections(
    columns=Section(ColumnParams),
    occupancy=Section(OccupancyParams, frozenset({"min_score"})),
    run=Section(RunParams, frozenset({"scheduler"})),
)
def watch(
    folder: Annotated[str, typer.Argument(help="Folder, growing stack or Gatan in-situ tree.")],
    *,
    output: Output,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Stop after this many frames.", show_default=False)
    ] = None,
    idle: Annotated[
        float | None, typer.Option("--idle", min=0.1, help="Stop when nothing new came for so long. [s]", show_default=False)
    ] = None,
    columns: Any,
    occupancy: Any,
    run: Any,
) -> None:
    """Analyse frames as they arrive; Ctrl-C ends it with everything written."""
    from napari_emdl.cli.watching import watch_folder

    watch_folder(folder, output, columns, occupancy, run, frames, idle)


@app.command()
@with_sections(run=Section(RunParams, as_dict=True))
def run(
    job: Annotated[Path, typer.Argument(help='Job file that a panel saved with "Save job".', metavar="JOB.yaml")],
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write there instead of where the job says.", show_default=False)
    ] = None,
    run: Any,
) -> None:
    """Run a job file; options given here win over those in the file."""
    todo = read_job(job)
    target = output or _beside(job, todo.output)
    source = str(_beside(job, todo.input)) if "::" not in todo.input else todo.input
    running = RunParams.model_validate({**todo.run.model_dump(), **run})
    if todo.command == "disks":
        assert todo.disks is not None
        work.disks(source, target, todo.disks, running)
    elif todo.command == "strain":
        assert todo.strain is not None
        regions = todo.strain.regions
        params = todo.strain.model_copy(update={"regions": str(_beside(job, regions))}) if regions else todo.strain
        work.strain(source, target, params)
    elif todo.command == "columns":
        assert todo.columns is not None
        work.columns(source, target, todo.columns, running)
    else:
        assert todo.occupancy is not None
        work.occupancy(source, target, todo.occupancy, todo.columns or ColumnParams(), running)


def read_job(path: Path) -> Job:
    """Read a job file.

    Raises
    ------
    EmdlError
        Naming the entry that is wrong.
    """
    try:
        entries = read_yaml(path)
    except OpenError as error:
        raise EmdlError(f"the job file {error}") from error
    try:
        return Job.model_validate(entries)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise EmdlError(
            f"the job file {path}: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
        ) from None


def _beside(job: Path, name: str) -> Path:
    """Paths in a job file are relative to it."""
    path = Path(name).expanduser()
    return path if path.is_absolute() else job.expanduser().resolve().parent / path


@app.command()
def export(
    result: Annotated[str, typer.Argument(metavar="RESULT.h5", help="Any result file.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the files.", show_default=False)],
) -> None:
    """Write a result as CSV, OME-TIFF, PNG figures and JSON provenance."""
    from napari_emdl.exporting.folder import export as export_to

    written = export_to(result, to)
    for path in written or []:
        typer.echo(str(path))
