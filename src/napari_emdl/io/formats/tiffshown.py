"""How viewers show a TIFF otherwise than its values lie in the file: palettes, white as zero, turned images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WHITE_IS_ZERO, _PALETTE = 0, 3


def shown_otherwise(page: Any) -> list[str]:
    """Lines where viewers show the image otherwise than its values lie in the file."""
    notes = []
    if int(page.photometric) == _WHITE_IS_ZERO:
        notes.append("the file stores white as zero: what viewers show bright has low values here")
    turned = page.tags.get("Orientation")
    if turned is not None and turned.value != 1:
        notes.append(f"the file asks viewers to turn or flip it (orientation {turned.value}); it is opened as it is stored")
    return notes


def palette(page: Any) -> NDArray[np.uint16] | None:
    """(values,) luminance of the colours of a palette; None where there is none, or it only repeats the values as greys."""
    if int(page.photometric) != _PALETTE or page.colormap is None:
        return None
    colours = np.asarray(page.colormap)
    ramp = np.round(np.linspace(0, 65535, colours.shape[1]))
    if (colours == colours[0]).all() and np.abs(colours[0] - ramp).max() <= 256:
        return None
    return np.asarray(np.rint(np.tensordot((0.299, 0.587, 0.114), colours.astype(float), 1)), np.uint16)


class Paletted:
    """Reads page i of a series as the luminance of its palette's colours."""

    def __init__(self, pages: Callable[[int], NDArray[Any]], luminance: NDArray[np.uint16]) -> None:
        self.pages, self.luminance = pages, luminance

    def __call__(self, index: int) -> NDArray[Any]:
        return self.luminance[self.pages(index)]
