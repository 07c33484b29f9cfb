"""Two-state hidden Markov chains for many sites at once: filter, smoother, Viterbi path and likelihood.

Everything is vectorised over the sites; only time is a loop. A chain is occupied (1) or empty (0); `log_ratio[t, i]` is
log p(evidence | occupied) - log p(evidence | empty), zero where the site was not seen. Rabiner, Proc. IEEE 77, 257 (1989),
written for two states with the chance of being occupied as the only variable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

#: one frame never counts for more than exp(30) to 1
LARGEST_LOG_RATIO = 30.0
SMALLEST = 1e-12


@dataclass(frozen=True)
class Smoothed:
    """Posterior of the chains.

    Attributes
    ----------
    p_occupied
        (T, n) float64.
    log_likelihood
        (n,) log of p(evidence) / p(evidence | always empty).
    leaves, stays_occupied, arrives, stays_empty
        (n,) expected numbers of steps occupied -> empty, occupied -> occupied, empty -> occupied, empty -> empty.
    """

    p_occupied: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    leaves: NDArray[np.float64]
    stays_occupied: NDArray[np.float64]
    arrives: NDArray[np.float64]
    stays_empty: NDArray[np.float64]


def stationary(p_off: ArrayLike, p_on: ArrayLike) -> NDArray[np.float64]:
    """Chance of being occupied in equilibrium."""
    off, on = np.asarray(p_off, np.float64), np.asarray(p_on, np.float64)
    return np.asarray((on + SMALLEST) / (on + off + 2 * SMALLEST))


def _ratio(log_ratio: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.exp(np.clip(np.asarray(log_ratio, np.float64), -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))


def log_likelihood(log_ratio: NDArray[np.floating], p_off: ArrayLike, p_on: ArrayLike) -> NDArray[np.float64]:
    """Log likelihood of the chains.

    Parameters
    ----------
    log_ratio
        (T, ...) log likelihood ratios.
    p_off, p_on
        Chance a frame to leave or to arrive; broadcast against ``(..., )`` of log_ratio, which may itself have axes of length
        1, so that a whole grid of rates is done at once.

    Returns
    -------
    ndarray
        Broadcast shape, log p(evidence) - log p(evidence | always empty).
    """
    ratio = _ratio(log_ratio)
    off, on = np.asarray(p_off, np.float64), np.asarray(p_on, np.float64)
    keep = 1 - off - on
    predicted = np.broadcast_to(stationary(off, on), np.broadcast_shapes(ratio.shape[1:], off.shape, on.shape))
    total = np.zeros(predicted.shape)
    product = np.ones(predicted.shape)
    for t, r in enumerate(ratio):
        up = predicted * r
        norm = up + (1 - predicted)
        product = product * norm
        if t % 8 == 7:  # a few factors between logs: exp(30 * 8) still fits a double
            total += np.log(product)
            product = np.ones(predicted.shape)
        predicted = on + keep * (up / norm)
    return total + np.log(product)


def smooth(log_ratio: NDArray[np.floating], p_off: ArrayLike, p_on: ArrayLike, first: ArrayLike | None = None) -> Smoothed:
    """Forward filter and backward smoother.

    Parameters
    ----------
    log_ratio
        (T, n) log likelihood ratios.
    p_off, p_on
        () or (n,) chances a frame.
    first
        Chance of being occupied before anything is seen; equilibrium when None.
    """
    ratio = _ratio(log_ratio)
    frames, sites = ratio.shape
    off = np.broadcast_to(np.clip(np.asarray(p_off, np.float64), SMALLEST, 1 - SMALLEST), (sites,))
    on = np.broadcast_to(np.clip(np.asarray(p_on, np.float64), SMALLEST, 1 - SMALLEST), (sites,))
    keep = 1 - off - on
    predicted, filtered, norm = np.empty((frames, sites)), np.empty((frames, sites)), np.empty((frames, sites))
    p = np.broadcast_to(stationary(off, on) if first is None else np.asarray(first, np.float64), (sites,))
    for t in range(frames):
        predicted[t] = p
        up = p * ratio[t]
        norm[t] = up + (1 - p)
        filtered[t] = up / norm[t]
        p = on + keep * filtered[t]
    np.clip(predicted, SMALLEST, 1 - SMALLEST, out=predicted)
    smoothed = filtered.copy()
    for t in range(frames - 2, -1, -1):
        ahead = smoothed[t + 1] / predicted[t + 1]
        gone = (1 - smoothed[t + 1]) / (1 - predicted[t + 1])
        smoothed[t] = filtered[t] * ((1 - off) * ahead + off * gone)
    np.clip(smoothed, 0.0, 1.0, out=smoothed)
    ahead = smoothed[1:] / predicted[1:]
    gone = (1 - smoothed[1:]) / (1 - predicted[1:])
    here, away = filtered[:-1], 1 - filtered[:-1]
    return Smoothed(
        smoothed,
        np.log(norm).sum(0),
        leaves=off * (here * gone).sum(0),
        stays_occupied=(1 - off) * (here * ahead).sum(0),
        arrives=on * (away * ahead).sum(0),
        stays_empty=(1 - on) * (away * gone).sum(0),
    )


def viterbi(log_ratio: NDArray[np.floating], p_off: ArrayLike, p_on: ArrayLike) -> NDArray[np.bool_]:
    """Most probable path (T, n) of every chain.

    Parameters
    ----------
    log_ratio
        (T, n) log likelihood ratios.
    p_off, p_on
        () or (n,) chances a frame.
    """
    evidence = np.clip(np.asarray(log_ratio, np.float64), -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    frames, sites = evidence.shape
    off = np.broadcast_to(np.clip(np.asarray(p_off, np.float64), SMALLEST, 1 - SMALLEST), (sites,))
    on = np.broadcast_to(np.clip(np.asarray(p_on, np.float64), SMALLEST, 1 - SMALLEST), (sites,))
    log_stay1, log_off, log_on, log_stay0 = np.log1p(-off), np.log(off), np.log(on), np.log1p(-on)
    start = np.clip(stationary(off, on), SMALLEST, 1 - SMALLEST)
    # only the difference of the two scores matters
    gap = np.log(start) - np.log1p(-start) + evidence[0]
    came_from1 = np.empty((frames, 2, sites), bool)
    for t in range(1, frames):
        to1, to0 = gap + log_stay1 > log_on, gap + log_off > log_stay0
        came_from1[t, 1], came_from1[t, 0] = to1, to0
        gap = np.where(to1, gap + log_stay1, log_on) - np.where(to0, gap + log_off, log_stay0) + evidence[t]
    path = np.empty((frames, sites), bool)
    path[-1] = gap > 0
    for t in range(frames - 1, 0, -1):
        path[t - 1] = np.where(path[t], came_from1[t, 1], came_from1[t, 0])
    return path


def path_as_eventful(
    log_ratio: NDArray[np.float64], p_off: float, p_on: float, smoothed: Smoothed, blinking: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Viterbi path with as many events as the posterior expects.

    The single most probable path smooths short stays away: at low dose it shows a third fewer events than there were. Decoding
    with both rates raised by one factor, chosen so that the number of events of all blinking sites comes out as expected, mends
    that at no cost in frames.

    Parameters
    ----------
    log_ratio, p_off, p_on
        As :func:`viterbi` takes them; one rate for all chains.
    smoothed
        What :func:`smooth` gave.
    blinking
        (n,) bool, sites whose events are counted.
    """
    expected = float((smoothed.leaves + smoothed.arrives)[blinking].sum())

    def path_for(log_factor: float) -> NDArray[np.bool_]:
        off, on = (float(expit(logit(p) + log_factor)) for p in (p_off, p_on))
        return viterbi(log_ratio, off, on)

    path = path_for(0.0)
    low, high = 0.0, 3.0
    if not blinking.any() or _events(path, blinking) >= expected:
        return path
    for _ in range(7):
        middle = 0.5 * (low + high)
        trial = path_for(middle)
        if _events(trial, blinking) <= expected:
            low, path = middle, trial
        else:
            high = middle
    return path


def _events(path: NDArray[np.bool_], sites: NDArray[np.bool_]) -> int:
    return int((path[1:, sites] != path[:-1, sites]).sum())
