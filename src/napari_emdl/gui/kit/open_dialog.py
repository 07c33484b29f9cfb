"""Control while opening: what a file is, which part of it is used and its calibration, with a look at what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.params import OpenParams
from napari_emdl.gui.kit.forms import ParamsForm, groups_of, narrow
from napari_emdl.gui.kit.wording import said
from napari_emdl.gui.kit.worker import Latest, error_line
from napari_emdl.jobs.control import Control

SETTLE_MS = 250
PREVIEW_SIZE = 230


def look(control: Control, path: str, params: OpenParams) -> Any:
    """What opening gives; for a worker."""
    from napari_emdl.io.preview import preview

    return preview(path, params, control.check)


class OpenDialog(QDialog):
    """Form over :class:`~napari_emdl.base.params.OpenParams` with a preview; it opens in a worker at every change.

    Parameters
    ----------
    path
        File, folder, or ``FILE::DATASET``.
    reason
        Why it is asked.
    start
        Parameters that are set at first.

    Signals
    -------
    opened
        The user wants what is shown: a Datacube, Movie or PeakTable.
    """

    opened = Signal(object)

    def __init__(self, path: str, reason: str = "", start: OpenParams | None = None, parent: QWidget | None = None):
        super().__init__(parent)
        self.setWindowTitle(f"Open {Path(path).name}")
        self.setObjectName("open_dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        file, self._inside = path.rsplit("::", 1) if "::" in path else (path, "")
        self.path = file
        self.result_shown: Any = None  # what the line and the picture are of
        self._wanted = False
        self._asked: tuple[str, OpenParams] | None = None
        self._latest = Latest(look, "open dialog", parent=self)
        self._latest.done.connect(self._show)
        self._latest.failed.connect(self._on_failed)
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(self.refresh)
        self._build(reason, start or OpenParams())
        self.refresh()

    def _build(self, reason: str, start: OpenParams) -> None:
        self.reason = _wrapped(reason)
        self.reason.setVisible(bool(reason))
        self.array = narrow(QComboBox())
        self.array.setObjectName("array")
        self.array.setToolTip("The file holds several arrays: which one is opened")
        self.array.currentIndexChanged.connect(lambda *_: self._settle.start())
        self.array_row = QWidget()
        row = QFormLayout(self.array_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addRow("Array", self.array)
        self.array_row.hide()
        self.tabs = QTabWidget()
        self.forms: list[ParamsForm] = []
        for title, names in groups_of(OpenParams).items():
            form = ParamsForm(start, include=names, fold=False)
            form.changed.connect(self._settle.start)
            page = QWidget()
            column = QVBoxLayout(page)
            column.setContentsMargins(6, 6, 6, 6)
            column.addWidget(form)
            column.addStretch(1)
            self.tabs.addTab(page, title)
            self.forms.append(form)
        self.preview = pg.GraphicsLayoutWidget()
        self.preview.setFixedSize(PREVIEW_SIZE, PREVIEW_SIZE)
        self.preview.setAccessibleName("Mean of a few frames")
        self.preview.setToolTip("Mean of a few frames or patterns (logarithmic for patterns), with crop and bin as set")
        view = self.preview.addViewBox(lockAspect=True, invertY=True, enableMouse=False, enableMenu=False)
        self.image = pg.ImageItem(axisOrder="row-major")
        view.addItem(self.image)
        self.line = _wrapped("opening …")
        self.line.setMinimumHeight(4 * self.fontMetrics().height())
        self.line.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.accept_when_ready)
        buttons.rejected.connect(self.reject)
        button = buttons.button(QDialogButtonBox.StandardButton.Open)
        assert button is not None
        self.open_button = button
        middle = QHBoxLayout()
        middle.addWidget(self.tabs, 1)
        middle.addWidget(self.preview, 0, Qt.AlignmentFlag.AlignTop)
        outer = QVBoxLayout(self)
        for widget in (self.reason, self.array_row):
            outer.addWidget(widget)
        outer.addLayout(middle)
        outer.addWidget(self.line)
        outer.addWidget(buttons)
        self.setMinimumWidth(680)

    def editor(self, name: str) -> Any:
        """Editor of a field."""
        return next(form.editors[name] for form in self.forms if name in form.editors)

    def params(self) -> OpenParams:
        """Parameters as they stand; raises EmdlError with one line when they do not fit."""
        merged = OpenParams()
        for form in self.forms:
            value = form.value()
            merged = merged.model_copy(update={name: getattr(value, name) for name in form.editors})
        return merged

    def refresh(self) -> None:
        """Open anew, as the form says."""
        self._settle.stop()
        try:
            params = self.params()
        except EmdlError as error:
            self._latest.drop()
            self._asked = None
            self._refuse(error_line(error))
            return
        chosen = self.array.currentData() or self._inside
        self.line.setText("opening …")
        self.result_shown = None
        self._asked = (f"{self.path}::{chosen}" if chosen else self.path, params)
        self._latest.submit(*self._asked)

    @property
    def busy(self) -> bool:
        """True while what comes out is not known yet."""
        return self._asked is not None or self._settle.isActive()

    def _show(self, found: Any, args: Any) -> None:
        if args != self._asked:
            return
        self._asked = None
        self._list_arrays(found)
        if found.opened is None:
            self._refuse(said(found.line))
            return
        self.result_shown = found.opened
        self.line.setText(said(found.line))
        self.open_button.setEnabled(True)
        self.image.setVisible(found.image is not None)
        if found.image is not None:
            self.image.setImage(np.nan_to_num(found.image, nan=found.limits[0]), levels=found.limits)
        if self._wanted:
            self.accept_when_ready()

    def _list_arrays(self, found: Any) -> None:
        names = [array.name for array in found.arrays]
        if not names or names == [self.array.itemData(i) for i in range(1, self.array.count())]:
            return
        with QSignalBlocker(self.array):
            self.array.clear()
            self.array.addItem("as the file says", "")
            for array in found.arrays:
                self.array.addItem(array.text, array.name)
            self.array.setCurrentIndex(max(0, self.array.findData(self._inside)))
        self.array_row.show()

    def _refuse(self, line: str) -> None:
        self.result_shown, self._wanted = None, False
        self.line.setText("⚠ Not opened with these settings: see above." if line == self.reason.text() else f"⚠ {line}")
        self.open_button.setEnabled(False)
        self.image.hide()

    def _on_failed(self, error: BaseException) -> None:
        self._asked = None
        self._refuse(error_line(error))

    def accept_when_ready(self) -> None:
        """Take what is shown; wait for it while it is being opened."""
        if self._settle.isActive():
            self.refresh()
        if self.result_shown is None:
            self._wanted = self.busy
            return
        self.opened.emit(self.result_shown)
        self.accept()

    def done(self, result: int) -> None:
        """Stop what is being read."""
        self._latest.close(0.2)
        super().done(result)


def _wrapped(text: str) -> QLabel:
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
    return label


def can_help(path: str, error: BaseException) -> bool:
    """True where saying how a file is read may open it: data that are there, and neither a result nor a project."""
    from napari_emdl.io import is_result
    from napari_emdl.io.opening import split_dataset
    from napari_emdl.workflow.project import is_project

    if not isinstance(error, OpenError):
        return False
    file = split_dataset(path)[0]
    there = file.is_dir() or (file.is_file() and file.stat().st_size > 0)
    return there and not is_result(file) and not is_project(file)
