"""One row a site, as shown in layers and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.fit.result import Occupancy


def site_table(occupancy: Occupancy) -> dict[str, NDArray[Any]]:
    """(n,) columns: site, group, occupancy and transitions in percent of frames, appeared, vanished, frames in view."""
    events = occupancy.events
    pairs = np.maximum(1, occupancy.valid.sum(0) - 1)
    vanished = np.bincount(events["site"][~events["arrives"]], minlength=occupancy.n_sites)
    appeared = np.bincount(events["site"][events["arrives"]], minlength=occupancy.n_sites)
    return {
        "site": np.arange(occupancy.n_sites),
        "group": np.array(occupancy.group_names, dtype=object),
        "occupancy_pct": 100 * occupancy.mean_occupancy(),
        "transitions_pct": 100 * (vanished + appeared) / pairs,
        "vanished": vanished,
        "appeared": appeared,
        "frames": occupancy.valid.sum(0),
    }


def occupied_now_pct(occupancy: Occupancy, frame: int) -> NDArray[np.float64]:
    """(n,) chance in percent that each site is occupied in a frame, NaN out of view."""
    return np.where(occupancy.valid[frame], 100.0 * occupancy.p_occupied[frame], np.nan)


def event_table(occupancy: Occupancy) -> dict[str, NDArray[Any]]:
    """(k,) columns of the events: frame, time where the frame interval is known, site, kind, group, certainty."""
    events = occupancy.events
    names = np.array(occupancy.group_names, dtype=object)
    table: dict[str, NDArray[Any]] = {"frame": events["frame"].astype(np.int64)}
    interval_s = occupancy.attrs.get("frame_interval_s")
    if interval_s:
        table["time_s"] = events["frame"] * float(interval_s)
    table["site"] = events["site"].astype(np.int64)
    table["kind"] = np.where(events["arrives"], "appeared", "vanished")
    table["group"] = names[events["site"]]
    table["certainty"] = events["certainty"].astype(np.float64)
    return table


def site_spacing_px(occupancy: Occupancy) -> float:
    """Distance between neighbouring sites: of the lattice, or a usual one where there is no lattice."""
    lattice = occupancy.sites.lattice
    return lattice.spacing_px if lattice is not None else 2.5 / float(occupancy.attrs["pixel_A"])


def nearest_site(positions_px: NDArray[np.float64], point_px: tuple[float, float], reach_px: float) -> int | None:
    """Site nearest to a point, None when it is farther than `reach_px`."""
    if not len(positions_px):
        return None
    distance = np.hypot(*(positions_px - np.asarray(point_px)).T)
    best = int(np.argmin(distance))
    return best if distance[best] <= reach_px else None
