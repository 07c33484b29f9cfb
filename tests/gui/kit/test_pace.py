"""One thing in a turn of the event loop: pieces of work, and canvases that are painted apart from them."""

from __future__ import annotations

import threading
import time

import numpy as np
import pint
import pytest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_emdl.gui.kit import pace, programs, responsive, session
from napari_emdl.gui.kit.pace import Turns

pytestmark = pytest.mark.gui


def busy(seconds: float) -> None:
    """CPU time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_pieces_are_done_in_order_and_a_newer_one_takes_the_place_of_one_that_waits(qtbot):
    done, turns = [], Turns()
    turns.soon("a", lambda: done.append("old"))
    turns.soon("b", lambda: done.append("b"))
    turns.soon("a", lambda: done.append("a"))
    turns.first("c", lambda: done.append("c"))
    turns.soon("d", lambda: done.append("d"))
    turns.forget("d")
    assert not done and not turns.settled
    qtbot.waitUntil(lambda: turns.settled)
    assert done == ["c", "a", "b"]
    turns.soon("e", lambda: done.append("e"))
    turns.hurry("e")
    turns.hurry("f")
    assert done[-1] == "e" and turns.settled


def test_two_pieces_never_share_a_turn(qtbot):
    """A beat of the event loop lies between any two, also of two owners, and when somebody else was busy before."""
    seen: list[str] = []
    beat = QTimer()
    beat.setInterval(1)
    beat.timeout.connect(lambda: seen.append("beat") if not seen or seen[-1] != "beat" else None)
    beat.start()
    owners = [Turns(), Turns()]
    for number in range(3):
        for owner in owners:
            owner.soon(f"{number}", lambda: (busy(1.5 * pace.BUSY_S), seen.append("work")))
    qtbot.waitUntil(lambda: all(owner.settled for owner in owners))
    assert seen.count("work") == 6 and ["work", "work"] not in [seen[i : i + 2] for i in range(len(seen))]


def test_a_window_that_is_always_busy_gets_its_work_done_all_the_same(qtbot):
    other = QTimer()
    other.setInterval(1)
    other.timeout.connect(lambda: busy(1.5 * pace.BUSY_S))
    other.start()
    turns = Turns()
    turns.soon("a", lambda: None)
    qtbot.waitUntil(lambda: turns.settled)


def test_canvases_are_painted_after_the_turn_that_changed_them(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    session.open_panel(viewer, session.WORKSPACE)
    canvas = viewer.window._qt_viewer.canvas
    drawn: list[float] = []
    canvas._scene_canvas.events.draw.connect(lambda _event: drawn.append(time.monotonic()))
    qtbot.waitUntil(lambda: bool(drawn) and time.monotonic() - drawn[-1] > 0.3, timeout=20_000)  # nothing is left to be painted
    drawn.clear()
    with pace.painted_later():
        canvas._scene_canvas.update()
    QApplication.sendPostedEvents()
    assert not drawn
    qtbot.waitUntil(lambda: bool(drawn))
    assert "_vispy_update" not in vars(canvas.native)


def test_programs_have_the_same_variables_when_they_are_read_the_short_way(make_napari_viewer, monkeypatch, qtbot):
    from vispy.gloo.program import Program

    session.open_panel(make_napari_viewer(), session.WORKSPACE)  # the short way is taken from here on
    short, usual = Program._parse_variables_from_code, programs._usual
    assert usual is not None and short is not usual
    compared = []

    def both(program, update_variables=True):
        usual(program, False)
        expected = dict(program._code_variables)
        short(program, update_variables)
        assert program._code_variables == expected
        compared.append(len(expected))

    monkeypatch.setattr(Program, "_parse_variables_from_code", both)
    viewer = make_napari_viewer(show=True)
    viewer.add_image(np.eye(9), colormap="viridis").colorbar.visible = True
    viewer.add_points(np.eye(2), text="a")
    viewer.add_shapes([np.eye(2)], shape_type="line")
    viewer.add_vectors(np.ones((1, 2, 2)))
    viewer.scale_bar.visible = viewer.text_overlay.visible = True
    viewer.text_overlay.text = "words"
    qtbot.waitUntil(lambda: len(compared) > 10)


def test_declarations_may_go_on_in_the_next_line():
    code = "uniform\n  vec2 a;\nfloat f(float x) {\n  return x;\n}\nconst float pi = 3.14; // and so on\n"
    assert programs.declarations(code).splitlines() == ["uniform", "  vec2 a;", "const float pi = 3.14; // and so on"]


def test_units_are_loaded_in_a_worker_and_one_registry_serves_all(monkeypatch):
    shared = pint.ApplicationRegistry(pint.LazyRegistry())
    monkeypatch.setattr(pint, "application_registry", shared)
    thread = threading.Thread(target=responsive.prepare_units)
    thread.start()
    thread.join()
    first = shared.get()
    assert isinstance(first, pint.UnitRegistry) and str(shared.Unit("nm")) == "nanometer"
    responsive.prepare_units()
    assert shared.get() is first
