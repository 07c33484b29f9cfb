"""What the atom panels run in threads: short functions that call the core, and where a run that was cut short is kept."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ColumnParams, Job, OccupancyParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.jobs.checkpoint import discard_part, part_path
from napari_emdl.jobs.control import Control

#: Runs that were cut short are kept this long.
KEEP_DAYS = 14

_finders: dict[Any, Any] = {}
_finders_lock = threading.Lock()


def column_models() -> list[tuple[str, str | None, str]]:
    """(label, value of ColumnParams.model, tooltip) of everything that finds columns."""
    from napari_emdl.models.registry import list_models

    entries = [entry for entry in list_models("columns") if not entry.problem]
    shipped = [("Network (default)", None, "The shipped network")] if entries else []
    named = [(entry.name, entry.name, entry.description) for entry in entries]
    return [*shipped, *named, ("LoG (classical)", "log", "Laplacian of Gaussian: no network, quick, needs a higher dose")]


def find_frame(
    control: Control, movie: Movie, params: ColumnParams, run: RunParams, frame: int, _for: object = None
) -> PeakTable:
    """Candidates of one frame; the finder is kept for the next."""
    from napari_emdl.atoms.find.columns import find_one, make_finder

    key = (id(movie.data), movie.calibration.pixel_nm, params.model_dump_json(), run.model_dump_json())
    with _finders_lock:
        if key not in _finders:
            finder = make_finder(movie, params, run, control)
            _finders.clear()
            _finders[key] = finder, movie.data  # as long as the data lives, its id means nothing else
        finder, _ = _finders[key]
    return find_one(movie, finder, params, frame, control)


def run_file(movie: Movie | None, params: ColumnParams) -> Path:
    """File a run of this movie with these parameters is kept beside, until it is saved or two weeks old."""
    about = (
        "" if movie is None else f"{movie.path or id(movie.data)}|{movie.shape}|{movie.calibration.pixel_nm}|{_age(movie.path)}"
    )
    name = hashlib.sha1(f"{about}|{params.model_dump_json()}".encode()).hexdigest()[:20]
    return Path(platformdirs.user_cache_dir("napari-emdl", appauthor=False)) / "runs" / f"{name}.h5"


def _age(path: str) -> float:
    try:
        return Path(path).stat().st_mtime if path else 0.0
    except OSError:
        return 0.0


def can_resume(output: Path) -> bool:
    """True when an earlier run with the same settings left something."""
    return part_path(output).exists()


def prune_runs(folder: Path) -> None:
    """Delete what is left of runs nobody went on with."""
    for file in folder.glob("*.part"):
        if time.time() - file.stat().st_mtime > KEEP_DAYS * 86400:
            file.unlink(missing_ok=True)


def run_movie(
    movie: Movie, params: ColumnParams, run: RunParams, restart: bool = False
) -> Callable[[Control, Callable[..., None]], PeakTable]:
    """Job that finds the columns of all frames and goes on with what an earlier run has finished."""
    from napari_emdl.atoms.find.columns import find_columns

    output = run_file(movie, params)

    def work(control: Control, on_block: Callable[..., None]) -> PeakTable:
        output.parent.mkdir(parents=True, exist_ok=True)
        prune_runs(output.parent)
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


def export_result(result: Any, movie: Movie, folder: str, video: bool) -> Callable[[Control, Callable[..., None]], str]:
    """Job that exports tables, maps and figures, and the annotated movie if wanted; says what was written."""

    def work(control: Control, _on_block: Callable[..., None]) -> str:
        from napari_emdl.exporting.folder import export
        from napari_emdl.exporting.rendering import render_movie

        files = list(export(result, folder))
        if video:
            files.append(render_movie(movie, result, Path(folder) / "annotated.mp4", control=control))
        return f"exported {len(files)} files to {folder}"

    return work


def mean_of(movie: Movie, occupancy: Any) -> Callable[[Control, Callable[..., None]], Any]:
    """Job that gives the drift-corrected mean image of a movie whose drift is known."""

    def work(control: Control, _on_block: Callable[..., None]) -> Any:
        from napari_emdl.atoms.fit.drift import mean_image
        from napari_emdl.atoms.fit.occupancy import frame_reader

        return mean_image(frame_reader(movie), occupancy.alignment, control)

    return work


def fit_sites(
    movie: Movie, columns: PeakTable, params: OccupancyParams, run: RunParams, sites: Any = None
) -> Callable[[Control, Callable[..., None]], tuple[Any, Any]]:
    """Job that gives the occupancy of a movie and its drift-corrected mean image."""

    def work(control: Control, _on_block: Callable[..., None]) -> tuple[Any, Any]:
        from napari_emdl.atoms.fit.drift import mean_image
        from napari_emdl.atoms.fit.occupancy import fit_occupancy, frame_reader

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


def stopped_watch(output: str) -> bool:
    """True when a watch that was stopped left frames beside `output`."""
    return Path(f"{output}.live").is_dir()


def write_job(path: str, movie: Movie | None, columns: ColumnParams, occupancy: OccupancyParams, run: RunParams) -> str:
    """Write a job file that finds the columns and fits the occupancy; says how to run it.

    Raises
    ------
    EmdlError
        When the movie is no file.
    """
    import yaml

    if movie is None or not movie.path:
        raise EmdlError("this movie is no file: save it first, a job needs a file to read")
    known = columns if columns.pixel_size_A else columns.model_copy(update={"pixel_size_A": movie.pixel_A})
    target = Path(path)
    job = Job(
        command="occupancy",
        input=movie.path,
        output=str(target.with_suffix(".h5")),
        columns=known,
        occupancy=occupancy,
        run=run.model_copy(update={"resume": None}),
    )
    target.write_text(yaml.safe_dump(job.model_dump(mode="json", exclude_none=True), sort_keys=False), encoding="utf-8")
    return f"saved {target.name}; run it with: napari-emdl run {target.name}"
