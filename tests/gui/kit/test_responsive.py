"""The interpreter while a panel is open: start-up is left out of garbage collection, workers give way, and all is undone."""

from __future__ import annotations

import gc
import subprocess
import sys
from weakref import WeakKeyDictionary

import pytest

from napari_emdl.gui.kit import responsive, session
from napari_emdl.gui.kit.responsive import Slices

pytestmark = pytest.mark.gui


def test_python_is_as_before_when_the_last_panel_has_closed(make_napari_viewer, monkeypatch):
    responsive.end()
    monkeypatch.setattr(session, "_widgets", WeakKeyDictionary())  # panels of tests before
    before = sys.getswitchinterval()
    viewer = make_napari_viewer()
    panel = session.open_panel(viewer, session.WORKSPACE)
    assert gc.get_freeze_count() > 10_000
    assert sys.getswitchinterval() == pytest.approx(responsive.SWITCH_S)
    panel.shut_down()
    assert gc.get_freeze_count() == 0
    assert sys.getswitchinterval() == pytest.approx(before)
    responsive.more()  # an import that ends late
    assert gc.get_freeze_count() == 0


def test_layers_are_made_in_two_threads_at_once():
    """The registry of units is loaded by whoever asks first; half of it is no use to another thread. All is compiled then."""
    code = """
import threading, numpy as np
from napari.layers import Image
from napari_emdl.gui.kit.responsive import prepare_layers
failed = []
def work():
    try:
        prepare_layers()
    except Exception as error:
        failed.append(error)
thread = threading.Thread(target=work)
thread.start()
Image(np.zeros((2, 2)), units=("nm", "nm"))
thread.join()
from napari.layers import Shapes
from numba.core.dispatcher import Dispatcher
Dispatcher.compile = lambda *_: failed.append("compiled in the thread of the window")
Shapes()
raise SystemExit(repr(failed) if failed else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_slices_are_done_in_order_and_can_be_hurried(qtbot):
    done = []

    def work():
        done.append(1)
        yield
        done.append(2)
        yield
        done.append(3)

    slices = Slices(work())
    assert done == [1] and slices.going
    qtbot.waitUntil(lambda: not slices.going, timeout=3000)
    assert done == [1, 2, 3]
    hurried = Slices(work())
    hurried.finish()
    assert done == [1, 2, 3, 1, 2, 3] and not hurried.going
    stopped = Slices(work())
    stopped.stop()
    stopped.finish()
    assert done[6:] == [1]
