"""napari's notes that come and go, as wide as the canvas they lie on: beside a pattern they would be cut off at the left."""

from __future__ import annotations

from typing import Any

from napari.utils import notifications

from napari_emdl.gui.kit.wording import said

EDGE_PX = 16
LEAST_PX = 220


def show_error(line: str, canvas: Any = None) -> None:
    """Show a line as an error; call it in the thread of the window.

    Parameters
    ----------
    line
        What went wrong.
    canvas
        Qt widget that the note lies on; that of the current viewer when None.
    """
    note, usual = _class(), None
    canvas = canvas if canvas is not None else _current_canvas()
    if note is not None and canvas is not None:
        usual = note.MIN_WIDTH
        note.MIN_WIDTH = max(LEAST_PX, min(usual, canvas.width() - EDGE_PX))
    try:
        notifications.show_error(said(line))
    finally:
        if usual is not None:
            note.MIN_WIDTH = usual


def _class() -> Any:
    try:
        from napari._qt.dialogs.qt_notification import NapariQtNotification
    except ImportError:  # another napari, or no Qt
        return None
    return NapariQtNotification if hasattr(NapariQtNotification, "MIN_WIDTH") else None


def _current_canvas() -> Any:
    from napari import current_viewer

    window = getattr(current_viewer(), "window", None)
    qt_viewer = getattr(window, "_qt_viewer", None)
    return None if qt_viewer is None else qt_viewer.canvas.native
