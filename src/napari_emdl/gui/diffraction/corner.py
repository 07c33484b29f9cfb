"""Words in the corner of the main canvas: what is known at the cross-hair, and what lies beyond the colours of the map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TEXT_PT = 8.0  # more hides the map in a small window
LINE_PX = 19  # height of a line of it
#: Part of the canvas' height that the words may take; a low canvas shows the lines that matter most.
SHARE, LEAST_LINES = 0.3, 3
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
    """

    def __init__(self, viewer: Any, soon: Soon):
        self.viewer, self._soon = viewer, soon
        self.lines: list[str] = []
        self._keep = ""
        self._drawn: set[str] = set()
        self._canvas: Any = getattr(viewer, "canvas", None)
        if self._canvas is not None:
            self._canvas.events.size.connect(self._on_size)

    def say(self, lines: list[str], keep: str = "") -> None:
        """Show `lines`; where they do not all fit, the first, the last, warnings, and what begins with `keep` are there."""
        self.lines, self._keep = lines, keep
        self._reveal()

    def _on_size(self, _event: Any = None) -> None:
        if self.lines:
            self._reveal()

    def _most_lines(self) -> int:
        if self._canvas is None:  # napari before 0.9 does not say how high its canvas is
            return len(self.lines)
        return max(LEAST_LINES, int(SHARE * self._canvas.size[0] / LINE_PX))

    def _reveal(self) -> None:
        """Show as much of the text as has few characters that were never drawn: each of them takes OpenGL 2 ms once."""
        whole = "\n".join(fitting(self.lines, self._most_lines(), self._keep))
        fresh = [i for i, character in enumerate(whole) if character not in self._drawn and character not in whole[:i]]
        if len(fresh) > FRESH_CHARACTERS:
            whole = whole[: fresh[FRESH_CHARACTERS]]
            self._soon("text", self._reveal)
        self._drawn |= set(whole)
        overlay = self.viewer.text_overlay
        overlay.text = whole
        overlay.position = "top_left"
        overlay.font_size = TEXT_PT
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
