"""Sample data for File > Open Sample: simulated, deterministic, with known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.types import LayerData


def strained_datacube() -> list[LayerData]:
    """Small 4D-STEM datacube with a known strain field."""
    from napari_emdl.gui import layers
    from napari_emdl.gui.kit.worker import run_with_progress
    from napari_emdl.samples.diffraction import strained_datacube as make

    found: list[LayerData] = run_with_progress(lambda control: _layers(make(control=control)[0]), "simulating a datacube")
    layers.open_panels_soon(found)
    return found


def blinking_movie() -> list[LayerData]:
    """HRTEM movie of a particle whose surface columns come and go."""
    from napari_emdl.gui import layers
    from napari_emdl.gui.kit.worker import run_with_progress
    from napari_emdl.samples.atoms import blinking_movie as make

    found: list[LayerData] = run_with_progress(lambda control: _layers(make(control=control)[0]), "simulating a movie")
    layers.open_panels_soon(found)
    return found


def _layers(signal: Any) -> list[LayerData]:
    from napari_emdl.gui.kit.signals import for_panels, signal_layers

    return for_panels(signal_layers(signal))
