"""Axes that neither the file nor the user names: colours, single columns and time at the end of an array."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import OpenError
from napari_emdl.base.params import OpenParams
from napari_emdl.io.axes import Axis, Found
from napari_emdl.io.formats.pictures import LUMINANCE_NOTE, to_grey
from napari_emdl.io.sources import AxisIndex, Source
from napari_emdl.io.views import TransposedSource

#: A frame this many times longer than wide is none: its last axis counts frames.
_STRIP = 4
#: Shorter sides are pieces of data, not images.
_LEAST_SIDE = 16
#: Of a table of positions: row, col and what else is known of each.
_MOST_COLUMNS = 4
_PATTERNS = ("datacube", "pattern", "stack")


class LuminanceSource(Source):
    """View of an array whose last axis is red, green, blue (and opacity) as one channel.

    Parameters
    ----------
    base
        Source; its last axis has 3 or 4 entries.
    """

    def __init__(self, base: Any) -> None:
        self.base = base
        super().__init__(base.shape[:-1], base.dtype)

    def read(self, index: tuple[AxisIndex, ...]) -> NDArray[Any]:
        """Read the part `index`."""
        colours = self.base[(*index, slice(None))]
        return to_grey(colours)[0].reshape(colours.shape[:-1])


def settle(found: Found, how: OpenParams) -> Found:
    """Put right what C order alone would read wrong: (rows, cols, 1), (..., rows, cols, 3) of bytes and (rows, cols, frames).

    Nothing is changed where the file names an axis, or where the user gives the order of the axes or the scan.

    Raises
    ------
    OpenError
        When it is a table, such as a list of positions.
    """
    told = how.axes is not None or how.shape is not None or how.dtype is not None
    if told or found.kind or found.signal_type or any(a.letter or a.units or a.navigate is not None for a in found.axes):
        return found
    while len(found.axes) > 2 and found.axes[-1].size == 1:
        found = _in_order(found, range(len(found.axes) - 1))
    if how.kind in _PATTERNS:
        return found
    if len(found.axes) == 3 and found.axes[0].size == 1 and how.kind is None:  # one image, as networks take it
        found = _in_order(found, (1, 2))
    shape = found.data.shape
    if len(shape) == 2 and min(shape) <= _MOST_COLUMNS and max(shape) >= _LEAST_SIDE:
        raise OpenError(
            f"{found.name} holds a table of {shape[0]} x {shape[1]} values, not an image; `axes='YX'` opens it as one"
        )
    if len(shape) in (3, 4) and _colours(found.data):
        data = LuminanceSource(found.data)
        middle = tuple(n // 2 for n in shape[:-3])
        coloured = to_grey(found.data[(*middle, slice(None), slice(None), slice(None))])[1]
        letters = "TYX"[-data.ndim :]
        axes = tuple(Axis(n, letter=letter) for n, letter in zip(data.shape, letters, strict=True))
        return replace(found, data=data, axes=axes, notes=(*found.notes, *([LUMINANCE_NOTE] if coloured else [])))
    if len(shape) == 3 and min(shape[:2]) >= max(_LEAST_SIDE, _STRIP * shape[2]):
        rows, cols, frames = shape
        note = (
            f"{rows} x {cols} x {frames} is taken for {frames} frames of {rows} x {cols}; "
            f"if it is {rows} frames of {cols} x {frames}, give `axes='TYX'`"
        )
        moved = _in_order(found, (2, 0, 1))
        axes = tuple(replace(a, letter=letter) for a, letter in zip(moved.axes, "TYX", strict=True))
        return replace(moved, axes=axes, notes=(*found.notes, note))
    if len(shape) == 4 and min(shape[:2]) >= max(_LEAST_SIDE, _STRIP * max(shape[2:])):
        text = " x ".join(map(str, shape))
        note = (
            f"{text} is taken for a scan of {shape[0]} x {shape[1]}; if the scan is {shape[2]} x {shape[3]}, give `axes='QKRC'`"
        )
        return replace(found, notes=(*found.notes, note))
    return found


def _colours(data: Any) -> bool:
    """True for images of bytes whose last axis holds three or four channels."""
    return data.dtype == np.uint8 and data.shape[-1] in (3, 4) and min(data.shape[-3:-1]) >= _LEAST_SIDE


def _in_order(found: Found, order: Any) -> Found:
    """The axes of `order` only, in that order; others have one entry."""
    places = tuple(order)
    mask = found.mask if places == tuple(range(len(found.axes))) else None
    return replace(found, data=TransposedSource(found.data, places), axes=tuple(found.axes[i] for i in places), mask=mask)
