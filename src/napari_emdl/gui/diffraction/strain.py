"""Step 4: strain. Reference, axes, maps and what speaks for or against them."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.gui.diffraction.maps import ScanMaps
from napari_emdl.gui.diffraction.profile import LineProfile
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.kit import pace, styles
from napari_emdl.gui.kit.drawing import DrawOnce
from napari_emdl.gui.kit.forms import ParamsForm, narrow
from napari_emdl.gui.kit.session import bare, tag
from napari_emdl.gui.kit.steps import Fold, Step
from napari_emdl.gui.kit.wording import said, warned
from napari_emdl.gui.kit.worker import JobBar, duration, report_error

MEDIAN, DRAWN, IDEAL = "median of the scan", "drawn region", "ideal lattice (g1, g2)"
REGION_FACE = "#21d07a0c"  # a touch: more would change the colours of the map
MAP_TITLES = {f"{title}": name for name, title, _factor, _unit in styles.STRAIN_MAPS}

EXTRA_TITLES = {
    **{f"error of {title}": f"sigma_{name}" for title, name in MAP_TITLES.items()},
    "residual": "residual",
    "masked: why": "reason",
}


class StrainStep(Step):
    """Fits the strain, shows its maps and the evidence behind them.

    Signals
    -------
    ideal_wanted
        An ideal lattice is to be the reference: g1 and g2 are needed.
    """

    ideal_wanted = Signal()

    def __init__(self, state: StemState, viewer: Any, parent: QWidget | None = None):
        super().__init__(4, "Strain", "Strain of the lattice at every position against a reference", parent)
        self.stem, self.viewer = state, bare(viewer)
        self.maps: ScanMaps | None = None
        self._drawing: DrawOnce | None = None
        self.reference = narrow(QComboBox())
        self.reference.addItems([MEDIAN, DRAWN, IDEAL])
        self.reference.setToolTip("What counts as unstrained")
        self.draw_button = QPushButton("Draw region")
        self.draw_button.setToolTip("Draw the unstrained region on the map with the mouse; it replaces the one that is there")
        self.form = ParamsForm(state.settings.strain_params, include=("axis_deg", "fit"))
        self.fit_time = QLabel("")
        self.fit_time.setWordWrap(True)
        self.fit_time.hide()
        self.bar = JobBar("patterns")
        self.fit_button = QPushButton("Fit strain")
        self.fit_button.setToolTip("Fit lattice and strain at every position; follows the threshold afterwards")
        self.show_map = narrow(QComboBox())
        self.show_map.addItems([*MAP_TITLES, *EXTRA_TITLES])
        self.show_map.setToolTip("Which map is on top")
        self.rescale_button = QPushButton("Auto contrast")
        self.rescale_button.setToolTip("Contrast from the values, centred at 0 and shared by ε xx, ε yy and ε xy")
        rows = QFormLayout()
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addRow("Reference", self.reference)
        rows.addRow("", self.draw_button)
        maps = QHBoxLayout()
        maps.addWidget(QLabel("Show"))
        maps.addWidget(self.show_map, 1)
        maps.addWidget(self.rescale_button)
        self.all_four = QCheckBox("All four side by side")
        self.all_four.setToolTip("ε xx, ε yy, ε xy and θ with one cross-hair and the strain axes, in a dock of their own")
        self.evidence = QLabel("")
        self.evidence.setWordWrap(True)
        self.content.addLayout(rows)
        self.content.addWidget(self.form)
        self.content.addWidget(self.fit_time)
        self.content.addWidget(self.fit_button)
        self.content.addWidget(self.bar)
        self.content.addLayout(maps)
        self.content.addWidget(self.all_four)
        self.content.addWidget(self.evidence)
        self.profile = LineProfile(state, viewer)
        self.content.addWidget(Fold("Line profile", self.profile))
        self.reference.currentTextChanged.connect(self._on_reference)
        self.draw_button.clicked.connect(self.draw_region)
        self.form.changed.connect(self.apply)
        self.fit_button.clicked.connect(self.fit)
        self.show_map.currentTextChanged.connect(self._on_show_map)
        self.show_map.textActivated.connect(self._on_show_again)
        self.rescale_button.clicked.connect(self._on_rescale)
        state.strain_changed.connect(self.show_strain)
        state.strain_failed.connect(self._on_failed)
        state.coarse_changed.connect(self._show_coarse)
        state.fit_started.connect(self.bar.watch)
        state.fit_stale.connect(self._on_stale)
        state.fit_time_changed.connect(self._tell_fit_time)
        state.cube_changed.connect(self._tell_fit_time)
        state.cube_changed.connect(self.refresh)
        state.disks_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Tell what is missing."""
        there = self.stem.found.disks is not None
        self.fit_button.setEnabled(there)
        self.draw_button.setVisible(self.reference.currentText() == DRAWN)
        if self.stem.found.strain is None:  # what was said of another map does not stay
            self.evidence.setText("" if there else "Run the disks on the scan first (step 2).")
            self.tell(*(("ready", "press Fit strain") if there else ("missing", "needs disks")))

    def apply(self) -> None:
        """Use the settings as they stand."""
        self._tell_fit_time()
        try:
            values = self.form.values()
            self.stem.set_strain_params(StrainParams.model_validate({**dict(self.stem.settings.strain_params), **values}))
        except (EmdlError, ValueError) as error:
            report_error(error, "strain")

    def _on_stale(self) -> None:
        if self.stem.fit_job is None:
            self.tell("ready", "press Fit strain", "the map is of the settings before")
        else:
            self.stem.message.emit("the fit goes on with the settings before; press Fit strain to begin with these")

    def _tell_fit_time(self) -> None:
        """What a fit to the patterns takes, where one is wanted and not there."""
        seconds, chosen = self.stem.fit_time_s, self.form.editors["fit"].get()
        if self.stem.peaks_for_now:
            time = "" if seconds is None else f" (about {duration(seconds)})"
            self.fit_time.setText(
                f"While settings change the map is fitted to the peaks; Fit strain takes the patterns too{time}."
            )
            self.fit_time.show()
            return
        self.fit_time.setText(
            "" if seconds is None else f"A fit to the patterns takes about {duration(seconds)} here; peaks take a moment."
        )
        self.fit_time.setVisible(seconds is not None and chosen in ("pattern", "both"))

    def turn_axis(self, angle_deg: float) -> None:
        """Turn the x axis of the strain, as its arrow on the pattern was."""
        self.form.editors["axis_deg"].put(angle_deg)
        self.apply()

    def fit(self) -> None:
        """Fit now."""
        try:
            self.stem.fit()
        except EmdlError as error:
            report_error(error)

    def _show_coarse(self) -> None:
        """Until the whole map comes."""
        if self.maps is not None and self.stem.coarse is not None:
            self.maps.show_coarse(self.stem.coarse)
            self.tell("ready", "coarse map", "a map of blocks; the whole one follows when the slider rests")

    def _on_failed(self, line: str) -> None:
        if self.maps is not None:
            self.maps.show_coarse(None)
        old = " The maps shown are from before." if self.stem.found.strain is not None else ""
        self.tell("warning", "not fitted", line)
        self.evidence.setText(f"{line}.{old}")

    # reference

    def put_reference(self, reference: Any) -> None:
        """Show what counts as unstrained, as another datacube or a project has it."""
        self.reference.blockSignals(True)
        self.reference.setCurrentText(MEDIAN if reference is None else IDEAL if isinstance(reference, str) else DRAWN)
        self.reference.blockSignals(False)
        self.draw_button.setVisible(self.reference.currentText() == DRAWN)

    def region_layer(self) -> Any:
        """Shapes layer of the reference, or None."""
        return self.maps.layer("reference") if self.maps is not None else None

    def forget_region(self) -> None:
        """The user deleted the region: it counts no longer, and the panel says what does."""
        if self.reference.currentText() == DRAWN:
            self.reference.setCurrentText(MEDIAN)
            self.stem.message.emit("the reference region was deleted; the median of the scan is the reference now")

    def _on_reference(self, text: str) -> None:
        self.draw_button.setVisible(text == DRAWN)
        if text == DRAWN:
            with pace.painted_later():
                self.suggest_region()
        elif text == IDEAL:
            self.ideal_wanted.emit()
            self.stem.set_reference("lattice")
        else:
            self.stem.set_reference(None)

    def draw_region(self) -> None:
        """Draw a region with the mouse; it replaces the one that is there."""
        layer = self._make_region()
        if layer is not None:
            self._drawing = DrawOnce(self.viewer, layer, "add_rectangle", self)
            self._drawing.finished.connect(lambda: self._use_region(layer))
            self.stem.message.emit("draw the unstrained region on the map; other shapes are in the layer's tools")

    def suggest_region(self) -> None:
        """Use the region that is there, else a quarter of the scan: its box can be moved and resized."""
        layer = self._make_region()
        if layer is None:
            return
        if not len(layer.data):
            rows, cols = self.maps.cube.scan_shape if self.maps is not None else (1, 1)
            layer.add(
                np.array([[-0.5, -0.5], [-0.5, cols / 4], [rows - 0.5, cols / 4], [rows - 0.5, -0.5]]),
                shape_type="rectangle",
                edge_color=styles.REFERENCE_COLOR,
                face_color=REGION_FACE,
                edge_width=max(rows, cols) / 120,
            )
        self.viewer.layers.selection.active = layer
        layer.mode = "select"
        self._use_region(layer)

    def _make_region(self) -> Any:
        """Shapes layer of the reference on this datacube, made when there is none."""
        if self.stem.cube is None or self.maps is None:
            return None
        layer = self.region_layer()
        if layer is None:
            layer = self.viewer.add_shapes(
                name="Reference region",
                ndim=2,
                edge_width=max(self.stem.cube.scan_shape) / 120,
                metadata=tag("reference", self.stem.cube),
                **self.maps.space,
            )
            layer.current_edge_color, layer.current_face_color = styles.REFERENCE_COLOR, REGION_FACE
            layer.current_edge_width = max(self.stem.cube.scan_shape) / 120
            layer.events.data.connect(self._on_region)
        return layer

    def region_shapes(self) -> tuple[Any, ...]:
        """Shapes of the reference region, to compare and to restore: (kind, corners) each."""
        layer = self.region_layer()
        if layer is None:
            return ()
        return tuple(
            (str(kind), tuple(map(tuple, np.asarray(corners).tolist())))
            for kind, corners in zip(layer.shape_type, layer.data, strict=True)
        )

    def put_region(self, shapes: tuple[Any, ...], kind: str) -> None:
        """Reference and region as they were: `kind` is an entry of the list of references."""
        layer = self.region_layer() if not shapes else self._make_region()
        if layer is not None and self.region_shapes() != shapes:
            with layer.events.data.blocker(self._on_region):
                layer.data = []
                for shape, corners in shapes:
                    layer.add(np.asarray(corners), shape_type=shape)
        self.reference.blockSignals(True)
        self.reference.setCurrentText(kind)
        self.reference.blockSignals(False)
        self.draw_button.setVisible(kind == DRAWN)
        if kind == DRAWN and shapes:
            self._use_region(layer)
        else:
            self.stem.set_reference("lattice" if kind == IDEAL else None)

    def watch_region(self, layer: Any) -> None:
        """Follow a reference region that a project brought, and use it when it is what counts."""
        layer.events.data.connect(self._on_region)
        if self.reference.currentText() == DRAWN:
            self._use_region(layer)

    def _on_region(self, event: Any) -> None:
        action = str(getattr(event, "action", ""))
        drawing = self._drawing is not None and self._drawing.going
        if not action.endswith("ing") and not drawing and self.reference.currentText() == DRAWN:
            self._use_region(event.source)

    def _use_region(self, layer: Any) -> None:
        if self.stem.cube is None:
            return
        shape = self.stem.cube.scan_shape
        if not len(layer.data):
            return  # it is being drawn anew
        mask = layer.to_masks(mask_shape=shape).any(axis=0)
        if not mask.any():
            report_error(EmdlError("the reference region lies outside the scan; move it onto the map"))
            return
        self.stem.set_reference(mask)

    # maps

    def _show_chosen(self) -> None:
        """The list names the map that is on top."""
        chosen = self.maps.chosen if self.maps is not None else ""
        title = next((title for title, name in {**MAP_TITLES, **EXTRA_TITLES}.items() if name == chosen), "")
        if title:
            self.show_map.setCurrentText(title)

    def _on_rescale(self) -> None:
        if self.maps is not None:
            self.maps.looks.clear()
            self.maps.scales.rescale()

    def _on_show_map(self, text: str) -> None:
        if self.maps is not None and text in EXTRA_TITLES:
            self.maps.show_extra(EXTRA_TITLES[text])
            self.maps.show_only(EXTRA_TITLES[text])
        elif self.maps is not None and text in MAP_TITLES:
            self.maps.show_only(MAP_TITLES[text])
            self.profile.show_component(MAP_TITLES[text])
            if self.stem.found.strain is not None:
                self.evidence.setText(evidence(self.stem.found.strain, MAP_TITLES[text]))

    def _on_show_again(self, _text: str) -> None:
        """The map that is chosen is wanted back: a virtual image may lie over it."""
        if self.maps is not None and self.maps.chosen:
            self.maps.show_only(self.maps.chosen)

    def show_strain(self) -> None:
        """Maps on the main canvas, evidence in the panel."""
        strain = self.stem.found.strain
        if strain is None or self.maps is None:
            return
        if not self.stem.data.has_map:
            self.tell("ready", "one pattern, no map", LONE)
            self.evidence.setText(LONE)
            for layer in filter(None, (self.maps.layer(name) for name, *_ in styles.STRAIN_MAPS)):
                layer.visible = False  # against an ideal lattice that is the reference no longer
            return
        self.maps.show_strain(strain)
        self._show_chosen()
        self._tell_fit_time()
        fitted = float(np.mean(strain.mask))
        text = f"{100 * fitted:.0f} % of the scan"
        warnings = strain.evidence.warnings if strain.evidence is not None else ()
        self.tell("warning" if warnings or fitted < 0.5 else "done", text, " · ".join((f"lattice fitted at {text}", *warnings)))
        self.evidence.setText(evidence(strain, MAP_TITLES.get(self.show_map.currentText(), "exx")))


#: What a lone pattern is told.
LONE = (
    "One pattern has nothing to be compared with. For its strain take an ideal lattice as reference: give g1 and g2 (step 3)."
)


def evidence(strain: Any, component: str = "exx") -> str:
    """What speaks for or against a strain map, in a few lines; the last is about the map `component` alone."""
    from napari_emdl.diffraction.fit.strain import REASONS
    from napari_emdl.diffraction.judge.evidence import verdict, verdict_line

    mask, found = np.asarray(strain.mask), strain.evidence
    lines = [f"Fitted at {int(mask.sum()):,} of {mask.size:,} positions."]
    if mask.any() and found is not None:
        sigma = 100 * float(np.nanmedian(np.asarray(strain.sigma)[mask][:, :3]))
        lines.append(
            f"{100 * found.indexed_fraction:.0f} % of the disks indexed, {100 * found.basis_consensus:.0f} % of the positions "
            f"agree, residual {found.median_residual_px:.3f} px, error of the strain {sigma:.3f} %, reference "
            + (f"of {found.reference_inliers:,} positions." if found.reference_inliers else "an ideal lattice.")
        )
    measured = (strain.attrs.get("reference_source") or {}).get("spread")
    if measured and component in measured and component != "theta_rad":
        spread, error = (100 * measured[component][name] for name in ("spread", "sigma"))
        lines.append(f"In the reference region {component} spreads by {spread:.3f} %, the error says {error:.3f} %.")
    if how := (strain.attrs.get("fit") or {}).get("text"):
        lines.append(f"{how[0].upper()}{how[1:]}.")
    if corrected := (strain.attrs.get("distortion") or {}).get("text"):
        lines.append(f"{corrected[0].upper()}{corrected[1:]}.")
    if axes := (strain.attrs.get("axes") or {}).get("text"):
        lines.append(f"{axes[0].upper()}{axes[1:]}.")
    reasons = np.asarray(strain.reason)[~mask]
    masked = [f"{int((reasons == code).sum()):,} {REASONS[int(code)]}" for code in np.unique(reasons)]
    if masked:
        lines.append("Masked: " + ", ".join(masked) + ".")
    lines += warned(found.warnings if found is not None else ())
    line = verdict_line(strain, component)
    if line:
        lines.append(f"{'' if verdict(strain, component).quantitative else '⚠ '}{line}.")
    return said("\n".join(lines))
