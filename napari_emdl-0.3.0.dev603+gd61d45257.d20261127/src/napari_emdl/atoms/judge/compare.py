"""Two movies, such as vacuum and oxygen: are the rates of a group different, and could dose alone have faked it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from napari_emdl.atoms.fit.events import LEVEL
from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.base.errors import EmdlError

#: doses, or separations of the evidence, that differ by more than this factor are pointed out
DOSE_FACTOR, SEPARATION_FACTOR = 1.5, 1.4
#: below this separation (in sigma) rates depend on the model of the noise
WEAK_SEPARATION = 3.0


@dataclass(frozen=True)
class RateComparison:
    """One rate of one group in two movies.

    Attributes
    ----------
    group, rate
        Group, and "p_off" or "p_on".
    first, second
        The rates a frame.
    ratio, low, high
        second / first with its interval at LEVEL.
    p_value
        Two-sided test of equal rates.
    different
        The interval does not hold 1.
    """

    group: str
    rate: str
    first: float
    second: float
    ratio: float
    low: float
    high: float
    p_value: float
    different: bool


@dataclass(frozen=True)
class Comparison:
    """Comparison of two movies; `warnings` say what could fake or hide a difference."""

    rows: tuple[RateComparison, ...]
    warnings: tuple[str, ...]


def compare(first: Occupancy, second: Occupancy) -> Comparison:
    """Compare the rates of two movies group by group.

    The logarithms of the rates are compared with the spread of their posteriors; with frame intervals that differ the rates are
    those a second.

    Parameters
    ----------
    first, second
        Occupancies by the hidden Markov model.

    Raises
    ------
    EmdlError
        When either was made by threshold, whose rates follow the dose.
    """
    for result in (first, second):
        if result.attrs.get("method") == "threshold":
            raise EmdlError("rates by threshold depend on the dose and cannot be compared: fit the occupancy with method hmm")
    scale = _log_time_scale(first.attrs, second.attrs)
    rows = []
    of_second = {str(row["group"]): row for row in second.rates}
    for one in first.rates:
        name = str(one["group"])
        other = of_second.get(name)
        if other is None:
            continue
        for rate in ("p_off", "p_on"):
            if np.isfinite(one[rate]) and np.isfinite(other[rate]):
                rows.append(_compared(name, rate, one, other, scale))
    return Comparison(tuple(rows), tuple(_warnings(first, second)))


def _compared(group: str, rate: str, one: np.void, other: np.void, scale: float) -> RateComparison:
    difference = float(other[f"log_{rate}"] - one[f"log_{rate}"]) + scale
    spread = float(np.hypot(one[f"log_{rate}_sd"], other[f"log_{rate}_sd"]))
    half = float(ndtri((1 + LEVEL) / 2)) * spread
    low, high = np.exp(difference - half), np.exp(difference + half)
    p_value = float(2 * ndtr(-abs(difference) / max(spread, 1e-12)))
    return RateComparison(
        group, rate, float(one[rate]), float(other[rate]), float(np.exp(difference)), float(low), float(high), p_value,
        bool(low > 1 or high < 1),
    )  # fmt: skip


def _log_time_scale(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Log of the factor that turns a ratio of chances a frame into one of rates a second."""
    one, other = first.get("frame_interval_s"), second.get("frame_interval_s")
    return float(np.log(one / other)) if one and other else 0.0


def _warnings(first: Occupancy, second: Occupancy) -> list[str]:
    out = []
    doses = [float(r.attrs.get("dose_e_per_A2") or 0) for r in (first, second)]
    if all(doses) and not 1 / DOSE_FACTOR <= doses[1] / doses[0] <= DOSE_FACTOR:
        out.append(
            f"the doses differ ({doses[0]:g} and {doses[1]:g} e/Å² a frame): "
            "the beam itself may move atoms, and detection differs"
        )
    apart = [float(r.attrs.get("separation", np.nan)) for r in (first, second)]
    if np.isfinite(apart).all():
        if not 1 / SEPARATION_FACTOR <= apart[1] / apart[0] <= SEPARATION_FACTOR:
            out.append(
                f"detection quality differs (occupied and empty sites are {apart[0]:.1f} and {apart[1]:.1f} sigma apart): "
                "compare the rates of the hidden Markov model only, never the raw ones"
            )
        if min(apart) < WEAK_SEPARATION:
            out.append(
                f"sites are only {min(apart):.1f} sigma apart in one movie: its rates are uncertain beyond their intervals"
            )
    intervals = [float(r.attrs.get("frame_interval_s") or 0) for r in (first, second)]
    if not all(intervals):
        out.append("a frame interval is unknown: rates are compared a frame")
    elif abs(np.log(intervals[1] / intervals[0])) > 0.05:
        out.append("the frame intervals differ: events shorter than the longer one are seen in one movie only")
    return out
