"""Atomic columns in images, movies and focal series: one call for the network and for the classical finder."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.find.flaws import FLAWS, Judged, flaws_of
from napari_emdl.atoms.find.frames import frames_used, reader_for
from napari_emdl.atoms.find.inverting import Inverting
from napari_emdl.atoms.find.making import make_finder
from napari_emdl.atoms.find.moviefacts import check_movie, pixel_size_A
from napari_emdl.atoms.find.pixelguess import GUESSED, pixel_size_doubt, with_guessed_pixel
from napari_emdl.base.caveats import INPUT, Caveats
from napari_emdl.base.params import ColumnParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.io.objects import is_object
from napari_emdl.io.opening import open_movie
from napari_emdl.jobs.blocks import check_frame_fits
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.notebook import with_progress
from napari_emdl.jobs.peakjob import run_peak_job
from napari_emdl.jobs.provenance import fingerprint, input_changed, provenance
from napari_emdl.workflow.parameters import with_overrides
from napari_emdl.workflow.source import caveats_of


def merge_params(params: Any, model: Any, overrides: dict[str, Any]) -> Any:
    """Parameters with keyword overrides; an unknown name or a bad value is one clear line."""
    return with_overrides(model, params, overrides)


@with_progress("finding columns", "frames")
def find_columns(
    movie: Movie | Any,
    *,
    device: str | None = None,
    contrast: str | None = None,
    params: ColumnParams | None = None,
    run: RunParams | None = None,
    output: str | None = None,
    control: Control | None = None,
    on_block: Any = None,
    **overrides: Any,
) -> PeakTable:
    """Find atomic columns in every frame.

    Parameters
    ----------
    movie
        Image, movie or focal series; or what holds one in memory: an array of numpy or dask (give ``pixel_size_A``), a
        signal of HyperSpy.
    device
        "auto", "cpu" or "cuda"; shorthand for ``run.device``.
    contrast
        "auto", "bright" or "dark"; shorthand for ``params.contrast``.
    params, run
        All settings; keyword overrides win.
    output
        Result file the job checkpoints into, to go on after an interruption.
    control
        Progress and cancel.
    on_block
        Called with (block, table) as frames get done.

    Returns
    -------
    PeakTable
        Shape (frames,) with fields row, col, score, sigma_px, species, intensity and logit. It holds all candidates above a low
        floor; ``attrs["default_min_score"]`` is the default threshold. Further attrs: species, pixel_A, pixel_guessed, method,
        model, provider, contrast.

    Raises
    ------
    EmdlError
        Unknown pixel size, not a movie, bad options.
    """
    if not isinstance(movie, Movie) and not hasattr(movie, "scan_shape") and is_object(movie):
        movie = open_movie(movie)
    check_movie(movie)
    if contrast is not None:
        overrides["contrast"] = contrast
    settings: ColumnParams = merge_params(params, ColumnParams, overrides)
    running: RunParams = merge_params(run, RunParams, {} if device is None else {"device": device})
    check_frame_fits(movie.shape[-2:], running)
    movie, settings, guessed = with_guessed_pixel(movie, settings, running, control)
    finder = make_finder(movie, settings, running, control)
    doubt = "" if guessed else pixel_size_doubt(movie, settings, finder, running, control)
    several = frames_used(finder) > 1
    record = provenance(
        {"columns": settings.model_dump(mode="json"), "contrast": finder.contrast, "frames": frames_used(finder)},
        movie,
        finder.info.network,
        finder.info.provider,
        run=running.model_dump(mode="json"),
    )
    table = run_peak_job(
        shape=(movie.n_frames,),
        read=reader_for(movie, finder, settings).read,
        find=Judged(
            Inverting(finder, pixel_size_A(movie, settings)),
            *(() if running.scheduler else (control,)),
            dtype=movie.dtype if several else None,
        ),
        bytes_per_item=int(np.prod(movie.shape[-2:]))
        * (3 if several else movie.n_foci)
        * (np.dtype(movie.dtype).itemsize + 48),
        run=running,
        output=output,
        fingerprint=fingerprint(record),
        control=control,
        on_block=on_block,
        parallel=finder.parallel,
    )
    settle_attrs(
        table, movie, finder, settings, Caveats([guessed, doubt, input_changed(record, movie)], INPUT) + caveats_of(movie)
    )
    record["caveats"] = table.attrs["caveats"]
    if finder.info.sublattices:
        record["sublattices"] = finder.info.sublattices
    if table.attrs["contrast_evidence"]:
        record["contrast_evidence"] = table.attrs["contrast_evidence"]
    table.attrs["provenance"] = record
    table.source = movie
    return table


def finder_attrs(movie: Movie, finder: ColumnFinder, params: ColumnParams) -> dict[str, Any]:
    """What a column table tells of how it was made; enough to make the finder again."""
    return {
        "species": list(finder.species),
        "pixel_A": pixel_size_A(movie, params),
        "pixel_guessed": movie.calibration.source.get("pixel_nm") == GUESSED,
        "frame_shape": list(movie.frame_shape),
        "default_min_score": float(finder.default_min_score),
        "contrast": finder.contrast,
        "contrast_confidence": finder.contrast_confidence,
        "contrast_evidence": dict(getattr(finder, "contrast_evidence", {})),
        "readings": dict(getattr(finder, "readings", {})),
        "frames": frames_used(finder),
        "params": params.model_dump(),
        **{name: getattr(finder.info, name) for name in ("method", "model", "model_sha256", "provider", "sublattices")},
        "note": str(finder.info.caveats),
        "caveats": finder.info.caveats.to_json(),
    }


def find_one(movie: Movie, finder: ColumnFinder, params: ColumnParams, frame: int, control: Control | None = None) -> PeakTable:
    """Candidates of one frame, with what its neighbours add where the finder takes them."""
    find = Judged(
        Inverting(finder, pixel_size_A(movie, params)), control, dtype=movie.dtype if frames_used(finder) > 1 else None
    )
    table = find(reader_for(movie, finder, params).read(frame, frame + 1))
    settle_attrs(table, movie, finder, params)
    return table


def settle_attrs(
    table: PeakTable, movie: Movie, finder: ColumnFinder, params: ColumnParams, of_input: Caveats = Caveats()
) -> None:
    """Give a table of judged frames its attributes; what is wrong with the frames joins the caveats of input and finder."""
    counts = {name: int(table.attrs.pop(name, 0)) for name in FLAWS}
    table.attrs.update(finder_attrs(movie, finder, params))
    field_A = min(movie.frame_shape) * pixel_size_A(movie, params)
    caveats = of_input + Caveats(flaws_of(counts, table.n_positions, field_A), INPUT) + finder.info.caveats
    table.attrs |= {"note": str(caveats), "caveats": caveats.to_json()}


def finder_from_attrs(attrs: dict[str, Any], movie: Movie, run: RunParams | None = None) -> ColumnFinder:
    """The finder that made a column table, so that evidence comes from the same network under the same conditions."""
    params = ColumnParams(**attrs.get("params", {}))
    settled = params.model_copy(
        update={
            "contrast": attrs.get("contrast", params.contrast),
            "pixel_size_A": attrs.get("pixel_A"),
            "frames": str(attrs.get("frames", params.frames)),
        }
    )
    finder = make_finder(movie, settled, run)
    finder.default_min_score = float(attrs.get("default_min_score", finder.default_min_score))
    return finder
