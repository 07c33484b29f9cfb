"""Ctrl-C that acts within a second, whatever the program is doing.

Python handles signals in its main thread, and not while that is inside a call of numpy or onnxruntime: a Fourier transform of a
large frame would have to end first. So the command runs in a thread of its own and the main thread does nothing but listen.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from napari_emdl.base.errors import Cancelled
from napari_emdl.jobs.control import Control

#: Time a cancelled command has to put down what it did; finished blocks are on the disk already.
GRACE_S = 0.8
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_controls: list[Control] = []


@contextlib.contextmanager
def cancelled_by_signals(control: Control) -> Iterator[None]:
    """While this lasts, the first Ctrl-C cancels `control`, and a second one ends the program."""
    _controls.append(control)
    try:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not _stop:
            with _handled(_stop):
                yield
        else:
            yield
    finally:
        _controls.remove(control)


def run_interruptible(command: Callable[[], int]) -> int:
    """Run a command in a thread and give its exit status.

    Raises
    ------
    Cancelled
        When the user stopped it and it did not come to an end by itself in time; the caller must leave the process at once.
    KeyboardInterrupt
        When it was stopped where nothing can be cancelled, or a second time.
    """
    ended: list[int | BaseException] = []

    def work() -> None:
        try:
            ended.append(command())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work, name="emdl-command", daemon=True)
    with _handled(_stop):
        thread.start()
        stopped_s: float | None = None
        while thread.is_alive():
            thread.join(0.05)
            if any(control.cancelled for control in _controls):
                stopped_s = stopped_s or time.monotonic()
                if time.monotonic() - stopped_s > GRACE_S and thread.is_alive():
                    raise Cancelled("stopped; finished blocks are kept: run the same command with --resume to go on")
    (result,) = ended
    if isinstance(result, BaseException):
        raise result
    return result


def leave(status: int) -> None:
    """End the process now, without waiting for threads that still compute."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status)


def _stop(number: int, frame: FrameType | None) -> None:
    running = [control for control in _controls if not control.cancelled]
    if not running:
        raise KeyboardInterrupt
    for control in running:
        control.cancel()


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
