"""What the parts of the 4D-STEM workspace may ask of it, so that they need not import it."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QPushButton, QWidget

from napari_emdl.base.params import StrainParams
from napari_emdl.base.signals import Datacube
from napari_emdl.gui.diffraction.canvas import DiffractionCanvas
from napari_emdl.gui.diffraction.data import Settings
from napari_emdl.gui.diffraction.detectorbar import DetectorBar
from napari_emdl.gui.diffraction.detectors import Detectors
from napari_emdl.gui.diffraction.disks import DisksStep
from napari_emdl.gui.diffraction.export import ExportStep
from napari_emdl.gui.diffraction.frame import Frame
from napari_emdl.gui.diffraction.lattice import LatticeStep
from napari_emdl.gui.diffraction.limits import Limits
from napari_emdl.gui.diffraction.maps import ScanMaps
from napari_emdl.gui.diffraction.openset import OpenSets
from napari_emdl.gui.diffraction.presets import ThresholdTools
from napari_emdl.gui.diffraction.probe import ProbeStep
from napari_emdl.gui.diffraction.regions import RegionsBox
from napari_emdl.gui.diffraction.state import StemState
from napari_emdl.gui.diffraction.strain import StrainStep
from napari_emdl.gui.kit.crosshair import Crosshair
from napari_emdl.gui.kit.histogram import ScoreHistogram
from napari_emdl.gui.kit.notices import Notices
from napari_emdl.gui.kit.steps import Step


class Panel(QWidget):
    """The workspace as its menus, keys and project files see it; :class:`StemWorkspace` is the one there is."""

    viewer: Any
    state: StemState
    canvas: DiffractionCanvas
    histogram: ScoreHistogram
    thresholds: ThresholdTools
    probe_step: ProbeStep
    disks_step: DisksStep
    lattice_step: LatticeStep
    strain_step: StrainStep
    export_step: ExportStep
    open_button: QWidget
    run_all_button: QPushButton
    steps: tuple[Step, ...]
    regions: RegionsBox
    limits: Limits
    sets: OpenSets
    frame: Frame
    notices: Notices
    virtual: DetectorBar

    @property
    def closed(self) -> bool:
        """True once it has let go of everything."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        """One line, or a few, at the bottom of the panel."""
        raise NotImplementedError

    def open(self, cube: Datacube) -> None:
        """Work on `cube`, or go back to it."""
        raise NotImplementedError

    @property
    def maps(self) -> ScanMaps | None:
        """Maps of the datacube that is shown."""
        raise NotImplementedError

    @property
    def cross(self) -> Crosshair | None:
        """Its cross-hair."""
        raise NotImplementedError

    @property
    def detectors(self) -> Detectors | None:
        """Its virtual detectors."""
        raise NotImplementedError

    def start(self, cube: Datacube, settings: Settings | None = None) -> None:
        """Begin with `cube`, also when it is open already, with the parameters of `settings`."""
        raise NotImplementedError

    def close_detectors(self) -> None:
        """Take the virtual detectors off; their images stay."""
        raise NotImplementedError

    def put_strain(self, params: StrainParams) -> None:
        """Show and use settings of lattice and strain."""
        raise NotImplementedError

    def use_defaults(self) -> None:
        """Parameters as they come; what belongs to the open file stays."""
        raise NotImplementedError

    def take_project(self, opened: Any) -> None:
        """Be as a project that was read (:class:`napari_emdl.gui.diffraction.project.Opened`) says."""
        raise NotImplementedError

    def run_all(self) -> None:
        """From a fresh file to strain maps."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop what runs on the scan."""
        raise NotImplementedError

    def step(self, rows: int, cols: int) -> None:
        """Move the cross-hair."""
        raise NotImplementedError
