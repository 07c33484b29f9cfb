"""Two methods side by side: disks of a second method on the pattern, where they disagree, and maps of it over the scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.color import transform_color
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskLimits, StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.gui.diffraction import jobs
from napari_emdl.gui.diffraction.canvas import DiffractionCanvas
from napari_emdl.gui.diffraction.maps import ScanMaps
from napari_emdl.gui.diffraction.marks import (
    AGREED_COLOR,
    DASHES,
    ONLY_FIRST_COLOR,
    ONLY_SECOND_COLOR,
    WIDER,
    Marks,
    dashed_rings,
)
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.forms import narrow
from napari_emdl.gui.kit.worker import report_error
from napari_emdl.workflow.finder import LiveResult

NOTHING, KEPT = "nothing", "the run kept"
METHODS = ("template", "light", "fcunet", "fcunet-plain")
SHARE = "agreeing disks"


class SecondMethod(QObject):
    """What the second method found: at the position (found as the cross-hair moves), and over the scan (a run that was kept).

    Parameters
    ----------
    state
        State of the workspace, whose disks are the first ones.
    changed
        Called when there is something new to show.
    """

    def __init__(self, state: StemState, changed: Callable[[], None], parent: QObject | None = None):
        super().__init__(parent)
        self.stem, self.changed = state, changed
        self.choice = NOTHING
        self.kept: PeakTable | None = None
        self.kept_name = ""
        self.agreement: Any = None
        self.difference: Any = None  # (R, C, 4)
        self._here: LiveResult[tuple[int, int]] | None = None
        self._live = state.followers.add("second method", jobs.LiveDisks(), self._on_live)
        self._pairs = state.followers.add("agreement", _compare, self._on_agreement)
        self._strain = state.followers.add("second strain", _difference, self._on_difference)
        self._file = state.followers.add("second run", _load, self._on_loaded)
        self._asked: Any = None
        self._wanted_px: float | None = None
        for signal in (state.pattern_changed, state.probe_changed, state.overlay_changed):
            signal.connect(lambda *_: self.find_here())
        state.kept_changed.connect(self.compare_scan)
        state.strain_changed.connect(self.compare_strain)
        state.cube_changed.connect(self.forget)

    @property
    def name(self) -> str:
        """Name of the second method."""
        return self.kept_name if self.choice == KEPT else self.choice

    def forget(self) -> None:
        """Drop what belongs to the datacube before."""
        self.kept, self.kept_name, self.agreement, self.difference, self._here, self._asked = None, "", None, None, None, None
        self.changed()

    def choose(self, choice: str) -> None:
        """Take a method, the run that was kept, or nothing."""
        self.choice, self._here, self._asked = choice, None, None
        self._live.drop()
        self.find_here()
        self.changed()

    def find_here(self) -> None:
        """Find the disks of the current pattern by the second method, unless that is done or asked for."""
        stem = self.stem
        if self.choice not in METHODS or stem.found.pattern is None or stem.found.probe is None or stem.job is not None:
            return
        params = stem.settings.disk_params.model_copy(update={"method": self.choice, "model": None, "min_score": None})
        asked = (stem.settings.position, id(stem.found.pattern), id(stem.found.probe), params)
        if asked != self._asked:
            self._asked = asked
            self._live.submit(stem.settings.position, stem.found.pattern, stem.found.probe, params, stem.settings.run_params)

    def _on_live(self, result: LiveResult[tuple[int, int]], args: Any) -> None:
        if self.choice == args[3].method:
            self._here = result
            self.changed()

    def here(self) -> NDArray[np.void] | None:
        """Disks of the second method at the position that pass its own least score; None while unknown."""
        if self.choice == KEPT and self.kept is not None:
            return self.kept[self.stem.settings.position]
        found, cube = self._here, self.stem.cube
        if found is None or cube is None or self.choice not in METHODS or found.position != self.stem.settings.position:
            return None
        return jobs.within(found.table.at(0), DiskLimits(min_score=found.default_min_score), cube.detector_shape)

    def keep(self, table: PeakTable | None, name: str) -> None:
        """Compare with this table over the scan from now on."""
        self.kept, self.kept_name = table, name
        self.agreement = self.difference = None
        self.compare_scan()
        self.compare_strain()

    def keep_run(self) -> None:
        """Keep the disks of the scan as they are shown now, to compare the next run with.

        Raises
        ------
        EmdlError
            When there is no run.
        """
        stem = self.stem
        if stem.found.kept is None or stem.found.disks is None:
            raise EmdlError("there is no run to keep; find the disks of the scan first")
        self.keep(stem.found.kept, f"{stem.found.disks.attrs.get('method') or 'first'} run")

    def load(self, path: Path) -> None:
        """Read the disks to compare with from a result file."""
        self._file.submit(path)

    def _on_loaded(self, table: Any, args: Any) -> None:
        cube = self.stem.cube
        if not isinstance(table, PeakTable) or cube is None or table.shape != cube.scan_shape:
            report_error(EmdlError(f"{args[0].name} holds no disks of the open datacube"), "compare")
            return
        least = table.attrs.get("default_min_score")
        self.keep(table if least is None else table.filter(min_score=float(least)), args[0].stem)

    @property
    def max_distance_px(self) -> float:
        """Distance within which two disks agree, unless the user sets one."""
        from napari_emdl.diffraction.find.pairing import agreement_distance_px

        return agreement_distance_px(float(getattr(self.stem.found.probe, "radius_px", 5.0)))

    def compare_scan(self, max_distance_px: float | None = None) -> None:
        """Agreement of both tables at every position, in the background; a distance that is given counts from now on."""
        self._wanted_px = max_distance_px or self._wanted_px
        if self.kept is not None and self.stem.found.kept is not None:
            self._pairs.submit(self.stem.found.kept, self.kept, self._wanted_px or self.max_distance_px)
        else:
            self.changed()

    def _on_agreement(self, agreement: Any, args: Any) -> None:
        if args[1] is self.kept:
            self.agreement = agreement
            self.changed()

    def compare_strain(self) -> None:
        """Difference of the strain from both tables, in the background."""
        stem = self.stem
        if self.kept is not None and stem.found.strain is not None:
            params = stem.settings.strain_params.model_copy(update=dict.fromkeys(DiskLimits.model_fields))
            self._strain.submit(self.kept, stem.found.strain, stem.settings.reference, params, stem.settings.regions)

    def _on_difference(self, difference: Any, args: Any) -> None:
        if args[0] is self.kept and args[1] is self.stem.found.strain:
            self.difference = difference
            self.changed()


def _compare(control: Any, first: PeakTable, second: PeakTable, max_distance_px: float) -> Any:
    from napari_emdl.diffraction.judge.compare import compare_disks

    return compare_disks(first, second, max_distance_px, control)


def _difference(control: Any, disks: PeakTable, strain: Any, reference: Any, params: StrainParams, regions: Any) -> Any:
    from napari_emdl.diffraction.fit.strain import fit_strain
    from napari_emdl.diffraction.judge.compare import strain_difference

    if params.fit == "auto":  # two tables of peaks are compared
        params = params.model_copy(update={"fit": "peaks"})
    second = fit_strain(disks.compact(), reference=reference, params=params, control=control, regions=regions)
    return strain_difference(second, strain)


def _load(control: Any, path: Path) -> Any:
    from napari_emdl.io import load

    return load(path)


class CompareBox(QWidget):
    """Choice of the second method, counts of agreement here and in the scan, and its map.

    Parameters
    ----------
    state, canvas
        Of the workspace.
    maps
        Gives the maps of the open datacube, or None.
    """

    def __init__(
        self, state: StemState, canvas: DiffractionCanvas, maps: Callable[[], ScanMaps | None], parent: QWidget | None = None
    ):
        super().__init__(parent)
        self.setObjectName("compare")
        self.stem, self.canvas, self.maps = state, canvas, maps
        self.pairing: Any = None
        self.marks = Marks(canvas, "second disks", "Second method")
        self.choice = narrow(QComboBox())
        self.choice.addItems([NOTHING, *METHODS])
        self.choice.setToolTip(
            "Find the disks of the current pattern by a second method as well: dashed rings, green where both agree"
        )
        self.distance = QDoubleSpinBox()
        self.distance.setRange(0.0, 99.0)
        self.distance.setSingleStep(0.1)
        self.distance.setSuffix(" px")
        self.distance.setSpecialValueText("auto")
        self.distance.setKeyboardTracking(False)
        self.distance.setToolTip("Disks nearer than this are the same; auto is a fifth of the probe's radius, at least 1 px")
        self.keep_button = QPushButton("Keep this run")
        self.keep_button.setToolTip("Compare the next run of the scan, by another method, with the one that is there now")
        self.load_button = QPushButton("Load run…")
        self.load_button.setToolTip("Compare with the disks of a result file")
        self.map = narrow(QComboBox())
        self.map.addItems([SHARE, *(f"difference of {title}" for _, title, _, _ in styles.STRAIN_MAPS)])
        self.map.setToolTip("What the map Comparison on the main canvas shows, once two runs are there")
        self.here_text, self.scan_text = QLabel(""), QLabel("")
        self.here_text.setTextFormat(Qt.TextFormat.RichText)
        self.here_text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.here_text.setMinimumHeight(
            2 * self.here_text.fontMetrics().lineSpacing() + 6
        )  # room for both lines from the start
        self.scan_text.setTextFormat(Qt.TextFormat.PlainText)
        self.scan_text.setWordWrap(True)
        self.scan_text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        buttons = QHBoxLayout()
        buttons.addWidget(self.keep_button)
        buttons.addWidget(self.load_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(_row("Compare with", self.choice))
        column.addLayout(_row("Agree within", self.distance))
        column.addWidget(self.here_text)
        column.addLayout(buttons)
        column.addLayout(_row("Map", self.map))
        column.addWidget(self.scan_text)
        self.second = SecondMethod(state, self.refresh, self)
        self.choice.currentTextChanged.connect(self.second.choose)
        self.distance.valueChanged.connect(self._on_distance)
        self.keep_button.clicked.connect(self._on_keep)
        self.load_button.clicked.connect(lambda *_: self.load())
        self.map.currentTextChanged.connect(lambda *_: self._show_map())
        state.overlay_changed.connect(self.refresh)
        self.refresh()

    def _on_distance(self, value: float) -> None:
        self.refresh()
        self.second.compare_scan(value or self.second.max_distance_px)

    def _on_keep(self) -> None:
        try:
            self.second.keep_run()
        except EmdlError as error:
            report_error(error)

    def load(self, path: str | Path | None = None) -> None:
        """Compare with the disks of a file."""
        path = path or QFileDialog.getOpenFileName(self, "Compare with disks", "", "Results (*.h5 *.emd)")[0]
        if path:
            self.second.load(Path(path))

    def refresh(self) -> None:
        """Show what is known here and in the scan."""
        there = self.second.kept is not None
        if there and self.choice.findText(KEPT) < 0:
            self.choice.addItem(KEPT)
        elif not there and self.choice.findText(KEPT) >= 0:
            self.choice.removeItem(self.choice.findText(KEPT))
        self.keep_button.setEnabled(self.stem.found.kept is not None)
        self.load_button.setEnabled(self.stem.cube is not None)
        self.map.setEnabled(self.second.agreement is not None)
        self._show_here()
        self._show_scan()

    def _show_here(self) -> None:
        first, second = self.stem.data.kept_here(), self.second.here()
        self.pairing = None
        self.here_text.setVisible(self.second.choice != NOTHING)
        if self.second.choice == NOTHING or first is None or second is None:
            self.marks.show(np.zeros((0, 2, 2)))
            self.here_text.setText("" if self.second.choice == NOTHING else "…")
            return
        from napari_emdl.diffraction.find.pairing import pair_disks

        a, b = (_as_table(found) for found in (first, second))
        self.pairing = pairs = pair_disks(a, b, self.distance.value() or self.second.max_distance_px)
        place_a, place_b = a.positions_px(), b.positions_px()
        groups = (
            (place_b[pairs.second], AGREED_COLOR),
            (place_a[pairs.only_first], ONLY_FIRST_COLOR),
            (place_b[pairs.only_second], ONLY_SECOND_COLOR),
        )
        colors = np.concatenate([np.repeat(transform_color(color), len(places) * DASHES, axis=0) for places, color in groups])
        rings = dashed_rings(np.concatenate([places for places, _ in groups]), WIDER * self.canvas.radius_px)
        self.marks.show(rings, colors)
        median = f" (median {np.median(pairs.distance_px):.2f} px apart)" if len(pairs.distance_px) else ""
        self.here_text.setText(
            f"{_dot(AGREED_COLOR)} {len(pairs.first)} agree{median}<br>"
            f"{_dot(ONLY_FIRST_COLOR)} {len(pairs.only_first)} only {self.stem.settings.disk_params.method} &nbsp; "
            f"{_dot(ONLY_SECOND_COLOR)} {len(pairs.only_second)} only {self.second.name}"
        )

    def _show_scan(self) -> None:
        found = self.second.agreement
        if found is None:
            self.scan_text.setText(
                "To compare whole runs: keep this run, choose another method and run again."
                if self.second.kept is None
                else f"{self.second.kept_name} is kept; run the scan by another method."
            )
        else:
            self.scan_text.setText(
                f"Scan: {100 * found.total_share:.1f} % of the disks agree with {self.second.kept_name} "
                f"(median {found.median_distance_px:.2f} px); {int(found.only_first.sum()):,} only here, "
                f"{int(found.only_second.sum()):,} only there."
            )
        self._show_map()

    def _show_map(self) -> None:
        maps, found = self.maps(), self.second.agreement
        if maps is None or found is None:
            return
        index = self.map.currentIndex() - 1
        if index < 0:
            values, name, look, limits = found.share, "Share of agreeing disks", "viridis", (0.0, 1.0)
        elif self.second.difference is None:
            self.scan_text.setText(self.scan_text.text() + " Fit the strain to see its difference.")
            return
        else:
            _, title, factor, unit = styles.STRAIN_MAPS[index]
            values, name, look = self.second.difference[..., index] * factor, f"Difference of {title} [{unit}]", "RdBu_r"
            limits = styles.rounded_limits(styles.symmetric_limits(values, least=1e-3))
        layer = maps.layer("compare")
        shown = np.asarray(values, np.float32)
        if layer is None:
            layer = maps.image("compare", f"Comparison: {name}", shown, contrast_limits=limits)
            styles.show_colorbar(layer)
        elif layer.name == f"Comparison: {name}" and np.array_equal(layer.data, shown, equal_nan=True):
            return
        layer.data, layer.name = shown, f"Comparison: {name}"
        layer.colormap = styles.matplotlib_colormap(look)
        layer.contrast_limits_range = layer.contrast_limits = limits


def _as_table(found: NDArray[np.void]) -> PeakTable:
    return PeakTable.from_lists([{"row": found["row"], "col": found["col"], "score": found["score"]}])


def _row(text: str, widget: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    label = QLabel(text)
    label.setMinimumWidth(90)
    row.addWidget(label)
    row.addWidget(widget, 1)
    return row


def _dot(color: str) -> str:
    return f'<span style="color:{color}">●</span>'
