"""Keys of the 4D-STEM workspace: bound on both canvases without taking any that somebody else has, and in the panel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut

from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.kit.crosshair import bind, unbind

ARROWS = {"Up": (-1, 0), "Down": (1, 0), "Left": (0, -1), "Right": (0, 1)}
BIG_STEP = 10

Bound = list[tuple[Any, list[str]]]


def bind_keys(panel: Panel) -> Bound:
    """Bind the keys that the help lists; returns what was bound, for :func:`unbind_keys`."""
    actions: dict[str, Callable[..., Any]] = {
        "[": lambda *_: panel.histogram.step(-1),
        "]": lambda *_: panel.histogram.step(+1),
        "Space": lambda *_: panel.state.find_here(force=True),
        "Escape": lambda *_: panel.cancel(),
        "Control-Z": lambda *_: panel.thresholds.history.undo(),
        "Control-Shift-Z": lambda *_: panel.thresholds.history.redo(),
    }
    for key in ("[", "]", "Escape"):
        shortcut = QShortcut(QKeySequence(key), panel)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.activated.connect(actions[key])
    steps: dict[str, Callable[..., Any]] = {
        modifier + key: partial(_step, panel, rows * length, cols * length)
        for key, (rows, cols) in ARROWS.items()
        for modifier, length in (("", 1), ("Shift-", BIG_STEP))
    }
    bound: Bound = []
    # the cross-hair binds its arrows on the main canvas itself
    for viewer, wanted in ((panel.viewer, actions), (panel.canvas.model, {**actions, **steps})):
        bound.append((viewer, [key for key, action in wanted.items() if bind(viewer, key, action)]))
    return bound


def _step(panel: Panel, rows: int, cols: int, _viewer: Any) -> None:
    panel.step(rows, cols)


def unbind_keys(bound: Bound) -> None:
    """Take off what :func:`bind_keys` bound."""
    for viewer, keys in bound:
        unbind(viewer, keys)
