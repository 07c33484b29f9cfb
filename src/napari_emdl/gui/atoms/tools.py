"""What both HRTEM panels have at the top and below the threshold: project, job, help; undo, redo and presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QToolButton, QVBoxLayout, QWidget

from napari_emdl.atoms.fit.result import Occupancy
from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.params import ColumnLimits
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Movie
from napari_emdl.base.stages import Job
from napari_emdl.gui.atoms.data import PRESETS
from napari_emdl.gui.atoms.history import LimitsHistory
from napari_emdl.gui.atoms.session import AtomsSession
from napari_emdl.gui.atoms.widgets import line, row
from napari_emdl.gui.kit.help import help_text, show_help
from napari_emdl.gui.kit.notices import Notices
from napari_emdl.gui.kit.opening import OpenButton
from napari_emdl.gui.kit.plots import named
from napari_emdl.gui.kit.presets import PresetTools
from napari_emdl.gui.kit.projects import Keeper, Offer, ProjectMenu
from napari_emdl.gui.kit.session import COLUMNS, registered
from napari_emdl.gui.kit.signals import LayerTuple, signal_layers
from napari_emdl.gui.kit.wording import said
from napari_emdl.gui.kit.worker import report_error
from napari_emdl.workflow.jobfile import read_job, write_job

YAML = "YAML (*.yaml *.yml)"
KEYS = (
    (
        "Ctrl+Z, Ctrl+Shift+Z",
        "undo and redo columns set by hand (in the columns layer), or limits (click the threshold)",
    ),
    ("Del", "delete the selected columns"),
    ("Click on a site", "show its life: when it is occupied"),
    ("Click or drag in a plot", "go to that frame"),
)
WAY = (
    "Open an image, movie or focal series (Open, or File > Open Sample > HRTEM movie with blinking sites). The columns "
    "of the frame that is shown are found at once.",
    "Run on movie finds the columns of every frame; put them right by hand where needed. Surface diffusion follows the sites.",
    "The threshold acts at once: columns are found once and only filtered afterwards. Presets keep thresholds by name.",
    "Project keeps everything that is set and found in one file, and opens it again as it was. A job does the same analysis "
    "without a window: napari-emdl run JOB.yaml.",
)


class ProjectRow(QWidget):
    """Project menu and help, and above them the offer to restore a session that crashed."""

    def __init__(self, session: AtomsSession, keeper: Keeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.viewer, self.closed = session.viewer, False
        self.notices = Notices()
        tip = "Open an image, a movie or a focal series, or columns and occupancy found before"
        other = (
            "As diffraction",
            "Open what is shown as a pattern, or a scan of patterns, in the 4D-STEM workspace",
            self.as_pattern,
        )
        self.open_button = OpenButton(self, _read, _layers_of, tip=tip, more=(other,))
        more = (
            ("Save job…", "All settings as YAML for 'napari-emdl run JOB.yaml'", self.save_job),
            ("Load job…", "Take over the settings of a job file", self.load_job),
            ("Default parameters", "Parameters as they come; what belongs to the movie stays", self.use_defaults),
        )
        self.menu = ProjectMenu(keeper, more)
        self.offer = Offer(keeper)
        self.help_button = named(QToolButton(), "help")
        self.help_button.setText("?")
        self.help_button.setToolTip("Keys, and the way through")
        self.help_button.clicked.connect(lambda *_: show_help(self, "HRTEM panels", help_text(KEYS, WAY)))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.offer)
        column.addWidget(self.notices)
        column.addWidget(row(self.open_button, self.menu, 1, self.help_button))
        self.note = line(name="note", dim=True)  # below it stand results with their caveats, which no message may push away
        self.note.hide()
        column.addWidget(self.note)

    def show_note(self, text: str) -> None:
        """What was saved, opened or could not be."""
        self.note.setText(said(text))
        self.note.setVisible(bool(text))

    def as_pattern(self) -> None:
        """Open what is shown in the 4D-STEM workspace instead."""
        columns = registered(self.viewer, COLUMNS)
        if columns is None:
            self.notices.tell("open the HRTEM columns panel first (Plugins > EM deep learning)")
        else:
            columns.suggestion.as_the_other()

    def say(self, text: str) -> None:
        """One line in the panels."""
        self.session.message.emit(text)

    def save_job(self, path: str | Path | None = None) -> Path | None:
        """Write a job file with everything that is set."""
        movie = self.session.movie
        suggested = f"{Path(movie.path).stem}_job.yaml" if movie is not None and movie.path else "job.yaml"
        path = path or QFileDialog.getSaveFileName(self, "Save job", suggested, YAML)[0]
        if not path:
            return None
        target = Path(path).absolute()
        try:
            write_job(target, self.session.data.job(target))
        except EmdlError as error:
            self.session.message.emit(report_error(error, "save job"))
            return None
        by_hand = "; columns changed by hand are not part of it" if self.session.edits.edited_frames else ""
        self.session.message.emit(f"saved {target.name}; run it with: napari-emdl run {target.name}{by_hand}")
        return target

    def load_job(self, path: str | Path | None = None) -> None:
        """Take over the settings of a job file; the movie stays."""
        path = path or QFileDialog.getOpenFileName(self, "Load job", "", YAML)[0]
        if not path:
            return
        try:
            job = read_job(path)
            if job.section("columns") is None and job.section("occupancy") is None:
                raise EmdlError(f"{Path(path).name} is a job for a datacube: load it in the 4D-STEM workspace")
        except EmdlError as error:
            self.session.message.emit(report_error(error, "load job"))
            return
        use_job(self.session, job)
        self.session.message.emit(f"settings of {Path(path).name}")

    def use_defaults(self) -> None:
        """Parameters as they come; what belongs to the movie stays."""
        self.session.data.settings.use_defaults()
        self.session.settings_changed.emit()
        self.session.forget_columns()
        self.session.frame_changed.emit(self.session.frame)


def _read(path: str) -> list[LayerTuple]:
    """Layers of a movie, of columns or occupancy with their movie, or of a project."""
    from napari_emdl.gui.atoms.project import opened_layers, read_opened
    from napari_emdl.gui.atoms.results import result_layers
    from napari_emdl.io import is_result, load, open_movie
    from napari_emdl.workflow.project import is_project

    if is_project(path):
        return opened_layers(read_opened(path))
    if not is_result(path):
        return signal_layers(open_movie(path))
    result = load(path)
    if isinstance(result, Occupancy) or (isinstance(result, PeakTable) and len(result.shape) == 1):
        return result_layers(result, path)
    raise OpenError(f"{Path(path).name} holds a result of a datacube; open it with File > Open")


def _layers_of(opened: Any) -> list[LayerTuple]:
    """Layers of what the dialog opened."""
    if isinstance(opened, Movie):
        return signal_layers(opened)
    raise OpenError(
        "this is a datacube or holds its disks: open it in the 4D-STEM workspace, or give another kind or axis order"
    )


def use_job(session: AtomsSession, job: Job) -> None:
    """Set everything as a job says; the frame that is shown is found again."""
    settings, columns, occupancy = session.data.settings, job.section("columns"), job.section("occupancy")
    limit = None
    if columns is not None:
        if columns.pixel_size_A is not None and session.movie is not None and session.movie.pixel_A != columns.pixel_size_A:
            session.set_pixel_A(columns.pixel_size_A, "user")
        settings.columns = columns.model_copy(update={"pixel_size_A": None, "min_score": None})
        limit = columns.min_score
    if occupancy is not None:
        settings.occupancy = occupancy.model_copy(update={"min_score": None})
        limit = occupancy.min_score if occupancy.min_score is not None else limit
    settings.run = job.run.model_copy(update={"resume": None})
    session.settings_changed.emit()
    session.forget_columns()
    session.set_limits(ColumnLimits(min_score=limit))
    session.frame_changed.emit(session.frame)


class LimitsTools(PresetTools):
    """Undo, redo and presets of the limits of columns; all panels of a session share the steps."""

    def __init__(self, session: AtomsSession, parent: QWidget | None = None) -> None:
        if session.history is None:
            session.history = LimitsHistory(session)
        history: Any = session.history
        super().__init__(
            PRESETS,
            history,
            lambda: ColumnLimits(min_score=session.min_score),
            session.set_limits,
            lambda: session.data.settings.default_min_score,
            parent,
        )
