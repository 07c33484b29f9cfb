"""The 4D-STEM workspace: the guided panel, tied to the main canvas and to the diffraction canvas in a dock beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QSignalBlocker, QSize, QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.base.signals import Datacube
from napari_emdl.base.stages import Job
from napari_emdl.diffraction.standin import is_stand_in
from napari_emdl.gui.diffraction import remember as stem_remember
from napari_emdl.gui.diffraction.canvas import DiffractionCanvas
from napari_emdl.gui.diffraction.data import Settings, StemData
from napari_emdl.gui.diffraction.detectorbar import DetectorBar
from napari_emdl.gui.diffraction.detectors import Detectors
from napari_emdl.gui.diffraction.disks import DisksStep
from napari_emdl.gui.diffraction.docking import Docks
from napari_emdl.gui.diffraction.export import ExportStep
from napari_emdl.gui.diffraction.fourmaps import FourMaps
from napari_emdl.gui.diffraction.frame import Frame
from napari_emdl.gui.diffraction.keys import bind_keys, unbind_keys
from napari_emdl.gui.diffraction.lattice import LatticeStep
from napari_emdl.gui.diffraction.limits import Limits
from napari_emdl.gui.diffraction.maps import ScanMaps
from napari_emdl.gui.diffraction.opendata import OpenData
from napari_emdl.gui.diffraction.openset import OpenSet, OpenSets
from napari_emdl.gui.diffraction.overlay import axes_note, describe, outlook_line, show_overlay
from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.diffraction.parts import add_parts
from napari_emdl.gui.diffraction.presets import ThresholdTools
from napari_emdl.gui.diffraction.probe import ProbeStep
from napari_emdl.gui.diffraction.project import Opened, layers_to_export, restore
from napari_emdl.gui.diffraction.session import StemProjects, project_menu
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.diffraction.strain import StrainStep
from napari_emdl.gui.diffraction.tour import tour_steps
from napari_emdl.gui.kit import responsive, session, styles
from napari_emdl.gui.kit.crosshair import Crosshair
from napari_emdl.gui.kit.fitting import ToolType
from napari_emdl.gui.kit.help import show_help
from napari_emdl.gui.kit.histogram import ScoreHistogram
from napari_emdl.gui.kit.projects import Keeper, Offer
from napari_emdl.gui.kit.steps import Step
from napari_emdl.gui.kit.suggest import Suggestion
from napari_emdl.gui.kit.switcher import Switcher
from napari_emdl.gui.kit.worker import report_error


class StemWorkspace(Panel):
    """Panel for one datacube at a time.

    Parameters
    ----------
    napari_viewer
        The viewer it belongs to; the datacube of its first navigation layer is taken, and any that is opened later.
    """

    def __init__(self, napari_viewer: Any, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("stem_workspace")
        self.viewer = session.bare(napari_viewer)
        self.state = StemState(self)
        stem_remember.begin(self.state)
        self.canvas = DiffractionCanvas()
        self.switcher = Switcher("Datacubes that are open; the others keep all that was found in them")
        self.sets = OpenSets(self.viewer, self.canvas, self.switcher, self)
        self.sets.shown_changed.connect(self._on_shown)
        self.four_maps: FourMaps | None = None
        self.closed = False
        self._restoring = responsive.Slices(iter(()))
        self._overlay_timer = QTimer(self)
        self._overlay_timer.setSingleShot(True)
        self._overlay_at = (0, 0)  # position whose disks are drawn
        self._overlay_timer.setInterval(0)
        self._overlay_timer.timeout.connect(self._draw_overlay)
        self.histogram = ScoreHistogram()
        self.canvas.below.addWidget(self.histogram)
        self.limits = Limits(self.state)
        self.canvas.below.addWidget(self.limits)
        self.thresholds = ThresholdTools(self.state)
        self.histogram.row.addWidget(self.thresholds)
        for widget in (self, self.canvas):
            self.thresholds.add_keys(widget)
        self.probe_step = ProbeStep(self.state)
        self.disks_step = DisksStep(self.state)
        self.lattice_step = LatticeStep(self.state, self.canvas)
        self.strain_step = StrainStep(self.state, self.viewer)
        self.export_step = ExportStep(self.state)
        self.project = Keeper(self.viewer, StemProjects(self), self)
        self.offer = Offer(self.project)
        self.steps: tuple[Step, ...] = (self.probe_step, self.disks_step, self.lattice_step, self.strain_step, self.export_step)
        self.parts = add_parts(self)
        self.regions = self.parts.regions
        history, step = self.thresholds.history, self.strain_step
        history.read_reference = lambda: (step.reference.currentText(), step.region_shapes())
        history.write_reference = lambda reference, region: step.put_region(region, reference)
        history.restored.connect(self._put_strain_forms)
        self._build()
        self.virtual = DetectorBar(self.state, self.canvas, lambda: self.detectors, self)
        self._tool_types = [ToolType(self), ToolType(self.canvas)]
        self._connect()
        self.docks = Docks(self.viewer, self, self.canvas, self._make_four_maps, self.shut_down)
        self.docks.four_closed.connect(lambda: self.strain_step.all_four.setChecked(False))
        self._keys = bind_keys(self)
        session.register(self.viewer, session.WORKSPACE, self)
        self._adopt_first()

    # building

    def _build(self) -> None:
        self.open_button = OpenData(self)
        self.frame = Frame(
            (self.offer, self.switcher), (self.open_button, project_menu(self, self.project)), self.disks_step.bar, self.steps
        )
        self.notices, self.title, self.hint, self.status = (
            self.frame.notices,
            self.frame.title,
            self.frame.hint,
            self.frame.status,
        )
        self.suggestion = Suggestion(self.viewer, self.notices, self)
        self.outlook, self.run_all_button = self.frame.outlook, self.frame.run_all_button
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.frame)
        self.setMinimumWidth(290)
        self.disks_step.unfold()

    def sizeHint(self) -> QSize:
        return QSize(310, 600)

    def _connect(self) -> None:
        state = self.state
        self.run_all_button.clicked.connect(lambda *_: self.run_all())
        self.frame.help_button.clicked.connect(lambda *_: show_help(self, tour=self.begin_tour))
        self.canvas.display_changed.connect(self._on_display)
        self.histogram.changed.connect(state.set_threshold)
        state.pattern_changed.connect(self.canvas.show_pattern)
        state.structure_changed.connect(self.canvas.show_structure)
        self.canvas.structure_wanted.connect(state.show_structure)
        self.disks_step.form.changed.connect(lambda *_: self.canvas.offer_structure(state.settings.has_structure))
        state.probe_changed.connect(self._on_probe)
        state.overlay_changed.connect(self._show_overlay)
        state.kept_changed.connect(self._show_overlay)
        state.strain_changed.connect(self._show_overlay)
        state.coarse_changed.connect(self._show_overlay)
        state.message.connect(self.say)
        state.strain_changed.connect(self._on_first_strain)
        state.block_found.connect(self._on_block)
        for signal in (state.cube_changed, state.disks_changed, state.job_started, state.job_ended):
            signal.connect(lambda *_: self.frame.show_results(state.found.disks is not None))
        self.frame.figure_button.clicked.connect(lambda *_: self.export_step.figure())
        self.frame.export_button.clicked.connect(lambda *_: self.export_step.export())
        for signal in (state.outlook_changed, state.disks_changed, state.job_started, state.job_ended):
            signal.connect(self._show_outlook)
        state.job_started.connect(lambda *_: self.run_all_button.setEnabled(False))
        state.job_ended.connect(lambda *_: self.run_all_button.setEnabled(self.state.cube is not None))
        self.strain_step.all_four.toggled.connect(lambda on: self.docks.show_four(on))
        self.strain_step.ideal_wanted.connect(self._fill_ideal)
        self.parts.histogram.judged.connect(self._show_overlay)
        self.export_step.job_loaded.connect(self.use_job)
        self.export_step.layers = lambda: layers_to_export(self)
        self.viewer.layers.events.inserted.connect(self._on_layer_inserted)
        self.viewer.layers.events.removed.connect(self._on_layer_removed)

    def _make_four_maps(self) -> FourMaps:
        self.four_maps = FourMaps(self.state)
        self.four_maps.moved.connect(lambda row, col: self.cross.move_to(row, col) if self.cross is not None else None)
        return self.four_maps

    def begin_tour(self) -> None:
        """Guided tour from the sample to a strain figure."""
        self.frame.tour.begin(tour_steps(self))

    # opening

    def _adopt_first(self) -> None:
        found = [
            layer for layer, _ in session.layers_with_signal(self.viewer, "datacube") if session.role_of(layer) == "navigation"
        ]
        known = [one.cube for one in self.sets.all]
        new = [layer for layer in found if all(session.signal_of(layer) is not cube for cube in known)]
        if new and not self.closed:
            self._adopt(new[-1])

    def _adopt(self, layer: Any) -> None:
        """Open the datacube behind a layer, with the disks a result file brought along."""
        signal, found = session.signal_of(layer), session.tag_of(layer)
        disks, file, opened, notice = (found.pop(name, None) for name in ("disks", "disks_file", "project", "notice"))
        if notice:
            self.notices.tell(str(notice))
        if opened is not None:
            self.take_project(opened)
        elif isinstance(signal, Datacube):
            self.open(signal)
            if disks is not None:
                self.state.take_disks(disks, file=file)

    def _on_layer_inserted(self, event: Any) -> None:
        signal = session.signal_of(event.value)
        if session.role_of(event.value) == "navigation" and isinstance(signal, Datacube) and signal is not self.state.cube:
            QTimer.singleShot(responsive.SLICE_MS, self._adopt_first)  # its image is painted first
        elif signal is not None and not isinstance(signal, Datacube):
            self.sets.put_aside()

    def _on_layer_removed(self, event: Any) -> None:
        role, signal = session.role_of(event.value), session.tag_of(event.value).get("signal")
        if role == "reference" and signal is self.state.cube:
            self.strain_step.forget_region()
        elif role == "navigation" and signal is not self.state.cube:
            self.sets.forget(signal)

    def open(self, cube: Datacube) -> None:
        """Work on `cube`; its navigation image fills in and the middle pattern is shown."""
        if self.closed:
            return
        known = self.sets.of(cube)
        if known is not None:
            self.sets.switch(known)
        else:
            self.start(cube)

    def start(self, cube: Datacube, settings: Settings | None = None) -> None:
        """Begin with `cube`, also when it is open already, with the parameters of `settings`."""
        if settings is None:
            settings = self.state.settings if self.state.cube is None else stem_remember.carried(self.state.settings)
        opened = self.sets.start(StemData.begin(cube, settings, self.state.output_folder))
        if not is_stand_in(cube):
            opened.detectors.navigation_named.connect(lambda what: self._name_navigation(opened, what))
            opened.detectors.navigation()

    def _on_shown(self, chosen: OpenSet) -> None:
        """Another datacube is on the canvases: the panel shows what is set for it and what was found in it."""
        assert chosen.cross is not None
        chosen.cross.moved.connect(self.state.move_to)
        self.strain_step.maps = self.strain_step.profile.maps = chosen.maps
        styles.show_scale_bar(self.viewer)
        self.viewer.scale_bar.visible = chosen.cube.n_patterns > 1
        self.docks.lone = chosen.cube.n_patterns == 1
        self._show_settings(chosen.data.settings)
        self.state.show(chosen.data)
        self._show_title(chosen)
        self.hint.hide()
        self.suggestion.follow(None if is_stand_in(chosen.cube) else chosen.cube)
        self.run_all_button.setEnabled(True)
        QTimer.singleShot(50, self.docks.fit_views)

    def _show_title(self, shown: OpenSet) -> None:
        self.title.setText("\n".join(filter(None, (describe(shown.cube), shown.navigation))))

    def _name_navigation(self, opened: OpenSet, what: str) -> None:
        """Say what the navigation image is."""
        opened.navigation = "" if opened.data.lone else f"navigation image: {what}"
        if opened is self.sets.shown:
            self._show_title(opened)

    def _show_settings(self, settings: Settings) -> None:
        """Forms as the datacube has its parameters; nothing acts on it."""
        state = self.state
        kept, state.data = state.data, StemData(settings=replace(settings))  # forms tell what they are filled with
        try:
            self.probe_step.put(settings.disk_params.probe)
            self.disks_step.put(settings.disk_params, settings.run_params)
            self._put_strain_forms(settings.strain_params)
            self.strain_step.put_reference(settings.reference)
        finally:
            state.data = kept

    @property
    def maps(self) -> ScanMaps | None:
        """Maps of the datacube that is shown."""
        return self.sets.shown.maps if self.sets.shown is not None else None

    @property
    def cross(self) -> Crosshair | None:
        """Its cross-hair."""
        return self.sets.shown.cross if self.sets.shown is not None else None

    @property
    def detectors(self) -> Detectors | None:
        """Its virtual detectors."""
        return self.sets.shown.detectors if self.sets.shown is not None else None

    def take_project(self, opened: Opened) -> None:
        """Be as a project that was read says; it is saved there again."""
        self._restoring.finish()
        self._restoring = responsive.Slices(restore(self, opened), self)
        self.project.took(opened.path)

    @property
    def restoring(self) -> bool:
        """True while a project is being put on the canvases."""
        return self._restoring.going

    def close_detectors(self) -> None:
        """Take the virtual detectors off; their images stay."""
        if self.detectors is not None:
            for layer in self.detectors.layers():
                self.canvas.model.layers.remove(layer)

    # actions

    def run_all(self) -> None:
        """From a fresh file to strain maps."""
        try:
            if self.state.found.disks is not None and self.state.found.done is not None and self.state.found.done.all():
                self.state.fit()
            else:
                self.state.run(resume=self.state.can_resume(), then_strain=True)
        except EmdlError as error:
            report_error(error)

    def cancel(self) -> None:
        """Stop what runs on the scan."""
        if self.state.job is not None:
            self.disks_step.bar.cancel()

    def step(self, rows: int, cols: int) -> None:
        """Move the cross-hair."""
        if self.cross is not None:
            self.cross.move_to(self.cross.position[0] + rows, self.cross.position[1] + cols)

    def use_job(self, job: Job) -> None:
        """Take over the settings of a job file."""
        disks, strain = job.section("disks"), job.section("strain")
        if disks is not None:
            self.probe_step.put(disks.probe)
            self.disks_step.put(disks, job.run)
            if disks.min_score is not None:
                self.state.set_threshold(disks.min_score)
        if strain is not None:
            self.put_strain(strain.model_copy(update={"regions": None}))
            if strain.regions is not None:
                self.parts.regions.load(strain.regions)

    def put_strain(self, params: StrainParams) -> None:
        """Show and use settings of lattice and strain."""
        self.state.set_strain_params(params)
        self._put_strain_forms(params)

    def _put_strain_forms(self, params: StrainParams) -> None:
        step = self.lattice_step
        for form, values in (
            (self.limits.form, params),
            (step.form, params),
            (step.calibration, params.calibrate),
            (self.strain_step.form, params),
        ):
            with QSignalBlocker(form):  # the editors show rounded values
                form.put(values)

    def use_defaults(self) -> None:
        """Parameters as they come; what belongs to the open file stays."""
        disks, strain, run = stem_remember.defaults(self.state)
        self.disks_step.put(disks, run)
        self.put_strain(strain)
        self.state.message.emit("all parameters are as they come; probe, lattice, reference and thresholds stay")

    def _fill_ideal(self) -> None:
        """An ideal reference needs g1 and g2; take those found."""
        view = self.state.found.lattice
        if self.state.settings.strain_params.g1 is None and view is not None and view.basis is not None:
            for name, g in zip(("g1", "g2"), np.asarray(view.basis.g), strict=True):
                self.lattice_step.form.editors[name].put(tuple(float(v) for v in g))
            self.lattice_step.apply()

    # showing

    def _on_display(self) -> None:
        self.state.log = self.canvas.log.isChecked()
        self.state.show_pattern()

    def _on_probe(self) -> None:
        if self.state.found.probe is not None:
            self.canvas.radius_px = float(self.state.found.probe.radius_px)

    def _show_outlook(self, *_: Any) -> None:
        """What a run would give, until there is one."""
        found = self.state.found
        line = outlook_line(found.outlook) if found.disks is None and self.state.job is None else ""
        self.frame.show_outlook(line)

    def _on_block(self, block: Any, table: Any) -> None:
        """Map of the disks in each pattern, which fills in while the scan runs."""
        if self.maps is not None:
            counts = table.filter(min_score=self.state.settings.min_score).counts().ravel()
            self.maps.begin_filling("count", "Disks in each pattern", colormap="viridis")
            self.maps.fill("count", block.start, block.stop, counts)

    def _on_first_strain(self) -> None:
        """With the first map of a datacube, what tells whether to trust it and how to keep it is unfolded."""
        shown = self.sets.shown
        if self.state.found.strain is not None and shown is not None and not shown.had_strain:
            shown.had_strain = True
            counts = shown.maps.layer("count")
            if counts is not None:
                counts.visible = False  # it was there to see the scan fill in
            self.disks_step.unfold(False)
            (self.lattice_step if self.state.data.lone else self.strain_step).unfold()
            self.export_step.unfold()
            responsive.more()  # what the first run brought is there to stay

    def say(self, text: str) -> None:
        """One line, or a few, at the bottom of the panel."""
        self.frame.say(text)

    def _show_overlay(self) -> None:
        """At once at another position; else when all that changed is told: a fit tells it of disks, map and verdict."""
        if self.state.settings.position != self._overlay_at:
            self._draw_overlay()
        else:
            self._overlay_timer.start()

    def _draw_overlay(self) -> None:
        if self.closed:
            return
        self._overlay_timer.stop()
        self._overlay_at = self.state.settings.position
        text = show_overlay(self.state, self.canvas, self.histogram)
        if text and self.maps is not None:
            shown = self.strain_step.show_map.currentText()
            values = [part for part in text[2:] if part.startswith((f"{shown} ", "masked"))]  # the map's corner has them all
            self.say(" · ".join([*text[:2], *values, self.disks_step.badge.device]))
            if self.state.data.lone:
                return  # there is no map to write on
            self.maps.say(
                "\n".join([" · ".join(text[:2]), *text[2:], *axes_note(self.state.found.strain), *self.parts.verdict()])
            )

    # closing

    def closeEvent(self, event: Any) -> None:
        self.shut_down()
        super().closeEvent(event)

    def event(self, event: Any) -> bool:
        taken_out = event.type() == QEvent.Type.ParentChange and self.parent() is None  # how napari closes a dock
        if taken_out or event.type() == QEvent.Type.DeferredDelete:
            self.shut_down()
        return super().event(event)

    def shut_down(self) -> None:
        """Cancel everything, wait for the threads and leave the viewer as it was; safe to call twice."""
        if self.closed:
            return
        self.closed = True
        self._restoring.stop()
        for tool_type in self._tool_types:
            tool_type.close()
        session.unregister(self.viewer, session.WORKSPACE)
        self.viewer.layers.events.inserted.disconnect(self._on_layer_inserted)
        self.viewer.layers.events.removed.disconnect(self._on_layer_removed)
        unbind_keys(self._keys)
        self.thresholds.history.close()
        stem_remember.keep(self.state)
        self.parts.release()
        self.sets.close()
        self.state.close()
        self.suggestion.close()
        self.export_step.close_jobs()
        self.project.close()
        self.canvas.release()
        self.docks.close()
