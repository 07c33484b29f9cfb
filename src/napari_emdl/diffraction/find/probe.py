"""The vacuum probe: the shape every Bragg disk is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ProbeParams
from napari_emdl.base.reading import read_small_npy
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.find.howread import reading_of
from napari_emdl.diffraction.find.ownprobe import measure_probe
from napari_emdl.diffraction.find.probeshape import Probe, finite, probe_from_image, synthetic_probe
from napari_emdl.diffraction.find.reading import Reading
from napari_emdl.io.hdf5gate import Gate, is_hdf5, read_small

__all__ = ["Probe", "make_probe", "measure_probe", "probe_from_image", "read_probe_file", "synthetic_probe"]


def make_probe(
    cube: Datacube | None, params: ProbeParams, detector_shape: tuple[int, int], image: ArrayLike | None = None
) -> Probe:
    """Probe from, in this order: `image`, a file, a vacuum region of the scan, a radius, the data's own central disk.

    Parameters
    ----------
    cube
        Datacube for a vacuum region or for measuring; may be None when `params` names a file or radius.
    detector_shape
        (rows, cols) of the detector.

    Raises
    ------
    EmdlError
        When the source cannot be read, has another size, or holds no disk.
    """
    reading = None if cube is None else reading_of(cube)
    return replace(_made(cube, params, detector_shape, image, reading), reading=reading)


def _made(
    cube: Datacube | None,
    params: ProbeParams,
    detector_shape: tuple[int, int],
    image: ArrayLike | None,
    reading: Reading | None,
) -> Probe:
    if image is not None:
        return probe_from_image(image, detector_shape)
    if params.file is not None:
        return probe_from_image(read_probe_file(params.file), detector_shape, "file")
    if params.region is not None:
        if cube is None:
            raise EmdlError("a vacuum region needs the datacube; give a probe file or radius instead")
        return probe_from_image(_region_mean(cube, params.region), detector_shape, "vacuum region")
    if params.radius_px is not None:
        return synthetic_probe(params.radius_px, detector_shape, params.edge_width_px)
    if cube is None:
        raise EmdlError("give a probe file, a vacuum region or a probe radius")
    return measure_probe(cube, reading)


def read_probe_file(text: str) -> NDArray[Any]:
    """Image of a file, FILE or FILE::DATASET; .npy and HDF5 directly, others through :mod:`napari_emdl.io`."""
    name, _, dataset = text.partition("::")
    path = Path(name)
    if not path.is_file():
        raise EmdlError(f"probe file {name} does not exist; check the path")
    try:
        if path.suffix.lower() == ".npy":
            return read_small_npy(path)
        if is_hdf5(path) and dataset:
            with Gate(path) as gate:
                found = gate.get(dataset)
                if not isinstance(found, h5py.Dataset):
                    raise EmdlError(f"{name} has no dataset {dataset!r}; give FILE::DATASET of the probe image")
                return np.asarray(read_small(found, path.name))
    except (OSError, ValueError) as error:
        if isinstance(error, EmdlError):
            raise
        raise EmdlError(f"probe file {name} cannot be read ({error}); give another file or a probe radius") from None
    if is_hdf5(path):
        return _only_image(path)
    from napari_emdl.io import open_movie

    return np.asarray(open_movie(path).frame(0))


def _only_image(path: Path) -> NDArray[Any]:
    with Gate(path) as gate:
        found = {name: item for name, item in gate.datasets() if item.ndim == 2}
        named = [name for name in found if "probe" in name.lower()] or list(found)
        if len(named) != 1:
            raise EmdlError(f"{path.name} holds {len(named)} images that may be the probe; name one as FILE::DATASET")
        return np.asarray(read_small(found[named[0]], path.name))


def _region_mean(cube: Datacube, region: tuple[int, int, int, int]) -> NDArray[np.float64]:
    r0, r1, c0, c1 = region
    rows, cols = cube.scan_shape
    if not (0 <= r0 < r1 <= rows and 0 <= c0 < c1 <= cols):
        raise EmdlError(f"vacuum region {r0}:{r1},{c0}:{c1} does not lie in the scan of {rows} x {cols}")
    total = np.zeros(cube.detector_shape)
    for row in range(r0, r1):
        total += finite(np.asarray(cube.data[row, c0:c1])).sum(axis=0)
    return total / ((r1 - r0) * (c1 - c0))
