"""Occupancy of every site in every frame: drift, sites, evidence, hidden Markov model, events and rates in one call."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.find.columns import finder_from_attrs, merge_params
from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.fit import difference, drift, events, siteclasses
from napari_emdl.atoms.fit.alignedframes import AlignedFrames
from napari_emdl.atoms.fit.correlation import discard_drift
from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.atoms.fit.evidence import evidence_at, evidence_from_detections, visible
from napari_emdl.atoms.fit.frames import frame_reader, measured_at
from napari_emdl.atoms.fit.ratespread import rate_spread_of_emissions
from napari_emdl.atoms.fit.result import Occupancy, pooled_rates
from napari_emdl.atoms.fit.sites import Sites
from napari_emdl.atoms.fit.sitesearch import Found, search
from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import OccupancyParams, RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.base.timing import spread_frames, whole_steps
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.notebook import with_progress
from napari_emdl.jobs.provenance import fingerprint, provenance
from napari_emdl.workflow.source import source_of

#: fewer usable frames than this give occupancy by detection only
FEWEST_FRAMES = 3
#: chance of columns amid a crystal that no frame shows because contrast turns over there
THERE = 0.9


@with_progress("following sites", "frames")
def fit_occupancy(
    columns: PeakTable,
    movie: Movie | None = None,
    *,
    params: OccupancyParams | None = None,
    run: RunParams | None = None,
    control: Control | None = None,
    sites: Sites | None = None,
    finder: ColumnFinder | None = None,
    output: str | Path | None = None,
    **overrides: Any,
) -> Occupancy:
    """Follow every site through the movie.

    Parameters
    ----------
    columns
        Result of :func:`napari_emdl.find_columns` with all its candidates.
    movie
        The frames; by default those that the columns were found in. Where they are not to be had, drift and evidence come
        from the detections alone, which is worse at low dose, and the result says so.
    params, run
        Settings; keyword overrides win.
    control
        Progress and cancel.
    sites
        Sites edited by hand (drift-corrected); found when None.
    finder
        Finder for the evidence; made from ``columns.attrs`` when None.
    output
        File beside which the drift and the evidence of finished frames are kept (``<output>.part``), so that the fit can be
        resumed.

    Returns
    -------
    Occupancy

    Raises
    ------
    EmdlError
        No columns, no pixel size, columns and movie that do not belong together.
    """
    settings: OccupancyParams = merge_params(params, OccupancyParams, overrides)
    pixel_A = columns.attrs.get("pixel_A")
    if not pixel_A:
        raise EmdlError("these columns have no pixel size: find columns again with the pixel size given")
    movie, missing = (movie, "") if movie is not None else _movie_of(columns)
    shape = _frame_shape(columns, movie)
    threshold = settings.min_score if settings.min_score is not None else float(columns.attrs.get("default_min_score", 0.5))
    found = columns.filter(min_score=threshold)
    if movie is not None and settings.method == "hmm":
        finder = finder or finder_from_attrs(columns.attrs, movie, run)
    where = search(
        found, movie, shape, float(pixel_A), settings, finder if movie is not None else None, sites, control,
        run, output, _drift_of(movie, float(pixel_A)) if output is not None and movie is not None else "",
    )  # fmt: skip
    sites, alignment = where.sites, where.alignment
    valid = visible(sites.position_px, alignment, shape, float(pixel_A))
    if movie is not None:
        valid = measured_at(frame_reader(movie), sites.position_px, alignment, valid, float(pixel_A))
    radius_px = settings.max_distance_A / float(pixel_A)
    weak, _ = evidence_from_detections(columns, sites.position_px, alignment, radius_px)
    _, detected = evidence_from_detections(found, sites.position_px, alignment, radius_px)
    detected &= valid
    source, start = "detections", None
    if movie is not None and settings.method == "hmm" and finder is not None:
        evidence = evidence_at(
            movie, sites.position_px, alignment, finder, float(pixel_A), control, run, output,
            _evidence_of(columns, movie, settings, sites) if output is not None else "",
        )  # fmt: skip
        valid &= np.isfinite(evidence)
        source = "logit at the site"
        if settings.evidence == "image" and int(alignment.usable.sum()) >= FEWEST_FRAMES:
            learned = _learned(evidence, detected, valid, where, movie, float(pixel_A), control)
            if learned is not None:
                evidence, start, source = learned.evidence, learned.occupied, "matched filter learned from the movie"
    else:
        evidence = weak
    if output is not None:
        discard_drift(output)
    evidence = np.where(valid, evidence, np.float32(np.nan))
    attrs: dict[str, Any] = {
        "pixel_A": float(pixel_A), "pixel_guessed": bool(columns.attrs.get("pixel_guessed")),
        "frame_shape": list(shape), "method": settings.method, "min_score": threshold, "evidence":
        source, "frame_interval_s": settings.frame_interval_s or (movie.calibration.frame_interval_s if movie is not None else
        None), "dose_e_per_A2": settings.dose_e_per_A2, "params": settings.model_dump(), "notes": [], "columns": {k:
        columns.attrs.get(k) for k in ("method", "model", "model_sha256", "provider", "contrast", "params")},
    }  # fmt: skip
    if movie is not None and movie.frame_steps is not None:
        attrs["frame_steps"] = movie.frame_steps.tolist()
    attrs |= {
        "provenance": _record(columns, movie, settings, run),
        "caveats": (Caveats.of(columns) + Caveats([missing])).to_json(),
    }
    return decode(sites, alignment, evidence, detected, valid, attrs, control, start)


def _movie_of(columns: PeakTable) -> tuple[Movie | None, str]:
    """Movie that the columns were found in, or None and one line why it is not to be had."""
    if isinstance(columns.source, Movie):
        return columns.source, ""
    reason = "no movie is at hand"
    if columns.attrs.get("provenance"):
        try:
            found = source_of(columns)
        except EmdlError as error:
            reason = str(error)
        else:
            if isinstance(found, Movie):
                return found, ""
    return None, f"drift and occupancy come from the detected columns alone, less sure at low dose: {reason}"


def _record(columns: PeakTable, movie: Movie | None, settings: OccupancyParams, run: RunParams | None) -> dict[str, Any]:
    """Provenance: settings of both steps, the movie, the model behind the columns and the evidence."""
    before = columns.attrs.get("provenance") or {}
    facts = columns.attrs
    record = provenance(
        {"occupancy": settings.model_dump(mode="json"), "columns": facts.get("params")},
        movie,
        {name: facts[name] for name in ("model", "model_sha256")} if facts.get("model") else None,
        str(facts.get("provider") or ""),
        run=(run or RunParams()).model_dump(mode="json"),
    )
    if movie is None:
        record["input"] = before.get("input")
    return record


def _drift_of(movie: Movie, pixel_A: float) -> str:
    """What the drift depends on."""
    return fingerprint(provenance({"drift": {"pixel_A": pixel_A}}, movie))


def _evidence_of(columns: PeakTable, movie: Movie, settings: OccupancyParams, sites: Sites) -> str:
    """What the evidence depends on. Sites follow from columns and settings, so their number is enough to tell them apart."""
    digest = hashlib.sha256()
    for name in ("row", "col", "score"):
        digest.update(np.ascontiguousarray(columns.column(name)).tobytes())
    record = _record(columns, movie, settings, None)
    return fingerprint({**record, "columns": digest.hexdigest(), "sites": len(sites.position_px), "code": record["versions"]})


def _learned(
    evidence: NDArray[np.float32],
    detected: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    where: Found,
    movie: Movie,
    pixel_A: float,
    control: Control | None,
) -> difference.Learned | None:
    """Evidence by the matched filter; None where nothing, or too little, comes and goes."""
    if not valid.any():
        return None
    known = np.where(valid, evidence, np.float32(np.nan))
    sites = where.sites
    aligned = AlignedFrames(frame_reader(movie), sites.position_px, valid, where.alignment, pixel_A, control)
    surface = sites.coordination < 6
    return difference.learned_evidence(aligned, known, detected, control, sites.shown, surface)


def decode(
    sites: Sites,
    alignment: Alignment,
    evidence: NDArray[np.float32],
    detected: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    attrs: dict[str, Any],
    control: Control | None = None,
    start: NDArray[np.bool_] | None = None,
) -> Occupancy:
    """Occupancy from evidence: table work only, so a slider may call it.

    Parameters
    ----------
    sites, alignment
        Where things are.
    evidence, detected, valid
        (T, n) logit, plain detections, view.
    attrs
        Facts to keep; `method` is "hmm" or "threshold".
    control
        Cancel.
    start
        (T, n) bool, first guess of what is occupied; the detections when None.
    """
    attrs = {**attrs, "notes": list(attrs.get("notes", ()))}
    usable = int(alignment.usable.sum())
    _note_frames(alignment, attrs["notes"])
    if attrs.get("method") == "threshold" or usable < FEWEST_FRAMES:
        if usable < FEWEST_FRAMES and attrs.get("method") != "threshold":
            attrs["notes"].append(f"{usable} usable frames are too few for a hidden Markov model: occupancy is by detection")
        p, path, classes, log_ratio = _by_detection(detected, valid)
    else:
        rows = whole_steps(attrs.get("frame_steps"), len(evidence))
        seen = [None if values is None else spread_frames(values, rows, False) for values in (detected, start)]
        told = np.where(sites.inverted, np.float32(np.nan), evidence) if not sites.inverted.all() else evidence
        model = siteclasses.fit_site_classes(
            spread_frames(told, rows, np.nan), seen[0], control=control, start=seen[1], shown=sites.shown
        )
        shown = slice(None) if rows is None else rows
        p, path, classes, log_ratio = (
            model.p_occupied[shown],
            model.path[shown],
            model.class_probability,
            model.log_ratio[shown],
        )
        attrs |= {
            "rate_spread": rate_spread_of_emissions(model, told),
            "separation": model.separation, "pooled_p_off": model.p_off, "pooled_p_on": model.p_on,
            "emission_mean": model.emissions.mean.tolist(), "emission_scale": model.emissions.scale.tolist(),
        }  # fmt: skip
        if model.note:
            attrs["notes"].append(model.note)
        if model.separation < 1.5:
            attrs["notes"].append(
                f"occupied and empty sites are only {model.separation:.1f} sigma apart: rates are uncertain; "
                "more dose or a better model is needed"
            )
    if sites.inverted.any():
        _take_as_there(sites.inverted, p, path, classes, log_ratio)
        attrs["notes"].append(
            f"{int(sites.inverted.sum())} sites lie where the contrast of the crystal turns over: their columns are "
            f"not shown, and taken as there with a chance of {THERE:.1f}"
        )
    table = events.find_events(path, valid, p)
    _note_upheaval(table, int((classes[:, siteclasses.BLINKING] > 0.5).sum()), attrs["notes"])
    mean = np.where(valid, p, 0).sum(0) / np.maximum(1, valid.sum(0))
    sites = sites.regrouped(mean)
    result = Occupancy(
        sites.position_px, alignment.shift_px, p.astype(np.float32), path, valid, detected, evidence,
        log_ratio.astype(np.float32), sites.group, classes, np.zeros(0, events.RATE), table, sites,
        alignment, attrs,
    )  # fmt: skip
    return replace(result, rates=pooled_rates(result))


def _take_as_there(
    inverted: NDArray[np.bool_],
    p: NDArray[np.float64],
    path: NDArray[np.bool_],
    classes: NDArray[np.float64],
    log_ratio: NDArray[np.float64],
) -> None:
    """Sites where contrast turns over, which the evidence calls empty: amid a crystal they are not."""
    p[:, inverted], path[:, inverted], log_ratio[:, inverted] = THERE, True, 0.0
    classes[inverted] = np.where(np.arange(3) == siteclasses.OCCUPIED, THERE, (1 - THERE) / 2)


def _note_frames(alignment: Alignment, notes: list[str]) -> None:
    """Tell of frames that were left out or that jump."""
    for code, name in enumerate(drift.FLAGS):
        frames = np.flatnonzero(alignment.flag == code)
        if code and len(frames):
            shown = ", ".join(map(str, frames[:8])) + (" ..." if len(frames) > 8 else "")
            verb = "kept" if code == drift.JUMP else "treated as missing"
            which = f"frame {shown} is" if len(frames) == 1 else f"{len(frames)} frames are"
            notes.append(f"{which} flagged '{name}' ({verb})" + (f": {shown}" if len(frames) > 1 else ""))


def _note_upheaval(table: NDArray[np.void], blinking: int, notes: list[str]) -> None:
    """Tell of a frame in which very many sites change at once: a particle that sinters or turns, not columns that diffuse.

    A crystal that turns leaves one set of sites for another, not all of which are seen to blink.
    """
    if blinking < 8 or not len(table):
        return
    frame, count = np.unique(table["frame"], return_counts=True)
    at = int(np.argmax(count))
    if count[at] > 0.3 * blinking and count[at] > 4 * float(np.median(count)):
        notes.append(
            f"{count[at]} of {blinking} sites change at once in frame {frame[at]}: the particle may have sintered or turned; "
            "analyse the frames before and after by themselves"
        )


def _by_detection(
    detected: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Occupancy as detected, with classes by what was seen; frames out of view carry on with what was before."""
    path = detected.copy()
    for t in range(1, len(path)):
        path[t] = np.where(valid[t], detected[t], path[t - 1])
    share = (detected & valid).sum(0) / np.maximum(1, valid.sum(0))
    classes = np.zeros((detected.shape[1], 3))
    classes[np.arange(len(share)), np.where(share == 0, 0, np.where(share == 1, 2, 1))] = 1.0
    ratio = np.where(valid, np.where(detected, 4.0, -4.0), 0.0)
    return path.astype(np.float64), path, classes, ratio


def _frame_shape(columns: PeakTable, movie: Movie | None) -> tuple[int, int]:
    if movie is None:
        shape = columns.attrs.get("frame_shape")
        if shape is None:
            raise EmdlError("these columns do not tell how large the frames are: give the movie as well")
        return int(shape[0]), int(shape[1])
    if movie.n_frames != len(columns):
        raise EmdlError(
            f"the columns are of {len(columns)} frames, the movie has {movie.n_frames}: they do not belong together"
        )
    return movie.frame_shape
