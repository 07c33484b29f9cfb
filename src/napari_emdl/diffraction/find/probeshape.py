"""The shape of a vacuum probe: radius, edge and image of a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, special

from napari_emdl.base.errors import EmdlError
from napari_emdl.diffraction.find.edgefit import fit_edge
from napari_emdl.diffraction.find.reading import Reading


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
        "file", "vacuum region", "synthetic", "array", "vacuum positions of the scan" or "measured from the data".
    note
        Why the radius may be wrong and what to give instead, one sentence; empty where it is sure.
    trust
        1 where it was given or many disks agree on it, 0.5 where few do, 0.25 where only one spot tells it, 0 where there is
        no disk in the data.
    crystal
        Probability that the data are a crystal's patterns, where the scale network was asked; else 0.
    paired
        Whether the patterns of the scan together show a crystal's pairs of reflections.
    reading
        How patterns of the scan are to be read, None for as they are.
    """

    image: NDArray[np.float32]
    radius_px: float
    edge_width_px: float
    source: str
    note: str = ""
    trust: float = 1.0
    crystal: float = 0.0
    paired: bool = False
    reading: Reading | None = None

    @property
    def covered(self) -> NDArray[np.bool_] | None:
        """(rows, cols) True where the detector is known to see nothing; None for nowhere."""
        return None if self.reading is None else self.reading.covered

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
    clean = without_hot_pixels(np.nan_to_num(raw, nan=0.0, posinf=0.0, neginf=0.0))
    clean = clean - np.percentile(clean, 20)
    if not clean.max() > 0 and np.nanmax(raw, initial=0) > 0:
        raise EmdlError("the probe image holds no disk, only single pixels; give another file or region, or a probe radius")
    if not clean.max() > 0:
        raise EmdlError("the probe image is empty; give another file or region, or a probe radius")
    region, plateau = brightest_disk(clean)
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


def finite(pattern: NDArray[Any]) -> NDArray[np.float64]:
    return np.nan_to_num(np.asarray(pattern, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def without_hot_pixels(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace single pixels far above all their neighbours."""
    around = ndimage.maximum_filter(image, footprint=np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]))
    return np.where(image > 3 * around + 10, around, image)


def brightest_disk(image: NDArray[np.float64]) -> tuple[NDArray[np.bool_], float]:
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
    box = ndimage.find_objects(region.astype(np.uint8))[0]  # holes lie inside it
    region[box] = ndimage.binary_fill_holes(region[box])
    return region, plateau


def measure_edge(image: NDArray[np.float64], centre: NDArray[np.float64], guess_px: float) -> tuple[float, float]:
    """Radius and edge width of the disk about `centre`: an error function fitted to the radial mean near `guess_px`.

    Returns
    -------
    radius_px, edge_width_px
    """
    rows, cols = image.shape
    distance = np.hypot(np.arange(rows)[:, None] - centre[0], np.arange(cols)[None, :] - centre[1])
    return fit_edge(distance.ravel(), image.ravel(), guess_px)
