"""Occupancy of every site in every frame: drift, sites, evidence, hidden Markov model, events and rates in one call."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms import difference, drift, events, siteclasses
from napari_emdl.atoms.columns import ColumnFinder, finder_from_attrs, merge_params
from napari_emdl.atoms.drift import Alignment
from napari_emdl.atoms.events import Dwell
from napari_emdl.atoms.evidence import evidence_at, evidence_from_detections, visible
from napari_emdl.atoms.sites import GROUPS, Sites, find_sites
from napari_emdl.errors import EmdlError
from napari_emdl.jobs.control import Control
from napari_emdl.params import OccupancyParams, RunParams
from napari_emdl.peaks import PeakTable
from napari_emdl.signals import Movie

#: fewer usable frames than this give occupancy by detection only
FEWEST_FRAMES = 3


@dataclass(frozen=True)
class Occupancy:
    """Which sites are occupied when.

    Attributes
    ----------
    sites_px
        (n, 2) float64, drift-corrected (row, col).
    shift_px
        (T, 2) float64; a site lies at ``sites_px + shift_px[t]`` in frame t (see `alignment` for a particle that turns).
    p_occupied
        (T, n) float32, chance of being occupied; smoothed over frames in which a site is not in view.
    occupied
        (T, n) bool, most probable path.
    valid
        (T, n) bool, False out of view and in frames that do not show the specimen.
    detected
        (T, n) bool, plain detections, for comparison.
    evidence
        (T, n) float32, evidence at the site (``attrs["evidence"]`` says which); NaN where not valid.
    log_ratio
        (T, n) float32, log likelihood ratio occupied : empty.
    groups
        (n,) uint8, index into ``sites.GROUPS``.
    class_probability
        (n, 3), chance that the site is always empty, blinking, always occupied.
    rates
        Structured array (events.RATE), one row a group and one for all.
    events
        Structured array (events.EVENT).
    sites
        Coordination, share seen, lattice.
    alignment
        Drift with flags and quality of the frames.
    attrs
        Small facts: pixel_A, frame_interval_s, dose_e_per_A2, method, separation, pooled rates, notes.
    """

    sites_px: NDArray[np.float64]
    shift_px: NDArray[np.float64]
    p_occupied: NDArray[np.float32]
    occupied: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    detected: NDArray[np.bool_]
    evidence: NDArray[np.float32]
    log_ratio: NDArray[np.float32]
    groups: NDArray[np.uint8]
    class_probability: NDArray[np.float64]
    rates: NDArray[np.void]
    events: NDArray[np.void]
    sites: Sites
    alignment: Alignment
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return len(self.sites_px)

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.shift_px)

    @property
    def group_names(self) -> list[str]:
        """(n,) name of each site's group."""
        return [GROUPS[g] for g in self.groups]

    def mean_occupancy(self) -> NDArray[np.float64]:
        """(n,) mean chance of being occupied over the frames in view; NaN for sites never in view."""
        count = self.valid.sum(0)
        total = np.where(self.valid, self.p_occupied, 0).sum(0, dtype=np.float64)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def positions_in_frame(self, frame: int) -> NDArray[np.float64]:
        """(n, 2) where the sites lie in a frame."""
        return one_frame(self.alignment, frame).to_frame(self.sites_px)[0]

    def dwell_times(self, state: bool, group: int | None = None) -> Dwell:
        """Kaplan-Meier curve of occupied (True) or empty (False) stays of the blinking sites, of one group or of all."""
        use = self.class_probability[:, siteclasses.BLINKING] > 0.5
        if group is not None:
            use &= self.groups == group
        return events.dwell_times(self.occupied[:, use], self.valid[:, use], state)

    def with_groups(self, groups: NDArray[np.uint8]) -> Occupancy:
        """Same occupancy with sites grouped by hand; rates by group are made again."""
        changed = replace(
            self, groups=np.asarray(groups, np.uint8), sites=replace(self.sites, group=np.asarray(groups, np.uint8))
        )
        return replace(changed, rates=_rates(changed))

    def to_hdf5(self, group: h5py.Group) -> None:
        """Write sites, frames, occupancy, rates and events into `group`."""
        site_part: dict[str, NDArray[Any]] = {
            "position_px": self.sites_px, "group": self.groups, "coordination": self.sites.coordination, "seen":
            self.sites.seen, "extrapolated": self.sites.extrapolated, "class_probability": self.class_probability,
        }  # fmt: skip
        a = self.alignment
        frame_part: dict[str, NDArray[Any]] = {
            "shift_px": self.shift_px,
            "flag": a.flag,
            "quality": a.quality,
            "linear": a.linear,
            "centre_px": a.centre_px,
        }
        big: dict[str, NDArray[Any]] = {
            name: getattr(self, name) for name in ("p_occupied", "occupied", "valid", "detected", "evidence", "log_ratio")
        }  # fmt: skip
        for name, part in (("sites", site_part), ("frames", frame_part), ("occupancy", big)):
            target = group.create_group(name)
            for key, values in part.items():
                packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if values.size > 1000 else {}
                target.create_dataset(key, data=values, **packed)
        group["sites"].attrs["groups"] = list(GROUPS)
        group["frames"].attrs["flags"] = list(drift.FLAGS)
        if self.sites.lattice is not None:
            group["sites"].create_dataset("lattice_px", data=np.stack([self.sites.lattice.a_px, self.sites.lattice.b_px]))
        for name, table in (("rates", self.rates), ("events", self.events)):
            target = group.create_group(name)
            for key in table.dtype.names or ():
                values = table[key]
                target.create_dataset(key, data=values.astype(h5py.string_dtype()) if values.dtype.kind == "U" else values)
        group.attrs["occupancy_attrs"] = json.dumps(self.attrs)

    @classmethod
    def from_hdf5(cls, group: h5py.Group) -> Occupancy:
        """Read what :meth:`to_hdf5` wrote."""
        try:
            s, f, o = ({k: v[()] for k, v in group[n].items()} for n in ("sites", "frames", "occupancy"))
            lattice = None if "lattice_px" not in s else _lattice(s["lattice_px"])
            sites = Sites(s["position_px"], s["seen"], s["extrapolated"].astype(bool), s["group"], s["coordination"], lattice)
            alignment = Alignment(f["shift_px"], f["flag"], f["quality"], f["linear"], f["centre_px"])
            return cls(
                s["position_px"], f["shift_px"], o["p_occupied"], o["occupied"].astype(bool), o["valid"].astype(bool),
                o["detected"].astype(bool), o["evidence"], o["log_ratio"], s["group"], s["class_probability"],
                _table(group["rates"], events.RATE), _table(group["events"], events.EVENT), sites, alignment,
                json.loads(group.attrs.get("occupancy_attrs", "{}")),
            )  # fmt: skip
        except KeyError as error:
            raise EmdlError(
                f"this is not a complete occupancy file: {str(error).strip(chr(39))}; fit the occupancy again"
            ) from None


def _lattice(vectors: NDArray[np.float64]) -> Any:
    from napari_emdl.atoms.sites import Lattice

    return Lattice(vectors[0], vectors[1])


def _table(group: h5py.Group, dtype: np.dtype[Any]) -> NDArray[np.void]:
    names = dtype.names or ()
    out = np.zeros(len(group[names[0]]), dtype)
    for name in names:
        values = group[name]
        out[name] = values.asstr()[()] if dtype[name].kind == "U" else values[()]
    return out


def one_frame(alignment: Alignment, frame: int) -> Alignment:
    """Alignment of one frame only."""
    at = slice(frame, frame + 1)
    return Alignment(
        alignment.shift_px[at], alignment.flag[at], alignment.quality[at], alignment.linear[at], alignment.centre_px
    )


def fit_occupancy(
    columns: PeakTable,
    movie: Movie | None = None,
    *,
    params: OccupancyParams | None = None,
    run: RunParams | None = None,
    control: Control | None = None,
    sites: Sites | None = None,
    finder: ColumnFinder | None = None,
    **overrides: Any,
) -> Occupancy:
    """Follow every site through the movie.

    Parameters
    ----------
    columns
        Result of :func:`napari_emdl.find_columns` with all its candidates.
    movie
        The frames. Without them drift and evidence come from the detections alone, which is worse at low dose.
    params, run
        Settings; keyword overrides win.
    control
        Progress and cancel.
    sites
        Sites edited by hand (drift-corrected); found when None.
    finder
        Finder for the evidence; made from ``columns.attrs`` when None.

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
    shape = _frame_shape(columns, movie)
    threshold = settings.min_score if settings.min_score is not None else float(columns.attrs.get("default_min_score", 0.5))
    found = columns.filter(min_score=threshold)
    alignment = _align(found, movie, shape, float(pixel_A), control)
    if sites is None:
        sites, alignment = _sites(found, alignment, float(pixel_A), shape, settings)
    valid = visible(sites.position_px, alignment, shape, float(pixel_A))
    radius_px = settings.max_distance_A / float(pixel_A)
    weak, _ = evidence_from_detections(columns, sites.position_px, alignment, radius_px)
    _, detected = evidence_from_detections(found, sites.position_px, alignment, radius_px)
    detected &= valid
    source = "detections"
    if movie is not None and settings.method == "hmm":
        finder = finder or finder_from_attrs(columns.attrs, movie, run)
        evidence = evidence_at(movie, sites.position_px, alignment, finder, float(pixel_A), control=control)
        valid &= np.isfinite(evidence)
        source = "logit at the site"
        if settings.evidence == "image" and int(alignment.usable.sum()) >= FEWEST_FRAMES:
            learned = _learned(evidence, detected, valid, sites, alignment, movie, float(pixel_A), control)
            if learned is not None:
                evidence, source = learned, "matched filter learned from the movie"
    else:
        evidence = weak
    evidence = np.where(valid, evidence, np.float32(np.nan))
    attrs: dict[str, Any] = {
        "pixel_A": float(pixel_A), "frame_shape": list(shape), "method": settings.method, "min_score": threshold, "evidence":
        source, "frame_interval_s": settings.frame_interval_s or (movie.calibration.frame_interval_s if movie is not None else
        None), "dose_e_per_A2": settings.dose_e_per_A2, "params": settings.model_dump(), "notes": [], "columns": {k:
        columns.attrs.get(k) for k in ("method", "model", "model_sha256", "provider", "contrast", "params")},
    }  # fmt: skip
    return decode(sites, alignment, evidence, detected, valid, attrs, control)


def _learned(
    evidence: NDArray[np.float32],
    detected: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    sites: Sites,
    alignment: Alignment,
    movie: Movie,
    pixel_A: float,
    control: Control | None,
) -> NDArray[np.float32] | None:
    """Evidence by the matched filter; None where nothing, or too little, comes and goes."""
    if not valid.any():
        return None
    start = np.where(valid, evidence, np.float32(np.nan))
    aligned = difference.AlignedFrames(frame_reader(movie), sites.position_px, valid, alignment, pixel_A, control)
    return difference.learned_evidence(aligned, start, detected, control)


def decode(
    sites: Sites,
    alignment: Alignment,
    evidence: NDArray[np.float32],
    detected: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    attrs: dict[str, Any],
    control: Control | None = None,
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
    """
    attrs = {**attrs, "notes": list(attrs.get("notes", ()))}
    usable = int(alignment.usable.sum())
    _note_frames(alignment, attrs["notes"])
    if attrs.get("method") == "threshold" or usable < FEWEST_FRAMES:
        if usable < FEWEST_FRAMES and attrs.get("method") != "threshold":
            attrs["notes"].append(f"{usable} usable frames are too few for a hidden Markov model: occupancy is by detection")
        p, path, classes, log_ratio = _by_detection(detected, valid)
    else:
        model = siteclasses.fit_site_classes(evidence, detected, control=control)
        p, path, classes, log_ratio = model.p_occupied, model.path, model.class_probability, model.log_ratio
        attrs |= {
            "rate_spread": siteclasses.rate_spread_of_emissions(model, evidence),
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
    table = events.find_events(path, valid, p)
    _note_upheaval(table, int((classes[:, siteclasses.BLINKING] > 0.5).sum()), attrs["notes"])
    mean = np.where(valid, p, 0).sum(0) / np.maximum(1, valid.sum(0))
    sites = sites.regrouped(mean)
    result = Occupancy(
        sites.position_px, alignment.shift_px, p.astype(np.float32), path, valid, detected, evidence,
        log_ratio.astype(np.float32), sites.group, classes, np.zeros(0, events.RATE), table, sites,
        alignment, attrs,
    )  # fmt: skip
    return replace(result, rates=_rates(result))


def _note_frames(alignment: Alignment, notes: list[str]) -> None:
    """Tell of frames that were left out or that jump."""
    for code, name in enumerate(drift.FLAGS):
        frames = np.flatnonzero(alignment.flag == code)
        if code and len(frames):
            shown = ", ".join(map(str, frames[:8])) + (" ..." if len(frames) > 8 else "")
            verb = "kept" if code == drift.JUMP else "treated as missing"
            notes.append(f"{len(frames)} frames flagged '{name}' ({verb}): {shown}")


def _note_upheaval(table: NDArray[np.void], blinking: int, notes: list[str]) -> None:
    """Tell of a frame in which most sites change at once: a particle that sinters or turns, not columns that diffuse."""
    if blinking < 8 or not len(table):
        return
    frame, count = np.unique(table["frame"], return_counts=True)
    at = int(np.argmax(count))
    if count[at] > 0.5 * blinking:
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


def frame_reader(movie: Movie) -> Callable[[int], NDArray[np.floating]]:
    """Function t -> (rows, cols); the foci of a series are averaged."""

    def read(t: int) -> NDArray[np.floating]:
        image = np.asarray(movie.frame(t))
        return image.mean(0) if image.ndim == 3 else image

    return read


def _align(found: PeakTable, movie: Movie | None, shape: tuple[int, int], pixel_A: float, control: Control | None) -> Alignment:
    """Drift from the frames, or from maps of the detections where there are none."""
    if movie is not None:
        return drift.measure_drift(frame_reader(movie), movie.n_frames, pixel_A, control=control)
    return drift.measure_drift(lambda t: _dots(found, t, shape), len(found), pixel_A, control=control)


def _dots(found: PeakTable, t: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Frame with a dot at every detection, shared between the four pixels around it."""
    image = np.zeros((shape[0] + 1, shape[1] + 1))
    peaks = found.at(t)
    rows, cols = np.clip(peaks["row"], 0, shape[0] - 1.001), np.clip(peaks["col"], 0, shape[1] - 1.001)
    r, c = rows.astype(int), cols.astype(int)
    for dr in (0, 1):
        for dc in (0, 1):
            weight = np.abs(1 - dr - (rows - r)) * np.abs(1 - dc - (cols - c))
            np.add.at(image, (r + dr, c + dc), weight)
    return image[: shape[0], : shape[1]]


def _sites(
    found: PeakTable, alignment: Alignment, pixel_A: float, shape: tuple[int, int], params: OccupancyParams
) -> tuple[Sites, Alignment]:
    """Sites, drift refined on the steady ones, sites again."""

    def search(where: Alignment, extrapolate: bool) -> Sites:
        return find_sites(found, where, pixel_A, shape, params.min_site_fraction, params.max_distance_A, extrapolate)

    first = search(alignment, False)
    steady = first.position_px[first.seen >= min(0.6, float(np.quantile(first.seen, 0.5)))]
    radius_px = params.max_distance_A / pixel_A
    if len(steady) >= 4 and len(found) > 1:
        turned = drift.refine_with_sites(found, steady, alignment, radius_px, affine=True)
        angle = np.arctan2(turned.linear[:, 1, 0], turned.linear[:, 0, 0])
        reach_px = float(np.hypot(*(steady - steady.mean(0)).T).max())
        # a turn is followed only where it moves the outermost sites by more than they are measured to
        turns = float(np.abs(angle[turned.usable]).max(initial=0)) * reach_px * pixel_A > 0.35
        alignment = turned if turns else drift.refine_with_sites(found, steady, alignment, radius_px)
    return search(alignment, params.extrapolate), alignment


def _rates(result: Occupancy) -> NDArray[np.void]:
    """Rate table: all sites, then each group that has any."""
    blinking = result.class_probability[:, siteclasses.BLINKING]
    pooled = (result.attrs.get("pooled_p_off", 0.1), result.attrs.get("pooled_p_on", 0.1))
    spread = result.attrs.get("rate_spread", (0.0, 0.0))
    rows = []
    for code, name in [(None, "all"), *enumerate(GROUPS)]:
        members = np.ones(result.n_sites, bool) if code is None else result.groups == code
        if not members.any():
            continue
        rows.append(
            events.rate_row(
                str(name), members, log_ratio=result.log_ratio.astype(np.float64), blinking=blinking,
                p_occupied=result.p_occupied.astype(np.float64), detected=result.detected, valid=result.valid, pooled=pooled,
                spread=(float(spread[0]), float(spread[1])),
                events=result.events, frame_interval_s=result.attrs.get("frame_interval_s"),
                dose_e_per_A2=result.attrs.get("dose_e_per_A2"),
            )
        )  # fmt: skip
    return np.concatenate(rows) if rows else np.zeros(0, events.RATE)
