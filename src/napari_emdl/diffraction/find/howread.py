"""What has to be done to the patterns of a scan when they are read, told from some of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_emdl.base.caveats import INPUT, Caveats
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.find.gaps import dead_lines, find_gaps
from napari_emdl.diffraction.find.linenoise import line_axis
from napari_emdl.diffraction.find.reading import Reading
from napari_emdl.diffraction.find.recognise import look_at
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.finder import Finder, FinderInfo

Floats = NDArray[np.float64]

#: Patterns looked at.
_SAMPLED = 6
#: Inverted patterns: darkest place below the median over brightest place above it; probability of a crystal in the negative,
#: and how its rings fall off.
_DARKER, _CRYSTAL, _FALLS = 1.2, 0.5, -0.7
#: Smoothing before, as part of the longer side.
_SMOOTH = 0.006


def reading_of(cube: Datacube) -> Reading:
    """How patterns of `cube` are to be read.

    What covers the detector is known to the signal (:attr:`Signal.missing_facts`), which says so; inverted patterns, line noise
    and what hides the detector and yet has counts are looked for here.
    """
    covered = cube.missing_facts.covered
    picked = np.unique(np.linspace(0, cube.n_patterns - 1, min(_SAMPLED, cube.n_patterns)).astype(int))
    some = Reading(covered)(np.concatenate([cube.patterns(int(i), int(i) + 1) for i in picked]).astype(np.float32))
    if not np.isfinite(some).all():
        some = np.nan_to_num(some, nan=float(np.nanmedian(some)) if np.isfinite(some).any() else 0.0, posinf=0, neginf=0)
    notes: list[str] = []
    mean = some.mean(axis=0, dtype=np.float64)
    top = _negative_of(mean, float(some.max()))
    if top is not None:
        notes.append("the patterns are inverted (dark disks on bright) and are read as their negative")
        mean = top - mean
    dark = find_gaps(mean) & ~dead_lines(mean)
    if covered is not None:
        dark &= ~covered
    if dark.any():
        notes.append(f"{int(dark.sum())} pixels lie under a beam stop or in another dark area with a sharp rim, left out")
        covered = dark if covered is None else covered | dark
    axis = line_axis(some)
    if axis is not None:
        notes.append(f"{('rows', 'columns')[axis]} of the detector have offsets of their own, which were taken off")
    return Reading(covered, top, axis, tuple(notes))


def _negative_of(mean: Floats, top: float) -> float | None:
    """Value that stands for no electrons, where a picture is the negative of a crystal's pattern; else None."""
    smooth = ndimage.gaussian_filter(mean, max(0.7, _SMOOTH * max(mean.shape)))
    low, middle, high = np.percentile(smooth, (0.05, 50, 99.9))
    if not middle - low > _DARKER * (high - middle):
        return None
    look = look_at(top - mean)
    if look.crystal > _CRYSTAL and look.rings_fall < _FALLS and look_at(mean).kind != "pattern":
        return top
    return None


class ReadingFinder:
    """Finds in patterns as they are to be read what another finder finds; a :class:`napari_emdl.workflow.finder.Finder`."""

    def __init__(self, finder: Finder, reading: Reading) -> None:
        self._finder, self._reading = finder, reading
        self.default_min_score: float = finder.default_min_score

    @property
    def parallel(self) -> bool:
        """As the other finder says."""
        return self._finder.parallel

    @property
    def info(self) -> FinderInfo:
        """What the other finder says of itself, and what is done to the patterns."""
        info = self._finder.info
        return replace(info, caveats=Caveats(self._reading.notes, INPUT) + info.caveats)

    def find(self, patterns: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Disks of (n, rows, cols) patterns, as they are in the file."""
        return self._finder.find(self._reading(patterns), control)

    def structure_factor(self, pattern: NDArray[Any], control: Control | None = None) -> NDArray[np.float32]:
        """As that of :class:`napari_emdl.diffraction.find.network.NetworkFinder`."""
        image: NDArray[np.float32] = self._finder.structure_factor(self._reading(pattern[None])[0], control)  # type: ignore[attr-defined]
        return image
