"""The forms of all steps of the 4D-STEM workspace together: filled from a datacube, a job file or the defaults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from qtpy.QtCore import QSignalBlocker

from napari_emdl.base.params import StrainParams
from napari_emdl.base.stages import Job
from napari_emdl.gui.diffraction import remember as stem_remember
from napari_emdl.gui.diffraction.data import Settings, StemData
from napari_emdl.gui.diffraction.panel import Panel


class Forms:
    """What is set in the steps of a workspace, as one.

    Parameters
    ----------
    panel
        The workspace whose steps are filled.
    """

    def __init__(self, panel: Panel):
        self.panel = panel

    def show(self, settings: Settings) -> None:
        """Forms as the datacube has its parameters; nothing acts on it."""
        panel, state = self.panel, self.panel.state
        kept, state.data = state.data, StemData(settings=replace(settings))  # forms tell what they are filled with
        try:
            panel.probe_step.put(settings.disk_params.probe)
            panel.disks_step.put(settings.disk_params, settings.run_params)
            self.show_strain(settings.strain_params)
            panel.strain_step.put_reference(settings.reference)
        finally:
            state.data = kept

    def show_strain(self, params: StrainParams) -> None:
        """Show settings of lattice and strain; nothing acts on it."""
        panel = self.panel
        for form, values in (
            (panel.limits.form, params),
            (panel.lattice_step.form, params),
            (panel.lattice_step.calibration, params.calibrate),
            (panel.strain_step.form, params),
        ):
            with QSignalBlocker(form):  # the editors show rounded values
                form.put(values)

    def use_strain(self, params: StrainParams) -> None:
        """Show and use settings of lattice and strain."""
        self.panel.state.set_strain_params(params)
        self.show_strain(params)

    def use_job(self, job: Job) -> None:
        """Take over the settings of a job file."""
        panel = self.panel
        disks, strain = job.section("disks"), job.section("strain")
        if disks is not None:
            panel.probe_step.put(disks.probe)
            panel.disks_step.put(disks, job.run)
            if disks.min_score is not None:
                panel.state.set_threshold(disks.min_score)
        if strain is not None:
            self.use_strain(strain.model_copy(update={"regions": None}))
            if strain.regions is not None:
                panel.regions.load(strain.regions)

    def use_defaults(self) -> None:
        """Parameters as they come; what belongs to the open file stays."""
        disks, strain, run = stem_remember.defaults(self.panel.state)
        self.panel.disks_step.put(disks, run)
        self.use_strain(strain)
        self.panel.state.message.emit("all parameters are as they come; probe, lattice, reference and thresholds stay")

    def fill_ideal(self) -> None:
        """An ideal reference needs g1 and g2; take those found."""
        state, step = self.panel.state, self.panel.lattice_step
        view = state.found.lattice
        if state.settings.strain_params.g1 is None and view is not None and view.basis is not None:
            for name, g in zip(("g1", "g2"), np.asarray(view.basis.g), strict=True):
                step.form.editors[name].put(tuple(float(v) for v in g))
            step.apply()
