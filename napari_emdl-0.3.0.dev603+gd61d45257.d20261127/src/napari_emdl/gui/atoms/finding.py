"""Follows the movie of a session: finds the columns of the frame that is shown, and of all frames as a job."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject

from napari_emdl.base.peaks import PeakTable
from napari_emdl.gui.atoms.jobs import find_frame, run_movie
from napari_emdl.gui.atoms.session import AtomsSession
from napari_emdl.gui.kit.runner import Runner
from napari_emdl.gui.kit.worker import Latest
from napari_emdl.workflow.runs import COLUMN_RUNS


class ColumnsFollower(Runner):
    """Workers of the columns panel; what they find goes to the session."""

    def __init__(self, session: AtomsSession, parent: QObject | None = None) -> None:
        super().__init__(Latest(find_frame, "columns of the current frame", cancel_stale=False), parent)
        self.session = session
        self.latest.done.connect(self._frame_found)

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
        self.begin(
            run_movie(data.movie, data.find_params(), data.settings.run, restart),
            "finding columns",
            "columns",
            lambda table: self.session.put_columns(0, table, candidates),
            lambda block, table: self.session.put_columns(block.start, table, candidates),
        )
