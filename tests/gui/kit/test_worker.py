"""Jobs and latest-wins requests."""

from __future__ import annotations

import threading
import time

import pytest

from napari_emdl.base.errors import EmdlError
from napari_emdl.gui.kit.worker import Job, Latest, duration, error_line

pytestmark = pytest.mark.gui


def test_a_note_is_as_wide_as_the_canvas_it_lies_on(make_napari_viewer):
    from napari._qt.dialogs.qt_notification import NapariQtNotification
    from napari.settings import get_settings

    from napari_emdl.gui.kit.toasts import EDGE_PX, show_error

    viewer = make_napari_viewer(show=True)
    canvas = viewer.window._qt_viewer.canvas.native
    usual = NapariQtNotification.MIN_WIDTH
    canvas.setFixedWidth(280)
    get_settings().application.gui_notification_level = "error"
    show_error("the file is cut short: " + "copy it anew " * 20)
    (note,) = canvas.findChildren(NapariQtNotification)
    assert note.width() == 280 - EDGE_PX and note.x() >= 0 and usual == NapariQtNotification.MIN_WIDTH
    note.close()


def ours() -> list[str]:
    """Threads of the package that are alive."""
    return [t.name for t in threading.enumerate() if t.name.startswith("napari-emdl")]


def test_a_job_reports_blocks_and_returns(qtbot):
    seen, blocks = [], []

    def work(control, on_block):
        for i in range(3):
            on_block(i, i * i)
            control.report(i + 1, 3)
        return "done"

    job = Job(work, "test")
    job.progressed.connect(lambda p: seen.append((p.done, p.total)))
    job.block.connect(lambda block, result: blocks.append((block, result)))
    with qtbot.waitSignal(job.returned, timeout=5000) as returned:
        job.start()
    assert returned.args == ["done"]
    assert blocks == [(0, 0), (1, 1), (2, 4)]
    assert seen[-1] == (3, 3)
    assert job.wait(1)


def test_cancel_ends_a_job_at_its_next_look(qtbot):
    def work(control, on_block):
        while True:
            control.check()
            time.sleep(0.01)

    job = Job(work, "test").start()
    with qtbot.waitSignal(job.cancelled, timeout=5000):
        job.cancel()
    assert job.wait(1) and not ours()


def test_errors_are_told(qtbot):
    def work(control, on_block):
        raise EmdlError("no disks: lower the threshold")

    job = Job(work, "test")
    with qtbot.waitSignal(job.failed, timeout=5000) as failed:
        job.start()
    assert error_line(failed.args[0]) == "no disks: lower the threshold"


def test_a_job_whose_window_is_closed_ends_without_a_word(qtbot, monkeypatch):
    from qtpy.QtCore import QCoreApplication, QEvent, QObject

    go_on, loud = threading.Event(), []
    monkeypatch.setattr(threading, "excepthook", loud.append)

    def work(control, on_block):
        go_on.wait(10)
        on_block(1, 1)
        control.report(1, 1)

    owner = QObject()
    job = Job(work, "test", owner).start()
    thread = job._thread
    owner.deleteLater()
    QCoreApplication.sendPostedEvents(owner, QEvent.Type.DeferredDelete)
    go_on.set()
    thread.join(10)
    assert not thread.is_alive() and not loud


def test_error_lines_have_no_traceback():
    assert error_line(FileNotFoundError(2, "No such file or directory", "a.h5")) == "No such file or directory: a.h5"
    assert error_line(ZeroDivisionError("one\ntwo")).startswith("unexpected ZeroDivisionError: one (")


def test_only_the_latest_request_counts(qtbot):
    ran, results = [], []
    release = threading.Event()

    def work(control, value):
        ran.append(value)
        while not release.is_set():
            control.check()
            time.sleep(0.005)
        return value * 10

    latest = Latest(work, "test")
    latest.done.connect(lambda result, args: results.append((result, args)))
    latest.submit(1)
    qtbot.waitUntil(lambda: ran == [1], timeout=3000)
    for value in (2, 3, 4):
        latest.submit(value)
    release.set()
    qtbot.waitUntil(lambda: len(results) > 0, timeout=3000)
    qtbot.waitUntil(lambda: not latest.busy, timeout=3000)
    assert results[-1] == (40, (4,))
    assert 10 not in [result for result, _ in results]  # the stale request was cancelled
    assert len(ran) <= 3
    assert latest.close() and not ours()


def test_a_closed_latest_takes_nothing_more(qtbot):
    latest = Latest(lambda control: 1, "test")
    assert latest.close()
    latest.submit()
    assert not latest.busy


def test_durations_read_well():
    assert duration(4) == "4 s"
    assert duration(75) == "1 min 15 s"
    assert duration(3700) == "1 h 01 min"
    assert duration(float("inf")) == "…"
