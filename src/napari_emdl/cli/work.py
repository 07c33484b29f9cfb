"""What the computing commands do, shared by the commands themselves and by job files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from napari_emdl.base.errors import Cancelled, EmdlError
from napari_emdl.base.params import ColumnParams, DiskParams, OccupancyParams, RunParams, StrainParams
from napari_emdl.cli.app import say_note
from napari_emdl.cli.progress import terminal_control
from napari_emdl.jobs.checkpoint import discard_part, part_path

Opening = Mapping[str, Any]


def check_output(output: Path, source: str) -> Path:
    """Refuse an output that cannot be written before any work is done.

    Raises
    ------
    EmdlError
        When the folder is missing or read-only, or the output is the input itself.
    """
    target = output.expanduser()
    folder = target.parent
    if target.is_dir():
        raise EmdlError(f"{output} is a folder; give a file name such as {target.name}/result.h5")
    if not folder.is_dir():
        raise EmdlError(f"the folder {folder} does not exist; make it or give another output")
    if not os.access(folder, os.W_OK):
        raise EmdlError(f"the folder {folder} is read-only; give another output")
    file = Path(source.partition("::")[0]).expanduser()
    if target.exists() and file.exists() and target.samefile(file):
        raise EmdlError(f"the output {output} is the input itself; give another output")
    return target


def _resumable(compute: Callable[[], Any], output: Path) -> Any:
    """Run; when stopped, say how to go on."""
    try:
        return compute()
    except Cancelled:
        kept = part_path(output).exists()
        raise Cancelled(
            f"stopped; what was done is kept in {part_path(output).name}: run the same command with --resume to go on"
            if kept
            else "stopped; nothing was written"
        ) from None


def _saved(result: Any, output: Path) -> None:
    from napari_emdl import io

    io.save(result, output)
    discard_part(output)


def _rate(items: int, started_s: float, unit: str) -> str:
    elapsed_s = time.monotonic() - started_s
    return f"{items / elapsed_s:,.3g} {unit}/s" if elapsed_s > 0 else ""


def disks(
    source: str, output: Path, params: DiskParams, run: RunParams, keep_candidates: bool = False, opening: Opening | None = None
) -> None:
    """Find disks and write them."""
    from napari_emdl import io
    from napari_emdl.diffraction.find.disks import find_disks

    target = check_output(output, source)
    cube = io.open_datacube(source, **(opening or {}))
    started = time.monotonic()
    with terminal_control("finding disks") as control:
        table = _resumable(lambda: find_disks(cube, params=params, run=run, output=target, control=control), target)
    say_note(str(table.attrs.get("note") or ""))
    rate = _rate(cube.n_patterns, started, "patterns")
    table = shown(table, keep_candidates)
    _saved(table, target)
    provider = provider_of(table)
    typer.echo(
        f"{output}: {table.n_peaks:,} disks in {cube.n_patterns:,} patterns "
        f"({table.n_peaks / max(1, cube.n_patterns):.1f} each), {params.method}{provider}, {rate}"
    )


def shown(table: Any, keep_candidates: bool) -> Any:
    """The peaks at or above the default threshold, or all candidates."""
    threshold = table.attrs.get("default_min_score")
    if keep_candidates or threshold is None:
        return table
    return table.filter(min_score=threshold).compact()


def provider_of(table: Any) -> str:
    """What really ran, for the summary."""
    provenance = table.attrs.get("provenance")
    provider = (provenance or {}).get("provider") if isinstance(provenance, Mapping) else table.attrs.get("provider")
    return f" on {str(provider).removesuffix('ExecutionProvider')}" if provider else ""


def strain(source: str, output: Path, params: StrainParams) -> None:
    """Fit the strain of found disks and write it."""
    import numpy as np

    from napari_emdl import io
    from napari_emdl.base.peaks import PeakTable
    from napari_emdl.diffraction.fit.strain import COMPONENTS, fit_strain

    target = check_output(output, source)
    found = io.load(source)
    if not isinstance(found, PeakTable):
        raise EmdlError(f"{source} holds no Bragg disks; make them with 'napari-emdl disks CUBE -o DISKS.h5'")
    with terminal_control("fitting strain") as control:
        fitted = _resumable(lambda: fit_strain(found, params=params, control=control), target)
    _saved(fitted, target)
    for warning in fitted.evidence.warnings if fitted.evidence is not None else ():
        say_note(warning)
    valid = int(np.count_nonzero(fitted.mask))
    means = ", ".join(f"{name} {100 * _spread(getattr(fitted, name)):.2f}" for name in ("exx", "eyy", "exy"))
    typer.echo(f"{output}: strain at {valid:,} of {fitted.mask.size:,} positions; robust spread in %: {means}")
    typer.echo(f"  {fitted.attrs['axes']['text']}")
    if found_spread := (fitted.attrs.get("reference_source") or {}).get("spread"):
        beside = ", ".join(
            f"{n} {100 * found_spread[n]['spread']:.3f} ({100 * found_spread[n]['sigma']:.3f})" for n in COMPONENTS[:3]
        )
        typer.echo(f"  spread in the reference region (error) in %: {beside}")
    for number, facts in (fitted.attrs.get("regions") or {}).items():
        g = ", ".join(f"({row:.2f}, {col:.2f})" for row, col in facts["reference_g"])
        typer.echo(f"  region {number}: {facts['fitted']:,} of {facts['positions']:,} positions, g1 and g2 {g} px")


def _spread(values: Any) -> float:
    import numpy as np

    finite = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(finite - np.median(finite)))) if finite.size else float("nan")


def columns(
    source: str,
    output: Path,
    params: ColumnParams,
    run: RunParams,
    keep_candidates: bool = False,
    opening: Opening | None = None,
) -> None:
    """Find atomic columns and write them."""
    from napari_emdl import io
    from napari_emdl.atoms.find.columns import find_columns

    target = check_output(output, source)
    movie = io.open_movie(source, **(opening or {}))
    started = time.monotonic()
    with terminal_control("finding columns", "frames") as control:
        table = _resumable(lambda: find_columns(movie, params=params, run=run, output=str(target), control=control), target)
    say_note(str(table.attrs.get("note") or ""))
    rate = _rate(movie.n_frames, started, "frames")
    table = shown(table, keep_candidates)
    _saved(table, target)
    each = table.n_peaks / max(1, movie.n_frames)
    typer.echo(
        f"{output}: {table.n_peaks:,} columns in {movie.n_frames:,} frames ({each:.1f} each), "
        f"{table.attrs.get('contrast', '')} contrast{provider_of(table)}, {rate}"
    )


def occupancy(
    source: str,
    output: Path,
    params: OccupancyParams,
    column_params: ColumnParams,
    run: RunParams,
    movie_path: str | None = None,
    opening: Opening | None = None,
) -> None:
    """Follow the occupancy of every site and write it.

    `source` is a file of columns, whose movie is opened again by the path in its provenance (or `movie_path`), or a movie.
    """
    from napari_emdl import io
    from napari_emdl.atoms.find.columns import find_columns
    from napari_emdl.atoms.fit.occupancy import fit_occupancy

    target = check_output(output, source)
    found = _columns_in(source)
    path = movie_path or (movie_of(found, source) if found is not None else source)
    movie = io.open_movie(path, **(opening or {})) if path is not None else None
    if movie is None and params.method == "hmm":
        raise EmdlError(f"the movie of {source} is not where it was; give it with --movie FILE, or use --method threshold")
    with terminal_control("following sites", "frames") as control:

        def compute() -> Any:
            table = found
            if table is None:
                assert movie is not None
                table = find_columns(movie, params=column_params, run=run, output=str(target), control=control)
                say_note(str(table.attrs.get("note") or ""))
            return fit_occupancy(table, movie=movie, params=params, run=run, control=control)

        fitted = _resumable(compute, target)
    _saved(fitted, target)
    frames, sites = fitted.occupied.shape
    mean = float(fitted.p_occupied[fitted.valid].mean()) if fitted.valid.any() else float("nan")
    typer.echo(f"{output}: {sites:,} sites in {frames:,} frames, occupied {100 * mean:.1f} % of the time")


def _columns_in(source: str) -> Any:
    """Peak table of a column file, None when `source` is no such file."""
    import h5py

    from napari_emdl import io
    from napari_emdl.base.peaks import PeakTable

    path = Path(source).expanduser()
    if not path.is_file() or not h5py.is_hdf5(path):
        return None
    with h5py.File(path) as file:
        if "peaks/offset" not in file or "peaks/species" not in file:
            return None
    found = io.load(path)
    return found if isinstance(found, PeakTable) else None


def movie_of(table: Any, source: str) -> str | None:
    """Path of the movie that columns were found in: as recorded, else beside the column file."""
    provenance = table.attrs.get("provenance")
    recorded = ((provenance or {}).get("input") or {}).get("path") if isinstance(provenance, Mapping) else None
    if not recorded:
        return None
    file, mark, dataset = str(recorded).partition("::")
    for candidate in (Path(file), Path(source).expanduser().parent / Path(file).name):
        if candidate.exists():
            return f"{candidate}{mark}{dataset}"
    return None
