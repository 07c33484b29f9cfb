"""What plain sight says against the classes that the model finds: no model of the evidence is better than its assumptions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emdl.atoms.fit.emissions import BLINKING, EMPTY, OCCUPIED, EvidenceData


def without_imagined(data: EvidenceData, p_occupied: NDArray[np.float64], classes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Classes without blinking when its "empty" frames show columns just as often as its "occupied" ones.

    Where nothing ever blinks, the two states have nothing to hold on to and share out the noise of static sites between them.
    """
    w = classes[:, BLINKING] * data.known
    full, void = float((w * p_occupied).sum()), float((w * (1 - p_occupied)).sum())
    if min(full, void) <= 0:
        return classes
    if (w * (1 - p_occupied) * data.seen).sum() / void <= 0.7 * (w * p_occupied * data.seen).sum() / full:
        return classes
    out = classes.copy()
    seen = data.shown
    out[seen, OCCUPIED] += out[seen, BLINKING]
    out[~seen, EMPTY] += out[~seen, BLINKING]
    out[:, BLINKING] = 0.0
    return out


def not_empty_where_seen(data: EvidenceData, classes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Classes in which a site that shows a column in most frames, or in their mean, is not "always empty", whatever its level.

    Thick columns look unlike the thin ones at the surface that the evidence is tuned to, and may stand at the level of none.
    """
    out = classes.copy()
    out[data.shown, OCCUPIED] += out[data.shown, EMPTY]
    out[data.shown, EMPTY] = 0.0
    return out
