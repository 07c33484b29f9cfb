"""When frames were taken: the interval between them, and gaps, by their time stamps or by the numbers of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: A gap is longer than the usual interval by this factor; shorter ones are the jitter of a camera.
_GAP = 1.5
#: Where so many intervals are gaps there is no usual interval.
_MOST_GAPS = 0.2
#: Ticks of the clock from the first to the last frame below which the interval would be off by more than 5 %.
_LEAST_TICKS = 20
#: Missing frames are put in for at most so many times the frames there are; a longer pause is made shorter.
_MOST_ADDED = 4


@dataclass(frozen=True)
class Timing:
    """When the frames of a movie were taken.

    Attributes
    ----------
    interval_s
        Usual time from frame to frame; None when unknown.
    steps
        (n,) time of each frame after the first one, in intervals; None where the frames follow evenly.
    notes
        What the user must know.
    """

    interval_s: float | None = None
    steps: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()

    def part(self, first: int, last: int) -> Timing:
        """Timing of the frames `first`:`last`."""
        if self.steps is None:
            return self
        steps = self.steps[first:last] - self.steps[first]
        return Timing(self.interval_s, None if np.allclose(np.diff(steps), 1.0) else steps, self.notes)


def by_stamps(stamps_s: ArrayLike, resolution_s: float = 0.0) -> Timing:
    """Interval and gaps from the time stamps of the frames.

    Parameters
    ----------
    stamps_s
        (n,) seconds since any moment.
    resolution_s
        Step of the clock: frames may come faster than it ticks.
    """
    stamps = np.asarray(stamps_s, np.float64)
    if stamps.ndim != 1 or len(stamps) < 2 or not np.isfinite(stamps).all() or not stamps[-1] > stamps[0]:
        return Timing()
    between = np.diff(stamps)
    if stamps[-1] - stamps[0] < _LEAST_TICKS * resolution_s:  # a coarse clock tells nothing of a short movie
        return Timing()
    if between.min() < -resolution_s:
        return Timing(notes=("the time stamps of the frames run backwards and are not used",))
    middle = float(np.median(between))
    interval = min(middle, float(between.mean())) if middle > 2 * resolution_s else float(between.mean())
    for _ in range(8):  # a long pause hides shorter ones until it is left out
        gap = between > _GAP * interval + 2 * resolution_s
        interval, before = float(between[~gap].mean()) if not gap.all() else interval, interval
        if interval == before:
            break
    if not interval > 0:
        return Timing()
    if not gap.any():
        return Timing(interval)
    if gap.mean() > _MOST_GAPS:
        usual = float(between.mean())
        text = f"the frames are unevenly spaced in time ({_s(between.min())} to {_s(between.max())} s); times follow the stamps"
        return Timing(usual, (stamps - stamps[0]) / usual, (text,))
    longest = int(np.argmax(between))
    text = (
        f"the time stamps have {_count(int(gap.sum()), 'gap')}, the longest {_s(between[longest])} s after frame {longest} "
        f"(frames are {_s(interval)} s apart): times and rates follow the stamps; what happened meanwhile is not seen"
    )
    return Timing(interval, (stamps - stamps[0]) / interval, (text,))


def by_numbers(numbers: Sequence[int], what: str = "files") -> Timing:
    """Gaps in the numbers of frames that lie in one file each.

    Parameters
    ----------
    numbers
        Number of each frame, in order.
    what
        What is numbered, for the note.
    """
    values = np.asarray(numbers, np.float64)
    if len(values) < 3:
        return Timing()
    between = np.diff(values)
    usual = float(np.median(between))
    missing = int(round(float((values[-1] - values[0]) / usual))) + 1 - len(values) if usual > 0 else 0
    gap = between > _GAP * usual
    # numbers that leap about are temperatures, dates or magnifications
    if missing <= 0 or between.min() <= 0 or gap.mean() > _MOST_GAPS or np.any(between % usual):
        return Timing()
    first = int(np.flatnonzero(gap)[0])
    text = (
        f"the numbers of the {what} leave out {missing} frames, the first after number {int(values[first])}: times and rates "
        "follow the numbers; what happened meanwhile is not seen"
    )
    return Timing(None, (values - values[0]) / usual, (text,))


def whole_steps(steps: Sequence[float] | NDArray[np.float64] | None, count: int) -> NDArray[np.intp] | None:
    """(count,) place of each frame in a movie without gaps; None where it has none, or the steps do not belong to it.

    Pauses are shortened so that the frames put in stay within a few times those there are.
    """
    if steps is None or len(steps) != count or count < 2:
        return None
    extra = np.maximum(0, np.rint(np.diff(np.asarray(steps, np.float64))).astype(np.intp) - 1)
    if not extra.any():
        return None
    if extra.sum() > _MOST_ADDED * count:
        extra = np.minimum(extra, max(1, _MOST_ADDED * count // int((extra > 0).sum())))
    return np.arange(count) + np.concatenate([[0], np.cumsum(extra)])


def spread_frames(values: NDArray[Any], rows: NDArray[np.intp] | None, fill: float | bool) -> NDArray[Any]:
    """Frames (T, ...) put in their places among missing ones, which get `fill`; unchanged where `rows` is None."""
    if rows is None:
        return values
    out = np.full((int(rows[-1]) + 1, *values.shape[1:]), fill, values.dtype)
    out[rows] = values
    return out


def _s(value: float) -> str:
    return f"{float(value):.4g}"


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
