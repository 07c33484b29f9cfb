"""Rates in both units, per frame and per second, in one place.

`p_off` and `p_on` are chances of a blinking site to leave and to arrive from one frame to the next. A site that changes more
than once between two frames shows one change at most, so the rates of the process itself are those of the continuous chain
with these chances: k_off = p_off / (p_off + p_on) * -ln(1 - p_off - p_on) / dt, and k_on alike. Events a site and second are
what was counted, over all sites, static ones as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: fields of a table of rates, with what they mean
UNITS = {
    "p_off": "chance that an occupied blinking site is empty in the next frame",
    "p_on": "chance that an empty blinking site is occupied in the next frame",
    "k_off_per_s": "rate of leaving of an occupied blinking site, 1/s",
    "k_on_per_s": "rate of arriving at an empty blinking site, 1/s",
    "off_per_site_frame": "columns seen to leave per site and frame, static sites included",
    "on_per_site_frame": "columns seen to arrive per site and frame, static sites included",
    "off_per_site_s": "columns seen to leave per site and second, static sites included",
    "on_per_site_s": "columns seen to arrive per site and second, static sites included",
}


def rates_in_units(rates: NDArray[np.void], frame_interval_s: float | None) -> dict[str, NDArray[Any]]:
    """Columns (rows of the rate table,): group and every entry of :data:`UNITS`; NaN where it is not known.

    Parameters
    ----------
    rates
        ``Occupancy.rates``.
    frame_interval_s
        Time from frame to frame; without it rates per second are NaN.
    """
    out: dict[str, NDArray[Any]] = {"group": rates["group"], "p_off": rates["p_off"], "p_on": rates["p_on"]}
    total = rates["p_off"] + rates["p_on"]
    with np.errstate(invalid="ignore", divide="ignore"):
        # chances that sum to one or more leave nothing of the frame before: the rates are beyond measuring
        speed = np.where(total < 1, -np.log1p(-np.minimum(total, 1 - 1e-12)) / total, np.nan)
        for side in ("off", "on"):
            a_frame = rates[f"p_{side}"] * speed
            out[f"k_{side}_per_s"] = a_frame / frame_interval_s if frame_interval_s else np.full(len(rates), np.nan)
        for side in ("off", "on"):
            out[f"{side}_per_site_frame"] = rates[f"events_{side}"] / np.maximum(1, rates["site_frames"])
        for side in ("off", "on"):
            out[f"{side}_per_site_s"] = rates[f"{side}_per_site_s"]
    return out


def rate_line(rates: NDArray[np.void], frame_interval_s: float | None) -> str:
    """One line with the columns that leave and arrive, over all sites, a frame and a second; "" without any site.

    Parameters
    ----------
    rates, frame_interval_s
        As for :func:`rates_in_units`.
    """
    row = rates[rates["group"] == "all"]
    if not len(row) or not row["n_sites"][0]:
        return ""
    units = {name: float(values[0]) for name, values in rates_in_units(row, frame_interval_s).items() if name != "group"}
    line = f"{units['off_per_site_frame']:.3g} columns leave and {units['on_per_site_frame']:.3g} arrive per site and frame"
    if frame_interval_s:
        return f"{line}, {units['off_per_site_s']:.3g} and {units['on_per_site_s']:.3g} per site and second"
    return f"{line}; rates per second need the frame interval"
