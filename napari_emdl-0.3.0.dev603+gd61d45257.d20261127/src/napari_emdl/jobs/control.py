"""What a long computation may know of the outside: report progress, and stop when asked to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from napari_emdl.base.errors import Cancelled


@dataclass(frozen=True)
class Progress:
    """State of a job: `done` of `total` items, `rate_per_s` of late, `remaining_s` at that rate."""

    done: int
    total: int
    rate_per_s: float
    remaining_s: float
    message: str = ""


class Control:
    """Passed into every long function; safe to use from several threads.

    Parameters
    ----------
    on_progress
        Called with a :class:`Progress` in the thread that reports it.
    """

    def __init__(self, on_progress: Callable[[Progress], None] | None = None) -> None:
        self._on_progress = on_progress
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._started_s = time.monotonic()
        self._first_done: int | None = None
        self._last = Progress(0, 0, 0.0, float("inf"))

    def __reduce__(self) -> tuple[type[Control], tuple[()]]:
        # On another computer there is nobody to report to; cancelling is the executor's business there.
        return Control, ()

    @property
    def cancelled(self) -> bool:
        """True once :meth:`cancel` was called."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the job to stop; registered callbacks (such as onnxruntime's terminate) run at once."""
        self._cancelled.set()
        with self._lock:
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Run `callback` when cancelled; returns a function that takes it off again."""
        with self._lock:
            self._callbacks.append(callback)
        if self.cancelled:
            callback()

        def remove() -> None:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)

        return remove

    def check(self) -> None:
        """Raise :class:`Cancelled` when the job was cancelled; call it at least twice a second."""
        if self.cancelled:
            raise Cancelled("cancelled by the user")

    def say(self, text: str) -> None:
        """Tell the user something while the job goes on; goes to the log too."""
        logging.getLogger("napari_emdl").warning(text)
        if self._on_progress is not None:
            self._on_progress(replace(self._last, message=text))

    def report(self, done: int, total: int, message: str = "") -> None:
        """Tell how far the job is; items that were there before the first report do not count for the rate."""
        if self._on_progress is None:
            return
        with self._lock:
            if self._first_done is None:
                self._first_done, self._started_s = done, time.monotonic()
            elapsed_s = time.monotonic() - self._started_s
            rate = (done - self._first_done) / elapsed_s if elapsed_s > 0 else 0.0
        remaining_s = (total - done) / rate if rate > 0 else float("inf")
        self._last = Progress(done, total, rate, remaining_s, message)
        self._on_progress(self._last)
