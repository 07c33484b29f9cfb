"""Dialog that measures the pixel size: click a lattice spot in the Fourier transform of the frame, say what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QDialog, QDialogButtonBox, QDoubleSpinBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_emdl.atoms.find.pixelsize import KNOWN_SPACINGS_A, log_spectrum, pixel_size_A, refine_spot, spacing_px
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.signals import Movie
from napari_emdl.gui.kit.plots import named
from napari_emdl.gui.kit.worker import Job, error_line
from napari_emdl.jobs.control import Control

SPOT_COLOUR = "#ffb000"


class PixelSizeDialog(QDialog):
    """:attr:`measured` gives the pixel size in angstrom when the dialog is accepted."""

    measured = Signal(float)

    def __init__(self, movie: Movie, frame: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Pixel size from a lattice spacing")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(560, 640)
        self._shape = movie.frame_shape
        self._spectrum: NDArray[np.float32] | None = None
        self._spot: tuple[float, float] | None = None
        self._build()
        self._job = Job(lambda control, _block: _spectrum_of(control, movie, frame), "Fourier transform", self)
        self._job.returned.connect(self._show_spectrum)
        self._job.failed.connect(lambda error: self.result_label.setText(error_line(error)))
        self._job.start()

    def _build(self) -> None:
        self.view = pg.PlotWidget()
        self.view.setAspectLocked(True)
        self.view.setBackground("#000000")
        self.view.hideAxis("left")
        self.view.hideAxis("bottom")
        self.view.invertY(True)
        self.view.setMenuEnabled(False)
        self.image = pg.ImageItem(axisOrder="row-major")
        self.view.addItem(self.image)
        self.marks = pg.ScatterPlotItem(size=22, pen=pg.mkPen(SPOT_COLOUR, width=2), brush=None)
        self.view.addItem(self.marks)
        self.view.scene().sigMouseClicked.connect(self._clicked)
        self.known = named(QComboBox(), "known_spacing")
        self.known.addItem("other spacing", None)
        for name, value in KNOWN_SPACINGS_A.items():
            self.known.addItem(f"{name}  {value} Å", value)
        self.spacing = named(QDoubleSpinBox(), "spacing")
        self.spacing.setRange(0.5, 50)
        self.spacing.setDecimals(4)
        self.spacing.setSuffix(" Å")
        self.spacing.setValue(2.355)
        self.known.currentIndexChanged.connect(self._known_chosen)
        self.spacing.valueChanged.connect(self._tell)
        self.result_label = QLabel("computing the Fourier transform …")
        self.result_label.setWordWrap(True)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        ok: Any = self.buttons.button(QDialogButtonBox.StandardButton.Ok)
        self._ok = ok
        self._ok.setEnabled(False)
        which = QHBoxLayout()
        which.addWidget(QLabel("The spot is"))
        which.addWidget(self.known, 1)
        which.addWidget(self.spacing)
        layout = QVBoxLayout(self)
        layout.addWidget(QLabel("Click a lattice spot. Wheel: zoom, drag: move."))
        layout.addWidget(self.view, 1)
        layout.addLayout(which)
        layout.addWidget(self.result_label)
        layout.addWidget(self.buttons)

    def _show_spectrum(self, spectrum: NDArray[np.float32]) -> None:
        self._spectrum = spectrum
        self.image.setImage(spectrum, levels=(float(np.percentile(spectrum, 30)), float(np.percentile(spectrum, 99.9))))
        rows, cols = spectrum.shape  # lattice spots lie near the centre
        self.view.setRange(xRange=(0.28 * cols, 0.72 * cols), yRange=(0.28 * rows, 0.72 * rows), padding=0)
        self.result_label.setText("No spot chosen yet.")

    def _clicked(self, event: Any) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            point = self.view.getPlotItem().vb.mapSceneToView(event.scenePos())
            self.choose(point.y() - 0.5, point.x() - 0.5)

    def choose(self, row: float, col: float) -> None:
        """Take the spot nearest to a point of the spectrum."""
        if self._spectrum is None:
            return
        try:
            self._spot = refine_spot(self._spectrum, (row, col))
        except EmdlError as error:
            self.result_label.setText(error_line(error))
            return
        r, c = self._spot
        rows, cols = self._shape
        self.marks.setData(x=[c + 0.5, 2 * (cols // 2) - c + 0.5], y=[r + 0.5, 2 * (rows // 2) - r + 0.5])
        self._tell()

    def _known_chosen(self) -> None:
        value = self.known.currentData()
        if value is not None:
            self.spacing.setValue(value)

    @property
    def pixel_A(self) -> float | None:
        """Pixel size of the chosen spot and spacing."""
        return None if self._spot is None else pixel_size_A(self._shape, self._spot, self.spacing.value())

    def _tell(self) -> None:
        if self._spot is None:
            return
        pixels = spacing_px(self._shape, self._spot)
        self.result_label.setText(f"The spacing is {pixels:.2f} px, so a pixel is <b>{self.pixel_A:.4f} Å</b>.")
        self._ok.setEnabled(True)

    def accept(self) -> None:
        """Hand the pixel size on and close."""
        if self.pixel_A is not None:
            self.measured.emit(self.pixel_A)
        super().accept()


def _spectrum_of(control: Control, movie: Movie, frame: int) -> NDArray[np.float32]:
    control.check()
    image = np.asarray(movie.frame(frame))
    return log_spectrum(image if image.ndim == 2 else image[0])
