"""Which sites blink, and what evidence looks like when a column is there: one EM over both, without truth.

Sites that are always occupied (bulk) or always empty (vacuum next to the particle) have evidence of their own kind, and pooling
them with blinking ones shifts the emissions: rates come out wrong. So every site is one of three classes, and only blinking
ones, weighted by how sure that is, shape the pooled emissions and rates.

Emissions are Student-t with four degrees of freedom: a network's logit now and then fails grossly, and a Gaussian believes it.
A site's own offset (film below it, thickness) is shrunken towards zero by what the offsets of all sites scatter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from napari_emdl.atoms import hmm
from napari_emdl.errors import EmdlError
from napari_emdl.jobs.control import Control

DOF = 4.0
CLASSES = ("empty", "blinking", "occupied")
EMPTY, BLINKING, OCCUPIED = 0, 1, 2
LOG_T = float(gammaln((DOF + 1) / 2) - gammaln(DOF / 2) - 0.5 * np.log(DOF * np.pi))


@dataclass(frozen=True)
class Emissions:
    """Pooled evidence of a site that is empty (0) or occupied (1).

    Attributes
    ----------
    mean, scale
        (2,) location and scale of the Student-t distributions.
    offset
        (n,) the site's own shift of both.
    tau
        Standard deviation of the offsets.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    tau: float


@dataclass(frozen=True)
class SiteModel:
    """Result of :func:`fit_site_classes`.

    Attributes
    ----------
    class_probability
        (n, 3) empty, blinking, occupied.
    p_occupied
        (T, n), averaged over the classes.
    path
        (T, n) bool, Viterbi path; constant for sites that do not blink.
    log_ratio
        (T, n) log likelihood ratio occupied : empty, 0 where missing.
    p_off, p_on
        Pooled rates a frame of the blinking sites.
    emissions
        Pooled emissions.
    separation
        d' of the evidence: distance of the means in units of their mean scale.
    iterations, note
        How EM ended; the note is for the user, "" when all is well.
    """

    class_probability: NDArray[np.float64]
    p_occupied: NDArray[np.float64]
    path: NDArray[np.bool_]
    log_ratio: NDArray[np.float64]
    p_off: float
    p_on: float
    emissions: Emissions
    separation: float
    iterations: int
    note: str

    @property
    def site_class(self) -> NDArray[np.uint8]:
        """(n,) index into CLASSES."""
        return np.argmax(self.class_probability, axis=1).astype(np.uint8)


@dataclass
class _State:
    """What EM changes."""

    emissions: Emissions
    p_off: float
    p_on: float
    share: NDArray[np.float64]
    static_mean: NDArray[np.float64]
    static_spread: NDArray[np.float64]
    static_scale: NDArray[np.float64]


def log_t(
    values: NDArray[np.float64], mean: NDArray[np.float64] | float, scale: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Log density of Student-t with DOF degrees of freedom; 0 where `values` is NaN."""
    z = (values - mean) / scale
    out = LOG_T - np.log(scale) - 0.5 * (DOF + 1) * np.log1p(z * z / DOF)
    return np.where(np.isfinite(values), out, 0.0)


def _weight(values: NDArray[np.float64], mean: NDArray[np.float64] | float, scale: float) -> NDArray[np.float64]:
    """Weights of the scale mixture; 0 where missing."""
    z = (values - mean) / scale
    return np.where(np.isfinite(values), (DOF + 1) / (DOF + z * z), 0.0)


def fit_site_classes(
    evidence: NDArray[np.floating],
    seen: NDArray[np.bool_] | None = None,
    max_iterations: int = 60,
    tolerance: float = 2e-4,
    control: Control | None = None,
) -> SiteModel:
    """Fit site classes, pooled emissions and pooled rates by EM.

    Parameters
    ----------
    evidence
        (T, n) evidence (logit) at each site in each frame; NaN is missing.
    seen
        (T, n) bool, plain detections; only starts the iteration. ``evidence > 0`` when None.
    max_iterations, tolerance
        EM ends when rates and means change by less than the tolerance.
    control
        Cancel.

    Raises
    ------
    EmdlError
        When there is no evidence at all.
    """
    y = np.asarray(evidence, np.float64)
    if y.ndim != 2 or not np.isfinite(y).any():
        raise EmdlError("no site is ever in view: nothing to fit; check the pixel size and the drift")
    start = np.where(np.isfinite(y), y > 0, False) if seen is None else seen & np.isfinite(y)
    state = _initial(y, start)
    classes, iterations = np.full((y.shape[1], 3), 1 / 3), 0
    while iterations < max_iterations:
        iterations += 1
        if control is not None:
            control.check()
        before = np.r_[state.p_off, state.p_on, state.emissions.mean, state.emissions.scale]
        ratio = _log_ratio(y, state.emissions)
        smoothed = hmm.smooth(ratio, state.p_off, state.p_on)
        classes = _class_probability(y, state, smoothed)
        state = _maximise(y, state, smoothed, classes)
        after = np.r_[state.p_off, state.p_on, state.emissions.mean, state.emissions.scale]
        if np.max(np.abs(after - before) / (np.abs(before) + 0.05)) < tolerance:
            break
    return _finish(y, state, classes, iterations)


def _log_ratio(y: NDArray[np.float64], e: Emissions) -> NDArray[np.float64]:
    centred = y - e.offset
    return log_t(centred, e.mean[1], e.scale[1]) - log_t(centred, e.mean[0], e.scale[0])


def _initial(y: NDArray[np.float64], seen: NDArray[np.bool_]) -> _State:
    """Start from the plain detections of the sites that are neither full nor empty, else of all."""
    known = np.isfinite(y)
    frames = np.maximum(1, known.sum(0))
    share = (seen & known).sum(0) / frames
    mixed = (share > 0.15) & (share < 0.85)
    use = mixed if mixed.sum() >= 3 else np.ones(len(share), bool)
    on, off = y[:, use][(seen & known)[:, use]], y[:, use][(~seen & known)[:, use]]
    spread = float(np.nanstd(y)) or 1.0
    mean1 = float(np.median(on)) if len(on) else float(np.nanmax(y))
    mean0 = float(np.median(off)) if len(off) else mean1 - 2 * spread
    if mean1 - mean0 < 0.1 * spread:
        mean0, mean1 = mean0 - 0.5 * spread, mean1 + 0.5 * spread
    step = np.diff(y, axis=0)
    noise = 1.4826 * float(np.nanmedian(np.abs(step))) / np.sqrt(2) if np.isfinite(step).any() else spread / 3
    noise = max(noise, 1e-3 * spread, 1e-9)
    level = _site_level(y)
    full: NDArray[np.bool_] = np.greater_equal(share, 0.85)
    void: NDArray[np.bool_] = np.less_equal(share, 0.15)
    emissions = Emissions(np.array([mean0, mean1]), np.array([noise, noise]), np.zeros(y.shape[1]), 0.5 * noise)
    static_mean = np.array([
        float(np.median(level[void])) if void.any() else mean0, float(np.median(level[full])) if full.any() else mean1,
    ])  # fmt: skip
    return _State(
        emissions, 0.1, 0.1, np.full(3, 1 / 3), static_mean, np.full(2, max(noise, 0.3 * abs(mean1 - mean0))), np.full(2, noise)
    )


def _site_level(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each site, that of all for sites never seen."""
    never = ~np.isfinite(y).any(0)
    filled = np.where(never[None, :], np.nanmedian(y), y)
    return np.asarray(np.nanmedian(filled, axis=0))


def _class_probability(y: NDArray[np.float64], state: _State, smoothed: hmm.Smoothed) -> NDArray[np.float64]:
    """Posterior of the classes; each has one free level a site, integrated out by Laplace's method."""
    e = state.emissions
    centred = y - e.offset
    blinking = smoothed.log_likelihood + log_t(centred, e.mean[0], e.scale[0]).sum(0)
    count = np.isfinite(y).sum(0)
    mean_scale = float(np.sqrt(np.mean(e.scale**2)))
    blinking += _laplace(e.offset / e.tau, e.tau, count, mean_scale)
    log_p = [np.zeros(0)] * 3
    log_p[BLINKING] = blinking
    for kind, name in ((0, EMPTY), (1, OCCUPIED)):
        level, scale = _static_level(y, state, kind), float(state.static_scale[kind])
        fit = log_t(y, level, scale).sum(0)
        log_p[name] = fit + _laplace(
            (level - state.static_mean[kind]) / state.static_spread[kind], state.static_spread[kind], count, scale
        )
    weighted = np.stack(log_p, -1) + np.log(state.share)
    return np.exp(weighted - logsumexp(weighted, axis=1, keepdims=True))


def _laplace(z: NDArray[np.float64], width: float, count: NDArray[np.int64], scale: float) -> NDArray[np.float64]:
    """Log prior at the best level, times the width of its posterior."""
    information = count * (DOF + 1) / (DOF + 3) / scale**2 + 1 / width**2
    return -0.5 * z * z - np.log(width) - 0.5 * np.log(information)


def _static_level(y: NDArray[np.float64], state: _State, kind: int) -> NDArray[np.float64]:
    """Level of every site if it were static, shrunken towards those of its class."""
    mean, spread, scale = (float(v[kind]) for v in (state.static_mean, state.static_spread, state.static_scale))
    level = _site_level(y)
    for _ in range(3):
        w = _weight(y, level, scale) / scale**2
        level = (np.where(w > 0, w * np.nan_to_num(y), 0).sum(0) + mean / spread**2) / (w.sum(0) + 1 / spread**2)
    return np.asarray(level)


def _maximise(y: NDArray[np.float64], state: _State, smoothed: hmm.Smoothed, classes: NDArray[np.float64]) -> _State:
    """M-step: rates and emissions from the blinking sites, levels of the static ones from theirs."""
    w_site = classes[:, BLINKING]
    pooled = w_site.sum() > 0.5
    rates = _rates(smoothed, w_site) if pooled else (state.p_off, state.p_on)
    emissions = _emissions(y, state.emissions, smoothed.p_occupied, w_site) if pooled else state.emissions
    static_mean, static_spread, static_scale = state.static_mean.copy(), state.static_spread.copy(), state.static_scale.copy()
    for kind, name in ((0, EMPTY), (1, OCCUPIED)):
        w = classes[:, name]
        if w.sum() < 1.5:
            continue
        level = _static_level(y, state, kind)
        static_mean[kind] = float(np.average(level, weights=w))
        variance = float(np.average((level - static_mean[kind]) ** 2, weights=w))
        static_spread[kind] = max(np.sqrt(variance), 0.2 * state.static_scale[kind])
        wt = _weight(y, level, float(static_scale[kind])) * w
        total = (np.isfinite(y) * w).sum()
        static_scale[kind] = np.sqrt(max(np.nansum(wt * (y - level) ** 2) / max(total, 1), 1e-18))
    share = (classes.sum(0) + 1) / (len(classes) + 3)
    return _State(emissions, *rates, share, static_mean, static_spread, static_scale)


def _rates(smoothed: hmm.Smoothed, weight: NDArray[np.float64]) -> tuple[float, float]:
    """Pooled chances a frame; half an event is added so that a quiet movie has no rate of exactly zero."""
    leaves, stays = weight @ smoothed.leaves, weight @ smoothed.stays_occupied
    arrives, waits = weight @ smoothed.arrives, weight @ smoothed.stays_empty
    p_off, p_on = (leaves + 0.25) / (leaves + stays + 1), (arrives + 0.25) / (arrives + waits + 1)
    return float(np.clip(p_off, 1e-5, 0.9)), float(np.clip(p_on, 1e-5, 0.9))


def _emissions(y: NDArray[np.float64], e: Emissions, p: NDArray[np.float64], w_site: NDArray[np.float64]) -> Emissions:
    """Weighted Student-t update of means and scales, then of the shrunken offsets."""
    centred = y - e.offset
    mean, scale = e.mean.copy(), e.scale.copy()
    precision, pull = np.zeros(y.shape[1]), np.zeros(y.shape[1])
    for state, chance in ((0, 1 - p), (1, p)):
        w = _weight(centred, mean[state], float(scale[state])) * chance
        ws = w * w_site
        mean[state] = np.nansum(ws * np.nan_to_num(centred)) / max(ws.sum(), 1e-12)
        residual = np.nan_to_num(centred - mean[state])
        total = (np.isfinite(y) * chance * w_site).sum()
        scale[state] = np.sqrt(max((ws * residual**2).sum() / max(total, 1e-12), 1e-18))
        precision += w.sum(0) / scale[state] ** 2
        pull += (w * np.nan_to_num(y - mean[state])).sum(0) / scale[state] ** 2
    floor = 0.15 * scale.max()
    scale = np.maximum(scale, floor)
    offset = pull / (precision + 1 / e.tau**2)
    shift = np.average(offset, weights=w_site + 1e-9)
    second = np.average((offset - shift) ** 2 + 1 / (precision + 1 / e.tau**2), weights=w_site + 1e-9)
    tau = float(np.clip(np.sqrt(second), 0.05 * scale.mean(), 0.5 * max(abs(mean[1] - mean[0]), 1e-9)))
    return Emissions(mean + shift, scale, offset - shift, tau)


def _finish(y: NDArray[np.float64], state: _State, classes: NDArray[np.float64], iterations: int) -> SiteModel:
    """Decode every site with the final parameters."""
    note = ""
    if classes[:, BLINKING].sum() < 0.5:
        note = "no site was seen to come and go"
    if state.emissions.mean[1] < state.emissions.mean[0]:
        state.emissions = replace(
            state.emissions, mean=state.emissions.mean[::-1].copy(), scale=state.emissions.scale[::-1].copy()
        )
        state.p_off, state.p_on = state.p_on, state.p_off
    ratio = _log_ratio(y, state.emissions)
    smoothed = hmm.smooth(ratio, state.p_off, state.p_on)
    p = classes[:, BLINKING] * smoothed.p_occupied + classes[:, OCCUPIED]
    path = hmm.viterbi(ratio, state.p_off, state.p_on)
    best = np.argmax(classes, axis=1)
    path[:, best == OCCUPIED], path[:, best == EMPTY] = True, False
    separation = float((state.emissions.mean[1] - state.emissions.mean[0]) / state.emissions.scale.mean())
    return SiteModel(classes, p, path, ratio, state.p_off, state.p_on, state.emissions, separation, iterations, note)
