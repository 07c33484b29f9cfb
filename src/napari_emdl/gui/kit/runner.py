"""One job at a time beside one latest-wins worker: what a panel that follows its data needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_emdl.gui.kit.worker import Job, Latest, report_error


class Runner(QObject):
    """Base of what follows the data of a panel.

    Parameters
    ----------
    latest
        Worker for what is shown now.

    Signals
    -------
    started
        A :class:`Job` to be watched.
    ended
        It is over, however it ended.
    failed
        What went wrong, in one line; the user was told.
    """

    started = Signal(object)
    ended = Signal()
    failed = Signal(str)

    def __init__(self, latest: Latest, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.latest = latest
        self.job: Job | None = None
        latest.failed.connect(lambda error: self.failed.emit(report_error(error)))

    def begin(
        self,
        work: Callable[..., Any],
        name: str,
        where: str,
        returned: Callable[[Any], Any],
        block: Callable[[Any, Any], Any] | None = None,
    ) -> Job:
        """Start the job; `where` stands before its error line."""
        job = Job(work, name, self)
        if block is not None:
            job.block.connect(block)
        job.returned.connect(returned)
        job.failed.connect(lambda error: self.failed.emit(report_error(error, where)))
        job.finished.connect(self._finished)
        self.job = job
        self.started.emit(job)
        return job.start()

    def _finished(self) -> None:
        self.job = None
        self.ended.emit()

    def _going(self) -> list[Job]:
        """Jobs that stop with the data."""
        return [job for job in (self.job,) if job is not None]

    def stop(self) -> None:
        """Forget what waits and stop what runs: other data are shown."""
        self.latest.drop()
        for job in self._going():
            job.cancel()

    def close(self) -> None:
        """Stop what runs and wait for it."""
        for job in self._going():
            job.end()
        self.latest.close()
