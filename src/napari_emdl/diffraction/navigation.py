"""The image to find one's way by: of the sum of each pattern, its bright field and its dark field, the one that shows most.

In a thin foil nearly all electrons reach the detector, so that their sum is the same everywhere but for shot noise, while
bright and dark field show thickness, bending and composition.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.beampath import BeamPath
from napari_emdl.diffraction.virtual import Detector, mean_pattern, virtual_image
from napari_emdl.jobs.blocks import Block
from napari_emdl.jobs.control import Control

TOTAL, BRIGHT, DARK = "sum of the pattern", "bright field", "dark field"
#: Patterns averaged to find the bright-field disk, the pixels read for it at most, and the shorter side of what is searched.
PATTERNS, MOST_PIXELS, SIDE = 64, 2**26, 256
#: How much more than the sum another image must show.
PREFERENCE = 1.5
#: Scan positions before the first choice: fewer say nothing.
FIRST = 64
#: A bright-field disk larger than this share of the detector leaves no room for a dark field.
LARGEST_DISK = 0.4


def navigation(
    cube: Datacube,
    control: Control | None = None,
    on_values: Callable[[int, int, NDArray[np.float64]], None] | None = None,
    path: BeamPath | None = None,
) -> tuple[NDArray[np.float64], str]:
    """Image of the scan that shows most, in one pass over the file.

    Parameters
    ----------
    cube
        Datacube.
    control
        Progress and cancel.
    on_values
        ``on_values(start, stop, values)`` as parts of the scan are finished, in scan order within a part; values that were
        handed on come again when another image shows more.
    path
        Way of the direct beam that the detectors go with; None: they stay.

    Returns
    -------
    image, name
        (scan rows, scan cols), and which of :data:`TOTAL`, :data:`BRIGHT` and :data:`DARK` it is.
    """
    detectors = _detectors(cube, path)
    if control is not None:
        control.check()
    values = np.full((cube.n_patterns, len(detectors)), np.nan)
    chosen, weighed = 0, 0

    def take(block: Block, part: NDArray[np.float64]) -> None:
        nonlocal chosen, weighed
        values[block.start : block.stop] = part
        known = np.flatnonzero(np.isfinite(values[:, 0]))
        before = chosen
        if len(known) >= max(FIRST, 2 * weighed) or len(known) == cube.n_patterns:
            weighed = len(known)
            chosen = shows_most(values.reshape(*cube.scan_shape, -1))
        if on_values is None:
            return
        if chosen == before:
            on_values(block.start, block.stop, values[block.start : block.stop, chosen])
        else:
            for start, stop in _runs(known):
                on_values(start, stop, values[start:stop, chosen])

    virtual_image(cube, detectors, control, take, path=path)
    return values[:, chosen].reshape(cube.scan_shape), detectors[chosen].name


def _runs(known: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Stretches without a gap."""
    parts = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


def shows_most(images: NDArray[np.float64]) -> int:
    """Number of the image of (scan rows, scan cols, images) that varies most beyond what neighbours differ; 0 when in doubt.

    Neighbours in the scan differ by noise and little else, so the variance over half their mean square difference says how
    much there is to see (von Neumann's ratio). NaN is not known yet.
    """
    contrast = []
    for image in np.moveaxis(images, -1, 0):
        steps = np.concatenate([np.diff(image, axis=axis).ravel() for axis in (0, 1)])
        steps, known = steps[np.isfinite(steps)], image[np.isfinite(image)]
        noise = 0.5 * float(np.mean(steps**2)) if steps.size else 0.0
        contrast.append(float(known.var()) / noise if noise > 0 else 0.0)
    best = int(np.argmax(contrast))
    return best if contrast[best] > PREFERENCE * contrast[0] else 0


def _coarse(pattern: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Pattern with squares of `step` pixels averaged."""
    rows, cols = (n // step for n in pattern.shape)
    mean: NDArray[np.float64] = pattern[: rows * step, : cols * step].reshape(rows, step, cols, step).mean(axis=(1, 3))
    return mean


def _detectors(cube: Datacube, path: BeamPath | None) -> list[Detector]:
    """Sum, and bright and dark field where the disk of the direct beam is plain to see."""
    shape = cube.detector_shape
    everything = Detector(np.ones(shape, np.float32), TOTAL)
    if min(shape) < 8:
        return [everything]
    most = int(np.clip(MOST_PIXELS // (shape[0] * shape[1]), 4, PATTERNS))
    step = max(1, min(shape) // SIDE)
    mean = ndimage.median_filter(_coarse(mean_pattern(cube, most=most, path=path), step), 3)
    labels, _ = ndimage.label(mean > 0.5 * mean.max())
    disk = labels == labels[np.unravel_index(int(np.argmax(mean)), mean.shape)]
    if not mean.max() > 0 or disk.mean() > LARGEST_DISK:
        return [everything]
    centre = (np.asarray(ndimage.center_of_mass(disk)) + 0.5) * step - 0.5
    radius_px = step * float(np.sqrt(disk.sum() / np.pi))
    bright = Detector.disk(shape, centre, radius_px + 1, BRIGHT)
    dark = Detector.annulus(shape, centre, 1.5 * radius_px + 1, float(np.hypot(*shape)), DARK)
    return [everything, bright, dark]
