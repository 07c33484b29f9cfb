"""The run over the scan: one at a time, of one datacube, that fills its results in as blocks come."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_emdl.base.errors import EmdlError, OtherJobError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.standin import is_stand_in
from napari_emdl.gui.diffraction import jobs
from napari_emdl.gui.diffraction.data import StemData
from napari_emdl.gui.kit.worker import Job, report_error

OTHER_SETTINGS = (
    "the run that was stopped had other settings; press Run on the scan to begin anew with these, "
    "or set the others again and press Resume"
)


class ScanRun(QObject):
    """Finds the disks of a whole scan as a job.

    Signals
    -------
    started
        A :class:`Job` to watch.
    block_found
        A part of the scan is finished: (datacube's data, block, table).
    found
        The disks of the scan, or of the part that was finished when it was stopped: (datacube's data, True when complete).
    ended
        Nothing runs any more.
    message
        One line for the user.
    """

    started = Signal(object)
    block_found = Signal(object, object, object)
    found = Signal(object, bool)
    ended = Signal()
    message = Signal(str)

    def __init__(self, parent: QObject | None = None):
        super().__init__(parent)
        self.job: Job | None = None
        self._data = StemData()

    def start(self, data: StemData, resume: bool) -> None:
        """Begin, or go on with what was stopped.

        Raises
        ------
        EmdlError
            When no datacube is open, or something runs.
        """
        if data.cube is None:
            raise EmdlError("no datacube is open; open one with File > Open or File > Open Sample")
        if is_stand_in(data.cube):
            raise EmdlError("only disks are open, no patterns to look for more in; open their datacube to find them anew")
        if self.job is not None:
            raise EmdlError(f"{self.job.name} is running; cancel it first")
        data.begin_run(resume)
        settings = data.settings
        params = settings.run_params.model_copy(update={"resume": resume})
        work = jobs.find_disks(data.cube, data.found.probe, settings.disk_params, params, settings.output)
        self.job = job = Job(work, "finding disks")
        self._data = data
        job.block.connect(self._on_block)
        job.returned.connect(self._on_table)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)
        job.finished.connect(self._on_finished)
        self.started.emit(job)
        job.start()

    def _on_block(self, block: Any, table: PeakTable) -> None:
        self._data.put_block(block, table)
        self.block_found.emit(self._data, block, table)

    def _on_table(self, table: PeakTable) -> None:
        self._data.take_disks(table, file=self._data.settings.output)
        self.found.emit(self._data, True)

    def _on_cancelled(self) -> None:
        self.message.emit("stopped; what is finished is kept, Resume goes on")
        self._keep_part()

    def _on_failed(self, error: BaseException) -> None:
        if isinstance(error, OtherJobError):
            error = EmdlError(OTHER_SETTINGS)
        self.message.emit(report_error(error, "finding disks"))
        self._keep_part()

    def _keep_part(self) -> None:
        data = self._data
        part, done = data.part_found(), data.found.done
        if part is not None:
            data.take_disks(part, done)
            self.found.emit(data, False)
        else:
            data.found.partial = data.found.done = None

    def _on_finished(self) -> None:
        self.job = None
        self.ended.emit()

    def cancel(self) -> None:
        """Ask it to stop."""
        if self.job is not None:
            self.job.cancel()
