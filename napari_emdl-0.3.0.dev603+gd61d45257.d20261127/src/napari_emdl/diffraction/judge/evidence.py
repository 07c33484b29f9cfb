"""What a strain map says and whether to believe it: statistics, verdict of each map, residuals of one position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.diffraction.fit.strain import COMPONENTS, StrainMap

Floats = NDArray[np.float64]

#: A typical error above this (no unit, rad) makes a map no measurement.
_LARGE_SIGMA = 0.01
#: A spread of the map below this many typical errors is noise.
_NOISE = 1.3
_NAMES = {"exx": "ε xx", "eyy": "ε yy", "exy": "ε xy", "theta_rad": "θ"}


@dataclass(frozen=True)
class MapStatistics:
    """Values of a map within a region.

    Attributes
    ----------
    n
        Positions with a value.
    mean, median, std
        Of them, in the unit of the map; NaN where there is none. `std` is the sample's (n - 1).
    edges, counts
        (bins + 1,) and (bins,) histogram of the values; empty where there is none.
    """

    n: int
    mean: float
    median: float
    std: float
    edges: Floats
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Verdict:
    """Whether the numbers of one map can be used.

    Attributes
    ----------
    quantitative
        False where they cannot.
    why
        Plain sentences against the map (or, for a quantitative one, what its zero means).
    """

    quantitative: bool
    why: tuple[str, ...]


def map_statistics(values: ArrayLike, region: NDArray[np.bool_] | None = None, bins: int = 50) -> MapStatistics:
    """Statistics of the finite values of a map (R, C), within a region (R, C) if one is given.

    Raises
    ------
    EmdlError
        When the region is of another shape.
    """
    array = np.asarray(values, float)
    if region is not None and region.shape != array.shape:
        raise EmdlError(f"the region is {region.shape}, the map {array.shape}; draw it on this map")
    chosen = array[np.isfinite(array) if region is None else np.isfinite(array) & region]
    if not chosen.size:
        return MapStatistics(0, np.nan, np.nan, np.nan, np.zeros(0), np.zeros(0, np.int64))
    # a few outliers must not press everything else into one bar: they are counted in the outermost ones
    low, high = np.quantile(chosen, (0.005, 0.995))
    pad = max(0.05 * (high - low), 1e-9 * max(1.0, abs(high)))
    edges = np.linspace(low - pad, high + pad, bins + 1)
    counts = np.histogram(np.clip(chosen, edges[0], edges[-1]), edges)[0]
    std = float(chosen.std(ddof=1)) if chosen.size > 1 else float("nan")
    return MapStatistics(int(chosen.size), float(chosen.mean()), float(np.median(chosen)), std, edges, counts)


def verdict(strain: StrainMap, component: str) -> Verdict:
    """What speaks against using the numbers of one map.

    Parameters
    ----------
    component
        "exx", "eyy", "exy" or "theta_rad".
    """
    values, found = strain.component(component), strain.evidence
    if not strain.mask.any():
        return Verdict(False, ("no position has a fit",))
    against = []
    sigma = float(np.median(strain.sigma[..., COMPONENTS.index(component)][strain.mask]))
    if not sigma <= _LARGE_SIGMA:
        against.append(f"a typical error is {_shown(sigma, component)}")
    fitted = float(strain.mask.mean())
    if fitted < 0.5:
        against.append(f"only {100 * fitted:.0f} % of the positions are fitted")
    if found is not None and found.indexed_fraction < 0.8:
        against.append(f"only {100 * found.indexed_fraction:.0f} % of the disks lie on the lattice")
    if found is not None and found.basis_consensus < 0.7:
        against.append(f"only {100 * found.basis_consensus:.0f} % of the positions agree on the lattice")
    ideal = found is not None and found.reference_inliers == 0
    uncorrected = strain.calibration is None or strain.calibration.ellipse is None
    if ideal and uncorrected and component != "theta_rad":
        against.append("against an ideal lattice, camera length and distortion count as strain")
    if against:
        return Verdict(False, tuple(against))
    notes = []
    known = values[strain.mask]
    spread = 1.4826 * float(np.median(np.abs(known - np.median(known))))
    if known.size > 20 and spread < _NOISE * sigma:
        notes.append(f"varies no more than its error of {_shown(sigma, component)}")
    if found is not None and found.reference_inliers == int(strain.mask.sum()):
        notes.append("zero is the median of the scan")
    return Verdict(True, tuple(notes))


def verdict_line(strain: StrainMap, component: str) -> str:
    """The verdict as one line, such as "ε xx is not quantitative: a typical error is 1.4 %"; empty for nothing to say."""
    found = verdict(strain, component)
    if found.quantitative and not found.why:
        return ""
    return f"{_NAMES[component]}{'' if found.quantitative else ' is not quantitative'}: {'; '.join(found.why)}"


def lattice_residuals(strain: StrainMap, position: tuple[int, int], measured_px: ArrayLike) -> tuple[Floats, Floats]:
    """Measured disks of a position and the lattice points they belong to; empty where the position is masked.

    Parameters
    ----------
    position
        (row, col) of the scan.
    measured_px
        (n, 2) disks of that position.

    Returns
    -------
    measured_px, fitted_px
        (m, 2) each, of the disks near enough to a lattice point to count.
    """
    places = np.asarray(measured_px, float).reshape(-1, 2)
    if not strain.mask[position] or not len(places):
        return np.zeros((0, 2)), np.zeros((0, 2))
    shown, places = places, _undistorted(strain, places)
    g, origin = np.stack([strain.g1[position], strain.g2[position]]), strain.origin_px[position]
    fitted = origin + np.rint((places - origin) @ np.linalg.inv(g)) @ g
    params = strain.attrs.get("params")
    limit = float(params.get("max_index_error", 0.3)) if isinstance(params, dict) else 0.3
    near = np.linalg.norm(places - fitted, axis=1) < limit * np.linalg.norm(g, axis=1).min()
    return shown[near], _distorted(strain, fitted[near])


def lattice_points(strain: StrainMap, position: tuple[int, int], shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Points of the unstrained and of the fitted lattice at a position as the camera shows them, (n, 2) px each, where the
    fitted lie on the detector.

    Empty where the position is masked.
    """
    if not strain.mask[position]:
        return np.zeros((0, 2)), np.zeros((0, 2))
    g, origin = np.stack([strain.g1[position], strain.g2[position]]), strain.origin_px[position]
    reach = int(np.ceil(max(shape) / np.linalg.norm(g, axis=1).min()))
    hk = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    fitted = origin + hk @ g
    shown = _distorted(strain, fitted)
    on = ((shown >= 0) & (shown <= np.asarray(shape) - 1)).all(axis=1)
    on &= np.linalg.norm(shown - fitted, axis=1) < 0.25 * max(shape)  # far outside, third order folds back
    return _distorted(strain, origin + hk[on] @ strain.reference_g_at(position)), shown[on]


def _distorted(strain: StrainMap, place_px: Floats) -> Floats:
    """Where the camera shows what the fit places there."""
    known = strain.calibration
    return place_px if known is None or known.distortion is None else known.distortion.distorted(place_px)


def _undistorted(strain: StrainMap, place_px: Floats) -> Floats:
    known = strain.calibration
    return place_px if known is None or known.distortion is None else known.distortion.undistorted(place_px)


def _shown(value: float, component: str) -> str:
    return f"{np.degrees(value):.2f}°" if component == "theta_rad" else f"{100 * value:.2f} %"
