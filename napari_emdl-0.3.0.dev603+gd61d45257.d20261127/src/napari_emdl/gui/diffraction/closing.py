"""How the 4D-STEM workspace ends: what tells that it goes, and its parts letting go one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget


def goes(widget: QWidget, event: QEvent) -> bool:
    """Whether `event` says that `widget` was taken out of its window (how napari closes a dock) or is being deleted."""
    taken_out = event.type() == QEvent.Type.ParentChange and widget.parent() is None
    return taken_out or event.type() == QEvent.Type.DeferredDelete


class Closing:
    """What is to be called at the end, first to last; a part that fails does not keep the others from letting go."""

    def __init__(self) -> None:
        self.done = False
        self.steps: tuple[Callable[[], Any], ...] = ()

    def run(self) -> None:
        """Let go of everything; safe to call twice."""
        if self.done:
            return
        self.done = True
        with ExitStack() as stack:
            for step in reversed(self.steps):
                stack.callback(step)
