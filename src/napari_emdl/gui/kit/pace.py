"""One thing in a turn of the event loop: a piece of work, or the painting of a canvas, and the mouse is answered in between.

napari takes a tenth of a second to make a layer and as long to paint one for the first time; Qt paints right after what asked
for it, and timers that fell due meanwhile follow at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from weakref import WeakSet

from qtpy.QtCore import QObject, QTimer

#: Between two pieces of work: time to paint, and to answer the mouse.
SLICE_MS = 25
#: With 0 Qt would go on within the same turn.
NEXT_TURN_MS = 1
#: CPU time between two looks above which the window was busy: it painted, or somebody else did a piece of work.
BUSY_S = 0.03
#: How often in a row there is no time; then it is taken, as a window that is always busy would never be done.
PATIENCE = 4

_looked_s = 0.0
_canvases: WeakSet[Any] = WeakSet()
_asked: dict[Any, bool] = {}  # canvases that wait -> whether there is anything to paint


class Pace:
    """Says to one who works in pieces, from a timer, when it is his turn."""

    def __init__(self) -> None:
        self._refused = 0

    def free(self) -> bool:
        """True when the window did little else since anybody asked."""
        global _looked_s
        now = time.thread_time()
        busy, _looked_s = now - _looked_s > BUSY_S, now
        self._refused = self._refused + 1 if busy and self._refused < PATIENCE else 0
        return self._refused == 0


class Turns(QObject):
    """Pieces of work by name, done one at a time; a piece of the same name takes the place of one that waits."""

    def __init__(self, parent: QObject | None = None):
        super().__init__(parent)
        self._pace = Pace()
        self._work: dict[str, Callable[[], Any]] = {}
        self._timer = QTimer(self)
        self._timer.setInterval(SLICE_MS)
        self._timer.timeout.connect(self._on_timer)

    def soon(self, name: str, work: Callable[[], Any]) -> None:
        """After all that waits."""
        self._work[name] = work
        self._timer.start()

    def first(self, name: str, work: Callable[[], Any]) -> None:
        """Before all that waits."""
        self._work = {name: work, **{known: other for known, other in self._work.items() if known != name}}
        self._timer.start()

    def forget(self, name: str) -> None:
        """Leave a piece undone."""
        self._work.pop(name, None)

    def hurry(self, name: str) -> None:
        """Do a piece now, where it waits."""
        if name in self._work:
            self._work.pop(name)()

    @property
    def settled(self) -> bool:
        """True when nothing waits."""
        return not self._work

    def _on_timer(self) -> None:
        if self._pace.free():
            self._do_one()

    def _do_one(self) -> None:
        if self._work:
            with painted_later():
                self._work.pop(next(iter(self._work)))()
        if not self._work:
            self._timer.stop()

    def finish(self) -> None:
        """Do what waits now."""
        while self._work:
            self._do_one()

    def stop(self) -> None:
        """Leave the rest undone."""
        self._work.clear()
        self._timer.stop()


def follow(qt_viewer: Any) -> None:
    """Let the canvas of a Qt viewer wait with painting in :func:`painted_later`."""
    canvas = getattr(getattr(qt_viewer, "canvas", None), "native", None)
    if hasattr(canvas, "_vispy_update"):
        _canvases.add(canvas)


@contextlib.contextmanager
def painted_later() -> Iterator[None]:
    """What is changed meanwhile is painted in turns of their own, one canvas after the other."""
    if not _asked:
        QTimer.singleShot(NEXT_TURN_MS, _paint_one)
    for canvas in list(_canvases):
        if canvas not in _asked:
            _asked[canvas] = False
            canvas._vispy_update = partial(_ask, canvas)
    yield


def _ask(canvas: Any) -> None:
    _asked[canvas] = True


def _paint_one() -> None:
    """Let canvases paint again, up to the first that has something to paint."""
    wanted = False
    while _asked and not wanted:
        canvas = next(iter(_asked))
        wanted = _asked.pop(canvas)
        with contextlib.suppress(RuntimeError):  # its window is closed
            del canvas._vispy_update
            if wanted:
                canvas._vispy_update()
    if _asked:
        QTimer.singleShot(NEXT_TURN_MS, _paint_one)
