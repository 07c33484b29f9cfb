"""Cases with exact truth that disks and strain are measured on.

A case is PREFIX.emd.h5 (any HDF5 file with one 4-D dataset), PREFIX_probe.npy and PREFIX_truth.h5 with ``truth/F`` (n, 2, 2),
``truth/g_px`` (2, 2) and ``truth/origin_px``; a disk lies at origin + (h, k) @ g_px @ inv(F). A case without F is unstrained,
such as a bent wedge.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError


@dataclass(frozen=True)
class Case:
    """Patterns (n, H, W), vacuum probe (H, W), deformation (n, 2, 2), unstrained basis (2, 2) and origin (n, 2)."""

    name: str
    patterns: NDArray[Any]
    probe: NDArray[Any]
    deformation: NDArray[np.float64]
    g_px: NDArray[np.float64]
    origin_px: NDArray[np.float64]


def load_case(prefix: str | Path) -> Case:
    """Case of the files that begin with `prefix` (with or without ``.emd.h5``)."""
    base = str(prefix).removesuffix(".emd.h5")
    paths = [Path(base + end) for end in (".emd.h5", "_probe.npy", "_truth.h5")]
    for path in paths:
        if not path.is_file():
            raise EmdlError(f"{path} is missing; a case needs PREFIX.emd.h5, PREFIX_probe.npy and PREFIX_truth.h5")
    with h5py.File(paths[0]) as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if getattr(item, "ndim", 0) == 4 else None)
        if not found:
            raise EmdlError(f"{paths[0]} holds no 4-D dataset")
        data = file[found[0]][()]
    patterns = data.reshape(-1, *data.shape[-2:])
    with h5py.File(paths[2]) as file:
        g, origin = (known(file, f"truth/{name}", paths[2]).astype(float) for name in ("g_px", "origin_px"))
        still = np.tile(np.eye(2), (len(patterns), 1, 1))
        f = known(file, "truth/F", paths[2]).reshape(-1, 2, 2).astype(float) if "truth/F" in file else still
    if len(f) != len(patterns):
        raise EmdlError(f"{paths[2]} tells the deformation of {len(f)} patterns, the case has {len(patterns)}")
    return Case(Path(base).name, patterns, np.load(paths[1]), f, g, np.broadcast_to(origin.reshape(-1, 2), (len(patterns), 2)))


def known(file: h5py.File, name: str, path: Path) -> NDArray[Any]:
    """Dataset of an open truth file.

    Raises
    ------
    EmdlError
        When there is none of this name.
    """
    if not isinstance(file.get(name), h5py.Dataset):
        raise EmdlError(f"{path} has no {name}; it is not the truth of such a case (see napari-emdl bench --help)")
    return np.asarray(file[name][()])


def sample_case() -> Case:
    """Crystal positions of the sample datacube."""
    from napari_emdl.samples.diffraction import strained_datacube

    cube, truth = strained_datacube((10, 20))
    use = truth["crystal"]
    return Case(
        "sample",
        np.asarray(cube.data[:, :])[use],
        truth["probe"],
        truth["deformation"][use],
        truth["g_px"],
        truth["origin_px"][use],
    )
