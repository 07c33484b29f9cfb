"""Follows the columns of a session: fits the occupancy as a job, and again at every threshold from the slider."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.atoms.fit.sites import Sites
from napari_emdl.base.peaks import PeakTable
from napari_emdl.gui.atoms.jobs import fit_sites, mean_of, rethreshold, run_movie
from napari_emdl.gui.atoms.session import AtomsSession
from napari_emdl.gui.kit.runner import Runner
from napari_emdl.gui.kit.worker import Job, Latest, report_error


class OccupancyFollower(Runner):
    """Workers of the diffusion panel; what they find goes to the session.

    Signals
    -------
    mean_found
        Drift-corrected mean image of the movie (rows, cols).
    """

    mean_found = Signal(object)

    def __init__(self, session: AtomsSession, parent: QObject | None = None) -> None:
        super().__init__(Latest(rethreshold, "threshold", cancel_stale=False), parent)
        self.session = session
        self._mean_job: Job | None = None
        self.latest.done.connect(self._rethresholded)
        session.limits_changed.connect(self.follow_limits)

    def fit(self, sites: Sites | None = None) -> None:
        """Find columns where they are missing, then drift, sites and occupancy, in the background.

        Parameters
        ----------
        sites
            Sites chosen by hand; found when None.
        """
        data, session = self.session.data, self.session
        movie = data.movie
        if movie is None or self.job is not None:
            return
        have, run = session.candidates.table(), data.settings.run
        find = run_movie(movie, data.find_params(), run)
        candidates, edits, chosen = session.candidates, session.edits, data.settings.limits.min_score
        fit_params = data.fit_params

        def work(control: Any, on_block: Any) -> Any:
            table = have if have is not None else find(control, on_block)
            columns = edits.apply(table)
            least = float(table.attrs["default_min_score"]) if chosen is None else chosen
            fitted, mean = fit_sites(movie, columns, fit_params(least), run, sites)(control, on_block)
            return table, columns, fitted, mean

        self.begin(
            work,
            "fitting occupancy",
            "occupancy",
            lambda result: self._fit_done(candidates, *result),
            lambda block, table: session.put_columns(block.start, table, candidates),
        )

    def _fit_done(self, candidates: Any, table: PeakTable, columns: PeakTable, fitted: Occupancy, mean: np.ndarray) -> None:
        if candidates is not self.session.candidates:
            return
        if self.session.candidates.table() is not table:
            self.session.put_columns(0, table)
        self.mean_found.emit(mean)
        self.session.set_fitted(fitted, columns)

    def follow_limits(self) -> None:
        """Show the occupancy at the threshold that counts: table work."""
        results, least = self.session.data.results, self.session.min_score
        if results.fitted is None or results.fitted_columns is None:
            return
        if results.occupancy is not None and results.occupancy.attrs.get("min_score") == least and not self.latest.busy:
            return
        self.latest.submit(results.fitted, results.fitted_columns, least)

    def _rethresholded(self, occupancy: Occupancy, args: tuple[Any, ...]) -> None:
        if args[0] is self.session.data.results.fitted:
            self.session.set_occupancy(occupancy)

    def make_mean(self) -> None:
        """Mean image of an occupancy that was opened from a file."""
        data, fitted = self.session.data, self.session.data.results.fitted
        if data.movie is None or fitted is None:
            return
        job = Job(mean_of(data.movie, fitted), "mean image", self)
        job.returned.connect(lambda mean: self._mean_done(fitted, mean))
        job.failed.connect(lambda error: self.failed.emit(report_error(error, "mean image")))
        self._mean_job = job.start()

    def _mean_done(self, fitted: Occupancy, mean: np.ndarray) -> None:
        if self.session.data.results.fitted is fitted:
            self.mean_found.emit(mean)

    def _going(self) -> list[Job]:
        return [job for job in (self.job, self._mean_job) if job is not None]
