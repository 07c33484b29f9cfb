"""Views of lazy arrays: other axis order, other leading shape. They read nothing by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.missing import Missing, fill_missing
from napari_emdl.io.sources import AxisIndex, Source, indices


class TransposedSource(Source):
    """View of another source with its axes in another order, and axes left out at index 0.

    Parameters
    ----------
    base
        Source.
    order
        Axis of `base` for each axis of the view; axes of `base` that are missing must have length 1.
    """

    def __init__(self, base: Any, order: Sequence[int]) -> None:
        self.base = base
        self.order = tuple(order)
        super().__init__([base.shape[i] for i in self.order], base.dtype)

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`."""
        base_index: list[AxisIndex] = [0] * len(self.base.shape)
        for axis, part in zip(self.order, index, strict=True):
            base_index[axis] = part
        out = self.base[tuple(base_index)]
        kept = [axis for axis, part in zip(self.order, index, strict=True) if isinstance(part, slice)]
        return out.transpose([sorted(kept).index(axis) for axis in kept])


class StackSource(Source):
    """View of a stack or a single frame with other leading axes, such as a flat scan as scan rows and cols.

    Parameters
    ----------
    base
        Source of three axes, or of two (one frame).
    leading
        New leading shape; may hold fewer frames than the stack (the rest is left out).
    """

    def __init__(self, base: Any, leading: Sequence[int]) -> None:
        self.base = base
        self.leading = tuple(int(n) for n in leading)
        super().__init__((*self.leading, *base.shape[-2:]), base.dtype)

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`, in runs along the last leading axis."""
        outer, inner = index[: len(self.leading)], index[len(self.leading) :]
        if len(self.base.shape) == 2:
            frame = self.base[inner]
            shape = tuple(len(indices(i)) for i in outer if isinstance(i, slice))
            return np.array(np.broadcast_to(frame, (*shape, *frame.shape)))
        flat = np.arange(int(np.prod(self.leading, dtype=np.int64))).reshape(self.leading)[outer]
        if np.ndim(flat) == 0:
            return self.base[(int(flat), *inner)]
        runs = flat.reshape(-1, flat.shape[-1]) if flat.size else flat.reshape(0, 1)
        if flat.size and np.array_equal(flat.ravel(), np.arange(flat.flat[0], flat.flat[0] + flat.size)):
            runs = flat.reshape(1, -1)
        inner_shape = tuple(len(indices(i)) for i in inner if isinstance(i, slice))
        out = np.empty((runs.size, *inner_shape), self.dtype)
        at = 0
        for run in runs:
            step = int(run[1] - run[0]) if len(run) > 1 else 1
            part = slice(int(run[0]), int(run[-1]) + 1, step)
            out[at : at + len(run)] = self.base[(part, *inner)]
            at += len(run)
        return out.reshape((*flat.shape, *inner_shape))


class FlatSource(Source):
    """View of (rows, cols, detector rows, detector cols) as a stack (rows * cols, detector rows, detector cols).

    Parameters
    ----------
    base
        Source of four axes.
    """

    def __init__(self, base: Any) -> None:
        self.base = base
        super().__init__((base.shape[0] * base.shape[1], *base.shape[2:]), base.dtype)

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`, scan row by scan row."""
        chosen, inner = index[0], index[1:]
        cols = self.base.shape[1]
        if not isinstance(chosen, slice):
            return self.base[(*divmod(chosen, cols), *inner)]
        flat = np.arange(self.shape[0])[chosen]
        inner_shape = tuple(len(indices(i)) for i in inner if isinstance(i, slice))
        out = np.empty((flat.size, *inner_shape), self.dtype)
        for row in np.unique(flat // cols):
            places = np.flatnonzero(flat // cols == row)
            at = flat[places] % cols
            out[places] = self.base[(int(row), slice(int(at.min()), int(at.max()) + 1), *inner)][at - at.min()]
        return out


class CroppedSource(Source):
    """Part of another source: a plain range of each axis.

    Parameters
    ----------
    base
        Source.
    ranges
        (start, stop) for each axis of `base`.
    """

    def __init__(self, base: Any, ranges: Sequence[tuple[int, int]]) -> None:
        self.base = base
        self.starts = tuple(start for start, _ in ranges)
        super().__init__([stop - start for start, stop in ranges], base.dtype)

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`."""
        moved = [
            slice(part.start + start, part.stop + start, part.step) if isinstance(part, slice) else part + start
            for part, start in zip(index, self.starts, strict=True)
        ]
        return self.base[tuple(moved)]


class BinnedSource(Source):
    """Another source with neighbouring elements added up; what is left over at the end of an axis is left out.

    Parameters
    ----------
    base
        Source.
    factors
        Elements added up along each axis of `base`.
    missing
        What is missing in the frames of `base`: such pixels count as the mean of the others of their bin, and a bin without any
        other is NaN. None adds up everything.
    """

    def __init__(self, base: Any, factors: Sequence[int], missing: Missing | None = None) -> None:
        self.base, self.factors, self.missing = base, tuple(factors), missing
        small = base.dtype.kind in "bu" and base.dtype.itemsize <= 2
        wide = np.dtype("u4") if small else np.dtype("i8") if base.dtype.kind in "biu" else base.dtype
        super().__init__(
            [n // f for n, f in zip(base.shape, self.factors, strict=True)], np.dtype("f4") if missing is not None else wide
        )

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`, one element of the first axis after the other."""
        ranges = [indices(part) if isinstance(part, slice) else range(part, part + 1) for part in index]
        if any(len(r) == 0 for r in ranges):
            return np.zeros(tuple(len(r) for r, p in zip(ranges, index, strict=True) if isinstance(p, slice)), self.dtype)
        rows = [self._one(first, ranges[1:]) for first in ranges[0]]
        out = np.stack(rows)
        return out[tuple(slice(None) if isinstance(part, slice) else 0 for part in index)]

    def _one(self, first: int, ranges: Sequence[range]) -> NDArray[Any]:
        """Bins of element `first` of the first axis."""
        spans = [(first * self.factors[0], (first + 1) * self.factors[0])]
        spans += [(r[0] * f, (r[-1] + 1) * f) for r, f in zip(ranges, self.factors[1:], strict=True)]
        # whole frames where pixels may be missing: a border is known by the frame's edge
        whole = self.missing is not None
        inner = [slice(*s) for s in spans]
        block = self.base[(*inner[:-2], slice(None), slice(None))] if whole else self.base[tuple(inner)]
        bad = self.missing.of(block) if self.missing is not None else None
        if whole:
            part = (*([slice(None)] * (block.ndim - 2)), *inner[-2:])
            block, bad = block[part], bad[part] if bad is not None else None
        grid: list[int] = []
        for (start, stop), factor in zip(spans, self.factors, strict=True):
            grid += [(stop - start) // factor, factor]
        axes = tuple(range(1, 2 * len(self.factors), 2))
        if self.missing is None:
            summed = block.reshape(grid).sum(axis=axes, dtype=self.dtype)
        else:
            values = np.asarray(block, np.float64)
            known = np.ones(values.shape, bool) if bad is None else ~bad
            total = np.where(known, values, 0.0).reshape(grid).sum(axis=axes)
            count = known.reshape(grid).sum(axis=axes)
            summed = np.where(count > 0, total * np.prod(self.factors) / np.maximum(count, 1), np.nan).astype(self.dtype)
        steps = tuple(slice(None, None, r.step) for r in ranges)
        return summed[(0, *steps)]


class RepairedSource(Source):
    """Another source with missing pixels filled: from the measured neighbours where there are any, else with zero.

    Parameters
    ----------
    base
        Source; its last two axes are the frame.
    missing
        What is missing.
    """

    def __init__(self, base: Any, missing: Missing) -> None:
        self.base, self.missing = base, missing
        super().__init__(base.shape, base.dtype)

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`, by whole frames."""
        outer, inner = index[:-2], index[-2:]
        frames = np.array(self.base[(*outer, slice(None), slice(None))])
        bad = self.missing.of(frames)
        if bad is not None:
            flat, holes = frames.reshape(-1, *frames.shape[-2:]), bad.reshape(-1, *frames.shape[-2:])
            for frame, hole in zip(flat, holes, strict=True):
                fill_missing(frame, hole)
            frames = flat.reshape(frames.shape)
        whole: tuple[AxisIndex, ...] = (slice(None),) * (frames.ndim - 2)
        return frames[(*whole, *inner)]
