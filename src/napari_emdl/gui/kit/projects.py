"""Projects in a window, for any science: save, open, keep a session against crashes and offer it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QFileDialog, QFrame, QHBoxLayout, QLabel, QMenu, QPushButton, QToolButton, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.gui.kit import opening, styles
from napari_emdl.gui.kit.panels import open_panels
from napari_emdl.gui.kit.session import bare
from napari_emdl.gui.kit.signals import LayerTuple, for_panels
from napari_emdl.gui.kit.worker import Job, report_error
from napari_emdl.workflow.autosave import SessionFile, crashed_sessions
from napari_emdl.workflow.project import ENDING, Collected, read_project, write_project

AUTOSAVE_S = 4.0
FILTER = f"Project (*{ENDING})"
SCIENCES = ("diffraction", "atoms")


class Shared(Protocol):
    """What the panels of one science in one viewer put into a project.

    Attributes
    ----------
    science
        "diffraction" or "atoms".
    """

    science: str

    def collect(self, copy_results: bool = True) -> Collected:
        """Everything that is set; raises EmdlError when there is nothing that could be opened again.

        With `copy_results` False results that lie in a file of their own may be named instead of copied.
        """


class Workspace(Shared, Protocol):
    """What a project is made of and goes back to."""

    def read(self, path: Path) -> Any:
        """Read a project file; runs in a thread."""

    def take(self, opened: Any) -> None:
        """Be as the project says."""

    def suggested(self) -> Path | None:
        """Data file the project may be named after."""

    @property
    def named(self) -> Any:
        """What remembers the project file of the data that are shown, as `project_file`."""

    def say(self, line: str) -> None:
        """One line for the user."""

    def warn(self, line: str) -> None:
        """One line that stays until it is dismissed."""


@dataclass
class Held:
    """What a project file held.

    Attributes
    ----------
    opened
        By science, as its workspace takes it.
    layers
        Layers that bring it to a window where the panel of that science is not open.
    """

    opened: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, list[LayerTuple]] = field(default_factory=dict)


_open: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def share(viewer: Any, workspace: Shared) -> None:
    """Let projects that are saved from other panels of `viewer` hold what this workspace has set."""
    _open.setdefault(bare(viewer), {})[workspace.science] = workspace


def unshare(viewer: Any, workspace: Shared) -> None:
    """The workspace was closed."""
    known = _open.get(bare(viewer), {})
    if known.get(workspace.science) is workspace:
        del known[workspace.science]


def collect_all(viewer: Any, workspace: Shared) -> Collected:
    """What `workspace` has set, and with it what other sciences have set in the same viewer.

    Raises
    ------
    EmdlError
        When `workspace` has nothing that could be opened again.
    """
    collected = workspace.collect()
    for other in _open.get(bare(viewer), {}).values():
        if other is not workspace:
            try:
                collected = collected | other.collect()
            except EmdlError:  # nothing is open there
                continue
    return collected


class Keeper(QObject):
    """Projects of one workspace: files the user names, and the session that is kept a few seconds behind every change.

    What is set is compared with what was written last: no change, whatever made it, is missed, and nothing is written while
    nothing changes.

    Signals
    -------
    written
        The session was written.
    offer_changed
        There is another session to be restored, or none any more.
    """

    written = Signal()
    offer_changed = Signal()

    def __init__(self, viewer: Any, workspace: Workspace, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer, self.workspace = viewer, workspace
        self.crashed = crashed_sessions(workspace.science)
        self.restored = False  # the session that crashed is shown
        self.session = SessionFile()
        self._jobs: list[Job] = []
        self._writing: Job | None = None
        self._last = ""
        self._timer = QTimer(self)
        self._timer.setInterval(int(1000 * AUTOSAVE_S))
        self._timer.timeout.connect(self.check)
        self._timer.start()
        share(viewer, workspace)

    # projects the user names

    @property
    def path(self) -> Path | None:
        """Project of the data that are shown."""
        found: Path | None = self.workspace.named.project_file
        return found

    def save(self, path: str | Path | None = None) -> Job | None:
        """Write the project; a file dialog asks where when no path is given."""
        try:
            collected = collect_all(self.viewer, self.workspace)
        except EmdlError as error:
            self.workspace.say(report_error(error, "save project"))
            return None
        path = path or QFileDialog.getSaveFileName(None, "Save project", self._suggested(), FILTER)[0]
        if not path:
            return None
        target = Path(path) if str(path).endswith(ENDING) else Path(f"{path}{ENDING}")

        def work() -> tuple[Path, list[str]]:
            write_project(target, collected.project, collected.parts)
            return target, collected.left_out

        named = self.workspace.named  # other data may be shown when it is written
        return self._start(work, "save project", lambda saved: self._on_saved(named, saved))

    def _suggested(self) -> str:
        if self.path is not None:
            return str(self.path)
        file = self.workspace.suggested()
        return f"project{ENDING}" if file is None else str(file.with_name(f"{file.name.split('.')[0]}{ENDING}"))

    def _on_saved(self, named: Any, saved: tuple[Path, list[str]]) -> None:
        named.project_file, left_out = saved
        rest = f"; left out, too large or not in memory: {', '.join(left_out)}" if left_out else ""
        self.workspace.say(f"saved {saved[0].name}{rest}")

    def open(self, path: str | Path | None = None) -> Job | None:
        """Open a project in this window; a file dialog asks for it when no path is given."""
        path = path or QFileDialog.getOpenFileName(None, "Open project", "", FILTER)[0]
        if not path:
            return None
        source = Path(path)
        return self._start(lambda: self._read(source), "open project", self._on_opened)

    def _read(self, source: Path) -> Held:
        """All that a project holds, whichever panel it is opened from."""
        own, held = self.workspace.science, Held()
        project, _ = read_project(source, {})
        for science in SCIENCES:
            if science != own and getattr(project, science) is not None:
                theirs = import_module(f"napari_emdl.gui.{science}.project")  # the kit knows no science
                held.opened[science] = theirs.read_opened(source)
                held.layers[science] = for_panels(theirs.opened_layers(held.opened[science]))
        if not held.opened or getattr(project, own) is not None:
            held.opened[own] = self.workspace.read(source)
        return held

    def _on_opened(self, held: Held) -> None:
        there = {**_open.get(bare(self.viewer), {}), self.workspace.science: self.workspace}
        for science, opened in held.opened.items():
            if science in there:  # now, for its panel may have been closed while the file was read
                there[science].take(opened)
            else:
                opening.add_layers(self.viewer, held.layers[science])
        if not held.opened.keys() <= there.keys():
            open_panels(self.viewer)

    def took(self, path: Path) -> None:
        """The workspace is as the project at `path` says: it is saved there again, unless it was a session that crashed."""
        offered = self.crashed[:1] == [path]
        self.workspace.named.project_file = None if offered else path
        if offered:
            self.restored = True
            self.written.connect(self.forget_crashed)  # kept until this window's own session is
        self.offer_changed.emit()

    def _start(self, work: Callable[[], Any], name: str, then: Callable[[Any], Any]) -> Job:
        job = Job(lambda _control, _block: work(), name)
        job.returned.connect(then)
        job.failed.connect(lambda error: self.workspace.warn(report_error(error, name)))
        self._jobs = [kept for kept in self._jobs if kept.running] + [job]
        self.workspace.say(f"{name}…")
        return job.start()

    # the session that is kept

    def check(self) -> None:
        """Write the session when something has changed since the last time."""
        if self._writing is not None and self._writing.running:
            return
        try:
            collected = self.workspace.collect(copy_results=False)
        except EmdlError:
            return  # nothing that could be opened again
        if collected.fingerprint == self._last:
            return
        self._last = collected.fingerprint
        self._writing = Job(lambda _control, _block: self.session.write(collected.project, collected.parts), "autosave")
        self._writing.returned.connect(self._on_written)
        self._writing.failed.connect(self._on_not_kept)
        self._writing.start()

    def _on_written(self, _result: Any) -> None:
        self.written.emit()

    def _on_not_kept(self, error: BaseException) -> None:
        self._timer.stop()  # told once; a full disk does not get better by the second
        self.workspace.say(report_error(error, "the session is not kept"))

    def restore(self) -> Job | None:
        """Go on with the session of a program that crashed."""
        return self.open(self.crashed[0]) if self.crashed else None

    def forget_crashed(self) -> None:
        """Throw the session away that was offered, and those before it."""
        for path in self.crashed:
            path.unlink(missing_ok=True)
        self.crashed = []
        self.offer_changed.emit()

    def close(self, timeout_s: float = 10.0) -> bool:
        """A window that is closed leaves nothing to restore; projects that are being written are waited for."""
        self._timer.stop()
        unshare(self.viewer, self.workspace)
        ended = [job.wait(timeout_s) for job in self._jobs]
        if self._writing is not None:
            ended.append(self._writing.wait(3.0))
        self.session.end()
        return all(ended)


class ProjectMenu(QToolButton):
    """Save and open projects; `more` are further entries: (text, tooltip, function)."""

    def __init__(self, keeper: Keeper, more: tuple[tuple[str, str, Any], ...] = (), parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.keeper = keeper
        self.setText("Project ▾")
        self.setStyleSheet(styles.MENU_BUTTON)
        self.setObjectName("project_menu")
        self.setToolTip("Save everything that is set, and open it again as it was")
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self.entries: dict[str, QAction] = {}
        own = (
            ("Save project", "", lambda: keeper.save(keeper.path)),
            ("Save project as…", "", keeper.save),
            ("Open project…", "", keeper.open),
        )
        for text, tip, action in own:
            self._add(menu, text, tip, action)
        menu.addSeparator()
        for text, tip, action in more:
            self._add(menu, text, tip, action)
        self.setMenu(menu)

    def _add(self, menu: QMenu, text: str, tip: str, action: Any) -> None:
        entry = QAction(text, menu)
        entry.setToolTip(tip or text)
        entry.triggered.connect(lambda *_: action())
        menu.addAction(entry)
        self.entries[text] = entry


class Offer(QFrame):
    """One line at the top of a panel that offers the session of a program that crashed; it asks for nothing."""

    def __init__(self, keeper: Keeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.keeper = keeper
        self.setObjectName("restore_offer")
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.restore_button = QPushButton("Restore last session")
        self.restore_button.setObjectName("restore_session")
        self.dismiss_button = QToolButton()
        self.dismiss_button.setText("✕")
        self.dismiss_button.setToolTip("Forget it")
        self.when = QLabel("")
        row = QHBoxLayout(self)
        row.setContentsMargins(4, 2, 4, 2)
        row.addWidget(self.restore_button, 1)
        row.addWidget(self.when)
        row.addWidget(self.dismiss_button)
        self.restore_button.clicked.connect(lambda *_: keeper.restore())
        self.dismiss_button.clicked.connect(lambda *_: keeper.forget_crashed())
        keeper.offer_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show what there is to restore."""
        paths = [path for path in self.keeper.crashed if path.exists()]
        self.setVisible(bool(paths) and not self.keeper.restored)
        if paths:
            then = datetime.fromtimestamp(paths[0].stat().st_mtime)
            self.when.setText(f"{then:%H:%M}" if then.date() == datetime.now().date() else f"{then:%d %b %H:%M}")
            self.restore_button.setToolTip(
                f"The program ended on {then:%Y-%m-%d at %H:%M} without closing its window; go on where it was"
            )
