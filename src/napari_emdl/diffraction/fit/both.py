"""Strain from the peaks and from the patterns together: how much each counts, and where the peaks stand alone.

A fit to peaks and one to patterns see the same electrons but err differently: peaks are measured by what a network or a
template knows of disks, patterns by the edges of the disks alone. On scans of held-out crystals under microscopes drawn at
random neither is the better one: peaks are where disks are small or cut on whole pixels, patterns where disks are large and
soft. Their errors say which, and hardly depend on each other, so the mean of both by their inverse variances is better than
the better of the two (docs/benchmarks.md, "Peaks and patterns together"). One weight counts for a scan. Where the two differ
by more than their errors explain, one of them is wrong. Where disks are large and clear it is the peaks, whose errors are then
taken to be larger; else nothing tells which, and the peaks, which no model of the aperture can mislead, count alone.

(Mean of correlated measurements: Lyons, Gibaut and Clifford, Nucl. Instrum. Methods A 270 (1988) 110.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_emdl.diffraction.fit.sigma import scale_of
from napari_emdl.diffraction.fit.tensor import strain_components, strain_sigma
from napari_emdl.diffraction.lattice import LatticeFit

if TYPE_CHECKING:
    from napari_emdl.diffraction.fit.patternmodel import Aperture

Floats = NDArray[np.float64]

#: Above this ripple an aperture is ragged, and errors of a fit to patterns are larger than they say, by this factor.
_RAGGED, _RAGGED_FACTOR = 0.06, 1.3
#: Below this radius in px few pixels lie inside a disk and not on its edge: the same.
_SMALL_PX, _SMALL_FACTOR = 4.3, 1.6
#: Above this radius, with an edge softer than the sharpest that is modelled, what patterns say is right; where both fits differ
#: by more than their errors explain, up to this many times, it is the peaks that err: inner contrast pulls at them.
_CLEAR_PX, _CLEAR_EDGE_PX, _CLEAR_APART = 4.5, 0.46, 2.5
#: Two fits that differ by this many times what their errors say: the peaks count alone, in the scan or at a position.
_APART, _APART_HERE = 1.5, 4.5
#: A share of the patterns below this changes nothing that is worth the time.
LEAST_SHARE = 0.05
#: Correlation of the errors of both fits.
_CORRELATION = 0.25
#: Positions from which on a difference that all share is one of the references.
_ENOUGH = 8
#: Median of the square of a normal variate.
_MEDIAN_SQUARE = 0.4549


@dataclass(frozen=True)
class Weights:
    """How much the patterns count beside the peaks.

    Attributes
    ----------
    share
        Of the patterns, 0 to 1.
    apart
        Difference of the two fits in units of what their errors say (robust rms).
    factors
        What the errors of peaks and patterns are multiplied by.
    ratio
        Error of the patterns over that of the peaks.
    alone
        (n,) positions at which the peaks count alone though both are fitted.
    """

    share: float
    apart: float
    factors: tuple[float, float]
    ratio: float
    alone: NDArray[np.bool_]

    @property
    def contradict(self) -> bool:
        """True where the two fits differ by more than their errors explain."""
        return self.apart > _APART


def weigh(
    peaks: LatticeFit,
    patterns: LatticeFit,
    good: NDArray[np.bool_],
    there: NDArray[np.bool_],
    aperture: Aperture,
    shape: tuple[int, ...] | None,
    zero: NDArray[np.bool_] | None = None,
) -> Weights:
    """Weights of two fits of the same positions.

    Parameters
    ----------
    good, there
        (n,) positions fitted to peaks, and to patterns.
    aperture
        Of the disks.
    shape
        (R, C) of the scan, for errors held against neighbours; None for positions that are no neighbours.
    zero
        (n,) positions of the reference, None for all: what both fits differ by there is no error of the strain.
    """
    both = good & there
    if not both.any():
        return Weights(0.0, 0.0, (1.0, 1.0), float("inf"), good)
    reference = np.median(peaks.g[both], axis=0)
    values, errors, factors = [], [], []
    for fit in (peaks, patterns):
        value, error = np.full((len(good), 3), np.nan), np.full((len(good), 3), np.nan)
        value[both] = strain_components(fit.g[both], reference)[:, :3]
        error[both] = strain_sigma(fit.g[both], fit.covariance[both, 2:, 2:], reference)[:, :3]
        factor = 1.0 if shape is None else scale_of(value.reshape(*shape, 3), error.reshape(*shape, 3)).factor
        values.append(value)
        factors.append(factor)
        errors.append(factor * error)
    more = max(_RAGGED_FACTOR if aperture.ripple > _RAGGED else 1.0, _SMALL_FACTOR if aperture.radius_px < _SMALL_PX else 1.0)
    errors[1], factors[1] = more * errors[1], more * factors[1]
    difference = values[1] - values[0]
    alike = both if zero is None or int((both & zero).sum()) < _ENOUGH else both & zero
    if int(alike.sum()) >= _ENOUGH:
        difference = difference - np.nanmedian(difference[alike], axis=0)
    apart = _apart(difference, errors)
    clear = aperture.radius_px >= _CLEAR_PX and aperture.edge_px > _CLEAR_EDGE_PX and aperture.ripple <= _RAGGED
    if clear and apart < _CLEAR_APART:
        wider = _unexplained(difference, errors)
        errors[0], factors[0] = wider * errors[0], wider * factors[0]
        apart = min(_apart(difference, errors), 1.0)
    of_peaks, of_patterns = (max(float(np.nanmedian(error)), 1e-15) for error in errors)
    common = _CORRELATION * of_peaks * of_patterns
    share = float(np.clip((of_peaks**2 - common) / (of_peaks**2 + of_patterns**2 - 2 * common), 0, 1))
    with np.errstate(invalid="ignore"):
        far = (np.abs(difference) > _APART_HERE * max(1.0, apart) * np.hypot(*errors)).any(axis=1)
    return Weights(share, apart, (factors[0], factors[1]), of_patterns / of_peaks, good & (~there | far))


def _apart(difference: Floats, errors: list[Floats]) -> float:
    return _typical(difference / np.maximum(np.hypot(*errors), 1e-12))


def _unexplained(difference: Floats, errors: list[Floats]) -> float:
    """What the first errors are to be multiplied by, 1 at least, to explain the difference; components by themselves.

    Inner contrast makes disks breathe: it pulls at exx and eyy and leaves exy as it is.
    """
    seen = sum(_typical(one) ** 2 for one in difference.T)
    first, second = (float(np.square(np.nanmedian(error, axis=0)).sum()) for error in errors)
    return float(np.sqrt(max(seen - second, first) / first)) if first > 0 else 1.0


def _typical(values: Floats) -> float:
    """Robust root mean square about zero."""
    return float(np.sqrt(np.nanmedian(np.square(values)) / _MEDIAN_SQUARE))


def merged(
    peaks: LatticeFit, patterns: LatticeFit, weights: Weights, good: NDArray[np.bool_], ideal: bool = False
) -> LatticeFit:
    """Lattices of both fits together, indices and residuals those of the peaks.

    Where both differ a little more than their errors say, the errors are widened by as much. What they differ by at all
    positions alike is an error too against an `ideal` lattice, while a reference of the same scan takes it out.
    """
    w, (of_peaks, of_patterns) = weights.share, weights.factors
    use = good & ~weights.alone
    own, other = of_peaks**2 * peaks.covariance[use], of_patterns**2 * patterns.covariance[use]
    shared = _CORRELATION * w * (1 - w) * (own * weights.ratio + other / weights.ratio)
    covariance = peaks.covariance * of_peaks**2
    covariance[use] = (1 - w) ** 2 * own + w**2 * other + shared
    origin, g = peaks.origin.copy(), peaks.g.copy()
    origin[use] += w * (patterns.origin[use] - peaks.origin[use])
    g[use] += w * (patterns.g[use] - peaks.g[use])
    covariance *= max(1.0, weights.apart) ** 2
    if ideal and use.any():
        alike = max(w, 1 - w) * np.median((patterns.g - peaks.g)[use], axis=0).ravel()
        covariance[use, 2:, 2:] += np.outer(alike, alike)
    return replace(peaks, origin=origin, g=g, covariance=covariance)
