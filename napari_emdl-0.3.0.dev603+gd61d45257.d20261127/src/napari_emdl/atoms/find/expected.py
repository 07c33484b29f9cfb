"""The threshold that probabilities themselves ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def expected_f1(probability: NDArray[np.floating]) -> tuple[float, float]:
    """Threshold with the best expected F1 for candidates that are columns with the given probabilities (n,), and that F1.

    When the k most likely of all candidates are taken, sum(p of these) of them are right and sum(all p) columns are there, so
    F1 = 2 sum(p of these) / (k + sum(all p)). (Zhao et al., 2013, for set-valued F1.)
    """
    p = np.sort(np.asarray(probability, np.float64))[::-1]
    if not len(p):
        return 0.5, 0.0
    f1 = 2 * np.cumsum(p) / (np.arange(1, len(p) + 1) + p.sum())
    best = int(np.argmax(f1))
    after = p[best + 1] if best + 1 < len(p) else 0.0
    return float(0.5 * (p[best] + after)), float(f1[best])


#: candidates below are not a question; wide vacuum has many
LEAST_LIKELY = 0.35


@dataclass(frozen=True)
class ThresholdRule:
    """How a model lets its threshold be chosen (card entry ``threshold``).

    Attributes
    ----------
    limits
        Between these the threshold of the best expected F1 is taken,
    from_f1
        where that F1 is at least this; else there is hardly anything, or nothing that can be told from noise, and
    otherwise
        the first of these holds for single frames, the second for frames with neighbours.
    """

    limits: tuple[float, float]
    from_f1: float = 0.0
    otherwise: tuple[float, float] = (0.5, 0.5)

    def choose(self, scores: NDArray[np.floating], neighbours: bool = False) -> tuple[float, float]:
        """Threshold for frames with these scores, and the F1 that is to be expected at the best one."""
        likely = scores[scores >= LEAST_LIKELY]
        threshold, f1 = expected_f1(likely)
        if f1 < self.from_f1 or not len(likely):
            return self.otherwise[int(neighbours)], f1
        return float(np.clip(threshold, *self.limits)), f1


def always(threshold: float) -> ThresholdRule:
    """The rule of a model with one threshold."""
    return ThresholdRule((threshold, threshold), otherwise=(threshold, threshold))
