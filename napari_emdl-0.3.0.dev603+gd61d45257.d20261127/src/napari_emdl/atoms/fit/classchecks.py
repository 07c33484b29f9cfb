"""What plain sight says against the classes that the model finds: no model of the evidence is better than its assumptions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.fit.emissions import BLINKING, EMPTY, OCCUPIED, EvidenceData

#: below this share of frames in which steady columns are detected, detections say nothing against blinking
LEAST_SIGHT = 0.3
#: columns this many standard deviations of one frame above none would, and would not, have been seen to come and go
SURE_SIGMAS, FAINT_SIGMAS = 2.4, 1.8


def without_imagined(data: EvidenceData, p_occupied: NDArray[np.float64], classes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Classes without blinking when its "empty" frames show columns just as often as its "occupied" ones.

    Where nothing ever blinks, the two states have nothing to hold on to and share out the noise of static sites between them.
    """
    steady = data.shown & (classes[:, BLINKING] < 0.5)
    if steady.any() and float(data.share[steady].mean()) < LEAST_SIGHT:
        return classes  # single frames do not even show what is always there
    w = classes[:, BLINKING] * data.known
    full, void = float((w * p_occupied).sum()), float((w * (1 - p_occupied)).sum())
    if min(full, void) <= 0:
        return classes
    if (w * (1 - p_occupied) * data.seen).sum() / void <= 0.7 * (w * p_occupied * data.seen).sum() / full:
        return classes
    return static(data, classes)


def static(data: EvidenceData, classes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Classes without blinking, by what is shown."""
    out = classes.copy()
    seen = data.shown
    out[seen, OCCUPIED] += out[seen, BLINKING]
    out[~seen, EMPTY] += out[~seen, BLINKING]
    out[:, BLINKING] = 0.0
    return out


def lasts(y: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """How surely the changes of the evidence last from one frame to the next, in standard errors, pooled over sites.

    Noise of two frames has nothing in common. Parameters: evidence (T, n), NaN where missing, and weights (n,).
    """
    known = np.isfinite(y)
    change = y - np.where(known, y, 0).sum(0) / np.maximum(1, known.sum(0))
    both = np.isfinite(change[1:]) & np.isfinite(change[:-1])
    product = np.where(both, change[1:] * change[:-1], 0.0)
    total, square = float(product.sum(0) @ weight), float((product**2).sum(0) @ weight**2)
    return total / np.sqrt(square) if square > 0 else 0.0


def tells_apart(data: EvidenceData) -> float:
    """Distance in standard deviations of one frame between sites that show a column all the time and those that show none.

    Infinite where there is none of either kind to compare.
    """
    spread = float(np.nanmedian(np.nanstd(data.y[:, data.count > 1], axis=0))) if (data.count > 1).any() else np.nan
    empty = ~data.shown & (data.share < 0.15)
    if not (np.isfinite(spread) and spread > 0 and data.shown.sum() >= 4 and empty.sum() >= 4):
        return float("inf")
    return float(np.median(data.level[data.shown]) - np.median(data.level[empty])) / spread


def doubt_of(data: EvidenceData) -> NDArray[np.float64]:
    """(n,) how much is unknown (0 to 1) where nothing was seen to blink: all where a column hardly stands out of one frame's
    noise, nothing at sites that are detected nearly always."""
    faint = float(np.clip((SURE_SIGMAS - tells_apart(data)) / (SURE_SIGMAS - FAINT_SIGMAS), 0, 1))
    return np.asarray(faint * np.clip((0.9 - data.share) / 0.3, 0, 1))


def not_empty_where_seen(data: EvidenceData, classes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Classes in which a site that shows a column in most frames, or in their mean, is not "always empty", whatever its level.

    Thick columns look unlike the thin ones at the surface that the evidence is tuned to, and may stand at the level of none.
    """
    out = classes.copy()
    out[data.shown, OCCUPIED] += out[data.shown, EMPTY]
    out[data.shown, EMPTY] = 0.0
    return out
