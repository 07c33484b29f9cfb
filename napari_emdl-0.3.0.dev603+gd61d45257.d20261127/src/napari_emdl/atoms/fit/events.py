"""Events and rates with intervals, dwell times with censoring.

Rates are those of the hidden chain, not of the thresholded detections: a detector that is right in 98 % of the frames shows
several times more events than there are. The raw figures are given beside them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaincinv, logit

from napari_emdl.atoms.fit import hmm

EVENT = np.dtype([("site", "i4"), ("frame", "i4"), ("arrives", "?"), ("gap", "i4"), ("certainty", "f4")])
RATE = np.dtype(
    [
        ("group", "U16"), ("n_sites", "i4"), ("n_blinking", "i4"), ("frames", "i4"), ("site_frames", "i8"), ("occupancy", "f8"),
        ("p_off", "f8"), ("p_off_low", "f8"), ("p_off_high", "f8"), ("p_on", "f8"), ("p_on_low", "f8"), ("p_on_high", "f8"),
        ("raw_p_off", "f8"), ("raw_p_on", "f8"), ("events_off", "f8"), ("events_on", "f8"),
        ("off_per_site_s", "f8"), ("off_per_site_s_low", "f8"), ("off_per_site_s_high", "f8"),
        ("on_per_site_s", "f8"), ("on_per_site_s_low", "f8"), ("on_per_site_s_high", "f8"), ("dose_e_per_A2", "f8"),
        ("log_p_off", "f8"), ("log_p_off_sd", "f8"), ("log_p_on", "f8"), ("log_p_on_sd", "f8"),
    ]
)  # fmt: skip
#: intervals hold the truth with this chance
LEVEL = 0.90


@dataclass(frozen=True)
class RatePosterior:
    """Rates of a set of sites that share them.

    Attributes
    ----------
    p_off, p_on
        Posterior medians.
    p_off_interval, p_on_interval
        (low, high) at LEVEL.
    log_p_off, log_p_on
        (mean, standard deviation) of the logarithms, for ratios of two movies.
    """

    p_off: float
    p_on: float
    p_off_interval: tuple[float, float]
    p_on_interval: tuple[float, float]
    log_p_off: tuple[float, float]
    log_p_on: tuple[float, float]


def find_events(path: NDArray[np.bool_], valid: NDArray[np.bool_], p_occupied: NDArray[np.float64]) -> NDArray[np.void]:
    """Changes of state between successive frames in which a site is seen.

    Parameters
    ----------
    path
        (T, n) bool, decoded occupancy.
    valid
        (T, n) bool, in view.
    p_occupied
        (T, n) posterior; tells how certain an event is.

    Returns
    -------
    structured array
        EVENT: site, frame (the first in the new state), arrives, gap (frames without view in between) and certainty
        (posterior of the old state before times that of the new state after).
    """
    events = []
    for site in np.flatnonzero(np.any(path[1:] != path[:-1], axis=0)):
        frames = np.flatnonzero(valid[:, site])
        state = path[frames, site]
        change = np.flatnonzero(state[1:] != state[:-1])
        before, after = frames[change], frames[change + 1]
        p0, p1 = p_occupied[before, site], p_occupied[after, site]
        arrives = state[change + 1]
        rows = np.zeros(len(change), EVENT)
        rows["site"], rows["frame"], rows["arrives"], rows["gap"] = site, after, arrives, after - before - 1
        rows["certainty"] = np.where(arrives, (1 - p0) * p1, p0 * (1 - p1))
        events.append(rows)
    if not events:
        return np.zeros(0, EVENT)
    every = np.concatenate(events)
    return every[np.lexsort((every["site"], every["frame"]))]


def raw_rates(occupied: NDArray[np.bool_], valid: NDArray[np.bool_]) -> tuple[float, float]:
    """Shares of occupied (empty) frames followed by an empty (occupied) one; NaN when there are none."""
    both = valid[1:] & valid[:-1]
    rates = []
    for state in (True, False):
        at_risk = both & (occupied[:-1] == state)
        total = int(at_risk.sum())
        rates.append(float((at_risk & (occupied[1:] != state)).sum() / total) if total else float("nan"))
    return rates[0], rates[1]


def rate_posterior(
    log_ratio: NDArray[np.float64],
    weight: NDArray[np.float64] | None = None,
    start: tuple[float, float] = (0.1, 0.1),
    spread: tuple[float, float] = (0.0, 0.0),
) -> RatePosterior:
    """Posterior of the rates of sites that share them, by quadrature around its maximum.

    Parameters
    ----------
    log_ratio
        (T, n) log likelihood ratios, 0 where missing.
    weight
        (n,) chance that a site blinks at all.
    start
        Rates to start from.
    spread
        Standard deviations of the logits of the two rates from what is not known of the evidence, added in quadrature.
    """
    w = np.ones(log_ratio.shape[1]) if weight is None else weight
    use = w > 0.02
    ratio, w = log_ratio[:, use], w[use]
    best = _climb(ratio, w, start)
    centre = logit(np.array(best))
    width = _widths(ratio, w, centre)
    axis = np.linspace(-4, 4, 13)
    off, on = centre[0] + axis * width[0], centre[1] + axis * width[1]
    surface = _log_posterior(ratio, w, off[:, None], on[None, :])
    p = np.exp(surface - surface.max())
    p /= p.sum()
    logs = []
    off, on = (_widened(nodes, mass, more) for nodes, mass, more in ((off, p.sum(1), spread[0]), (on, p.sum(0), spread[1])))
    for nodes, marginal in ((off, p.sum(1)), (on, p.sum(0))):
        value = np.log(expit(nodes))
        mean = float(marginal @ value)
        logs.append((mean, float(np.sqrt(max(marginal @ (value - mean) ** 2, 1e-12)))))
    off_low, off_mid, off_high = _quantiles(off, p.sum(1))
    on_low, on_mid, on_high = _quantiles(on, p.sum(0))
    return RatePosterior(off_mid, on_mid, (off_low, off_high), (on_low, on_high), logs[0], logs[1])


def _climb(ratio: NDArray[np.float64], w: NDArray[np.float64], start: tuple[float, float]) -> tuple[float, float]:
    """Posterior mode by EM."""
    p_off, p_on = start
    for _ in range(30):
        s = hmm.smooth(ratio, p_off, p_on)
        # Beta(1/2, 1/2) in logit coordinates has its mode where half a step is added to either side
        new = (
            float((w @ s.leaves + 0.5) / (w @ (s.leaves + s.stays_occupied) + 1)),
            float((w @ s.arrives + 0.5) / (w @ (s.arrives + s.stays_empty) + 1)),
        )
        done = max(abs(new[0] / p_off - 1), abs(new[1] / p_on - 1)) < 1e-3
        p_off, p_on = new
        if done:
            break
    return p_off, p_on


def _log_posterior(
    ratio: NDArray[np.float64], w: NDArray[np.float64], off: NDArray[np.float64], on: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log posterior on a grid of logits, flat but for a Beta(1/2, 1/2) on each rate."""
    p_off, p_on = expit(off)[..., None], expit(on)[..., None]
    extra = np.broadcast(off, on).ndim
    value = hmm.log_likelihood(ratio.reshape(ratio.shape[0], *(1,) * extra, ratio.shape[1]), p_off, p_on) @ w
    prior = 0.5 * (np.log(p_off * (1 - p_off)) + np.log(p_on * (1 - p_on)))[..., 0]
    return np.asarray(value + prior)


def _widths(ratio: NDArray[np.float64], w: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of either logit from the curvature at the mode."""
    h = 0.15
    steps = np.array([-h, 0.0, h])
    value = _log_posterior(ratio, w, (centre[0] + steps)[:, None], (centre[1] + steps)[None, :])
    hessian = np.array(
        [
            [value[2, 1] - 2 * value[1, 1] + value[0, 1], (value[2, 2] - value[2, 0] - value[0, 2] + value[0, 0]) / 4],
            [0.0, value[1, 2] - 2 * value[1, 1] + value[1, 0]],
        ]
    ) / h**2  # fmt: skip
    hessian[1, 0] = hessian[0, 1]
    information = -hessian
    if np.linalg.det(information) <= 0 or information[0, 0] <= 0:
        return np.array([1.0, 1.0])
    return np.clip(np.sqrt(np.diag(np.linalg.inv(information))), 0.01, 1.5)


def _widened(nodes: NDArray[np.float64], mass: NDArray[np.float64], spread: float) -> NDArray[np.float64]:
    """Grid of a marginal stretched about its mean, so that its variance grows by that of `spread`."""
    mean = float(mass @ nodes)
    variance = max(float(mass @ (nodes - mean) ** 2), 1e-12)
    return mean + (nodes - mean) * np.sqrt(1 + spread**2 / variance)


def _quantiles(nodes: NDArray[np.float64], mass: NDArray[np.float64]) -> tuple[float, float, float]:
    """Low, middle and high quantile of a marginal given on a grid of logits, as rates."""
    fine = np.linspace(nodes[0], nodes[-1], 801)
    log_mass = np.interp(fine, nodes, np.log(np.maximum(mass, 1e-300)))
    density = np.exp(log_mass - log_mass.max())
    running = np.cumsum(density)
    running /= running[-1]
    low, middle, high = (float(expit(np.interp(q, running, fine))) for q in ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2))
    return low, middle, high


def rate_row(
    name: str,
    members: NDArray[np.bool_],
    *,
    log_ratio: NDArray[np.float64],
    blinking: NDArray[np.float64],
    p_occupied: NDArray[np.float64],
    detected: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    pooled: tuple[float, float],
    spread: tuple[float, float] = (0.0, 0.0),
    events: NDArray[np.void],
    frame_interval_s: float | None,
    dose_e_per_A2: float | None,
) -> NDArray[np.void]:
    """One row (RATE) of the rate table: the sites in `members`.

    Parameters
    ----------
    name
        Group.
    members
        (n,) bool.
    log_ratio, blinking, pooled, spread
        (T, n) log likelihood ratios, (n,) chance that a site blinks, rates to start from, and what :func:`rate_posterior` takes
        as spread.
    p_occupied, detected, valid
        (T, n) posterior, plain detections and view.
    events
        EVENT array of all sites.
    frame_interval_s, dose_e_per_A2
        Given beside the rates; NaN when unknown.
    """
    row = np.zeros(1, RATE)
    for field in RATE.names or ():
        if RATE[field].kind == "f":
            row[field] = np.nan
    seen = valid[:, members]
    row["group"], row["n_sites"], row["frames"] = name, int(members.sum()), len(valid)
    row["site_frames"], row["n_blinking"] = int(seen.sum()), int((blinking[members] > 0.5).sum())
    row["dose_e_per_A2"] = np.nan if dose_e_per_A2 is None else dose_e_per_A2
    row["occupancy"] = float(p_occupied[:, members][seen].mean()) if seen.any() else np.nan
    active = members & (blinking > 0.5)
    row["raw_p_off"], row["raw_p_on"] = raw_rates(detected[:, active], valid[:, active])
    chosen = events[members[events["site"]]] if len(events) else events
    for side, arrives in (("off", False), ("on", True)):
        count = int((chosen["arrives"] == arrives).sum()) if len(chosen) else 0
        row[f"events_{side}"] = count
        if frame_interval_s:
            exposure = float(seen.sum()) * frame_interval_s
            low, high = poisson_interval(count, exposure)
            row[f"{side}_per_site_s"] = count / exposure if exposure else np.nan
            row[f"{side}_per_site_s_low"], row[f"{side}_per_site_s_high"] = low, high
    if not active.any() or len(valid) < 3:
        return row
    posterior = rate_posterior(np.where(valid, log_ratio, 0.0)[:, members], blinking[members], pooled, spread)
    row["p_off"], (row["p_off_low"], row["p_off_high"]) = posterior.p_off, posterior.p_off_interval
    row["p_on"], (row["p_on_low"], row["p_on_high"]) = posterior.p_on, posterior.p_on_interval
    row["log_p_off"], row["log_p_off_sd"] = posterior.log_p_off
    row["log_p_on"], row["log_p_on_sd"] = posterior.log_p_on
    return row


def poisson_interval(count: float, exposure: float, level: float = LEVEL) -> tuple[float, float]:
    """Exact (Garwood) interval of a rate from `count` events in `exposure`."""
    if not exposure > 0:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low = gammaincinv(count, tail) if count > 0 else 0.0
    return float(low / exposure), float(gammaincinv(count + 1, 1 - tail) / exposure)


@dataclass(frozen=True)
class Dwell:
    """Kaplan-Meier curve of how long a state lasts.

    Attributes
    ----------
    frames
        (k,) durations, increasing.
    survival, low, high
        (k,) chance to last longer, with Greenwood's interval (log-log) at LEVEL.
    n_ended, n_censored
        Stays that ended in view, and those that ran into the start, the end or out of view.
    """

    frames: NDArray[np.int64]
    survival: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n_ended: int
    n_censored: int


def dwell_times(path: NDArray[np.bool_], valid: NDArray[np.bool_], state: bool) -> Dwell:
    """How long sites stay occupied (or empty).

    Stays cut by the end or by leaving the view are censored on the right. Stays already under way when a site is first seen
    count from there, which is right for a chain without memory and does not favour short stays.

    Parameters
    ----------
    path, valid
        (T, n) decoded occupancy and view.
    state
        True for occupied stays.
    """
    length, ended = [], []
    for site in range(path.shape[1]):
        for run in _runs(valid[:, site]):
            states = path[run, site]
            edges = np.r_[0, np.flatnonzero(states[1:] != states[:-1]) + 1, len(states)]
            for begin, end in itertools.pairwise(edges):
                if states[begin] == state:
                    length.append(end - begin)
                    ended.append(end < len(states))
    return kaplan_meier(np.array(length, np.int64), np.array(ended, bool))


def _runs(mask: NDArray[np.bool_]) -> list[slice]:
    """Stretches of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, mask, False].astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def kaplan_meier(length: NDArray[np.int64], ended: NDArray[np.bool_]) -> Dwell:
    """Survival curve of durations, some of them censored. Kaplan & Meier, J. Am. Stat. Assoc. 53, 457 (1958)."""
    if not len(length):
        return Dwell(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0), 0, 0)
    times = np.unique(length)
    at_risk = np.array([(length >= t).sum() for t in times], np.float64)
    deaths = np.array([(ended & (length == t)).sum() for t in times], np.float64)
    survival = np.asarray(np.cumprod(1 - deaths / at_risk), np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(deaths / (at_risk * np.maximum(at_risk - deaths, 1e-12)))
        spread = 1.645 * np.sqrt(variance) / np.abs(np.log(survival))
        low, high = survival ** np.exp(spread), survival ** np.exp(-spread)
    sure = (survival <= 0) | (survival >= 1)
    return Dwell(
        times, survival, np.where(sure, survival, low), np.where(sure, survival, high), int(ended.sum()), int((~ended).sum())
    )
