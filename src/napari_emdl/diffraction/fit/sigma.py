"""Sigma of a strain map against the map itself: what neighbouring positions say about the errors.

The errors of a lattice fit come from the residuals of its disks, and these do not tell everything: a network that starts
near the lattice leaves small residuals, and what all disks of a pattern share leaves none. A scan knows more. The second
difference of three positions in a row takes out any strain that varies evenly; what is left is the error of the three and
whatever real structure there is. So

* where the whole map varies less than its errors say, at every distance, the errors are too large and are lessened;
* where neighbours differ by somewhat more than their errors say, the errors are widened;
* where they differ by far more, the map has structure from one position to the next, which tells nothing: nothing is changed.

Before that comes what no map shows. A network that is unsure of its disks measures them towards where it began, all of a
pattern alike, so that their errors do not average out; and where the residuals of a whole scan are smaller or larger than the
disks say, their errors are, though not in full: :func:`shared_among_disks`. What neighbours err alike their differences do not
show; the residuals of their disks tell how much that is (:mod:`napari_emdl.diffraction.fit.residuals`).

(Second differences as an estimate of noise: von Neumann 1941; Gasser, Sroka and Jennen-Steinmetz, Biometrika 73 (1986) 625.)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.fit.residuals import in_errors, typical_size
from napari_emdl.diffraction.lattice import LatticeFit, Segments

Floats = NDArray[np.float64]

#: Errors of neighbours are alike in part, by thickness and tilt, so that differences see a little less than all of them; from
#: simulated wedges of five crystals.
_SHARED = 1.1
#: Errors are lessened to this at most; above the second factor the map has structure.
_LEAST, _STRUCTURE = 0.4, 2.0
#: Second differences that tell enough, over all components.
_ENOUGH = 60
#: Disks found by these are measured by the network that the next numbers are about.
_MEASURED_BY_NETWORK = ("fcunet", "light")
#: What the variance of a lattice is multiplied by where disks err by themselves, what every disk adds to that where all err
#: alike, and errors in units of the radius up to which they do the one, and from which they do the other; from 43 and 86
#: simulated scans of held-out crystals.
_ALONE, _ALIKE_A_DISK, _SURE, _UNSURE = 0.85, 0.05, 0.05, 0.08
#: The variance goes with this power of the typical squared residual of the scan in units of the disks' errors, over this one.
_POWER, _USUAL, _RANGE = 0.6, 0.55, (0.1, 4.0)
#: Median of the size of a normal variate.
_MEDIAN_OF_NORMAL = 0.6745


@dataclass(frozen=True)
class SigmaScale:
    """What errors are multiplied by, and why.

    Attributes
    ----------
    factor
        For all components.
    neighbours
        Size of the differences between neighbours in units of what the errors say; NaN where there are too few.
    anywhere
        The largest such ratio at any distance up to a quarter of the scan.
    how
        One sentence.
    """

    factor: float
    neighbours: float
    anywhere: float
    how: str

    def to_json(self) -> dict[str, Any]:
        """Numbers and sentence; NaN becomes None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def difference_ratio(maps: Floats, sigma: Floats, lag: int, axes: tuple[int, ...] = (0, 1)) -> tuple[float, int]:
    """Size of second differences over what the errors say (1 where only they are there), and how many there are.

    Parameters
    ----------
    maps, sigma
        (R, C, n) components and their standard errors; NaN where there is no fit.
    lag
        Positions from one to the next of the three.
    axes
        Along the rows' axis, the cols', or both together.
    """
    found = []
    for axis in axes:
        if maps.shape[axis] <= 2 * lag:
            continue
        m, v = np.moveaxis(maps, axis, 0), np.moveaxis(np.square(sigma), axis, 0)
        difference = m[: -2 * lag] - 2 * m[lag:-lag] + m[2 * lag :]
        variance = v[: -2 * lag] + 4 * v[lag:-lag] + v[2 * lag :]
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append((np.abs(difference) / np.sqrt(variance)).ravel())
    values = np.concatenate([np.zeros(0), *found])
    values = values[np.isfinite(values)]
    return (float(np.median(values)) / _MEDIAN_OF_NORMAL if len(values) else float("nan")), len(values)


def shared_among_disks(disks: PeakTable, fit: LatticeFit) -> Floats:
    """(positions,) what the variances of lattices are multiplied by: disks err alike, and residuals differ from their errors.

    Parameters
    ----------
    disks, fit
        Disks over the scan, and lattices fitted to them as if each erred by itself. 1 for disks that no network measured.
    """
    radius_px = float(disks.attrs.get("probe_radius_px") or 0)
    if disks.attrs.get("method") not in _MEASURED_BY_NETWORK or "sigma_px" not in disks.fields or radius_px <= 0:
        return np.ones(disks.n_positions)
    sigma = disks.column("sigma_px").astype(float)
    typical = Segments(disks.offset).median(sigma, fit.used & np.isfinite(sigma)) / radius_px
    alike = np.clip((np.nan_to_num(typical) - _SURE) / (_UNSURE - _SURE), 0, 1)
    _, residual = in_errors(disks, fit)
    size = typical_size(residual)
    told = float(np.clip(size, *_RANGE) / _USUAL) ** _POWER if size == size else 1.0
    return np.asarray(told * (_ALONE + _ALIKE_A_DISK * alike * fit.n_indexed), dtype=np.float64)


def scale_of(maps: Floats, sigma: Floats, alike: float = 0.0) -> SigmaScale:
    """How right the errors of a strain map are, by the map itself; see the module.

    Parameters
    ----------
    maps, sigma
        (R, C, 3) exx, eyy, exy and their standard errors; NaN where there is no fit.
    alike
        Part of the errors' variance that neighbours share.
    """
    nan = float("nan")
    near, n = difference_ratio(maps, sigma, 1)
    if n < _ENOUGH:
        return SigmaScale(1.0, nan, nan, "too few neighbouring positions to compare the errors with")
    doubled = 2 ** np.arange(1, 12)
    lags = doubled[doubled <= max(2, max(maps.shape[:2]) // 4)]
    # structure along one axis must not be averaged away by the other
    others = [difference_ratio(maps, sigma, int(lag), (axis,)) for lag in lags for axis in (0, 1)]
    # the largest of several is large by chance as well: each counts less its own error
    anywhere = max([near, *(ratio * (1 - 1 / np.sqrt(count)) for ratio, count in others if count >= _ENOUGH)])
    shared = _SHARED / np.sqrt(1 - alike)
    if shared * near > _STRUCTURE:
        return SigmaScale(
            1.0, near, anywhere, "the strain changes from one position to the next, so it says nothing about the errors"
        )
    if shared * near > 1:
        return SigmaScale(
            float(shared * near), near, anywhere, f"neighbours differ {near:.2f} times as much as their errors predict"
        )
    if shared * anywhere < 1:
        factor = float(max(shared * anywhere, _LEAST))
        return SigmaScale(factor, near, anywhere, f"the map varies only {anywhere:.2f} times as much as they predict")
    return SigmaScale(1.0, near, anywhere, "neighbours differ as much as their errors predict")
