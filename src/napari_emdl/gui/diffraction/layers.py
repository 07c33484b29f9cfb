"""Layers of disk and strain files; the workspace picks disks up from the layer of their datacube."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.signals import Datacube
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.session import tag
from napari_emdl.gui.kit.signals import LayerTuple, signal_layers


def _scan_space(calibration: Any) -> dict[str, Any]:
    pixel = getattr(getattr(calibration, "calibration", calibration), "pixel_nm", None)
    return styles.space(pixel, "nm", ("scan row", "scan col"))


def strain_layers(strain: Any, path: str = "") -> list[LayerTuple]:
    """Strain maps with units, diverging colours and shared contrast."""
    space = _scan_space(strain.calibration)
    maps = {name: np.asarray(getattr(strain, name)) * factor for name, _, factor, _ in styles.STRAIN_MAPS}
    together = [maps[name] for name in ("exx", "eyy", "exy")]
    layers = []
    for name, title, _, unit in reversed(styles.STRAIN_MAPS):
        limits = styles.symmetric_limits(*([maps[name]] if name == "theta_rad" else together), least=1e-3)
        look = {"colormap": styles.diverging(), "contrast_limits": limits, "visible": name == "exx"}
        values = maps[name].astype(np.float32)
        layers.append((values, {"name": f"{title} [{unit}]", "metadata": tag(name, None, path=path), **look, **space}, "image"))
    return layers


def disk_layers(disks: Any, path: str = "") -> list[LayerTuple]:
    """Number of disks at every position; with the datacube they were found in, when that is where it was."""
    default = disks.attrs.get("default_min_score")
    kept = disks.filter(min_score=default) if default is not None else disks
    layers: list[LayerTuple] = []
    source = source_cube(disks)
    if source is not None:
        layers = signal_layers(source)
        layers[0][1]["metadata"][styles.METADATA_KEY] |= {"disks": disks, "disks_file": Path(path) if path else None}
    space = _scan_space(disks.attrs.get("calibration") if source is None else source.calibration)
    counts = kept.counts().astype(np.float32)
    look = {"colormap": "viridis", "contrast_limits": (0.0, max(1.0, float(counts.max(initial=1)))), "visible": source is None}
    layers.append(
        (counts, {"name": "disks per pattern", "metadata": tag("counts", source, path=path), **look, **space}, "image")
    )
    return layers


def source_cube(disks: Any) -> Datacube | None:
    """Datacube a table of disks was found in, when its file is still there."""
    from napari_emdl.io import open_datacube

    record = disks.attrs.get("provenance") or {}
    source = record.get("input", {}) if isinstance(record, dict) else {}
    name = source.get("path") if isinstance(source, dict) else source
    if not name or not Path(str(name).split("::")[0]).exists():
        return None
    try:
        cube = open_datacube(name)
    except (EmdlError, OSError):
        return None
    return cube if cube.scan_shape == tuple(disks.shape) else None
