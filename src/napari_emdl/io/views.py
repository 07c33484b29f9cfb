"""Views of lazy arrays: other axis order, other leading shape. They read nothing by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        return out.reshape(*flat.shape, *inner_shape)


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
