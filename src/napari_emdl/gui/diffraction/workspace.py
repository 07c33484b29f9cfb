"""The 4D-STEM workspace: the guided panel, tied to the main canvas and to the diffraction canvas in a dock beside it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.standin import is_stand_in
from napari_emdl.gui.diffraction import remember as stem_remember
from napari_emdl.gui.diffraction.adopting import Adopting
from napari_emdl.gui.diffraction.canvas import canvas_for
from napari_emdl.gui.diffraction.closing import Closing, goes
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
from napari_emdl.gui.diffraction.overlay import describe
from napari_emdl.gui.diffraction.overlayview import OverlayView
from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.diffraction.parts import add_parts
from napari_emdl.gui.diffraction.presets import ThresholdTools
from napari_emdl.gui.diffraction.probe import ProbeStep
from napari_emdl.gui.diffraction.project import Opened, layers_to_export, restore
from napari_emdl.gui.diffraction.runview import RunView
from napari_emdl.gui.diffraction.session import StemProjects, project_menu
from napari_emdl.gui.diffraction.settings import Forms
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.diffraction.strain import StrainStep
from napari_emdl.gui.diffraction.tour import tour_steps
from napari_emdl.gui.kit import pace, responsive, session, styles
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
        self.canvas = canvas_for(self.viewer)
        self.switcher = Switcher("Datacubes that are open; the others keep all that was found in them")
        self.sets = OpenSets(self.viewer, self.canvas, self.switcher, self)
        self.sets.shown_changed.connect(self._on_shown)
        self.four_maps: FourMaps | None = None
        self._closing = Closing()
        self._restoring = responsive.Slices(iter(()))
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
        self.forms = Forms(self)
        history, step = self.thresholds.history, self.strain_step
        history.read_reference = lambda: (step.reference.currentText(), step.region_shapes())
        history.write_reference = lambda reference, region: step.put_region(region, reference)
        history.restored.connect(self.forms.show_strain)
        self._build()
        self.virtual = DetectorBar(self.state, self.canvas, lambda: self.detectors, self)
        self._tool_types = [ToolType(self), ToolType(self.canvas)]
        self._connect()
        self.overlay = OverlayView(self, self.parts)
        self.adopting = Adopting(self, self.sets)
        self.docks = Docks(self.viewer, self, self.canvas, self._make_four_maps, self.shut_down)
        self.docks.front_changed.connect(lambda front: self.sets.bring_back() if front else self.sets.put_aside())
        self.sets.brought_back.connect(self._on_brought_back)
        self.docks.four_closed.connect(lambda: self.strain_step.all_four.setChecked(False))
        self._keys = bind_keys(self)
        session.register(self.viewer, session.WORKSPACE, self)
        self._closing.steps = (
            lambda: self._restoring.stop(),
            *(tool_type.close for tool_type in self._tool_types),
            lambda: session.unregister(self.viewer, session.WORKSPACE),
            self.adopting.release,
            lambda: unbind_keys(self._keys),
            self.thresholds.history.close,
            lambda: stem_remember.keep(self.state),
            self.parts.release,
            self.sets.close,
            self.state.close,
            self.suggestion.close,
            self.export_step.close_jobs,
            self.project.close,
            self.canvas.release,
            self.docks.close,
        )
        QTimer.singleShot(pace.SLICE_MS, self.adopting.newest)  # the panel is laid out first

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
        return QSize(max(310, self.frame.scroll_area.wished_width()), 600)

    def _connect(self) -> None:
        state = self.state
        self.run_all_button.clicked.connect(lambda *_: self.run_all())
        self.frame.help_button.clicked.connect(lambda *_: show_help(self, tour=self.begin_tour))
        self.histogram.changed.connect(state.set_threshold)
        state.pattern_changed.connect(self.canvas.show_pattern)
        state.structure_changed.connect(self.canvas.show_structure)
        self.canvas.structure_wanted.connect(state.show_structure)
        self.disks_step.form.changed.connect(lambda *_: self.canvas.offer_structure(state.settings.has_structure))
        state.message.connect(self.say)
        RunView(self, self.sets)
        self.frame.figure_button.clicked.connect(lambda *_: self.export_step.figure())
        self.frame.export_button.clicked.connect(lambda *_: self.export_step.export())
        self.strain_step.all_four.toggled.connect(lambda on: self.docks.show_four(on))
        self.strain_step.ideal_wanted.connect(self.forms.fill_ideal)
        self.export_step.job_loaded.connect(self.forms.use_job)
        self.export_step.layers = lambda: layers_to_export(self)
        self.export_step.scale_set = self._scale_set

    def _scale_set(self, name: str) -> float | None:
        """End of the colour bar of a strain map where it is not the automatic one."""
        limits = None if self.maps is None else self.maps.scales.limits(name)
        if self.maps is None or limits is None or np.allclose(limits, self.maps.scales.fresh(name), rtol=1e-4):
            return None
        return max(abs(limits[0]), abs(limits[1]))

    def _make_four_maps(self) -> FourMaps:
        self.four_maps = FourMaps(self.state, lambda name: None if self.maps is None else self.maps.scales.limits(name))
        self.four_maps.moved.connect(lambda row, col: self.cross.move_to(row, col) if self.cross is not None else None)
        return self.four_maps

    def _on_limits(self) -> None:
        if self.four_maps is not None:
            self.four_maps.refresh()

    def begin_tour(self) -> None:
        """Guided tour from the sample to a strain figure."""
        self.frame.tour.begin(tour_steps(self))

    # opening

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
        opened.maps.scales.changed.connect(self._on_limits)
        if not is_stand_in(cube):
            opened.detectors.navigation_named.connect(partial(self._name_navigation, opened))
            opened.detectors.followed.connect(self.state.message)
            opened.detectors.navigation()

    def _on_shown(self, chosen: OpenSet) -> None:
        """Another datacube is on the canvases: the panel shows what is set for it and what was found in it."""
        assert chosen.cross is not None
        chosen.cross.moved.connect(self.state.move_to)
        self.strain_step.maps = self.strain_step.profile.maps = chosen.maps
        chosen.maps.turns.soon("scale bar", lambda: self._show_scale_bar(chosen))
        self.docks.lone = chosen.cube.n_patterns == 1
        self.forms.show(chosen.data.settings)
        self.state.show(chosen.data)
        self._show_title(chosen)
        self.hint.hide()
        self.suggestion.follow(None if is_stand_in(chosen.cube) else chosen.cube)
        self.run_all_button.setEnabled(True)
        QTimer.singleShot(50, self.docks.fit_views)

    def _show_scale_bar(self, chosen: OpenSet) -> None:
        if chosen is self.sets.shown:
            styles.show_scale_bar(self.viewer)
            self.viewer.scale_bar.visible = chosen.cube.n_patterns > 1

    def _on_brought_back(self) -> None:
        """The corner has its values again, and the view fits the scan."""
        self.state.overlay_changed.emit()
        QTimer.singleShot(50, self.docks.fit_views)

    def _show_title(self, shown: OpenSet) -> None:
        self.title.setText("\n".join(filter(None, (describe(shown.cube), shown.navigation))))

    def _name_navigation(self, opened: OpenSet, what: str, how: str) -> None:
        """Say what the navigation image is, and how its detector goes with the beam."""
        opened.navigation = "" if opened.data.lone else "\n".join(filter(None, (f"navigation image: {what}", how)))
        if opened is self.sets.shown:
            self._show_title(opened)

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
        self._restoring = responsive.Slices(restore(self, opened), self, paints=True)
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
        if self.state.cube is None:
            self.adopting.newest()  # a script need not wait until the panel is laid out
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

    def put_strain(self, params: StrainParams) -> None:
        """Show and use settings of lattice and strain."""
        self.forms.use_strain(params)

    def use_defaults(self) -> None:
        """Parameters as they come; what belongs to the open file stays."""
        self.forms.use_defaults()

    # showing

    def say(self, text: str) -> None:
        """One line, or a few, at the bottom of the panel."""
        self.frame.say(text)

    # closing

    @property
    def closed(self) -> bool:
        """True once it has let go of everything."""
        return self._closing.done

    def shut_down(self) -> None:
        """Cancel everything, wait for the threads and leave the viewer as it was; safe to call twice."""
        self._closing.run()

    def closeEvent(self, event: Any) -> None:
        self.shut_down()
        super().closeEvent(event)

    def event(self, event: Any) -> bool:
        if goes(self, event):
            self.shut_down()
        return super().event(event)
