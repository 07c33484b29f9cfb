"""What keeps the window answering while workers compute, as long as a panel of ours is open.

napari collects garbage each time a layer is removed, and every collection looks at all that Python ever imported: 150 ms of the
main thread. What is there when a panel opens is left out of that until the last panel closes. And each call of OpenGL lets a
worker in, which may keep the interpreter for 5 ms by default: a picture has hundreds of such calls.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer

from napari_emdl.gui.kit.pace import SLICE_MS, Pace, painted_later

#: How long a worker may keep the interpreter when the window wants it.
SWITCH_S = 0.0005

#: How long one waits for units that another thread loads.
UNITS_S = 5.0

_before_s: float | None = None


def begin() -> None:
    """Leave out of collections what is there now, and let workers give way sooner, until :func:`end`."""
    global _before_s
    if _before_s is None:
        _before_s = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH_S, _before_s))
    gc.freeze()


def more() -> None:
    """Leave out what was imported since as well; nothing where no panel is open any more."""
    if _before_s is not None:
        gc.freeze()


def end() -> None:
    """Python as it was; what was left out may be collected again."""
    global _before_s
    if _before_s is not None:
        sys.setswitchinterval(_before_s)
        _before_s = None
        gc.unfreeze()


def prepare_units() -> None:
    """Load the units of all layers, a seventh of a second; call it in a worker.

    Who asks for a unit first loads them otherwise, and a second thread that asks meanwhile finds half of them.
    """
    import pint

    shared = pint.application_registry
    if isinstance(shared.get(), pint.LazyRegistry):
        ours: pint.UnitRegistry[Any] = pint.UnitRegistry(on_redefinition="raise")
        if isinstance(shared.get(), pint.LazyRegistry):
            shared.set(ours)
    end_s = time.monotonic() + UNITS_S
    while not getattr(shared.get(), "_initialized", True) and time.monotonic() < end_s:  # the window loads them meanwhile
        time.sleep(0.01)


def prepare_layers() -> None:
    """Make layers of every kind that we show, for nobody; call it in a worker before the first one is shown.

    With the first layer of a kind, napari imports what it needs for it (xarray, pandas, pyarrow) and compiles its outlines.
    """
    from napari.layers import Image, Points, Shapes, Vectors

    prepare_units()
    Image(np.zeros((2, 2), np.float32))
    Points(np.zeros((2, 2)), features={"score": np.arange(2.0)}, border_color="score")
    Shapes()  # napari compiles for empty layers what it needs for all shapes: seconds, on the first day
    Shapes([np.array([[0, 0], [0, 1], [1, 1], [1, 0]]), np.eye(2)], shape_type=["rectangle", "line"])
    Vectors(np.zeros((2, 2, 2)))


class Slices(QObject):
    """Work for the thread of the window in parts, with time to paint between them.

    Parameters
    ----------
    work
        A generator; what lies between two of its yields is done in one go.
    paints
        Canvases change: each is painted in a turn of its own.
    """

    def __init__(self, work: Iterator[None], parent: QObject | None = None, paints: bool = False):
        super().__init__(parent)
        self._work, self._paints = work, paints
        self.going = True
        self._pace = Pace()
        self._timer = QTimer(self)
        self._timer.setInterval(SLICE_MS)
        self._timer.timeout.connect(self._on_timer)
        self._timer.start()
        self.step()

    def _on_timer(self) -> None:
        if self._pace.free():
            self.step()

    def step(self) -> None:
        """Do the next part."""
        try:
            with painted_later() if self._paints else contextlib.nullcontext():
                next(self._work)
        except StopIteration:
            self.stop()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Leave the rest undone."""
        self.going = False
        self._timer.stop()

    def finish(self) -> None:
        """Do the rest at once."""
        while self.going:
            self.step()
