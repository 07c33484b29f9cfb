"""Commands that open, compute and export. The functions behind them are imported when a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, DiskParams, OccupancyParams, RunParams, StrainParams
from napari_emdl.cli import work
from napari_emdl.cli.console import say_note
from napari_emdl.cli.opening import CUBE_OPENING, MOVIE_OPENING, OPENING
from napari_emdl.cli.options import Section, with_sections
from napari_emdl.cli.root import app
from napari_emdl.cli.wording import said

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
    """Show what a file holds. Kind, shape, calibration and where each value comes from; of a result its parameters."""
    from napari_emdl import io

    facts = io.info(file, **opening)
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
            lines += [f"{indent}note: {said(text)}" for text in value]
        elif isinstance(value, dict):
            lines += [f"{indent}{name}:", *_facts_lines(value, indent + "  ")] if value else []
        elif name == "caveats":
            lines += [f"{indent}caveat: {said(text)}" for text in Caveats.from_json(value).texts]
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
    target = work.check_output(output, cube)
    work.disks(work.open_cube(cube, opening), target, disks, run, keep_candidates)


@app.command()
@with_sections(strain=Section(StrainParams, frozenset({"phases"})), run=RUN)
def strain(
    disks: Annotated[str, typer.Argument(help="Disks, as 'disks' or py4DSTEM writes them.")],
    *,
    output: Output,
    strain: Any,
    run: Any,
) -> None:
    """Fit a lattice at every position and write strain maps."""
    target = work.check_output(output, disks)
    work.strain(work.disks_in(disks), target, strain, run, disks)


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
    target = work.check_output(output, movie)
    work.columns(work.open_movie(movie, opening), target, columns, run, keep_candidates)


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
    """Follow when each atomic site is occupied, and its rates."""
    target = work.check_output(output, source)
    found = work.columns_in(source)
    if found is not None:
        if columns:
            say_note(f"{source} holds columns already: options that find columns have no effect; give the movie instead")
        frames = work.movie_for(found, source, occupancy, movie, opening)
    else:
        frames = work.open_movie(source, opening)
        found = work.find_columns(frames, target, ColumnParams(**columns), run)
    work.occupancy(found, frames, target, occupancy, run)


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
    """Analyse frames as they arrive. Ctrl-C ends it with everything written."""
    from napari_emdl.cli.watching import watch_folder

    watch_folder(folder, output, columns, occupancy, run, frames, idle)


@app.command()
@with_sections(run=Section(RunParams, as_dict=True))
def run(
    job: Annotated[Path, typer.Argument(help='Job file that a panel saved with "Save job".', metavar="JOB.yaml")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files or folders of files to run it on, each on its own.", metavar="[INPUT]...", show_default=False
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write there instead of where the job says.", show_default=False)
    ] = None,
    into: Annotated[
        Path, typer.Option("--into", help="Folder for the results of several inputs, a folder for each in it.")
    ] = Path("results"),
    run: Any,
) -> None:
    """Run a job file. On its own input or on those given here; options given here win over those in the file."""
    from napari_emdl.cli.jobfile import run_job
    from napari_emdl.cli.manyinputs import run_on_many
    from napari_emdl.workflow.jobfile import read_job

    if not inputs:
        run_job(read_job(job), job, run, output)
        return
    if output is not None:
        raise EmdlError("--output names one result; with inputs, give a folder with --into")
    run_on_many(read_job(job), job, inputs, run, into)


@app.command()
def export(
    result: Annotated[str, typer.Argument(metavar="RESULT.h5", help="Any result file.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the files.", show_default=False)],
) -> None:
    """Write a result as tables, images and figures. CSV, OME-TIFF, PNG and the provenance as JSON."""
    from napari_emdl.exporting.folder import export as export_to

    written = export_to(result, to)
    for path in written or []:
        typer.echo(str(path))
