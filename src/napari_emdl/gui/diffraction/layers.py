"""Layers of disk and strain files; the workspace picks disks up from the layer of their datacube."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.standin import stand_in
from napari_emdl.gui.kit import styles
from napari_emdl.gui.kit.session import tag
from napari_emdl.gui.kit.signals import LayerTuple, signal_layers
from napari_emdl.workflow.source import source_of


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
        sharing = [maps[name]] if name == "theta_rad" else together
        limits = styles.rounded_limits(styles.symmetric_limits(*sharing, least=1e-3))
        look = {"colormap": styles.diverging(), "contrast_limits": limits, "visible": name == "exx"}
        values = maps[name].astype(np.float32)
        layers.append((values, {"name": f"{title} [{unit}]", "metadata": tag(name, None, path=path), **look, **space}, "image"))
    return layers


def disk_layers(disks: Any, path: str = "") -> list[LayerTuple]:
    """Number of disks at every position, with the datacube they were found in; the workspace takes the disks over.

    Where the datacube cannot be had (it is gone, or these are peak lists of another program) the disks stand for themselves.
    """
    default = disks.attrs.get("default_min_score")
    kept = disks.filter(min_score=default) if default is not None else disks
    counts = kept.counts().astype(np.float32)
    file = Path(path) if path else None
    look = {"colormap": "viridis", "contrast_limits": (0.0, max(1.0, float(counts.max(initial=1))))}
    try:
        source, why = source_of(disks, path or None), ""
    except OpenError as error:
        source, why = None, str(error)
    if not isinstance(source, Datacube):
        cube, disks = stand_in(disks, file.name.split(".")[0] if file else "disks")
        mine = tag("navigation", cube, disks=disks, disks_file=file, notice=f"patterns are not shown: {why}" if why else "")
        return [(counts, {"name": cube.name, "metadata": mine, **look, **_scan_space(cube.calibration)}, "image")]
    layers = signal_layers(source)
    layers[0][1]["metadata"][styles.METADATA_KEY] |= {"disks": disks, "disks_file": file}
    mine = tag("counts", source, path=path)
    space = _scan_space(source.calibration)
    return [*layers, (counts, {"name": "disks per pattern", "metadata": mine, "visible": False, **look, **space}, "image")]
