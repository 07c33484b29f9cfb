"""napari-emdl: interactive electron microscopy analysis with neural networks.

The public names are loaded when first used, so that importing the package pulls in neither Qt nor onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from napari_emdl.base import kinds, showing

_HOMES = {
    "open": "napari_emdl.io",
    "open_datacube": "napari_emdl.io",
    "open_movie": "napari_emdl.io",
    "save": "napari_emdl.io",
    "load": "napari_emdl.io",
    "export": "napari_emdl.exporting.folder",
    "find_disks": "napari_emdl.diffraction.find.disks",
    "fit_strain": "napari_emdl.diffraction.fit.strain",
    "turn_strain": "napari_emdl.diffraction.fit.turn",
    "check_gain": "napari_emdl.diffraction.judge.gain",
    "find_columns": "napari_emdl.atoms.find.columns",
    "fit_occupancy": "napari_emdl.atoms.fit.occupancy",
    "compare": "napari_emdl.atoms.judge.compare",
    "watch": "napari_emdl.atoms.live.watch",
    "PeakTable": "napari_emdl.base.peaks",
    "Calibration": "napari_emdl.base.signals",
    "Datacube": "napari_emdl.base.signals",
    "Movie": "napari_emdl.base.signals",
    "EmdlError": "napari_emdl.base.errors",
}

__all__ = ["__version__", *_HOMES]


def _of_diffraction() -> tuple[kinds.ResultKind, ...]:
    from napari_emdl.diffraction.results import KINDS

    return KINDS


def _of_atoms() -> tuple[kinds.ResultKind, ...]:
    from napari_emdl.atoms.results import KINDS

    return KINDS


def _notebook() -> showing.Shower:
    from napari_emdl.exporting import notebook

    return notebook


kinds.register(_of_diffraction)
kinds.register(_of_atoms)
showing.register(_notebook)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("napari-emdl")
    except PackageNotFoundError:
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'napari_emdl' has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
