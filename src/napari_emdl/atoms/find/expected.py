"""The threshold that probabilities themselves ask for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: below this sum of probabilities there is too little to choose from
LEAST_COLUMNS = 8.0


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


def chosen_threshold(scores: NDArray[np.floating], default: float, limits: tuple[float, float]) -> tuple[float, float]:
    """Threshold for frames with these scores, kept within `limits`, and the F1 that is to be expected.

    With too few columns to choose from, the default holds.
    """
    p = np.asarray(scores, np.float64)
    if p.sum() < LEAST_COLUMNS:
        return default, expected_f1(p)[1]
    threshold, f1 = expected_f1(p)
    return float(np.clip(threshold, *limits)), f1
