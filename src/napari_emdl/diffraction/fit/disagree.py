"""A strain map against others of the same scan, made in other ways: where they differ, and what that says of its errors.

A fit to peaks, a fit to patterns and one to cepstra see the same electrons but err differently. Where another map differs by
more than its own errors explain, the rest is an error of this one that its sigma does not know, and sigma is widened to it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.diffraction.fit.strainmap import StrainMap
from napari_emdl.diffraction.fit.tensor import COMPONENTS

Floats = NDArray[np.float64]


def disagreement(strain: StrainMap, others: Mapping[str, StrainMap]) -> Floats:
    """(R, C, 4) rms difference of the other maps from this one, each about its own median difference; NaN where none is known.

    A constant difference is one of the references, not of the maps.
    """
    return np.sqrt(_mean(np.square(_differences(strain, others))))


def widened(strain: StrainMap, others: Mapping[str, StrainMap]) -> StrainMap:
    """The map with its disagreement with others, and sigma where they differ by more than their errors explain.

    Parameters
    ----------
    strain, others
        Maps of one scan on the same axes; the names of the others say how they were made.

    Raises
    ------
    EmdlError
        When the maps are of different scans.
    """
    if not others:
        return strain
    apart = _differences(strain, others)
    known = np.stack([other.sigma for other in others.values()])
    # one position tells little: the median of it and its neighbours
    beyond = np.stack([_neighbourhood(np.square(d) - np.square(s)) for d, s in zip(apart, known, strict=True)])
    extra = np.nan_to_num(np.maximum(beyond, 0).max(axis=0, initial=0.0, where=np.isfinite(beyond)))
    sigma = np.sqrt(np.maximum(np.square(strain.sigma), extra))
    facts = {
        name: {
            "rms": [float(v) for v in np.sqrt(np.nan_to_num(np.nanmean(np.square(d), axis=(0, 1))))],
            "widened_share": float(np.mean((np.nan_to_num(b[..., :3]) > np.square(strain.sigma[..., :3]))[strain.mask])),
        }
        for name, d, b in zip(others, apart, beyond, strict=True)
        if strain.mask.any()
    }
    return replace(
        strain,
        sigma=sigma,
        covariance=None,  # what other fits say of each component says nothing of their correlation
        disagreement=disagreement(strain, others),
        attrs={**strain.attrs, "disagreement": facts},
    )


def disagreement_line(facts: Mapping[str, Mapping[str, object]]) -> str:
    """What other fits say, in words, from ``attrs["disagreement"]``."""
    parts = []
    for name, found in facts.items():
        values = found["rms"]
        assert isinstance(values, list)
        numbers = ", ".join(f"{c} {100 * v:.3f}" for c, v in zip(COMPONENTS[:3], values, strict=False))
        share = found["widened_share"]
        assert isinstance(share, float)
        parts.append(f"{name} differs by (rms, %) {numbers}; errors widened at {100 * share:.0f} % of the positions")
    return "; ".join(parts)


def _differences(strain: StrainMap, others: Mapping[str, StrainMap]) -> Floats:
    """(others, R, C, 4) differences without their medians."""
    mine = np.stack([strain.component(name) for name in COMPONENTS], axis=-1)
    out = []
    for name, other in others.items():
        if other.shape != strain.shape:
            raise EmdlError(f"strain over {strain.shape} cannot be checked by {name} over {other.shape}")
        apart = np.stack([other.component(component) for component in COMPONENTS], axis=-1) - mine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # nothing fitted: all NaN
            out.append(apart - np.nanmedian(apart, axis=(0, 1)))
    return np.stack(out)


def _mean(values: Floats) -> Floats:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=0), dtype=np.float64)


def _neighbourhood(values: Floats) -> Floats:
    """(R, C, n) median of the 3 x 3 neighbourhood, without NaN."""
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    rows, cols = values.shape[:2]
    shifts = np.stack([padded[r : r + rows, c : c + cols] for r in range(3) for c in range(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(shifts, axis=0), dtype=np.float64)
