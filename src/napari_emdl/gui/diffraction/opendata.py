"""Opening data from the panel: a file, read in a worker, or the selected image layer; a lone pattern is a 1 x 1 scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QFileDialog, QMenu, QToolButton

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.signals import Datacube, in_memory
from napari_emdl.gui.diffraction.layers import disk_layers
from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.open_dialog import OpenDialog
from napari_emdl.gui.kit.session import signal_of
from napari_emdl.gui.kit.signals import signal_layers
from napari_emdl.gui.kit.worker import Job, error_line


class OpenData(QToolButton):
    """Button that opens a datacube, a pattern or disks in the workspace."""

    def __init__(self, panel: Panel):
        super().__init__(panel)
        self.panel = panel
        self._jobs: list[Job] = []
        self.setText("Open ▾")
        self.setObjectName("open_data")
        self.setStyleSheet(styles.MENU_BUTTON)
        self.setToolTip("Open a datacube, a single pattern or disks found elsewhere")
        self.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        for text, tip, action in (
            ("File …", "Datacube, single pattern, or disks (of py4DSTEM too)", lambda *_: self.ask()),
            ("File, with options …", "Say what the axes are: kind, shape, type, order", lambda *_: self.ask(True)),
            (
                "Selected image layer",
                "One pattern, or an image of four axes",
                lambda *_: self.take_layer(),
            ),
        ):
            entry = menu.addAction(text)
            assert entry is not None
            entry.setToolTip(tip)
            entry.triggered.connect(action)
        self.setMenu(menu)

    def ask(self, options: bool = False) -> None:
        """Ask for a file, and with `options` how to read it."""
        path, _ = QFileDialog.getOpenFileName(self, "Open a datacube, a pattern or disks")
        if not path:
            return
        if not options:
            self.open(path)
            return
        dialog = OpenDialog(path, "", self.window())
        dialog.kind.setCurrentIndex(dialog.kind.findData("datacube"))
        if dialog.exec() and isinstance(dialog.opened, Datacube):
            self._add(signal_layers(dialog.opened))

    def open(self, path: str | Path) -> Job:
        """Open a file in a worker; what is wrong with it stays in the panel."""
        source = str(path)
        job = Job(lambda _control, _block: _read(source), "opening")
        job.returned.connect(self._add)
        job.failed.connect(self._on_failed)
        self._jobs = [kept for kept in self._jobs if kept.running] + [job]
        self.panel.state.message.emit(f"opening {Path(source).name} …")
        return job.start()

    def _on_failed(self, error: BaseException) -> None:
        if not self.panel.closed:
            self.panel.notices.tell(error_line(error))

    def take_layer(self) -> None:
        """Open the image layer that is selected on the main canvas."""
        layer = self.panel.viewer.layers.selection.active
        data: Any = getattr(layer, "data", None)
        if layer is None or layer._type_string != "image" or getattr(data, "ndim", 0) not in (2, 4):
            self.panel.notices.tell("select an image layer with 2 axes (one pattern) or 4 (scan rows and cols, pattern) first")
            return
        signal = signal_of(layer)
        calibration = signal.calibration if signal is not None else None
        array: Any = data if data.ndim == 4 else np.asarray(data)[None, None]
        try:
            cube = in_memory(array, "datacube", calibration, name=f"{layer.name} (layer)")
        except EmdlError as error:
            self.panel.notices.tell(error_line(error))
            return
        layer.visible = False
        self._add(signal_layers(cube))

    def _add(self, layers: list[Any]) -> None:
        if not self.panel.closed:
            for data in layers:
                self.panel.viewer._add_layer_from_data(*data)


def _read(path: str) -> list[Any]:
    """Layers of a datacube, of one pattern as a 1 x 1 scan, of disks or of a project."""
    from napari_emdl.gui.diffraction.project import opened_layers, read_opened
    from napari_emdl.io import open_datacube
    from napari_emdl.io.summary import is_result
    from napari_emdl.workflow.project import is_project

    if is_project(path):
        return opened_layers(read_opened(path))
    try:
        return signal_layers(open_datacube(path))
    except OpenError:
        if not is_result(path):
            raise
    return _disks(path)


def _disks(path: str) -> list[Any]:
    from napari_emdl.base.peaks import PeakTable
    from napari_emdl.io import load

    found = load(path)
    if isinstance(found, PeakTable) and len(found.shape) == 2:
        return disk_layers(found, path)
    raise OpenError(f"{Path(path).name} is a result without disks; open it with File > Open")
