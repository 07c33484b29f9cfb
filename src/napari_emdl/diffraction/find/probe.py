"""The vacuum probe: the shape every Bragg disk is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize, special

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ProbeParams
from napari_emdl.base.reading import read_small_npy
from napari_emdl.base.signals import Datacube
from napari_emdl.io.hdf5gate import Gate, is_hdf5, read_small

#: Patterns looked at when the probe is measured from the data, spread evenly over the scan.
SAMPLED_PATTERNS = 48


@dataclass(frozen=True)
class Probe:
    """Vacuum probe.

    Attributes
    ----------
    image
        (rows, cols) float32 on the detector's grid, plateau near 1, centre of mass at (rows // 2, cols // 2).
    radius_px
        Radius of the disk at half height.
    edge_width_px
        Standard deviation of the blur of its edge.
    source
        "file", "vacuum region", "synthetic", "array" or "measured from the data".
    """

    image: NDArray[np.float32]
    radius_px: float
    edge_width_px: float
    source: str

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.image.shape[0], self.image.shape[1]


def synthetic_probe(
    radius_px: float, detector_shape: tuple[int, int], edge_width_px: float = 0.5, source: str = "synthetic"
) -> Probe:
    """Uniform disk with a blurred edge in the middle of the detector.

    Parameters
    ----------
    radius_px
        Radius at half height in pixels.
    detector_shape
        (rows, cols) of the detector.
    edge_width_px
        Standard deviation of the edge's blur in pixels.
    """
    rows, cols = detector_shape
    if not 0.5 <= radius_px < min(rows, cols) / 2:
        raise EmdlError(f"a probe of radius {radius_px:g} px does not fit a detector of {rows} x {cols}; give another radius")
    distance = np.hypot(np.arange(rows)[:, None] - rows // 2, np.arange(cols)[None, :] - cols // 2)
    image = 0.5 * special.erfc((distance - radius_px) / (np.sqrt(2) * edge_width_px))
    return Probe(image.astype(np.float32), float(radius_px), float(edge_width_px), source)


def probe_from_image(image: ArrayLike, detector_shape: tuple[int, int], source: str = "array") -> Probe:
    """Centre, scale and measure the image of a vacuum probe.

    Parameters
    ----------
    image
        (rows, cols) intensities, same size as the detector.
    """
    raw = np.squeeze(np.asarray(image, dtype=np.float64))
    if raw.ndim == 3:
        raw = raw.mean(axis=0)
    if raw.shape != tuple(detector_shape):
        raise EmdlError(
            f"the probe is {' x '.join(map(str, raw.shape))} but the detector is {detector_shape[0]} x {detector_shape[1]}; "
            "give a probe of the same detector, or a probe radius"
        )
    clean = _without_hot_pixels(np.nan_to_num(raw, nan=0.0, posinf=0.0, neginf=0.0))
    clean = clean - np.percentile(clean, 20)
    if not clean.max() > 0 and np.nanmax(raw, initial=0) > 0:
        raise EmdlError("the probe image holds no disk, only single pixels; give another file or region, or a probe radius")
    if not clean.max() > 0:
        raise EmdlError("the probe image is empty; give another file or region, or a probe radius")
    region, plateau = _brightest_disk(clean)
    if region.sum() < 2:
        raise EmdlError("no disk was found in the probe image; give another file or region, or a probe radius")
    centre = np.array(ndimage.center_of_mass(np.clip(clean, 0, plateau) * ndimage.binary_dilation(region, iterations=3)))
    radius, edge = measure_edge(clean, centre, float(np.sqrt(region.sum() / np.pi)))
    half = np.array(detector_shape) // 2
    centred = ndimage.shift(clean, half - centre, order=1, mode="constant") / plateau
    distance = np.hypot(np.arange(centred.shape[0])[:, None] - half[0], np.arange(centred.shape[1])[None, :] - half[1])
    # beyond the edge lies only noise or a neighbouring disk; neither belongs into a template
    centred[distance > radius + 4 * edge + 1] = 0
    return Probe(np.clip(centred, 0, None).astype(np.float32), radius, edge, source)


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
    return measure_probe(cube)


def measure_probe(cube: Datacube) -> Probe:
    """Synthetic probe with the radius and edge width of the data's central (brightest) disk.

    The disk is aligned and averaged over patterns spread over the scan, so that its inner structure averages out.
    """
    picked = np.unique(np.linspace(0, cube.n_patterns - 1, min(SAMPLED_PATTERNS, cube.n_patterns)).astype(int))
    images = [_without_hot_pixels(_finite(cube.patterns(i, i + 1)[0])) for i in picked]
    aligned, radii = [], []
    half = np.array(cube.detector_shape) // 2
    for image in images:
        image = image - np.percentile(image, 20)
        if not image.max() > 0:
            continue
        region, plateau = _brightest_disk(image)
        if region.sum() < 2:
            continue
        centre = ndimage.center_of_mass(region)
        aligned.append(ndimage.shift(image / plateau, half - np.array(centre), order=1, mode="nearest"))
        radii.append(np.sqrt(region.sum() / np.pi))
    if not aligned:
        raise EmdlError("no central disk was found in the patterns (are they empty?); give a probe file, region or radius")
    radius, edge = measure_edge(np.mean(aligned, axis=0), half.astype(float), float(np.median(radii)))
    radius = min(radius, min(cube.detector_shape) / 2 - 1)
    return synthetic_probe(max(radius, 0.5), cube.detector_shape, edge, "measured from the data")


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
        total += _finite(np.asarray(cube.data[row, c0:c1])).sum(axis=0)
    return total / ((r1 - r0) * (c1 - c0))


def _finite(pattern: NDArray[Any]) -> NDArray[np.float64]:
    return np.nan_to_num(np.asarray(pattern, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _without_hot_pixels(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace single pixels far above all their neighbours."""
    around = ndimage.maximum_filter(image, footprint=np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]))
    return np.where(image > 3 * around + 10, around, image)


def _brightest_disk(image: NDArray[np.float64]) -> tuple[NDArray[np.bool_], float]:
    """Connected region above half the plateau around the brightest place, and the plateau's height."""
    smooth = ndimage.gaussian_filter(image, 1.0)
    peak = np.unravel_index(int(smooth.argmax()), smooth.shape)
    plateau = float(smooth[peak])
    region = np.zeros(image.shape, bool)
    for _ in range(3):
        labels, _n = ndimage.label(smooth > 0.5 * plateau)
        region = labels == labels[peak]
        # the peak overestimates the plateau of a structured disk
        plateau = float(np.percentile(smooth[region], 60))
        if smooth[peak] < 0.5 * plateau:
            break
    return ndimage.binary_fill_holes(region), plateau


def measure_edge(image: NDArray[np.float64], centre: NDArray[np.float64], guess_px: float) -> tuple[float, float]:
    """Radius and edge width of the disk about `centre`: an error function fitted to the radial mean near `guess_px`.

    Returns
    -------
    radius_px, edge_width_px
    """
    rows, cols = image.shape
    distance = np.hypot(np.arange(rows)[:, None] - centre[0], np.arange(cols)[None, :] - centre[1])
    reach = max(3.0, 0.7 * guess_px)
    near = np.abs(distance - guess_px) < reach
    x, y = distance[near], image[near]
    top = float(np.median(y[x < guess_px])) if np.any(x < guess_px) else float(y.max())
    bottom = float(np.percentile(y, 10))

    def model(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return p[2] + (p[3] + p[4] * (x - p[0])) * 0.5 * special.erfc((x - p[0]) / (np.sqrt(2) * abs(p[1]))) - y

    start = np.array([guess_px, 0.7, bottom, top - bottom, 0.0])
    fit = optimize.least_squares(model, start, loss="soft_l1", f_scale=0.1 * max(top - bottom, 1e-9), max_nfev=200)
    radius, edge = float(fit.x[0]), float(abs(fit.x[1]))
    if not (fit.success and 0.5 * guess_px < radius < 1.6 * guess_px):
        return guess_px, 1.0
    return radius, float(np.clip(edge, 0.3, max(0.5, 0.5 * radius)))
