"""Dialog for a strain figure ready to print: what it shows, how large, with a preview; saved or copied to the clipboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QDialog,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_emdl.base.errors import EmdlError
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.worker import Latest, error_line

PREVIEW_PX = 460
FILTER = "Figure (*.pdf *.svg *.png *.tif)"
#: Offered colour maps: diverging and perceptually even.
COLORMAPS = ("RdBu_r", "coolwarm", "PuOr_r", "PiYG")


class FigureDialog(QDialog):
    """Sets a strain figure; the preview is drawn in a worker.

    Parameters
    ----------
    strain
        :class:`~napari_emdl.diffraction.fit.strain.StrainMap`.
    reference
        Reference region, None where there is none.
    component
        Map that is shown in the window.
    """

    def __init__(self, strain: Any, reference: Any = None, component: str = "", parent: QWidget | None = None):
        super().__init__(parent)
        self.setWindowTitle("Strain figure")
        self.setObjectName("strain_figure")
        self.strain, self.reference = strain, reference
        self.components = {}
        row = QHBoxLayout()
        for name, title, _, _ in styles.STRAIN_MAPS:
            box = self.components[name] = QCheckBox(title)
            box.setChecked(True)
            box.setToolTip(f"Map of {title}")
            row.addWidget(box)
        self.limit_pct = _number(0, 100, 2, " %", "End of the colour bar of the strains; auto is the 98th percentile")
        self.limit_deg = _number(0, 180, 2, " °", "End of the colour bar of the rotation; auto is the 98th percentile")
        for spin in (self.limit_pct, self.limit_deg):
            spin.setSpecialValueText("auto")
        self.colormap = QComboBox()
        self.colormap.addItems(COLORMAPS)
        self.colormap.setToolTip("Diverging colour maps whose steps look even; white or near it at zero")
        self.region = QCheckBox("reference region")
        self.region.setChecked(reference is not None)
        self.region.setEnabled(reference is not None)
        self.axes = QCheckBox("strain axes")
        self.axes.setChecked(True)
        self.scale_bar = QCheckBox("scale bar")
        self.scale_bar.setChecked(True)
        marks = QHBoxLayout()
        tips = {self.region: "Outline", self.axes: "Arrows of x and y", self.scale_bar: "In nm, where the step is known"}
        for box, tip in tips.items():
            box.setToolTip(tip)
            marks.addWidget(box)
        self.width_mm = _number(30, 500, 0, " mm", "Width of the figure: 85 mm is a column, 170 mm a page of most journals")
        self.width_mm.setValue(170)
        self.dpi = QSpinBox()
        self.dpi.setRange(50, 1200)
        self.dpi.setValue(300)
        self.dpi.setSuffix(" dpi")
        self.dpi.setToolTip("Resolution of PNG and TIFF, and of the clipboard; lines and text of PDF and SVG have none")
        self.font_pt = _number(4, 24, 1, " pt", "Size of the type")
        self.font_pt.setValue(8)
        form = QFormLayout()
        for caption, item in (
            ("Maps", row),
            ("Strain up to", self.limit_pct),
            ("Rotation up to", self.limit_deg),
            ("Colours", self.colormap),
            ("Show", marks),
            ("Width", self.width_mm),
            ("Resolution", self.dpi),
            ("Type", self.font_pt),
        ):
            form.addRow(caption, item)  # type: ignore[arg-type]
        self.preview = QLabel()
        self.preview.setFixedSize(PREVIEW_PX, PREVIEW_PX)
        self.preview.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.preview.setAccessibleName("Preview of the figure")
        self.note = QLabel("")
        self.note.setWordWrap(True)
        self.save_button, self.copy_button = QPushButton("Save…"), QPushButton("Copy")
        self.copy_button.setToolTip("Copy the figure to the clipboard")
        buttons = QHBoxLayout()
        buttons.addWidget(self.save_button)
        buttons.addWidget(self.copy_button)
        left = QVBoxLayout()
        left.addLayout(form)
        left.addStretch(1)
        left.addWidget(self.note)
        left.addLayout(buttons)
        whole = QHBoxLayout(self)
        whole.addLayout(left)
        whole.addWidget(self.preview)
        self._draw = Latest(_picture, "figure")
        self._draw.done.connect(self._on_drawn)
        self._draw.failed.connect(lambda error: self.note.setText(error_line(error)))
        self._write = Latest(_saved, "saving a figure", cancel_stale=False)
        self._write.done.connect(lambda path, _args: self.note.setText(f"saved {path.name}"))
        self._write.failed.connect(lambda error: self.note.setText(error_line(error)))
        self._copy = Latest(_picture, "copying a figure", cancel_stale=False)
        self._copy.done.connect(self._on_copied)
        self._connect()
        self.refresh()

    def _connect(self) -> None:
        for box in (*self.components.values(), self.region, self.axes, self.scale_bar):
            box.toggled.connect(lambda *_: self.refresh())
        for spin in (self.limit_pct, self.limit_deg, self.width_mm, self.font_pt):
            spin.valueChanged.connect(lambda *_: self.refresh())
        self.colormap.currentTextChanged.connect(lambda *_: self.refresh())
        self.save_button.clicked.connect(lambda *_: self.save())
        self.copy_button.clicked.connect(lambda *_: self.copy())
        self.finished.connect(lambda *_: self.close_workers())

    def begin_with(self, limit_pct: float | None, limit_deg: float | None) -> None:
        """Ends of the colour bars that were set in the window; None leaves them automatic."""
        self.limit_pct.setValue(limit_pct or 0.0)
        self.limit_deg.setValue(limit_deg or 0.0)

    def style_set(self) -> Any:
        """:class:`~napari_emdl.exporting.strainfigure.FigureStyle` as it is set.

        Raises
        ------
        EmdlError
            When no map is chosen.
        """
        from napari_emdl.exporting.strainfigure import FigureStyle

        chosen = tuple(name for name, box in self.components.items() if box.isChecked())
        if not chosen:
            raise EmdlError("choose at least one map")
        return FigureStyle.model_validate({"components": chosen, **self._values()})

    def _values(self) -> dict[str, Any]:
        return {
            "limit_pct": self.limit_pct.value() or None,
            "limit_deg": self.limit_deg.value() or None,
            "colormap": self.colormap.currentText(),
            "region": self.region.isChecked(),
            "axes": self.axes.isChecked(),
            "scale_bar": self.scale_bar.isChecked(),
            "width_mm": self.width_mm.value(),
            "dpi": self.dpi.value(),
            "font_pt": self.font_pt.value(),
        }

    def refresh(self) -> None:
        """Draw the preview anew, in a worker."""
        try:
            style = self.style_set()
        except EmdlError as error:
            self.note.setText(error_line(error))
            return
        self.note.setText("")
        dpi = PREVIEW_PX / (self.width_mm.value() / 25.4)
        self._draw.submit(self.strain, style, self.reference, dpi)

    def _on_drawn(self, picture: Any, _args: Any) -> None:
        shown = QPixmap.fromImage(_image(picture))
        self.preview.setPixmap(
            shown.scaled(self.preview.size(), Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation)
        )

    def save(self, path: str | Path | None = None) -> None:
        """Write the figure; a file dialog asks where when no path is given."""
        path = path or QFileDialog.getSaveFileName(self, "Save figure", "strain.pdf", FILTER)[0]
        if path:
            try:
                self._write.submit(Path(path), self.strain, self.style_set(), self.reference)
            except EmdlError as error:
                self.note.setText(error_line(error))

    def copy(self) -> None:
        """Put the figure on the clipboard, in its full resolution."""
        try:
            self._copy.submit(self.strain, self.style_set(), self.reference, None)
        except EmdlError as error:
            self.note.setText(error_line(error))

    def _on_copied(self, picture: Any, _args: Any) -> None:
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setImage(_image(picture))
            self.note.setText(f"copied, {picture.shape[1]} x {picture.shape[0]} pixels")

    def close_workers(self) -> bool:
        """Wait for what is drawn and written; True when all have ended."""
        ended = [worker.close() for worker in (self._draw, self._write, self._copy)]
        return all(ended)


def _number(low: float, high: float, decimals: int, suffix: str, tip: str) -> QDoubleSpinBox:
    spin = QDoubleSpinBox()
    spin.setRange(low, high)
    spin.setDecimals(decimals)
    spin.setSuffix(suffix)
    spin.setKeyboardTracking(False)
    spin.setToolTip(tip)
    return spin


def _image(picture: Any) -> QImage:
    rows, cols = picture.shape[:2]
    return QImage(np.ascontiguousarray(picture).tobytes(), cols, rows, 4 * cols, QImage.Format.Format_RGBA8888).copy()


def _picture(control: Any, strain: Any, style: Any, reference: Any, dpi: float | None) -> Any:
    from napari_emdl.exporting.strainfigure import rendered, strain_figure

    control.check()
    return rendered(strain_figure(strain, style, reference), dpi)


def _saved(_control: Any, path: Path, strain: Any, style: Any, reference: Any) -> Path:
    from napari_emdl.exporting.strainfigure import save_strain_figure

    return save_strain_figure(path, strain, style, reference)
