"""What is asked of disks where the data had to tell the probe: an edge all around, and a lattice or a partner (Friedel)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.diffraction.find.candidates import Found
from napari_emdl.diffraction.find.friedel import in_pairs
from napari_emdl.diffraction.find.probe import Probe
from napari_emdl.diffraction.find.scale import edge_around, stabilised

#: The score of a disk falls from full to zero with the part of its circumference that has an edge.
_MOST_AROUND, _LEAST_AROUND = 0.65, 0.4
#: Factor where neither a sure probe nor a lattice nor its partner speaks for a disk; it falls with the trust in the probe below
#: a half, unless the pattern has pairs.
_UNSURE_PROBE, _BY_TRUST = 0.55, 0.4


def doubt(
    patterns: NDArray[np.float32],
    found: Found,
    alone: NDArray[np.bool_],
    probe: Probe,
    beam_px: NDArray[np.float64],
    sure_score: float,
    gap: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """(n,) factors on the scores of disks.

    Parameters
    ----------
    patterns
        (m, rows, cols) electrons.
    alone
        (n,) disks that no lattice speaks for.
    beam_px
        (2,) where the direct beam of all patterns may be.
    sure_score
        Score from which disks count as pairs.
    gap
        (rows, cols) what is hidden: there no edge is asked for.
    """
    unsure = probe.trust < 1
    judged = alone | unsure
    factor = np.ones(len(found.which))
    factor[judged] = roundness(patterns, found.pick(judged), probe.radius_px, gap)
    if unsure:
        sure = found.score * factor >= sure_score
        pattern, disk = in_pairs(found, sure, len(patterns), beam_px, probe.radius_px)
        trust = np.where(pattern[found.which], max(probe.trust, 0.5), probe.trust)
        lonely = alone & ~disk
        factor[lonely] *= _UNSURE_PROBE + _BY_TRUST * (trust[lonely] - 0.5)
    return factor


def roundness(
    patterns: NDArray[np.float32], found: Found, radius_px: float, gap: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """(n,) factor on the score of disks: have they an edge all around?

    A disk has an edge on most of its sides, at its radius; a ring, a band or the grain of an image has not.
    """
    around = np.empty(len(found.which))
    for i in np.unique(found.which):
        here = found.which == i
        around[here] = edge_around(stabilised(patterns[i].astype(float)), found.position[here], radius_px, gap)
    return np.clip((around - _LEAST_AROUND) / (_MOST_AROUND - _LEAST_AROUND), 0.0, 1.0)
