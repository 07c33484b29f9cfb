"""The way the direct beam takes over a scan, so that virtual detectors can go with it.

Descan that is not quite right moves the whole pattern over the detector. A detector that stays then sees more or less of the
beam, and its image has a gradient that the specimen has not. The way is known from the lattices fitted to the disks; before
there are any, a plane over the scan is laid through the brightest disks of some patterns. A plane, because a reflection that
outshines the beam here and there, or contrast inside the disk, must not pull the detector away. Where the beam rests, nothing
is moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.find.patterns import bin_patterns
from napari_emdl.diffraction.find.probeshape import brightest_disk
from napari_emdl.diffraction.fit.origin import plane_through
from napari_emdl.diffraction.fit.strainmap import StrainMap

Floats = NDArray[np.float64]

#: Patterns looked at, spread evenly over the scan, and the pixels read for them at most.
PATTERNS, MOST_PIXELS = 144, 2**27
#: A plane counts that lies this near to so large a share of the beams, in radii of the beam,
_NEAR, _SHARE = 0.5, 0.6
#: and that moves by more than this over the scan, in radii and px: contrast inside the disk moves its middle as well.
_RADII, _PX = 0.3, 1.5
#: The way of fitted lattices counts from here on, in px.
_FITTED_PX = 0.5
#: Shorter side of what is searched, in px.
_SIDE = 128


@dataclass(frozen=True)
class BeamPath:
    """Where the direct beam lies at every position.

    Attributes
    ----------
    origin_px
        (R, C, 2) row and col.
    how
        One sentence.
    """

    origin_px: Floats
    how: str = ""

    @property
    def middle_px(self) -> Floats:
        """(2,) the typical place, which detectors are drawn about."""
        return np.asarray(np.median(self.origin_px.reshape(-1, 2), axis=0))

    @property
    def offset_px(self) -> Floats:
        """(R, C, 2) by how much the pattern lies off its typical place."""
        return self.origin_px - self.middle_px

    @property
    def reach_px(self) -> float:
        """Largest offset."""
        return float(np.linalg.norm(self.offset_px, axis=-1).max())


def path_of_strain(strain: StrainMap) -> BeamPath | None:
    """Way that a strain map tells: the fitted origins, and those of the calibration where there is no fit."""
    origin, known = np.asarray(strain.origin_px, dtype=np.float64), strain.calibration
    if known is not None:
        origin = np.where(np.isfinite(origin), origin, known.origin_px)
        if known.distortion is not None:
            origin = known.distortion.distorted(origin.reshape(-1, 2)).reshape(origin.shape)
    return path_of(origin)


def path_of(origin_px: ArrayLike) -> BeamPath | None:
    """Way of the origins (R, C, 2) of fitted lattices, those of gaps (NaN) the typical one; None where the beam rests."""
    origin = np.array(origin_px, dtype=np.float64)
    if origin.ndim != 3 or origin.shape[-1] != 2:
        raise EmdlError(f"origins are (scan rows, scan cols, 2), not {origin.shape}")
    known = np.isfinite(origin).all(axis=-1)
    if not known.any():
        return None
    origin[~known] = np.median(origin[known], axis=0)
    path = BeamPath(origin)
    if path.reach_px < _FITTED_PX:
        return None
    return BeamPath(origin, _sentence(path, "the fitted lattices"))


def ways_differ(one: BeamPath | None, other: BeamPath | None) -> bool:
    """Whether detectors that go one way lie elsewhere than those that go the other."""
    if one is None or other is None:
        return one is not other
    return bool(np.linalg.norm(one.offset_px - other.offset_px, axis=-1).max() > _FITTED_PX)


def measure_path(cube: Datacube) -> BeamPath | None:
    """Way of the direct beam from the brightest disks of some patterns; None where it rests or cannot be told."""
    most = int(np.clip(MOST_PIXELS // max(1, int(np.prod(cube.detector_shape))), 9, PATTERNS))
    at = _spread(cube.scan_shape, most)
    if len(at) < 9 or min(cube.detector_shape) < 8:
        return None
    seen = [_beam(cube, int(i)) for i in at]
    there = np.array([beam is not None for beam in seen])
    if there.sum() < 9:
        return None
    beams = np.array([beam for beam in seen if beam is not None])
    radius = float(np.median(beams[:, 2]))
    plane = plane_through(at[there], beams[:, :2], cube.scan_shape, _NEAR * radius)
    path = BeamPath(plane.reshape(*cube.scan_shape, 2))
    near = np.linalg.norm(plane[at[there]] - beams[:, :2], axis=1) < _NEAR * radius
    still = np.linalg.norm(path.middle_px - beams[:, :2], axis=1) < _NEAR * radius
    if path.reach_px < max(_RADII * radius, _PX) or near.mean() < max(_SHARE, still.mean()):
        return None
    return BeamPath(path.origin_px, _sentence(path, f"a plane through the brightest disks of {len(beams)} patterns"))


def _spread(scan: tuple[int, int], most: int) -> NDArray[np.int64]:
    """Numbers of at most `most` positions on a grid over the scan: evenly along the raster they could lie in one column."""
    rows = np.unique(np.linspace(0, scan[0] - 1, min(scan[0], max(1, int(np.sqrt(most))))).astype(np.int64))
    cols = np.unique(np.linspace(0, scan[1] - 1, min(scan[1], most // len(rows))).astype(np.int64))
    return np.asarray((rows[:, None] * scan[1] + cols).ravel())


def _sentence(path: BeamPath, source: str) -> str:
    return f"detectors follow the direct beam, which moves by up to {path.reach_px:.1f} px from its typical place ({source})"


def _beam(cube: Datacube, index: int) -> tuple[float, float, float] | None:
    """Row, col and radius of the brightest disk of a pattern; None where there is none."""
    pattern = np.asarray(cube.patterns(index, index + 1), dtype=np.float64)
    step = max(1, min(cube.detector_shape) // _SIDE)
    coarse = bin_patterns(np.nan_to_num(pattern, nan=0.0, posinf=0.0, neginf=0.0), step)[0]
    image = ndimage.median_filter(coarse, 3)  # no hot pixel
    if not image.max() > 0:
        image = ndimage.gaussian_filter(coarse, 1.5)  # of single electrons the median is nothing
    above = image - np.percentile(image, 20)
    if not above.max() > 0:
        return None
    region, _ = brightest_disk(above)
    if region.mean() > 0.25:
        return None
    row, col = np.nonzero(region)
    # the middle of what is bright, not its centre of mass: the inside of a disk is not even
    middle = (step * (np.array([row.min() + row.max(), col.min() + col.max()]) / 2 + 0.5)) - 0.5
    return float(middle[0]), float(middle[1]), float(max(1.0, step * np.sqrt(region.sum() / np.pi)))
