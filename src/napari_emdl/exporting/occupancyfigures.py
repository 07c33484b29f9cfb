"""Figures of an occupancy: the map over the mean image, sites in time, rates by group and dwell times."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.showing import PALETTE
from napari_emdl.exporting.figures import add_scale_bar, scale_bar_length
from napari_emdl.exporting.tables import known_pixel_A

_MASKED = "0.75"
_OCCUPIED, _EMPTY = PALETTE[1], PALETTE[0]
_SITE_SHARE = 0.7  # diameter of a site in units of the distance between sites
_MAP_WIDTH_PT = 300.0  # of the image in a map, about


def draw_sites(figure: Any, occupancy: Any, mean: NDArray[Any] | None = None) -> None:
    """Sites coloured by their mean occupancy, over the drift-corrected mean image (rows, cols) where it is given."""
    axes = figure.subplots()
    place, pixel_A = occupancy.sites_px, known_pixel_A(occupancy.attrs)
    look: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": 1, "c": occupancy.mean_occupancy()}
    if mean is None:
        drawn = axes.scatter(place[:, 1], place[:, 0], s=14, **look)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.set(xlabel="col (px)", ylabel="row (px)")
        if pixel_A and len(place):
            _add_bar_below(axes, place, pixel_A)
    else:
        low, high = np.nanpercentile(mean, (0.5, 99.7))
        axes.set_facecolor(_MASKED)
        axes.imshow(np.ma.masked_invalid(mean), cmap="gray", vmin=low, vmax=max(high, low + 1e-9))
        side_pt = np.clip(_SITE_SHARE * _spacing_px(place) * _MAP_WIDTH_PT / mean.shape[1], 2.0, 16.0)
        edge = {"edgecolors": "white", "linewidths": 0.04 * side_pt, "alpha": 0.85}
        drawn = axes.scatter(place[:, 1], place[:, 0], s=side_pt**2, **look, **edge)
        axes.set(xlim=(-0.5, mean.shape[1] - 0.5), ylim=(mean.shape[0] - 0.5, -0.5), xticks=[], yticks=[])
        if pixel_A:
            add_scale_bar(axes, mean.shape, pixel_A / 10, "nm")
    axes.set_title("mean occupancy of the sites" if mean is None else "mean occupancy, over the drift-corrected mean image")
    figure.colorbar(drawn, ax=axes, label="occupied share of the frames in view", shrink=0.85)


def _spacing_px(place: NDArray[Any]) -> float:
    from scipy.spatial import cKDTree

    return float(np.median(cKDTree(place).query(place, k=2)[0][:, 1])) if len(place) > 1 else 10.0


def _add_bar_below(axes: Any, place: NDArray[Any], pixel_A: float) -> None:
    length_nm = scale_bar_length(max(np.ptp(place[:, 1]), 1.0) * pixel_A / 10)
    bottom, left = place[:, 0].max() + 0.06 * max(1.0, np.ptp(place[:, 0])), place[:, 1].min()
    axes.plot([left, left + 10 * length_nm / pixel_A], [bottom, bottom], color="black", linewidth=3)
    axes.annotate(f"{length_nm:g} nm", (left, bottom), xytext=(0, 4), textcoords="offset points", fontsize=8)


def draw_raster(figure: Any, occupancy: Any) -> None:
    """Sites over frames: chance of being occupied; grey where a site is not in view."""
    axes = figure.subplots()
    order = np.argsort(-np.nan_to_num(occupancy.mean_occupancy(), nan=-1.0), kind="stable")
    values = np.where(occupancy.valid, occupancy.p_occupied, np.nan)[:, order].T
    axes.set_facecolor(_MASKED)
    drawn = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    times_s = occupancy.frame_times_s()
    axes.set(title="occupancy in time", ylabel="site (most occupied first)", xlabel="frame")
    if occupancy.attrs.get("frame_steps") is not None:
        axes.set_xlabel("frame (gaps in time are not drawn)")
    elif times_s is not None:
        interval_s: Any = occupancy.attrs["frame_interval_s"]
        axes.secondary_xaxis("top", functions=(lambda f: f * interval_s, lambda s: s / interval_s)).set_xlabel("time (s)")
    figure.colorbar(drawn, ax=axes, label="chance of being occupied")


def draw_rates(figure: Any, occupancy: Any) -> None:
    """Chances to vanish and to appear from one frame to the next, by group, with their 90 % intervals."""
    axes, rates = figure.subplots(), occupancy.rates
    names, places = [str(name) for name in rates["group"]], np.arange(len(rates), dtype=float)
    for shift, title, field, colour in ((-0.08, "vanish", "p_off", _OCCUPIED), (0.08, "appear", "p_on", _EMPTY)):
        value, low, high = (np.asarray(rates[f"{field}{end}"], float) for end in ("", "_low", "_high"))
        known = np.isfinite(value)
        reach = np.nan_to_num(np.maximum([value - low, high - value], 0))[:, known]
        axes.errorbar(places[known] + shift, value[known], reach, fmt="o", color=colour, capsize=3, label=title)
    labels = [f"{name}\n{n} of {of} blink" for name, n, of in zip(names, rates["n_blinking"], rates["n_sites"], strict=True)]
    axes.set_xticks(places, labels, fontsize=8)
    axes.set(xlim=(-0.5, max(len(rates) - 0.5, 0.5)), ylabel="chance in the next frame", title="rates of blinking sites")
    axes.set_ylim(bottom=0)
    axes.legend(title="with 90 % intervals", fontsize=8, title_fontsize=8)


def draw_dwell(figure: Any, occupancy: Any) -> None:
    """Kaplan-Meier curves of occupied and empty stays of the blinking sites, with 90 % bands."""
    axes, interval_s = figure.subplots(), occupancy.attrs.get("frame_interval_s")
    step = float(interval_s) if interval_s else 1.0
    for name, state, colour in (("occupied", True, _OCCUPIED), ("empty", False, _EMPTY)):
        dwell = occupancy.dwell_times(state)
        times = np.r_[0.0, np.asarray(dwell.frames, float) * step]
        survival, low, high = (np.r_[1.0, values] for values in (dwell.survival, dwell.low, dwell.high))
        axes.step(times, survival, where="post", color=colour, label=f"{name}: {dwell.n_ended} ended, {dwell.n_censored} cut")
        axes.fill_between(times, low, high, step="post", color=colour, alpha=0.25, linewidth=0)
    axes.set(xlabel=f"dwell time ({'s' if interval_s else 'frames'})", ylabel="share that lasts longer", title="dwell times")
    axes.set(ylim=(0, 1.02))
    axes.set_xlim(left=0)
    axes.legend(fontsize=8)
