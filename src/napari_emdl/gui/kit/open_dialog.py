"""Opening a file, asking for what only the user can know: shape and type of raw binary, or what the axes are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QApplication, QComboBox, QDialog, QDialogButtonBox, QFormLayout, QLabel, QLineEdit, QWidget

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.signals import Datacube, Movie
from napari_emdl.gui.kit.worker import error_line, run_with_progress

RAW_ENDINGS = (".raw", ".bin", ".dat")
KINDS = ("", "datacube", "movie", "focal_series", "image")
DTYPES = ("", "uint8", "uint16", "uint32", "int16", "int32", "float32", "float64", ">u2", ">u4")


class OpenDialog(QDialog):
    """Asks for kind, axis order, shape and data type; empty fields are told by the file.

    Parameters
    ----------
    path
        File.
    reason
        Why it is asked.
    """

    def __init__(self, path: str, reason: str = "", parent: QWidget | None = None):
        super().__init__(parent)
        self.setWindowTitle(f"Open {Path(path).name}")
        self.path = path
        self.opened: Datacube | Movie | None = None
        self.reason = QLabel(reason)
        self.reason.setWordWrap(True)
        self.kind = QComboBox()
        for kind in KINDS:
            self.kind.addItem(kind.replace("_", " ") or "as the file says", kind or None)
        self.kind.setToolTip("What the axes are")
        self.shape = QLineEdit()
        self.shape.setPlaceholderText("e.g. 64, 64, 256, 256")
        self.shape.setToolTip("Shape of raw binary, or the scan (rows, cols) of a file that lists its patterns one by one")
        self.dtype = QComboBox()
        self.dtype.addItems(DTYPES)
        self.dtype.setEditable(True)
        self.dtype.setToolTip("Data type of raw binary, such as uint16 or >u2")
        self.axes = QLineEdit()
        self.axes.setPlaceholderText("e.g. RCQK")
        self.axes.setToolTip("One letter an axis: R C scan, Q K detector, T time, F focus, Y X image")
        form = QFormLayout(self)
        form.addRow(self.reason)
        for name, widget in (("Kind", self.kind), ("Shape", self.shape), ("Type", self.dtype), ("Axis order", self.axes)):
            form.addRow(name, widget)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.try_open)
        buttons.rejected.connect(self.reject)
        form.addRow(buttons)

    def options(self) -> dict[str, Any]:
        """Keywords for :func:`napari_emdl.io.open`."""
        found: dict[str, Any] = {"kind": self.kind.currentData()}
        if self.shape.text().strip():
            try:
                found["shape"] = tuple(int(part) for part in self.shape.text().replace("x", ",").split(","))
            except ValueError:
                raise OpenError(f"cannot read the shape {self.shape.text()!r}; write numbers with commas") from None
        if self.dtype.currentText().strip():
            found["dtype"] = self.dtype.currentText().strip()
        if self.axes.text().strip():
            found["axes"] = self.axes.text().strip()
        return {key: value for key, value in found.items() if value is not None}

    def try_open(self) -> None:
        """Open with what is filled in; the dialog stays, saying why, when that fails."""
        from napari_emdl.io import open as open_file

        try:
            options = self.options()
            opened = open_file(self.path, **options)
        except (EmdlError, OSError) as error:
            self.reason.setText(error_line(error))
            return
        self.opened = replace(opened, metadata={**opened.metadata, "open_options": options})  # a project opens it so again
        self.accept()


def open_asking(path: str) -> Datacube | Movie:
    """Open `path`; ask in a dialog when shape or type are missing and there is a window to ask in."""
    from napari_emdl.io import open as open_file

    try:
        opened: Datacube | Movie = run_with_progress(lambda _control: open_file(path), "opening")
        return opened
    except OpenError as error:
        if not (_needs_shape(path, error) and _can_ask()):
            raise
        dialog = OpenDialog(path, str(error), QApplication.activeWindow())
        dialog.exec()
        if dialog.opened is None:
            raise
        return dialog.opened


def _needs_shape(path: str, error: OpenError) -> bool:
    return Path(path).suffix.lower() in RAW_ENDINGS or "give the scan shape" in str(error)


def _can_ask() -> bool:
    return QApplication.instance() is not None and QApplication.activeWindow() is not None
