"""What the atom panels run in threads: short functions that call the core."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.caveats import INPUT, Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, OccupancyParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.checkpoint import discard_part
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.finder import LiveFinder
from napari_emdl.workflow.runs import COLUMN_RUNS


def column_models() -> list[tuple[str, str | None, str]]:
    """(label, value of ColumnParams.model, tooltip) of everything that finds columns."""
    from napari_emdl.models.registry import list_models

    entries = [entry for entry in list_models("columns") if not entry.problem]
    shipped = [("Network (default)", None, "The shipped network")] if entries else []
    named = [(entry.name, entry.name, entry.description) for entry in entries]
    return [*shipped, *named, ("LoG (classical)", "log", "Laplacian of Gaussian: no network, quick, needs a higher dose")]


def _finder(movie: Movie, params: ColumnParams, run: RunParams, control: Control) -> Any:
    from napari_emdl.atoms.find.making import make_finder
    from napari_emdl.atoms.find.pixelguess import pixel_size_doubt

    finder = make_finder(movie, params, run, control)
    finder.caveats += Caveats([pixel_size_doubt(movie, params, finder, run, control)], INPUT)
    return finder


_live: LiveFinder[Any] = LiveFinder(_finder)


def find_frame(
    control: Control, movie: Movie, params: ColumnParams, run: RunParams, frame: int, _for: object = None
) -> PeakTable:
    """Candidates of one frame; the finder is kept for the next."""
    from napari_emdl.atoms.find.columns import find_one

    key = (id(movie.data), movie.calibration.pixel_nm, params.model_dump_json(), run.model_dump_json())
    finder = _live.get(key, movie, params, run, control)
    table: PeakTable = _live.use(find_one, movie, finder, params, frame, control)
    return table


def both_readings(control: Control, movie: Movie, params: ColumnParams, run: RunParams, frame: int) -> Any:
    """One frame read as bright and as dark."""
    from napari_emdl.atoms.find.readings import readings_of

    return readings_of(movie, params, run, frame, control)


def run_movie(
    movie: Movie, params: ColumnParams, run: RunParams, restart: bool = False
) -> Callable[[Control, Callable[..., None]], PeakTable]:
    """Job that finds the columns of all frames and goes on with what an earlier run has finished."""
    from napari_emdl.atoms.find.columns import find_columns

    output = COLUMN_RUNS.file(movie, params)

    def work(control: Control, on_block: Callable[..., None]) -> PeakTable:
        COLUMN_RUNS.prepare(output)
        if restart:
            discard_part(output)
        return find_columns(
            movie,
            params=params,
            run=run.model_copy(update={"resume": True}),
            output=str(output),
            control=control,
            on_block=on_block,
        )

    return work


def save_result(result: Any, path: str) -> str:
    """Write a result file and say so."""
    from napari_emdl.io import save

    return f"saved {save(result, path)}"


def save_figure(movie: Movie, frame: int, rows: Any, species: tuple[str, ...], path: str) -> str:
    """Draw a frame with its columns and say so."""
    from napari_emdl.exporting.framefigure import FramePeaks, save_frame_figure

    position = () if movie.kind == "image" else (frame,)
    return f"saved {save_frame_figure(path, movie, position, FramePeaks(rows, species=species))}"


def export_result(
    result: Any, movie: Movie, folder: str, video: bool, mean: Any = None
) -> Callable[[Control, Callable[..., None]], str]:
    """Job that exports tables, maps over the `mean` image, figures, the annotated movie if wanted; says what was written."""

    def work(control: Control, _on_block: Callable[..., None]) -> str:
        from napari_emdl.exporting.folder import export
        from napari_emdl.exporting.rendering import render_movie

        files = list(export(result, folder, figure_formats=("png", "pdf"), mean=mean))
        if video:
            files.append(render_movie(movie, result, Path(folder) / "annotated.mp4", control=control))
        return f"exported {len(files)} files to {folder}"

    return work


def mean_of(movie: Movie, occupancy: Any) -> Callable[[Control, Callable[..., None]], Any]:
    """Job that gives the drift-corrected mean image of a movie whose drift is known."""

    def work(control: Control, _on_block: Callable[..., None]) -> Any:
        from napari_emdl.atoms.fit.drift import mean_image
        from napari_emdl.atoms.fit.frames import frame_reader

        return mean_image(frame_reader(movie), occupancy.alignment, control)

    return work


def fit_sites(
    movie: Movie, columns: PeakTable, params: OccupancyParams, run: RunParams, sites: Any = None
) -> Callable[[Control, Callable[..., None]], tuple[Any, Any]]:
    """Job that gives the occupancy of a movie and its drift-corrected mean image."""

    def work(control: Control, _on_block: Callable[..., None]) -> tuple[Any, Any]:
        from napari_emdl.atoms.fit.drift import mean_image
        from napari_emdl.atoms.fit.frames import frame_reader
        from napari_emdl.atoms.fit.occupancy import fit_occupancy

        occupancy = fit_occupancy(columns, movie, params=params, run=run, control=control, sites=sites)
        return occupancy, mean_image(frame_reader(movie), occupancy.alignment, control)

    return work


def rethreshold(control: Control, fitted: Any, columns: PeakTable, min_score: float) -> Any:
    """Occupancy at another threshold: table work, quick enough for a slider."""
    from napari_emdl.atoms.fit.rethreshold import with_threshold

    return with_threshold(fitted, columns, min_score, control)


def compare_results(first: Any, second: Any) -> Any:
    """Rates of two movies, group by group."""
    from napari_emdl.atoms.judge.compare import compare

    return compare(first, second)


def load_occupancy(path: str) -> Any:
    """Occupancy of a file.

    Raises
    ------
    EmdlError
        When the file holds something else.
    """
    from napari_emdl.atoms.fit.result import Occupancy
    from napari_emdl.io import load

    result = load(path)
    if not isinstance(result, Occupancy):
        raise EmdlError(f"{Path(path).name} holds no occupancy; save one from the Surface diffusion panel first")
    return result


def watch_frames(
    place: str, output: str | None, columns: ColumnParams, occupancy: OccupancyParams, run: RunParams
) -> Callable[[Control, Callable[..., None]], Any]:
    """Job that analyses frames as they arrive; every state is handed on as a block."""

    def work(control: Control, on_block: Callable[..., None]) -> Any:
        from napari_emdl.atoms.live.watch import watch

        return watch(place, output, columns=columns, occupancy=occupancy, run=run, control=control, on_update=on_block)

    return work


def live_frame(control: Control, place: str, key: str, _state: Any) -> Any:
    """Newest frame, read for the display only."""
    from napari_emdl.atoms.live.arrivals import watch_place

    control.check()
    return np.asarray(watch_place(place).frame(key))


def proposed_output(place: str) -> str:
    """Result file of a watch: beside what is watched, in the home folder where that cannot be written; "" for no place."""
    if not place:
        return ""
    path = Path(place).expanduser()
    folder = path.parent if os.access(path.parent, os.W_OK) else Path.home()
    return str(folder / f"{path.name.split('.')[0] or 'watch'}_live.h5")


def stopped_watch(output: str) -> bool:
    """True when a watch that was stopped left frames beside `output`."""
    return Path(f"{output}.live").is_dir()
