"""``napari-emdl watch``: analyse frames while the microscope writes them."""

from __future__ import annotations

from pathlib import Path

import typer

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.params import ColumnParams, OccupancyParams, RunParams
from napari_emdl.cli.console import say_caveats
from napari_emdl.cli.progress import terminal_control
from napari_emdl.cli.work import check_output


def watch_folder(
    folder: str,
    output: Path,
    columns: ColumnParams,
    occupancy: OccupancyParams,
    run: RunParams,
    frames: int | None,
    idle_s: float | None,
) -> None:
    """Watch until Ctrl-C, `frames` frames, or nothing new for `idle_s`; the result is written in every case."""
    from napari_emdl.atoms.live.watch import watch

    target = check_output(output, folder)
    with terminal_control("watching", "frames") as control:
        result = watch(
            folder,
            target,
            columns=columns,
            occupancy=occupancy,
            run=run,
            control=control,
            max_frames=frames,
            idle_s=idle_s,
        )
    n_frames, n_sites = result.occupied.shape
    say_caveats(Caveats.of(result))
    typer.echo(f"{output}: {n_sites:,} sites in {n_frames:,} frames")
