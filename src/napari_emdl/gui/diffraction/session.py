"""Save and open projects, keep a session against crashes, and offer it again: the menu and the bar at the top of the panel."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QFileDialog, QFrame, QHBoxLayout, QLabel, QMenu, QPushButton, QToolButton, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.gui.diffraction.data import StemData
from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.diffraction.project import Opened, collect, opened_layers, own, read_opened
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.projects import collect_all, share, unshare
from napari_emdl.gui.kit.session import role_of
from napari_emdl.gui.kit.worker import Job, report_error
from napari_emdl.workflow.autosave import SessionFile, crashed_sessions
from napari_emdl.workflow.project import ENDING, Collected, write_project

AUTOSAVE_S = 4.0
FILTER = f"Project (*{ENDING})"


class Autosave(QObject):
    """Keeps the session of one workspace in the user's state folder, a few seconds behind every change.

    What is set is compared with what was written last: no change, whatever made it, is missed, and nothing is written while
    nothing changes. The disks are named, not copied, where they lie in a file.
    """

    written = Signal()

    def __init__(self, panel: Panel):
        super().__init__(panel)
        self.panel = panel
        self._file = SessionFile()
        self._job: Job | None = None
        self._last = ""
        self._timer = QTimer(self)
        self._timer.setInterval(int(1000 * AUTOSAVE_S))
        self._timer.timeout.connect(self.check)
        self._timer.start()

    @property
    def path(self) -> Path:
        """Where the session lies once something was written."""
        return self._file.path

    def check(self) -> None:
        """Write when something has changed since the last time."""
        state = self.panel.state
        if state.cube is None or (self._job is not None and self._job.running):
            return
        try:
            collected = collect(self.panel, copy_disks=False)
        except EmdlError:
            return  # a datacube in memory could not be opened again
        digest = self._digest(collected)
        if digest == self._last:
            return
        self._last = digest
        file = self._file

        def work(_control: Any, _block: Any) -> None:
            file.write(collected.project, collected.parts)

        self._job = Job(work, "autosave")
        self._job.returned.connect(self._on_written)
        self._job.failed.connect(self._on_failed)
        self._job.start()

    def _digest(self, collected: Collected) -> str:
        known = sha256(collected.project.model_dump_json().encode())
        known.update(str(id(self.panel.state.found.disks)).encode())
        for layers in (self.panel.viewer.layers, self.panel.canvas.model.layers):
            for layer in layers:
                if own(layer) or role_of(layer) in ("reference", "profile", "detector"):
                    known.update(f"{layer.name}{layer.visible}{layer.opacity}".encode())
                    known.update(_data_digest(layer))
        return known.hexdigest()

    def _on_written(self, _result: Any) -> None:
        self.written.emit()

    def _on_failed(self, error: BaseException) -> None:
        self._timer.stop()  # told once; a full disk does not get better by the second
        report_error(error, "the session is not kept")

    def close(self, timeout_s: float = 3.0) -> bool:
        """A window that is closed leaves nothing to restore."""
        self._timer.stop()
        self._file.end()
        ended = self._job is None or self._job.wait(timeout_s)
        self._file.end()
        return ended


def _data_digest(layer: Any) -> bytes:
    """What tells that the data of a layer changed; images are known by their array, everything drawn by its values."""
    if layer._type_string == "image":
        return str(id(layer.data)).encode()
    parts = layer.data if isinstance(layer.data, (list, tuple)) else [layer.data]
    known = sha256()
    for part in parts:
        known.update(np.ascontiguousarray(part).data)
    return known.digest()


class Offer(QFrame):
    """One line at the top of the panel that offers the session of a program that crashed; it asks for nothing."""

    restore_wanted = Signal(object)

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("restore_offer")
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.paths = crashed_sessions("diffraction")
        self.restore_button = QPushButton("Restore last session")
        self.dismiss_button = QToolButton()
        self.dismiss_button.setText("✕")
        self.dismiss_button.setToolTip("Forget it")
        self.when = QLabel("")
        row = QHBoxLayout(self)
        row.setContentsMargins(4, 2, 4, 2)
        row.addWidget(self.restore_button, 1)
        row.addWidget(self.when)
        row.addWidget(self.dismiss_button)
        self.restore_button.clicked.connect(lambda *_: self.restore_wanted.emit(self.paths[0]))
        self.dismiss_button.clicked.connect(lambda *_: self.forget())
        if self.paths:
            then = datetime.fromtimestamp(self.paths[0].stat().st_mtime)
            self.when.setText(f"{then:%H:%M}" if then.date() == datetime.now().date() else f"{then:%d %b %H:%M}")
            self.restore_button.setToolTip(
                f"The program ended on {then:%Y-%m-%d at %H:%M} without closing its window; go on where it was"
            )
        if not self.paths:
            self.hide()

    def forget(self) -> None:
        """Throw the session away that was offered, and those before it."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        self.paths = []
        self.hide()


class Shared:
    """What the workspace puts into projects that are saved from other panels of its viewer."""

    science = "diffraction"

    def __init__(self, panel: Panel):
        self.panel = panel

    def collect(self, copy_results: bool = True) -> Collected:
        """See :func:`napari_emdl.gui.diffraction.project.collect`."""
        return collect(self.panel, copy_results)


class ProjectMenu(QToolButton):
    """Save and open projects, and go back to the parameters as they come."""

    def __init__(self, panel: Panel, offer: Offer, autosave: Autosave):
        super().__init__(panel)
        self.panel, self.offer, self.autosave = panel, offer, autosave
        self._jobs: list[Job] = []
        self.setText("Project ▾")
        self.setStyleSheet(styles.MENU_BUTTON)
        self.setObjectName("project_menu")
        self.setToolTip("Save everything that is set, and open it again as it was")
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self)
        self.save_action = QAction("Save project", menu)
        self.save_as_action = QAction("Save project as …", menu)
        self.open_action = QAction("Open project …", menu)
        self.defaults_action = QAction("Default parameters", menu)
        menu.addActions([self.save_action, self.save_as_action, self.open_action])
        menu.addSeparator()
        menu.addAction(self.defaults_action)
        self.setMenu(menu)
        self.save_action.triggered.connect(lambda *_: self.save(self.path))
        self.save_as_action.triggered.connect(lambda *_: self.save())
        self.open_action.triggered.connect(lambda *_: self.open())
        self.defaults_action.triggered.connect(lambda *_: panel.use_defaults())
        self.shared = Shared(panel)
        share(panel.viewer, self.shared)

    @property
    def path(self) -> Path | None:
        """Project of the datacube that is shown."""
        return self.panel.state.settings.project_file

    def save(self, path: str | Path | None = None) -> Job | None:
        """Write the project; a file dialog asks where when no path is given."""
        try:
            collected = collect_all(self.panel.viewer, self.shared)
        except EmdlError as error:
            report_error(error, "save project")
            return None
        path = path or QFileDialog.getSaveFileName(self, "Save project", self._suggested(), FILTER)[0]
        if not path:
            return None
        target = Path(path) if str(path).endswith(ENDING) else Path(f"{path}{ENDING}")

        def work() -> tuple[Path, list[str]]:
            write_project(target, collected.project, collected.parts)
            return target, collected.left_out

        job = self._start(work, "save project")
        data = self.panel.state.data
        job.returned.connect(lambda saved: self._on_saved(data, saved))
        return job

    def _suggested(self) -> str:
        cube = self.panel.state.cube
        if self.path is not None:
            return str(self.path)
        if cube is None or not cube.path:
            return f"project{ENDING}"
        file = Path(cube.path.split("::")[0])
        return str(file.with_name(f"{file.name.split('.')[0]}{ENDING}"))

    def _on_saved(self, data: StemData, saved: tuple[Path, list[str]]) -> None:
        target, left_out = saved
        data.settings.project_file = target
        rest = f"; left out, too large or not in memory: {', '.join(left_out)}" if left_out else ""
        self.panel.state.message.emit(f"saved {target.name}{rest}")

    def open(self, path: str | Path | None = None) -> Job | None:
        """Open a project in this window; a file dialog asks for it when no path is given."""
        path = path or QFileDialog.getOpenFileName(self, "Open project", "", FILTER)[0]
        if not path:
            return None
        source = Path(path)
        job = self._start(lambda: read_opened(source), "open project")
        job.returned.connect(self._on_opened)
        return job

    def _on_opened(self, opened: Opened) -> None:
        panel, cube = self.panel, self.panel.state.cube
        if panel.closed:
            return
        if cube is not None and cube.path == opened.cube.path and cube.shape == opened.cube.shape:
            panel.take_project(opened)
        else:
            for data in opened_layers(opened):
                panel.viewer._add_layer_from_data(*data)

    def took(self, opened: Opened) -> None:
        """The workspace is as `opened` says: it is saved there again, unless it was a session that had crashed."""
        offer = self.offer
        offered = offer.paths[:1] == [opened.path]
        self.panel.state.settings.project_file = None if offered else opened.path
        if offered:
            self.autosave.written.connect(offer.forget)  # kept until this window's own session is
            offer.hide()

    def _start(self, work: Any, name: str) -> Job:
        job = Job(lambda _control, _block: work(), name)
        job.failed.connect(self._on_failed)
        self._jobs = [kept for kept in self._jobs if kept.running] + [job]
        self.panel.state.message.emit(f"{name} …")
        return job.start()

    def _on_failed(self, error: BaseException) -> None:
        line = report_error(error, "project")
        if not self.panel.closed:
            self.panel.notices.tell(line)

    def close_jobs(self, timeout_s: float = 10.0) -> bool:
        """Wait for a project that is being written."""
        unshare(self.panel.viewer, self.shared)
        ended = [job.wait(timeout_s) for job in self._jobs]
        return all(ended)
