"""Emissions of the occupancy model: Student-t densities of the evidence of empty and occupied sites.

A network's logit now and then fails grossly, and a Gaussian believes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

CLASSES = ("empty", "blinking", "occupied")
EMPTY, BLINKING, OCCUPIED = 0, 1, 2
Values = NDArray[np.float64] | float


@dataclass(frozen=True)
class Emissions:
    """Pooled evidence of a site that is empty (0) or occupied (1).

    Attributes
    ----------
    mean, scale
        (2,) location and scale of the Student-t distributions.
    offset
        (2, n) the site's own shift of either: the film below it shifts both, its thickness that of the occupied state.
    tau
        (2,) standard deviations of the offsets.
    dof
        Degrees of freedom.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    tau: NDArray[np.float64]
    dof: float


class EvidenceData:
    """Evidence with what EM needs of it again and again.

    Parameters
    ----------
    y
        (T, n) evidence, NaN where missing.
    seen
        (T, n) bool, plain detections.
    start
        (T, n) bool, first guess of what is occupied; the detections when None.
    shown
        (n,) bool, sites that show a column in the mean of the frames, if that was looked at.
    """

    def __init__(
        self,
        y: NDArray[np.float64],
        seen: NDArray[np.bool_],
        start: NDArray[np.bool_] | None = None,
        shown: NDArray[np.bool_] | None = None,
    ) -> None:
        self.y = y
        self.known = np.isfinite(y)
        self.filled = np.where(self.known, y, 0.0)
        self.seen = seen & self.known
        self.count = self.known.sum(0)
        self.share = self.seen.sum(0) / np.maximum(1, self.count)
        #: whether the evidence was learned from the movie, which gives a first guess, or is that of the finder
        self.learned = start is not None
        self.start = self.seen if start is None else np.asarray(start, bool) & self.known
        self.start_share = self.start.sum(0) / np.maximum(1, self.count)
        #: sites that show a column in at least half of the frames, or in the mean of all
        self.shown = self.share >= 0.5
        if shown is not None:
            self.shown = self.shown | np.asarray(shown, bool)
        #: sites at which no column was ever seen
        self.unseen = ~(self.shown | self.seen.any(0) | self.start.any(0))
        never = self.count == 0
        self.level = np.asarray(np.nanmedian(np.where(never[None, :], np.nanmedian(y), y), axis=0))

    def part(self, frames: int, sites: NDArray[np.int64]) -> EvidenceData:
        """Evidence of the first frames at some sites."""
        at = (slice(frames), sites)
        start = self.start[at] if self.learned else None
        return EvidenceData(self.y[at], self.seen[at], start, self.shown[sites])

    def log_t(self, mean: Values, scale: Values, dof: float) -> NDArray[np.float64]:
        """(T, n) log density; 0 where missing."""
        z2 = ((self.filled - mean) / scale) ** 2
        norm = gammaln((dof + 1) / 2) - gammaln(dof / 2) - 0.5 * np.log(dof * np.pi) - np.log(scale)
        return np.where(self.known, norm - 0.5 * (dof + 1) * np.log1p(z2 / dof), 0.0)

    def weight(self, mean: Values, scale: Values, dof: float) -> NDArray[np.float64]:
        """(T, n) weights of the scale mixture; 0 where missing."""
        z2 = ((self.filled - mean) / scale) ** 2
        return np.where(self.known, (dof + 1) / (dof + z2), 0.0)
