"""Words in the corner of the main canvas: what is known at the cross-hair, and what lies beyond the colours of the map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from napari.settings import get_settings
from numpy.typing import NDArray

#: Size of the words and height of a line of them, for each point of the window's type: more hides the map in a small window.
TEXT_PT, LINE_PX = 0.89, 2.1
#: Room beside the map that takes the words whole; over the map lie the lines that matter most.
WIDE_PX, LEAST_LINES = 220, 3
FRESH_CHARACTERS = 12

Soon = Callable[[str, Callable[[], Any]], None]


class Corner:
    """The corner of a viewer's canvas.

    Parameters
    ----------
    viewer
        napari viewer (main canvas).
    soon
        ``soon(name, function)`` calls a function between two events, before others that wait.
    size
        Rows and cols of the map in any unit that both have.
    """

    def __init__(self, viewer: Any, soon: Soon, size: NDArray[np.floating]):
        self.viewer, self._soon, self._size = viewer, soon, np.asarray(size, float)
        self.lines: list[str] = []
        self._keep = ""
        self._drawn: set[str] = set()
        self._canvas: Any = getattr(viewer, "canvas", None)
        if self._canvas is not None:
            self._canvas.events.size.connect(self._on_size)

    def say(self, lines: list[str], keep: str = "") -> None:
        """Show `lines`; where they do not all fit, the first, the last, warnings, and what begins with `keep` are there."""
        self.lines, self._keep = lines, keep
        if lines and not self.viewer.text_overlay.visible:
            self._soon("text", self._reveal)  # napari makes what draws it
        else:
            self._reveal()

    def _on_size(self, _event: Any = None) -> None:
        if self.lines:
            self._reveal()

    def _most_lines(self, line_px: float) -> int:
        """As many as there is room for above the map, where it is shown whole, all where there is room beside it."""
        if self._canvas is None:  # napari before 0.9 does not say how large its canvas is
            return len(self.lines)
        canvas = np.asarray(self._canvas.size, float)
        above, beside = (canvas - self._size * np.min(canvas / self._size)) / 2
        return len(self.lines) if beside > WIDE_PX else max(LEAST_LINES, int(above / line_px))

    def _reveal(self) -> None:
        """Show as much of the text as has few characters that were never drawn: each of them takes OpenGL 2 ms once."""
        type_pt = float(get_settings().appearance.font_size)
        whole = "\n".join(fitting(self.lines, self._most_lines(LINE_PX * type_pt), self._keep))
        fresh = [i for i, character in enumerate(whole) if character not in self._drawn and character not in whole[:i]]
        if len(fresh) > FRESH_CHARACTERS:
            whole = whole[: fresh[FRESH_CHARACTERS]]
            self._soon("text", self._reveal)
        self._drawn |= set(whole)
        overlay = self.viewer.text_overlay
        overlay.text = whole
        overlay.position = "top_left"
        overlay.font_size = TEXT_PT * type_pt
        overlay.visible = bool(whole)

    def close(self) -> None:
        """Take the words away and follow the canvas no longer."""
        if self._canvas is not None:
            self._canvas.events.size.disconnect(self._on_size)
            self._canvas = None
        self.say([])


def fitting(lines: list[str], most: int, keep: str = "") -> list[str]:
    """At most `most` of `lines`, in order: the first and last, warnings, what begins with `keep`, then from the top."""
    needed = {i for i, line in enumerate(lines) if i in (0, len(lines) - 1) or line.startswith(("⚠", keep or "⚠"))}
    order = sorted(range(len(lines)), key=lambda i: (i not in needed, i))
    return [lines[i] for i in sorted(order[:most])]
