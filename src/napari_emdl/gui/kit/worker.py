"""Work off the main thread: jobs with progress and cancel, and latest-wins requests for things that follow the mouse.

Nothing is computed here. A function runs in a Python thread that exists only while there is work, or a little longer for what
follows the mouse, so a closed window leaves no thread behind. Results come back as Qt signals in the thread of the receiver.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEventLoop, QObject, Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_emdl.base.errors import Cancelled, EmdlError
from napari_emdl.gui.kit import glyphs
from napari_emdl.gui.kit.responsive import prepare_layers
from napari_emdl.gui.kit.toasts import show_error
from napari_emdl.gui.kit.wording import said
from napari_emdl.jobs.control import Control, Progress

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.1
LINGER_S = 10.0  # how long a thread waits for the next request: the window would have to wait for each new one to begin


def error_line(error: BaseException) -> str:
    """One line that tells a user what went wrong."""
    if isinstance(error, EmdlError):
        return said(str(error))
    if isinstance(error, MemoryError):
        return "not enough memory; lower the memory limit or close other programs"
    if isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__
        return f"{what}: {error.filename}" if error.filename else what
    first = (str(error) or type(error).__name__).splitlines()[0]
    return f"unexpected {type(error).__name__}: {first} (details are in the log)"


def report_error(error: BaseException, where: str = "") -> str:
    """Show `error` to the user as one line and return that line; anything unexpected is logged with its traceback."""
    if not isinstance(error, (EmdlError, OSError, MemoryError)):
        logger.error("error in %s", where or "a worker", exc_info=error)
    line = f"{where}: {error_line(error)}" if where else error_line(error)
    show_error(line)
    return line


class _Sender(QObject):
    """Emits from a worker thread, also when the Qt side has gone meanwhile."""

    def _send(self, signal: str, *args: Any) -> None:
        try:
            getattr(self, signal).emit(*args)
        except RuntimeError:  # the window was closed and Qt deleted this object
            logger.debug("dropped a result: its window is closed")


class Job(_Sender):
    """One long computation in a thread.

    Parameters
    ----------
    function
        ``function(control, block)``: a :class:`Control` to check and report to, and a callable to hand on finished
        blocks (``on_block``). Whatever it returns is sent with `returned`.
    name
        What runs, for messages.
    """

    progressed = Signal(object)
    block = Signal(object, object)
    returned = Signal(object)
    failed = Signal(object)
    cancelled = Signal()
    finished = Signal()

    def __init__(self, function: Callable[[Control, Callable[..., None]], Any], name: str, parent: QObject | None = None):
        super().__init__(parent)
        self.name = name
        self.control = Control(self._on_progress)
        self._function = function
        self._last_progress_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"napari-emdl {name}", daemon=True)

    def start(self) -> Job:
        """Start the thread."""
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Ask the job to stop; `cancelled` follows."""
        self.control.cancel()

    @property
    def running(self) -> bool:
        """True from start to the end of the thread."""
        return self._thread.is_alive()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the thread; True when it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def end(self, timeout_s: float = 2.0) -> bool:
        """Stop and tell nobody any more: who listened is going. True when the thread has ended."""
        self.cancel()
        with contextlib.suppress(TypeError, RuntimeError):  # nobody listens, or Qt deleted it already
            self.disconnect()
        return self.wait(timeout_s)

    def _on_progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.done < progress.total and now - self._last_progress_s < PROGRESS_INTERVAL_S:
            return
        self._last_progress_s = now
        self._send("progressed", progress)

    def _on_block(self, block: Any, result: Any = None) -> None:
        self._send("block", block, result)

    def _run(self) -> None:
        try:
            result = self._function(self.control, self._on_block)
        except Cancelled:
            self._send("cancelled")
        except Exception as error:
            self._send("failed", error)
        else:
            self._send("returned", result)
        finally:
            self._send("finished")


class Latest(_Sender):
    """Runs ``function(control, *args)`` for the latest request only: a newer one cancels what runs and replaces what waits.

    Results come as ``done(result, args)``. Errors come as ``failed(error)``.
    """

    done = Signal(object, object)
    failed = Signal(object)

    def __init__(self, function: Callable[..., Any], name: str, cancel_stale: bool = True, parent: QObject | None = None):
        super().__init__(parent)
        self._function = function
        self._name = name
        self._cancel_stale = cancel_stale
        self._wake = threading.Condition()
        self._waiting: tuple[Any, ...] | None = None
        self._control: Control | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, *args: Any) -> None:
        """Ask for `args`; what was asked before and is not done is dropped."""
        with self._wake:
            if self._closed:
                return
            self._waiting = args
            running = self._control
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"napari-emdl {self._name}", daemon=True)
                self._thread.start()
            else:
                self._wake.notify()
        if running is not None and self._cancel_stale:
            running.cancel()

    @property
    def busy(self) -> bool:
        """True while a request runs or waits."""
        with self._wake:
            return self._waiting is not None or self._control is not None

    def drop(self) -> None:
        """Forget what waits and cancel what runs."""
        with self._wake:
            self._waiting = None
            running = self._control
        if running is not None:
            running.cancel()

    def close(self, timeout_s: float = 2.0) -> bool:
        """Take no more requests and wait for the thread; True when it has ended."""
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread = self._thread
        self.drop()
        if thread is not None:
            thread.join(timeout_s)
            return not thread.is_alive()
        return True

    def _next(self) -> tuple[tuple[Any, ...], Control] | None:
        with self._wake:
            self._control = None
            self._wake.wait_for(lambda: self._waiting is not None or self._closed, LINGER_S)
            if self._waiting is None:
                self._thread = None
                return None
            args, self._waiting = self._waiting, None
            self._control = Control()
            return args, self._control

    def _run(self) -> None:
        while (request := self._next()) is not None:
            args, control = request
            try:
                result = self._function(control, *args)
            except Cancelled:
                continue
            except Exception as error:
                self._send("failed", error)
                continue
            if not (control.cancelled and self._cancel_stale):
                self._send("done", result, args)


def per_second(rate: float) -> str:
    """Rate as a person reads it."""
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s"


def duration(seconds: float) -> str:
    """Time left as a person reads it."""
    if seconds != seconds or seconds == float("inf"):
        return "…"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class JobBar(QWidget):
    """Progress bar with rate, time left and Cancel; hidden while nothing runs.

    Parameters
    ----------
    item
        What is counted, such as "patterns".
    """

    def __init__(self, item: str = "patterns", parent: QWidget | None = None):
        super().__init__(parent)
        self.item = item
        self.job: Job | None = None
        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.text = QLabel("")
        self.text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.text.setWordWrap(True)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop within a second; what is finished is kept (Esc)")
        self.cancel_button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.cancel_button.clicked.connect(self.cancel)
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.bar, 1)
        row.addWidget(self.cancel_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        column.addWidget(self.text)
        self.hide()

    def watch(self, job: Job) -> None:
        """Show `job` until it is finished."""
        self.job = job
        self.bar.setRange(0, 0)
        self.text.setText(f"{job.name} …")
        self.cancel_button.setEnabled(True)
        job.progressed.connect(self._on_progress)
        job.finished.connect(self._on_finished)
        self.show()

    def cancel(self) -> None:
        """Cancel the job shown."""
        if self.job is not None:
            self.cancel_button.setEnabled(False)
            self.text.setText("stopping …")
            self.job.cancel()

    def _on_progress(self, progress: Progress) -> None:
        if self.job is None or self.job.control.cancelled:
            return
        self.bar.setUpdatesEnabled(False)  # Qt paints the whole window at once for each value
        self.bar.setRange(0, max(1, progress.total))
        self.bar.setValue(progress.done)
        self.bar.setUpdatesEnabled(True)
        parts = [f"{progress.done:,} of {progress.total:,} {self.item}"]
        if progress.rate_per_s > 0:
            parts.append(per_second(progress.rate_per_s))
        if progress.remaining_s != float("inf") and progress.done < progress.total:
            parts.append(f"{duration(progress.remaining_s)} left")
        if progress.message:
            parts.append(progress.message)
        self.text.setText(" · ".join(parts))

    def _on_finished(self) -> None:
        self.job = None
        self.hide()


def run_with_progress(function: Callable[[Control], Any], title: str) -> Any:
    """Run ``function(control)`` in a thread and return its result, with napari's progress bar and a window that stays alive.

    For what reads or makes layers and must answer at once; what napari imports for its first layers is imported there too.
    Without a running application the function is simply called.
    """
    from napari import current_viewer
    from napari.utils import progress
    from qtpy.QtWidgets import QApplication

    if QApplication.instance() is None:
        return function(Control())

    def work(control: Control, _block: Callable[..., None]) -> Any:
        prepare_layers()
        return function(control)

    glyphs.make_ready_in(current_viewer())
    job = Job(work, title)
    outcome: list[Any] = []
    loop = QEventLoop()
    with progress(total=100, desc=title) as bar:
        job.progressed.connect(lambda p: bar.update(int(100 * p.done / max(1, p.total)) - bar.n))
        job.returned.connect(outcome.append)
        job.failed.connect(outcome.append)
        job.finished.connect(loop.quit)
        job.start()
        loop.exec()
    if not outcome or isinstance(outcome[0], BaseException):
        raise outcome[0] if outcome else Cancelled(title)
    return outcome[0]
