"""Which sites blink, and what evidence looks like when a column is there: one EM over both, without truth.

Sites that are always occupied (bulk) or always empty (vacuum next to the particle) have evidence of their own kind, and pooling
them with blinking ones shifts the emissions: rates come out wrong. So every site is one of three classes, and only blinking
ones, weighted by how sure that is, shape the pooled emissions and rates.

Emissions are Student-t: a network's logit now and then fails grossly, and a Gaussian believes it. How heavy the tails are is
chosen by the likelihood: tails that are too heavy take short stays for outliers, and rates come out low. A site's own offset
(film below it, thickness) is shrunken towards zero by what the offsets of all sites scatter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from napari_emdl.atoms.fit import hmm
from napari_emdl.atoms.fit.classchecks import doubt_of, lasts, not_empty_where_seen, static, without_imagined
from napari_emdl.atoms.fit.emissions import BLINKING, EMPTY, OCCUPIED, Emissions, EvidenceData
from napari_emdl.base.errors import EmdlError
from napari_emdl.jobs.control import Control

#: degrees of freedom tried, from heavy tails to nearly Gaussian, and the largest part of a movie used to choose
DOFS = (4.0, 8.0, 30.0)
TRIAL_FRAMES, TRIAL_SITES = 400, 150
#: evidence with a smaller separation must show changes that last from frame to frame, so many standard errors surely
WEAK, SURE_TO_LAST = 3.0, 3.0
#: a finder's evidence must show some memory up to this separation: noise with a tail that is split into two states has none (3
#: to 5.3 apart in simulations), and columns that clearly are not there for a frame or three have little
CLEAR, LIKELY_TO_LAST = 6.0, 1.5


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
    typical_share: float = 0.0
    iterations: int = 0

    @property
    def numbers(self) -> NDArray[np.float64]:
        """What must settle."""
        return np.r_[self.p_off, self.p_on, self.emissions.mean, self.emissions.scale]


def fit_site_classes(
    evidence: NDArray[np.floating],
    seen: NDArray[np.bool_] | None = None,
    dof: float | None = None,
    max_iterations: int = 60,
    tolerance: float = 2e-4,
    control: Control | None = None,
    start: NDArray[np.bool_] | None = None,
    shown: NDArray[np.bool_] | None = None,
    must_last: bool = True,
) -> SiteModel:
    """Fit site classes, pooled emissions and pooled rates by EM.

    Parameters
    ----------
    evidence
        (T, n) evidence (logit) at each site in each frame; NaN is missing.
    seen
        (T, n) bool, plain detections: what sight says for and against the classes. ``evidence > 0`` when None.
    dof
        Degrees of freedom of the emissions; chosen by the likelihood when None.
    max_iterations, tolerance
        EM ends when rates and means change by less than the tolerance.
    control
        Cancel.
    start
        (T, n) bool, first guess of what is occupied when; the detections when None.
    shown
        (n,) bool, sites at which the mean of all frames shows a column; none when None.
    must_last
        Whether changes of a finder's evidence that have no memory from frame to frame are taken for its failures.

    Raises
    ------
    EmdlError
        When there is no evidence at all.
    """
    y = np.asarray(evidence, np.float64)
    if y.ndim != 2 or not np.isfinite(y).any():
        raise EmdlError("no site is ever in view: nothing to fit; check the pixel size and the drift")
    detected = np.where(np.isfinite(y), y > 0, False) if seen is None else np.asarray(seen, bool)
    data = EvidenceData(y, detected, start, shown)
    if dof is None:
        dof = _choose_dof(data, max_iterations, control)
    return _finish(*_em(data, dof, max_iterations, tolerance, control)[:3], must_last)


def _choose_dof(data: EvidenceData, max_iterations: int, control: Control | None) -> float:
    """Degrees of freedom with the largest likelihood, on a part of a large movie."""
    sites = np.arange(data.y.shape[1])
    if len(sites) > TRIAL_SITES:  # those that change most between occupied and not
        sites = np.sort(np.argsort(np.abs(data.start_share - 0.5), kind="stable")[:TRIAL_SITES])
    data = data.part(TRIAL_FRAMES, sites)
    if not data.known.any():
        return DOFS[0]
    fits = [_em(data, dof, min(20, max_iterations), 1e-3, control)[3] for dof in DOFS]
    return DOFS[int(np.argmax(fits))]


def _em(
    data: EvidenceData, dof: float, max_iterations: int, tolerance: float, control: Control | None
) -> tuple[EvidenceData, _State, NDArray[np.float64], float]:
    """Expectation maximisation; also gives the log likelihood of all sites."""
    state = _initial(data, dof)
    total = -np.inf
    for _ in range(max_iterations):
        if control is not None:
            control.check()
        before = state.numbers
        smoothed = hmm.smooth(_log_ratio(data, state.emissions), state.p_off, state.p_on)
        classes, total = _class_probability(data, state, smoothed)
        state = _maximise(data, state, smoothed, classes)
        state.iterations += 1
        if np.max(np.abs(state.numbers - before) / (np.abs(before) + 0.05)) < tolerance:
            break
    return data, state, classes, total


def _log_ratio(data: EvidenceData, e: Emissions) -> NDArray[np.float64]:
    one, none = (data.log_t(e.mean[k] + e.offset[k], float(e.scale[k]), e.dof) for k in (1, 0))
    return one - none


def _initial(data: EvidenceData, dof: float) -> _State:
    """Start from the first guess at the sites that are neither full nor empty, else of all."""
    y, share = data.y, data.start_share
    mixed = (share > 0.15) & (share < 0.85)
    use = mixed if mixed.sum() >= 3 else np.ones(len(share), bool)
    on, off = y[:, use][data.start[:, use]], y[:, use][(~data.start & data.known)[:, use]]
    spread = float(np.nanstd(y)) or 1.0
    mean1 = float(np.median(on)) if len(on) else float(np.nanmax(y))
    mean0 = float(np.median(off)) if len(off) else mean1 - 2 * spread
    if mean1 - mean0 < 0.1 * spread:
        mean0, mean1 = mean0 - 0.5 * spread, mean1 + 0.5 * spread
    step = np.diff(y, axis=0)
    noise = 1.4826 * float(np.nanmedian(np.abs(step))) / np.sqrt(2) if np.isfinite(step).any() else spread / 3
    noise = max(noise, 1e-3 * spread, 1e-9)
    sites = len(share)
    emissions = Emissions(
        np.array([mean0, mean1]), np.array([noise, noise]), np.zeros((2, sites)), np.full(2, 0.5 * noise), dof
    )
    static_mean = np.array([mean0, mean1])
    for kind, members in ((0, share <= 0.15), (1, share >= 0.85)):
        if np.any(members):
            static_mean[kind] = float(np.median(data.level[members]))
    width = np.full(2, max(noise, 0.3 * abs(mean1 - mean0)))
    return _State(emissions, 0.1, 0.1, np.full(3, 1 / 3), static_mean, width, np.full(2, noise))


def _class_probability(data: EvidenceData, state: _State, smoothed: hmm.Smoothed) -> tuple[NDArray[np.float64], float]:
    """Posterior of the classes; their free levels are integrated out by Laplace's method. Also the total log likelihood."""
    e = state.emissions
    log_p = np.zeros((len(data.share), 3))
    log_p[:, BLINKING] = smoothed.log_likelihood + data.log_t(e.mean[0] + e.offset[0], float(e.scale[0]), e.dof).sum(0)
    occupied_frames = np.where(data.known, smoothed.p_occupied, 0).sum(0)
    for kind, frames in ((0, data.count - occupied_frames), (1, occupied_frames)):
        # only what the state's own frames tell of its level: with none of them prior and posterior are the same
        log_p[:, BLINKING] += _laplace(e.offset[kind], float(e.tau[kind]), frames, float(e.scale[kind]), e.dof)
    for kind, name in ((0, EMPTY), (1, OCCUPIED)):
        own = (float(state.static_mean[kind]), float(state.static_spread[kind]), float(state.static_scale[kind]))
        same = (float(e.mean[kind]), float(e.tau[kind]), float(e.scale[kind]))
        # a static site is of its own kind, or looks just like a blinking one: then only the lack of events tells them apart
        log_p[:, name] = np.logaddexp(_static(data, *own, e.dof), _static(data, *same, e.dof)) - np.log(2)
    log_p[:, OCCUPIED] += _seen_enough(data, state)
    log_p += np.log(state.share)
    total = logsumexp(log_p, axis=1)
    classes = np.exp(log_p - total[:, None])
    # that a site looks like an empty blinking one says nothing for blinking where no column was ever seen, and none is now
    never = data.unseen & (smoothed.p_occupied.max(0) < 0.5)
    classes[never, EMPTY] += classes[never, BLINKING]
    classes[never, BLINKING] = 0.0
    return classes, float(total.sum())


def _seen_enough(data: EvidenceData, state: _State) -> NDArray[np.float64]:
    """Log prior against "always occupied" for sites that are hardly ever detected as a column of their own.

    The ringing of a neighbour lifts the evidence of an empty site all the time, but makes no maximum there.
    """
    smallest = 0.4 * state.typical_share
    share = np.where(data.shown, np.maximum(data.share, state.typical_share), data.share)
    return -np.minimum(5.0, np.logaddexp(0.0, (smallest - share) / 0.04))


def _laplace(
    deviation: NDArray[np.float64],
    width: float,
    count: NDArray[np.floating] | NDArray[np.integer],
    scale: float,
    dof: float,
) -> NDArray[np.float64]:
    """Log prior at the best level, times the width of its posterior."""
    information = count * (dof + 1) / (dof + 3) / scale**2 + 1 / width**2
    return np.asarray(-0.5 * (deviation / width) ** 2 - np.log(width) - 0.5 * np.log(information))


def _static(data: EvidenceData, mean: float, spread: float, scale: float, dof: float) -> NDArray[np.float64]:
    """Log likelihood (n,) of a site that never changes, with its level from N(mean, spread) integrated out."""
    level = _level(data, mean, spread, scale, dof)
    return data.log_t(level, scale, dof).sum(0) + _laplace(level - mean, spread, data.count, scale, dof)


def _level(data: EvidenceData, mean: float, spread: float, scale: float, dof: float) -> NDArray[np.float64]:
    """Most probable level (n,) of every site if it were static, shrunken towards `mean`."""
    level = data.level
    for _ in range(2):
        w = data.weight(level, scale, dof) / scale**2
        level = ((w * data.filled).sum(0) + mean / spread**2) / (w.sum(0) + 1 / spread**2)
    return np.asarray(level)


def _maximise(data: EvidenceData, state: _State, smoothed: hmm.Smoothed, classes: NDArray[np.float64]) -> _State:
    """M-step: rates and emissions from the blinking sites, levels of the static ones from theirs."""
    w_site = classes[:, BLINKING]
    pooled = w_site.sum() > 0.5
    rates = _rates(smoothed, w_site) if pooled else (state.p_off, state.p_on)
    emissions = _emissions(data, state.emissions, smoothed.p_occupied, w_site) if pooled else state.emissions
    new = _State(
        emissions, *rates, (classes.sum(0) + 1) / (len(classes) + 3), state.static_mean.copy(), state.static_spread.copy(),
        state.static_scale.copy(), iterations=state.iterations,
    )  # fmt: skip
    for kind, name in ((0, EMPTY), (1, OCCUPIED)):
        w = classes[:, name]
        if w.sum() < 1.5:
            continue
        spread, scale = float(state.static_spread[kind]), float(state.static_scale[kind])
        level = _level(data, float(state.static_mean[kind]), spread, scale, emissions.dof)
        new.static_mean[kind] = float(np.average(level, weights=w))
        variance = float(np.average((level - new.static_mean[kind]) ** 2, weights=w))
        residual = data.weight(level, scale, emissions.dof) * (data.filled - level) ** 2
        new.static_scale[kind] = np.sqrt(max(float(residual.sum(0) @ w) / max(float(data.count @ w), 1.0), 1e-18))
        new.static_spread[kind] = max(np.sqrt(variance), 0.2 * float(new.static_scale[kind]))
    # how often the weakest kind of occupied site, a blinking one, is detected while it is there
    there = smoothed.p_occupied * w_site * data.known
    new.typical_share = float((there * data.seen).sum() / there.sum()) if pooled and there.sum() > 1 else 0.0
    return new


def _rates(smoothed: hmm.Smoothed, weight: NDArray[np.float64]) -> tuple[float, float]:
    """Pooled chances a frame; half an event is added so that a quiet movie has no rate of exactly zero."""
    leaves, stays = weight @ smoothed.leaves, weight @ smoothed.stays_occupied
    arrives, waits = weight @ smoothed.arrives, weight @ smoothed.stays_empty
    p_off, p_on = (leaves + 0.25) / (leaves + stays + 1), (arrives + 0.25) / (arrives + waits + 1)
    return float(np.clip(p_off, 1e-5, 0.9)), float(np.clip(p_on, 1e-5, 0.9))


def _emissions(data: EvidenceData, e: Emissions, p: NDArray[np.float64], w_site: NDArray[np.float64]) -> Emissions:
    """Weighted Student-t update of means and scales, then of the shrunken offsets."""
    mean, scale, offset, tau = e.mean.copy(), e.scale.copy(), e.offset.copy(), e.tau.copy()
    gap = max(abs(float(mean[1] - mean[0])), 1e-9)
    for state, chance in ((0, 1 - p), (1, p)):
        w = data.weight(mean[state] + offset[state], float(scale[state]), e.dof) * chance
        w_sum = w.sum(0)
        total = max(float((data.known * chance).sum(0) @ w_site), 1e-12)
        mean[state] = ((w * data.filled).sum(0) - w_sum * offset[state]) @ w_site / max(float(w_sum @ w_site), 1e-12)
        residual = (w * (data.filled - mean[state] - offset[state]) ** 2).sum(0)
        scale[state] = np.sqrt(max(float(residual @ w_site) / total, 1e-18))
        spread2 = 1 / (w_sum / scale[state] ** 2 + 1 / tau[state] ** 2)
        shift = (w * (data.filled - mean[state])).sum(0) / scale[state] ** 2 * spread2
        middle = np.average(shift, weights=w_site + 1e-9)
        mean[state] += middle
        offset[state] = shift - middle
        second = float(np.average(offset[state] ** 2 + spread2, weights=w_site + 1e-9))
        tau[state] = np.clip(np.sqrt(second), 0.05 * scale[state], 0.5 * gap)
    return Emissions(mean, np.maximum(scale, 0.15 * scale.max()), offset, tau, e.dof)


def _static_note(missed: int) -> str:
    """What to say where no site blinks; `missed` sites change, but as a finder misses columns."""
    if not missed:
        return "no site was seen to come and go"
    sites = "1 site comes and goes" if missed == 1 else f"{missed} sites come and go"
    return (
        f"{sites} without memory from one frame to the next, as columns that a finder misses do: taken as static; "
        "the movie they were found in, or more frames, would tell"
    )


def _finish(data: EvidenceData, state: _State, classes: NDArray[np.float64], must_last: bool) -> SiteModel:
    """Decode every site with the final parameters."""
    e = state.emissions
    classes = without_imagined(data, hmm.smooth(_log_ratio(data, e), state.p_off, state.p_on).p_occupied, classes)
    separation = float(abs(e.mean[1] - e.mean[0]) / e.scale.mean())
    least = SURE_TO_LAST if separation < WEAK else LIKELY_TO_LAST
    doubted = separation < WEAK or (must_last and not data.learned and separation < CLEAR)
    missed = 0
    if doubted and lasts(data.y, classes[:, BLINKING]) < least:
        missed = int((classes[:, BLINKING] > 0.5).sum()) if separation >= WEAK else 0
        classes = static(data, classes)
    classes = not_empty_where_seen(data, classes)
    best = np.argmax(classes, axis=1)
    blinks = bool(np.any(best == BLINKING))
    note, doubt = ("", np.zeros(len(best))) if blinks else (_static_note(missed), doubt_of(data))
    if e.mean[1] < e.mean[0]:
        e = Emissions(e.mean[::-1].copy(), e.scale[::-1].copy(), e.offset[::-1].copy(), e.tau[::-1].copy(), e.dof)
        state.emissions, state.p_off, state.p_on = e, state.p_on, state.p_off
    ratio = _log_ratio(data, e)
    smoothed = hmm.smooth(ratio, state.p_off, state.p_on)
    p = classes[:, BLINKING] * smoothed.p_occupied + classes[:, OCCUPIED]
    if np.any(doubt > 0.5):
        note = "columns are too faint in single frames to tell whether they come and go: chances are given as near one half"
        p, classes = (1 - doubt) * p + doubt * 0.5, (1 - doubt[:, None]) * classes + doubt[:, None] / 3
    path = hmm.path_as_eventful(ratio, state.p_off, state.p_on, smoothed, best == BLINKING)
    path[:, best == OCCUPIED], path[:, best == EMPTY] = True, False
    return SiteModel(classes, p, path, ratio, state.p_off, state.p_on, e, separation, state.iterations, note)
