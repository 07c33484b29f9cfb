"""Letters that a canvas is going to show, made ready while nothing else happens.

napari draws each letter large, once, and makes a distance field of it: 2 to 3 ms of the thread of the window, and a fifth of a
second with the first text. Each canvas has letters of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from napari_emdl.gui.kit.responsive import Slices

#: Those by which vispy aligns every text, then those of scale bars, of colour bars and of the words in the corner of a map.
ALIGN = "ÅÉÑŐjgpqy"
SCALE = " /0125elmnpix"
WORDS = "%()+,-.346789abcdfhkorstuvw°±·εθ▲▼⚠"
AT_ONCE = 2


def make_ready(qt_viewer: Any, letters: str = ALIGN + SCALE + WORDS) -> Slices | None:
    """Make letters of a canvas ready, a few between two events; None where napari (before 0.9) keeps its font elsewhere."""
    info = getattr(getattr(qt_viewer, "canvas", None), "font_info", None)
    if info is None:
        return None
    found = info()
    return Slices(_ready(found.font_manager.get_font(found.face), letters), qt_viewer)


def make_ready_in(viewer: Any) -> None:
    """Make the letters of a viewer's main canvas ready, where it has a window."""
    qt_viewer = getattr(getattr(viewer, "window", None), "_qt_viewer", None)
    if qt_viewer is not None:
        make_ready(qt_viewer)


def _ready(font: Any, letters: str) -> Iterator[None]:
    for number, letter in enumerate(letters):
        font[letter]
        if number % AT_ONCE == AT_ONCE - 1:
            yield
