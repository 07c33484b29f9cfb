"""The result of an occupancy analysis: sites, frames, states, events and rates, and its file format."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.fit import drift, events
from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.atoms.fit.events import Dwell
from napari_emdl.atoms.fit.siteclasses import BLINKING
from napari_emdl.atoms.fit.sites import GROUPS, Lattice, Sites
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.showing import ShownResult
from napari_emdl.base.timing import spread_frames, whole_steps


@dataclass(frozen=True)
class Occupancy(ShownResult):
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
        Small facts: pixel_A, frame_interval_s, frame_steps (time of each frame in intervals, where there are gaps),
        dose_e_per_A2, method, separation, pooled rates, notes.
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

    def __repr__(self) -> str:
        return f"Occupancy({self.n_frames} frames, {self.n_sites} sites, {len(self.events)} events)"

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
        return self.alignment.one_frame(frame).to_frame(self.sites_px)[0]

    def dwell_times(self, state: bool, group: int | None = None) -> Dwell:
        """Kaplan-Meier curve of occupied (True) or empty (False) stays of the blinking sites, of one group or of all."""
        use = self.class_probability[:, BLINKING] > 0.5
        if group is not None:
            use &= self.groups == group
        places = whole_steps(self.attrs.get("frame_steps"), self.n_frames)
        occupied, valid = (spread_frames(values[:, use], places, False) for values in (self.occupied, self.valid))
        return events.dwell_times(occupied, valid, state)

    def frame_times_s(self) -> NDArray[np.float64] | None:
        """(T,) time of each frame after the first, gaps included; None where the frame interval is not known."""
        interval_s, steps = self.attrs.get("frame_interval_s"), self.attrs.get("frame_steps")
        if not interval_s:
            return None
        even = steps is None or len(steps) != self.n_frames
        return float(interval_s) * (np.arange(float(self.n_frames)) if even else np.asarray(steps, np.float64))

    def with_groups(self, groups: NDArray[np.uint8]) -> Occupancy:
        """Same occupancy with sites grouped by hand; rates by group are made again."""
        changed = replace(
            self, groups=np.asarray(groups, np.uint8), sites=replace(self.sites, group=np.asarray(groups, np.uint8))
        )
        return replace(changed, rates=pooled_rates(changed))

    def to_hdf5(self, group: h5py.Group) -> None:
        """Write sites, frames, occupancy, rates and events into `group`."""
        site_part: dict[str, NDArray[Any]] = {
            "position_px": self.sites_px, "group": self.groups, "coordination": self.sites.coordination, "seen":
            self.sites.seen, "extrapolated": self.sites.extrapolated, "class_probability": self.class_probability,
            "crystal": self.sites.crystal, "shown": self.sites.shown, "inverted": self.sites.inverted,
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
            every = np.stack([[one.a_px, one.b_px] for one in self.sites.lattices])
            group["sites"].create_dataset("lattices_px", data=every)
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
            lattice = None if "lattice_px" not in s else Lattice(*s["lattice_px"])
            lattices = tuple(Lattice(*one) for one in s.get("lattices_px", ()))
            kinds = {"crystal": np.int8, "shown": bool, "inverted": bool}
            known = {name: s[name].astype(kind) for name, kind in kinds.items() if name in s}
            sites = Sites(
                s["position_px"], s["seen"], s["extrapolated"].astype(bool), s["group"], s["coordination"], lattice,
                lattices=lattices, **known,
            )  # fmt: skip
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


def _table(group: h5py.Group, dtype: np.dtype[Any]) -> NDArray[np.void]:
    names = dtype.names or ()
    out = np.zeros(len(group[names[0]]), dtype)
    for name in names:
        values = group[name]
        out[name] = values.asstr()[()] if dtype[name].kind == "U" else values[()]
    return out


def pooled_rates(result: Occupancy) -> NDArray[np.void]:
    """Rate table: all sites, then each group that has any."""
    blinking = result.class_probability[:, BLINKING]
    pooled = (result.attrs.get("pooled_p_off", 0.1), result.attrs.get("pooled_p_on", 0.1))
    places = whole_steps(result.attrs.get("frame_steps"), result.n_frames)
    log_ratio, p_occupied = (
        spread_frames(values.astype(np.float64), places, 0.0) for values in (result.log_ratio, result.p_occupied)
    )
    detected, valid = (spread_frames(values, places, False) for values in (result.detected, result.valid))
    spread = result.attrs.get("rate_spread", (0.0, 0.0))
    rows = []
    for code, name in [(None, "all"), *enumerate(GROUPS)]:
        members = np.ones(result.n_sites, bool) if code is None else result.groups == code
        if not members.any():
            continue
        rows.append(
            events.rate_row(
                str(name), members, log_ratio=log_ratio, blinking=blinking, p_occupied=p_occupied, detected=detected,
                valid=valid, pooled=pooled,
                spread=(float(spread[0]), float(spread[1])),
                events=result.events, frame_interval_s=result.attrs.get("frame_interval_s"),
                dose_e_per_A2=result.attrs.get("dose_e_per_A2"),
            )
        )  # fmt: skip
    if not rows:
        return np.zeros(0, events.RATE)
    table = np.concatenate(rows)
    table["frames"] = result.n_frames
    return table
