"""What the computing commands do, shared by the commands themselves and by job files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import typer

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import Cancelled, EmdlError, OpenError
from napari_emdl.base.params import ColumnParams, DiskParams, OccupancyParams, RunParams, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube, Movie
from napari_emdl.cli.console import say_caveats
from napari_emdl.cli.progress import terminal_control
from napari_emdl.cli.wording import said
from napari_emdl.jobs.checkpoint import discard_part, part_path
from napari_emdl.workflow.source import caveats_of, input_of, locate, source_of, with_options

Opening = Mapping[str, Any]


def check_output(output: Path, source: str) -> Path:
    """Refuse an output that cannot or must not be written, before any work is done.

    Raises
    ------
    EmdlError
        When it is the input itself; else see :func:`napari_emdl.io.outputs.check_output`.
    """
    from napari_emdl.io import outputs

    target = output.expanduser()
    file = Path(source.partition("::")[0]).expanduser()
    if target.exists() and file.exists() and target.samefile(file):
        raise EmdlError(f"the output {output} is the input itself; give another output")
    return outputs.check_output(target)


def resumable(compute: Callable[[], Any], output: Path) -> Any:
    """Run; when stopped, say how to go on."""
    try:
        return compute()
    except Cancelled:
        kept = [part_path(name) for name in (output, *parts_of(output)) if part_path(name).exists()]
        raise Cancelled(
            f"stopped; what was done is kept in {kept[0].name}: run the same command with --resume to go on"
            if kept
            else "stopped; nothing was written"
        ) from None


def parts_of(output: Path) -> tuple[Path, ...]:
    """Names under which the second step of a command of two keeps its blocks beside `output`."""
    from napari_emdl.atoms.fit import correlation
    from napari_emdl.diffraction.fit import regions

    fit = Path(f"{output}.fit")
    return fit, *correlation.journals_of(fit), *regions.journals_of(fit)


def write(result: Any, output: Path) -> None:
    """Write a result, and then remove what was kept to resume it."""
    from napari_emdl import io

    io.save(result, output)
    for name in (output, *parts_of(output)):
        discard_part(name)


def open_cube(source: str, opening: Opening | None = None) -> Datacube:
    """Datacube, which remembers how it was opened."""
    from napari_emdl import io

    cube: Datacube = with_options(io.open_datacube(source, **(opening or {})), opening or {})
    say_caveats(caveats_of(cube))
    return cube


def open_movie(source: str, opening: Opening | None = None) -> Movie:
    """Movie, which remembers how it was opened."""
    from napari_emdl import io

    movie: Movie = with_options(io.open_movie(source, **(opening or {})), opening or {})
    say_caveats(caveats_of(movie))
    return movie


def _rate(items: int, started_s: float, unit: str) -> str:
    elapsed_s = time.monotonic() - started_s
    return f"{items / elapsed_s:,.3g} {unit}/s" if elapsed_s > 0 else ""


def shown(table: PeakTable, keep_candidates: bool) -> PeakTable:
    """The peaks at or above the default threshold, or all candidates."""
    threshold = table.attrs.get("default_min_score")
    if keep_candidates or threshold is None:
        return table
    return table.filter(min_score=threshold).compact()


def provider_of(table: PeakTable) -> str:
    """What really ran, for the summary."""
    provenance = table.attrs.get("provenance")
    provider = (provenance or {}).get("provider") if isinstance(provenance, Mapping) else table.attrs.get("provider")
    return f" on {str(provider).removesuffix('ExecutionProvider')}" if provider else ""


def find_disks(cube: Datacube, beside: Path, params: DiskParams, run: RunParams) -> PeakTable:
    """All candidates of a datacube; finished blocks are kept beside `beside`."""
    from napari_emdl.diffraction.find.disks import find_disks as find

    with terminal_control("finding disks") as control:
        found: PeakTable = resumable(lambda: find(cube, params=params, run=run, output=beside, control=control), beside)
    say_caveats(Caveats(c for c in Caveats.of(found) if c not in caveats_of(cube)))
    return found


def disks(cube: Datacube, output: Path, params: DiskParams, run: RunParams, keep_candidates: bool = False) -> PeakTable:
    """Find disks and write them; returns all candidates."""
    started = time.monotonic()
    found = find_disks(cube, output, params, run)
    rate = _rate(cube.n_patterns, started, "patterns")
    table = shown(found, keep_candidates)
    write(table, output)
    typer.echo(
        f"{output}: {table.n_peaks:,} disks in {cube.n_patterns:,} patterns "
        f"({table.n_peaks / max(1, cube.n_patterns):.1f} each), {params.method}{provider_of(table)}, {rate}"
    )
    return found


def disks_in(source: str) -> PeakTable:
    """Disks of a result file.

    Raises
    ------
    EmdlError
        When it holds something else.
    """
    from napari_emdl import io

    found = io.load(source)
    if not isinstance(found, PeakTable) or len(found.shape) != 2:
        raise EmdlError(f"{source} holds no Bragg disks; make them with 'napari-emdl disks CUBE -o DISKS.h5'")
    return found


def strain(
    found: PeakTable, output: Path | None, params: StrainParams, run: RunParams, source: str = "", cube: Datacube | None = None
) -> Any:
    """Fit the strain of disks and write it, if there is an output; returns it.

    Parameters
    ----------
    source
        File the disks were read from; their datacube is looked for beside it too.
    cube
        Their datacube when it is open.
    """
    import numpy as np

    from napari_emdl.diffraction.fit.disagree import disagreement_line
    from napari_emdl.diffraction.fit.strain import COMPONENTS, fit_strain
    from napari_emdl.jobs.executor import call_there

    with terminal_control("fitting strain") as control:
        if params.takes_patterns and cube is None:
            cube = _cube_behind(found, source, params)
        patterns = cube if params.takes_patterns else None
        beside = None if output is None or patterns is None else parts_of(output)[0]
        fit = partial(fit_strain, run=run, output=beside)
        compute = partial(call_there, fit, run, control, found, params=params, cube=patterns)
        fitted = compute() if output is None else resumable(compute, output)
    say_caveats(Caveats.of(fitted))
    if output is not None:
        write(fitted, output)
    valid = int(np.count_nonzero(fitted.mask))
    means = ", ".join(f"{name} {100 * _spread(getattr(fitted, name)):.2f}" for name in ("exx", "eyy", "exy"))
    typer.echo(f"{output or 'strain'}: strain at {valid:,} of {fitted.mask.size:,} positions; robust spread in %: {means}")
    if how := (fitted.attrs.get("fit") or {}).get("text"):
        typer.echo(f"  {said(how)}")
    typer.echo(f"  {fitted.attrs['axes']['text']}")
    if measured := (fitted.attrs.get("reference_source") or {}).get("spread"):
        listed = ", ".join(f"{n} {100 * measured[n]['spread']:.3f} ({100 * measured[n]['sigma']:.3f})" for n in COMPONENTS[:3])
        typer.echo(f"  spread in the reference region (error) in %: {listed}")
    if found_apart := fitted.attrs.get("disagreement"):
        typer.echo(f"  {disagreement_line(found_apart)}")
    if corrected := fitted.attrs.get("distortion"):
        typer.echo(f"  {corrected['text']}")
    if (scaled := fitted.attrs.get("sigma_scale")) and scaled["factor"] != 1:
        typer.echo(f"  errors multiplied by {scaled['factor']:.2f}: {scaled['how']}")
    for number, facts in (fitted.attrs.get("regions") or {}).items():
        g = ", ".join(f"({row:.2f}, {col:.2f})" for row, col in facts["reference_g"])
        typer.echo(f"  region {number}: {facts['fitted']:,} of {facts['positions']:,} positions, g1 and g2 {g} px")
    return fitted


def _cube_behind(found: PeakTable, source: str, params: StrainParams) -> Datacube | None:
    """Datacube the disks were found in; None where it is gone and the fit can do without."""
    try:
        signal = source_of(found, source or None)
    except OpenError:
        if params.needs_patterns:
            raise
        return None
    return signal if isinstance(signal, Datacube) else None


def _spread(values: Any) -> float:
    import numpy as np

    finite = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(finite - np.median(finite)))) if finite.size else float("nan")


def find_columns(movie: Movie, beside: Path, params: ColumnParams, run: RunParams) -> PeakTable:
    """All candidates of a movie; finished frames are kept beside `beside`."""
    from napari_emdl.atoms.find.columns import find_columns as find

    with terminal_control("finding columns", "frames") as control:
        found: PeakTable = resumable(lambda: find(movie, params=params, run=run, output=str(beside), control=control), beside)
    say_caveats(Caveats(c for c in Caveats.of(found) if c not in caveats_of(movie)))
    return found


def columns(movie: Movie, output: Path, params: ColumnParams, run: RunParams, keep_candidates: bool = False) -> PeakTable:
    """Find atomic columns and write them; returns all candidates."""
    started = time.monotonic()
    found = find_columns(movie, output, params, run)
    rate = _rate(movie.n_frames, started, "frames")
    table = shown(found, keep_candidates)
    write(table, output)
    each = table.n_peaks / max(1, movie.n_frames)
    typer.echo(
        f"{output}: {table.n_peaks:,} columns in {movie.n_frames:,} frames ({each:.1f} each), "
        f"{table.attrs.get('contrast', '')} contrast{provider_of(table)}, {rate}"
    )
    return found


def columns_in(source: str) -> PeakTable | None:
    """Columns of a result file, None when `source` is a movie."""
    from napari_emdl import io

    if "::" in source or not io.is_result(source):
        return None
    found = io.load(source)
    if not isinstance(found, PeakTable) or len(found.shape) != 1:
        raise EmdlError(f"{source} holds no columns; make them with 'napari-emdl columns MOVIE -o COLUMNS.h5'")
    return found


def movie_for(
    found: PeakTable, source: str, params: OccupancyParams, movie_path: str | None, opening: Opening | None
) -> Movie | None:
    """Movie of a column file: the one given, else the one it was made from; None where the method can do without.

    Raises
    ------
    EmdlError
        When it is needed and not there.
    """
    if movie_path is not None:
        return open_movie(movie_path, opening)
    if opening and (place := locate(str(input_of(found).get("path") or ""), source)):
        return open_movie(place, opening)
    try:
        signal = source_of(found, source)
    except OpenError as error:
        if params.method == "hmm":
            raise EmdlError(f"{error}; or give the movie with --movie FILE, or use --method threshold") from None
        return None
    return signal if isinstance(signal, Movie) else None


def occupancy(found: PeakTable, movie: Movie | None, output: Path | None, params: OccupancyParams, run: RunParams) -> Any:
    """Follow the occupancy of every site and write it, if there is an output; returns it.

    Parameters
    ----------
    movie
        The frames; None goes by the detections alone.
    """
    from napari_emdl.atoms.fit.occupancy import fit_occupancy
    from napari_emdl.atoms.fit.rateunits import rate_line

    journal = parts_of(output)[0] if output is not None else None
    with terminal_control("following sites", "frames") as control:

        def compute() -> Any:
            return fit_occupancy(found, movie=movie, params=params, run=run, control=control, output=journal)

        fitted = compute() if output is None else resumable(compute, output)
    say_caveats(Caveats(c for c in Caveats.of(fitted) if c not in Caveats.of(found)))
    if output is not None:
        write(fitted, output)
    frames, sites = fitted.occupied.shape
    mean = float(fitted.p_occupied[fitted.valid].mean()) if fitted.valid.any() else float("nan")
    typer.echo(f"{output or 'occupancy'}: {sites:,} sites in {frames:,} frames, occupied {100 * mean:.1f} % of the time")
    interval_s = fitted.attrs.get("frame_interval_s")
    if told := rate_line(fitted.rates, float(interval_s) if interval_s else None):
        typer.echo(told)
    return fitted
