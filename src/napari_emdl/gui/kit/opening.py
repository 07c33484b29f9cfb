"""Opening from a window: the button of the panels, and the dialog that a file gets which is not opened without more to say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtGui import QAction
from qtpy.QtWidgets import QFileDialog, QMenu, QToolButton, QWidget

from napari_emdl.base.params import OpenParams
from napari_emdl.gui.kit import notices, session, styles, units
from napari_emdl.gui.kit.open_dialog import OpenDialog, can_help
from napari_emdl.gui.kit.signals import LayerTuple, signal_layers
from napari_emdl.gui.kit.worker import Job, error_line

Read = Callable[[str], list[LayerTuple]]
MakeLayers = Callable[[Any], list[LayerTuple]]

#: Jobs of viewers that go on; a job must be kept by somebody.
_jobs: list[Job] = []


def work(function: Callable[[], Any], name: str) -> Job:
    """A job that is kept until it ends; not started yet."""
    job = Job(lambda _control, _block: function(), name)
    _jobs[:] = [kept for kept in _jobs if kept.running] + [job]
    return job


def add_layers(viewer: Any, layers: list[LayerTuple]) -> None:
    """Add layers to a viewer whose window is still there."""
    if session.has_window(viewer):
        units.expect(viewer, layers)
        for data in layers:
            viewer._add_layer_from_data(*data)


def ask_how(
    viewer: Any,
    path: str,
    reason: str = "",
    start: OpenParams | None = None,
    make_layers: MakeLayers = signal_layers,
    then: Callable[[], None] | None = None,
) -> OpenDialog:
    """Ask how a file is to be read, without waiting; its layers are added when the user opens it.

    Parameters
    ----------
    viewer
        Viewer with a window.
    path
        File or folder.
    reason
        What is said above the form: why it was refused.
    start
        Parameters that are set at first.
    make_layers
        Layers of what comes out; runs in a worker.
    then
        Called when they are added.
    """
    dialog = OpenDialog(path, reason, start, viewer.window._qt_window)

    def take(opened: Any) -> None:
        job = work(lambda: make_layers(opened), "opening")
        job.returned.connect(add)
        job.failed.connect(lambda error: notices.tell(viewer, error_line(error)))
        job.start()

    def add(layers: list[LayerTuple]) -> None:
        if reason:
            notices.dismiss(viewer, reason)
        add_layers(viewer, layers)
        if then is not None:
            then()

    dialog.opened.connect(take)
    dialog.open()
    return dialog


def refused(viewer: Any, path: str, error: BaseException, **how: Any) -> OpenDialog | None:
    """Say why a file was not opened, in a line that stays, and ask how to read it where that may help."""
    line = error_line(error)
    notices.tell(viewer, line)
    return ask_how(viewer, path, line, **how) if can_help(path, error) else None


class OpenButton(QToolButton):
    """Button with a menu that opens files, folders, and either with options.

    Parameters
    ----------
    panel
        What has `viewer`, `closed` and `say(line)`.
    read
        Layers of a path; runs in a worker.
    make_layers
        Layers of what the dialog opened; runs in a worker.
    start
        Parameters the dialog begins with.
    tip
        What can be opened.
    more
        Further entries: (text, tooltip, function).
    """

    def __init__(
        self,
        panel: Any,
        read: Read,
        make_layers: MakeLayers = signal_layers,
        start: OpenParams | None = None,
        tip: str = "",
        more: tuple[tuple[str, str, Callable[[], Any]], ...] = (),
        parent: QWidget | None = None,
    ):
        super().__init__(parent)
        self.panel, self._read, self._make_layers, self._start = panel, read, make_layers, start
        self.dialog: OpenDialog | None = None
        self.setText("Open ▾")
        self.setObjectName("open_data")
        self.setStyleSheet(styles.MENU_BUTTON)
        self.setToolTip(tip)
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        own: tuple[tuple[str, str, Callable[[], Any]], ...] = (
            ("File…", tip, self.ask),
            (
                "File, with options…",
                "Kind, scan shape, part used, mask and calibration, with a preview",
                partial(self.ask, True),
            ),
            ("Folder…", "Images in a folder, one after the other, or a zarr store", self.ask_folder),
        )
        for text, explanation, action in (*own, *more):
            entry = QAction(text, menu)
            entry.setToolTip(explanation)
            entry.triggered.connect(lambda *_, action=action: action())
            menu.addAction(entry)
        self.setMenu(menu)

    def ask(self, options: bool = False) -> None:
        """Ask for a file, and with `options` how to read it."""
        path, _ = QFileDialog.getOpenFileName(self, self.toolTip())
        if path:
            self.ask_how(path) if options else self.open(path)

    def ask_folder(self) -> None:
        """Ask for a folder."""
        path = QFileDialog.getExistingDirectory(self, "Folder of images, or a zarr store")
        if path:
            self.open(path)

    def ask_how(self, path: str) -> OpenDialog:
        """Open the dialog on a file."""
        self.dialog = ask_how(self.panel.viewer, path, start=self._start, make_layers=self._make_layers)
        return self.dialog

    def open(self, path: str | Path) -> Job:
        """Open a file in a worker; what is wrong with it stays in the panel, and the dialog asks where that may help."""
        source = str(path)
        job = work(lambda: self._read(source), "opening")
        job.returned.connect(self._add)
        job.failed.connect(lambda error: self._on_failed(source, error))
        self.panel.say(f"opening {Path(source).name} …")
        return job.start()

    def _add(self, layers: list[LayerTuple]) -> None:
        if not self.panel.closed:
            self.panel.say("")
            add_layers(self.panel.viewer, layers)

    def _on_failed(self, path: str, error: BaseException) -> None:
        if not self.panel.closed:
            self.panel.say("")
            how = {"start": self._start, "make_layers": self._make_layers}
            self.dialog = refused(self.panel.viewer, path, error, **how)
