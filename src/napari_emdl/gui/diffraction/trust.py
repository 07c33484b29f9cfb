"""Trust: gain check, agreement of two methods and training range, on some patterns of the scan, at the press of a button."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSizePolicy, QSpinBox, QVBoxLayout, QWidget

from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit.wording import said, warned
from napari_emdl.gui.kit.worker import Job, JobBar, error_line

HINT = (
    "The disks of some patterns are moved by small strains to see whether these come back, and a second method looks at the "
    "same patterns."
)


class TrustBox(QWidget):
    """Runs the check in a job and shows what it found; a new fit makes it old."""

    def __init__(self, state: StemState, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("trust")
        self.stem = state
        self.found: Any = None  # diffraction.trust.Trust
        self.job: Job | None = None
        self.button = QPushButton("Check some patterns")
        self.button.setToolTip(HINT)
        self.number = QSpinBox()
        self.number.setRange(1, 100)
        self.number.setValue(6)
        self.number.setMaximumWidth(84)
        self.number.setToolTip("Patterns to look at, spread over the fitted positions; the disks of each are moved eight times")
        self.bar = JobBar("patterns")
        self.text = QLabel(HINT)
        self.text.setWordWrap(True)
        self.text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        row = QHBoxLayout()
        row.addWidget(self.button, 1)
        row.addWidget(self.number)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        column.addWidget(self.bar)
        column.addWidget(self.text)
        self.button.clicked.connect(lambda *_: self.check())
        state.cube_changed.connect(self._forget)
        for signal in (state.strain_changed, state.job_started, state.job_ended):
            signal.connect(lambda *_: self.refresh())
        self.refresh()

    def refresh(self) -> None:
        """Enable the button when there is something to check."""
        idle = self.job is None and self.stem.job is None
        self.button.setEnabled(idle and self.stem.found.strain is not None)

    def _forget(self) -> None:
        self.cancel()
        self.found = None
        self.text.setText(HINT)
        self.refresh()

    def check(self) -> Job | None:
        """Start the check."""
        stem = self.stem
        if stem.cube is None or stem.found.strain is None or stem.found.probe is None or self.job is not None:
            return None
        cube, probe, strain, number = stem.cube, stem.found.probe, stem.found.strain, self.number.value()
        settings = stem.settings
        disk_params, strain_params = settings.disk_params, settings.strain_params
        min_score, run = settings.min_score, settings.run_params
        same = stem.found.disks is not None and stem.found.disks.attrs.get("method") in (None, disk_params.method)

        def work(control: Any, _block: Any) -> Any:
            from napari_emdl.diffraction.judge.trust import check_trust

            return check_trust(
                cube,
                probe,
                disk_params,
                strain,
                strain_params=strain_params,
                min_score=min_score if same else None,
                run=run,
                n_patterns=number,
                control=control,
            )

        self.job = job = Job(work, "checking")
        job.returned.connect(lambda found: self._on_found(found, cube))
        job.failed.connect(lambda error: self.text.setText(error_line(error)))
        job.cancelled.connect(lambda: self.text.setText("stopped"))
        job.finished.connect(self._on_finished)
        self.bar.watch(job)
        self.refresh()
        return job.start()

    def _on_found(self, found: Any, cube: Any) -> None:
        if cube is not self.stem.cube:
            return
        self.found = found
        lines = [said(f"{line[0].upper()}{line[1:]}.") for line in found.lines()]
        self.text.setText("\n".join([*lines, *warned(found.warnings)]))

    def _on_finished(self) -> None:
        self.job = None
        self.refresh()

    def cancel(self, timeout_s: float = 3.0) -> bool:
        """Stop the check and wait for its thread; True when it has ended."""
        job = self.job
        if job is None:
            return True
        job.cancel()
        return job.wait(timeout_s)
