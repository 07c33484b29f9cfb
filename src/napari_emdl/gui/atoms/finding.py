"""Follows the movie of a session: finds the columns of the frame that is shown, and of all frames as a job."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_emdl.base.peaks import PeakTable
from napari_emdl.gui.atoms.jobs import find_frame, run_movie
from napari_emdl.gui.atoms.session import AtomsSession
from napari_emdl.gui.kit.worker import Job, Latest, report_error
from napari_emdl.workflow.runs import COLUMN_RUNS


class ColumnsFollower(QObject):
    """Workers of the columns panel; what they find goes to the session.

    Signals
    -------
    started
        A :class:`Job` over all frames, to be watched.
    ended
        It is over, however it ended.
    failed
        What went wrong, in one line; the user was told.
    """

    started = Signal(object)
    ended = Signal()
    failed = Signal(str)

    def __init__(self, session: AtomsSession, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.latest = Latest(find_frame, "columns of the current frame", cancel_stale=False, parent=self)
        self.job: Job | None = None
        self.latest.done.connect(self._frame_found)
        self.latest.failed.connect(lambda error: self.failed.emit(report_error(error)))

    def find(self, frame: int) -> None:
        """Find the columns of a frame, unless they are known or cannot be found."""
        data = self.session.data
        if data.movie is None or data.movie.pixel_A is None or self.session.candidates.rows(frame) is not None:
            return
        self.latest.submit(data.movie, data.find_params(), data.settings.run, frame, self.session.candidates)

    def _frame_found(self, table: PeakTable, args: tuple[Any, ...]) -> None:
        _, _, _, frame, candidates = args
        session = self.session
        if candidates is not session.candidates or candidates.rows(frame) is not None:
            return
        session.put_columns(frame, table)
        if frame != session.frame:
            self.find(session.frame)

    def can_resume(self) -> bool:
        """True when an earlier run of this movie with these settings left something to go on with."""
        data = self.session.data
        known = data.movie is not None and data.movie.pixel_A is not None
        if data.movie is None or not known or self.job is not None or self.session.candidates.complete:
            return False
        return COLUMN_RUNS.can_resume(COLUMN_RUNS.file(data.movie, data.find_params()))

    def run(self, restart: bool = False) -> None:
        """Find the columns of all frames in the background; an earlier run that was cut short goes on."""
        data = self.session.data
        if data.movie is None or self.job is not None:
            return
        self.latest.drop()
        candidates = self.session.candidates
        job = Job(run_movie(data.movie, data.find_params(), data.settings.run, restart), "finding columns", self)
        job.block.connect(lambda block, table: self._block_done(candidates, block.start, table))
        job.returned.connect(lambda table: self._block_done(candidates, 0, table))
        job.failed.connect(lambda error: self.failed.emit(report_error(error, "columns")))
        job.finished.connect(self._finished)
        self.job = job
        self.started.emit(job)
        job.start()

    def _block_done(self, candidates: Any, start: int, table: PeakTable) -> None:
        if candidates is self.session.candidates:
            self.session.put_columns(start, table)

    def _finished(self) -> None:
        self.job = None
        self.ended.emit()

    def stop(self) -> None:
        """Forget what waits and stop what runs: another movie."""
        self.latest.drop()
        if self.job is not None:
            self.job.cancel()

    def close(self) -> None:
        """Stop what runs and wait for it."""
        if self.job is not None:
            self.job.cancel()
            self.job.wait(2.0)
        self.latest.close()
