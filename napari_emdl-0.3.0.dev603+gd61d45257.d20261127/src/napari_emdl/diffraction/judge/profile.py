"""Profile of a strain component along a line over the scan, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.diffraction.fit.strain import StrainMap

COMPONENTS = ("exx", "eyy", "exy", "theta_rad")


@dataclass(frozen=True)
class Profile:
    """Values along a line; NaN where no position under the line has a fit.

    Attributes
    ----------
    distance
        (n,) distance from the line's start, in the unit of the step given (scan positions without one).
    value, sigma
        (n,) mean over the line's width and its standard error, in the unit of the component.
    count
        (n,) positions averaged.
    """

    distance: NDArray[np.float64]
    value: NDArray[np.float64]
    sigma: NDArray[np.float64]
    count: NDArray[np.int64]


def line_profile(
    strain: StrainMap,
    start: tuple[float, float],
    stop: tuple[float, float],
    component: str = "exx",
    width: int = 1,
    step: tuple[float, float] | None = None,
) -> Profile:
    """Strain along a line, one value per scan step, from the nearest positions.

    Parameters
    ----------
    strain
        Map over the scan.
    start, stop
        Ends of the line as (row, col) of the scan.
    component
        "exx", "eyy", "exy" or "theta_rad".
    width
        Positions averaged across the line.
    step
        (row, col) size of a scan step, such as nm; None counts positions.

    Raises
    ------
    EmdlError
        When the line has no length or lies outside the scan.
    """
    if component not in COMPONENTS:
        raise EmdlError(f"there is no strain component {component!r}; take one of {', '.join(COMPONENTS)}")
    if width < 1:
        raise EmdlError(f"the width of a profile is at least 1 position, got {width}")
    ends = np.array([start, stop], float)
    along = ends[1] - ends[0]
    length = float(np.hypot(*along))
    if not length > 0:
        raise EmdlError("the profile's line has no length; draw it from one place of the map to another")
    across = np.array([-along[1], along[0]]) / length
    part = np.linspace(0, 1, int(np.ceil(length)) + 1)
    offset = np.arange(width) - (width - 1) / 2
    exact = ends[0] + part[:, None, None] * along + offset[:, None] * across  # (n, width, 2)
    places = np.floor(exact + 0.5).astype(int)  # halves all go up, so that neighbours do not fall together
    inside = ((places >= 0) & (places < strain.shape)).all(axis=-1)
    if not inside.any():
        raise EmdlError("the profile's line lies outside the scan; move it onto the map")
    distance = part * float(np.hypot(*(along * np.asarray(step if step is not None else (1.0, 1.0)))))
    values, errors = getattr(strain, component), strain.sigma[..., COMPONENTS.index(component)]
    rows = [_mean(values, errors, place[here]) for place, here in zip(places, inside, strict=True)]
    value, sigma, count = zip(*rows, strict=True)
    return Profile(distance, np.array(value), np.array(sigma), np.array(count))


def _mean(values: NDArray[np.float64], errors: NDArray[np.float64], places: NDArray[np.int64]) -> tuple[float, float, int]:
    """Mean over the fitted ones of `places` (m, 2), each counted once, its standard error, and how many there are."""
    row, col = np.unique(places, axis=0).T if len(places) else np.zeros((2, 0), int)
    fitted = np.isfinite(values[row, col])
    row, col = row[fitted], col[fitted]
    if not len(row):
        return np.nan, np.nan, 0
    return float(values[row, col].mean()), float(np.sqrt(np.square(errors[row, col]).sum()) / len(row)), len(row)
