"""Opening data from the 4D-STEM panel: a file, or the selected image layer; a lone pattern is a 1 x 1 scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.params import OpenParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import in_memory
from napari_emdl.gui.diffraction.layers import disk_layers
from napari_emdl.gui.diffraction.panel import Panel
from napari_emdl.gui.kit.opening import OpenButton, add_layers
from napari_emdl.gui.kit.session import signal_of
from napari_emdl.gui.kit.signals import LayerTuple, signal_layers
from napari_emdl.gui.kit.worker import error_line


class OpenData(OpenButton):
    """Button that opens a datacube, a pattern or disks in the workspace."""

    def __init__(self, panel: Panel):
        tip = "Open a datacube, a single pattern or disks (of py4DSTEM too)"
        more = (
            ("Selected image layer", "One pattern, or an image of four axes", self.take_layer),
            ("As an image", "Open the single pattern that is shown in the HRTEM panel instead", self._as_image),
        )
        super().__init__(panel, _read, _layers_of, OpenParams(kind="datacube"), tip, more, panel)

    def _as_image(self) -> None:
        self.panel.suggestion.as_the_other()

    def take_layer(self) -> None:
        """Open the image layer that is selected on the main canvas."""
        layer = self.panel.viewer.layers.selection.active
        data: Any = getattr(layer, "data", None)
        if layer is None or layer._type_string != "image" or getattr(data, "ndim", 0) not in (2, 4):
            self.panel.notices.tell("select an image layer with 2 axes (one pattern) or 4 (scan rows and cols, pattern) first")
            return
        signal = signal_of(layer)
        calibration = signal.calibration if signal is not None else None
        array: Any = data if data.ndim == 4 else np.asarray(data)[None, None]
        try:
            cube = in_memory(array, "datacube", calibration, name=f"{layer.name} (layer)")
        except EmdlError as error:
            self.panel.notices.tell(error_line(error))
            return
        layer.visible = False
        add_layers(self.panel.viewer, signal_layers(cube))


def _layers_of(opened: Any) -> list[LayerTuple]:
    """Layers of what the dialog opened."""
    return disk_layers(opened) if isinstance(opened, PeakTable) else signal_layers(opened)


def _read(path: str) -> list[LayerTuple]:
    """Layers of a datacube, of one pattern as a 1 x 1 scan, of disks or of a project."""
    from napari_emdl.gui.diffraction.project import opened_layers, read_opened
    from napari_emdl.io import open_datacube
    from napari_emdl.io.summary import is_result
    from napari_emdl.workflow.project import is_project

    if is_project(path):
        return opened_layers(read_opened(path))
    try:
        return signal_layers(open_datacube(path))
    except OpenError:
        if not is_result(path):
            raise
    return _disks(path)


def _disks(path: str) -> list[LayerTuple]:
    from napari_emdl.io import load

    found = load(path)
    if isinstance(found, PeakTable) and len(found.shape) == 2:
        return disk_layers(found, path)
    raise OpenError(f"{Path(path).name} is a result without disks; open it with File > Open")
