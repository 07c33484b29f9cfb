"""Columns from a network of others that gives heat maps: maxima, sub-pixel positions and threshold put around it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emdl.atoms.find.log import FIELDS, local_maxima, refine_maxima, sample_at
from napari_emdl.atoms.find.resample import Grid
from napari_emdl.base.caveats import DEVICE, Caveats
from napari_emdl.base.errors import ModelError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control
from napari_emdl.models.heatmap import HeatmapRunner
from napari_emdl.models.registry import Model
from napari_emdl.models.session import Session
from napari_emdl.workflow.finder import FinderInfo

#: candidates are kept down to this probability
FLOOR = 0.05
#: standard deviation of the error of a parabola through a heat map, in its pixels; such a network says nothing of its own error
POSITION_SIGMA_PX = 0.3
_TINY = 1e-6
#: peaks narrower than this need no smoothing
_PEAK_SIGMA_PX = 0.75


class HeatmapColumnFinder:
    """Finds columns with an image -> heat map network.

    Parameters
    ----------
    model
        Model of task "columns" whose card has an entry ``heatmap``.
    pixel_A
        Pixel size of the frames; they are resampled to the card's ``pixel_A`` where it has one.
    contrast
        "bright", "dark" or "unknown"; frames are inverted when the network was trained on the other contrast.
    min_spacing_A
        Least distance between columns.
    session
        A session that is open already.

    Raises
    ------
    ModelError
        When the card has no such entry.
    """

    method = "heatmap"
    parallel = False
    contrast_confidence: float | None = None
    contrast_evidence: dict[str, Any] = {}

    def __init__(
        self, model: Model, pixel_A: float, contrast: str, min_spacing_A: float = 0.8, session: Session | None = None
    ) -> None:
        self.session = session or Session(model)
        self.runner = HeatmapRunner(self.session)
        facts = model.card.emdl
        self.model, self.pixel_A = model, float(pixel_A)
        trained = self.runner.heatmap.contrast
        self.contrast = contrast if contrast in ("bright", "dark") or trained == "any" else trained
        self._inverted = trained != "any" and self.contrast != trained
        self._network_A = facts.pixel_A or self.pixel_A
        self._spacing_px = max(1.0, min_spacing_A / self._network_A)
        self.species: tuple[str, ...] = tuple(self.runner.heatmap.channels[i] for i in self.runner.heatmap.peak_channels)
        threshold = facts.default_min_score
        self.default_min_score = float(threshold) if isinstance(threshold, (int, float)) else 0.5
        unknown = f"model {model.name} does not say its pixel size: the frames were taken as they are"
        self.caveats = Caveats([] if facts.pixel_A else [unknown])

    @property
    def info(self) -> FinderInfo:
        """What runs, and what the user should know of it."""
        caveats = self.caveats + Caveats([self.session.note], DEVICE)
        return FinderInfo(self.method, self.model.name, self.model.sha256, self.session.provider, caveats)

    def find(self, frames: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Columns of frames (n, rows, cols); ``sigma_px`` is a constant, as the network knows none."""
        found = [self._find_one(np.asarray(frame), control) for frame in frames]
        return PeakTable.from_lists(found) if found else PeakTable.empty((0,), FIELDS)

    def sample(
        self, frames: NDArray[Any], points_px: NDArray[np.float64], control: Control | None = None
    ) -> NDArray[np.float32]:
        """Logit of the likeliest species at points (n, k, 2), cubic between pixels; NaN outside the frame."""
        out = np.full(points_px.shape[:2], np.nan, np.float32)
        for index, (frame, points) in enumerate(zip(frames, points_px, strict=True)):
            grid, maps = self._maps(np.asarray(frame), control)
            if maps is not None:
                logit = sample_at(_logit(maps.max(axis=0)), grid.to_grid(points))
                inside = np.all((points >= -0.5) & (points <= np.array(frame.shape) - 0.5), axis=1)
                out[index] = np.where(inside, logit, np.nan)
        return out

    def _maps(self, frame: NDArray[Any], control: Control | None) -> tuple[Grid, NDArray[np.float32] | None]:
        """Probabilities of the peak channels on the network's grid; None for a frame without content."""
        if frame.ndim != 2:
            raise ModelError(f"model {self.model.name} takes single images; choose another model for a focal series")
        grid = Grid.scaled(frame.shape, self.pixel_A / self._network_A)
        image = np.asarray(frame, np.float32)
        finite = np.isfinite(image)
        if not finite.any() or np.ptp(image[finite]) == 0:
            return grid, None
        image = np.where(finite, image, np.median(image[finite]))
        maps = self.runner.maps(grid.resample(-image if self._inverted else image), control)
        return grid, maps[self.runner.heatmap.peak_channels]

    def _find_one(self, frame: NDArray[Any], control: Control | None) -> dict[str, NDArray[Any]]:
        grid, maps = self._maps(frame, control)
        if maps is None:
            return {name: np.zeros(0, np.int16 if name == "species" else np.float32) for name in FIELDS}
        best, species = maps.max(axis=0), maps.argmax(axis=0)
        domes, radius_px = _domes(best, self._spacing_px)
        where = local_maxima(domes, self._spacing_px, FLOOR)
        row, col, height, _ = refine_maxima(domes, where, 1.0)
        if radius_px > 0:  # the domes tell the place, the map itself how likely a column is there
            highest = ndi.maximum_filter(best, footprint=_disk(radius_px), mode="nearest")
            height = highest[where[:, 0], where[:, 1]]
        height = np.clip(height, _TINY, 1 - _TINY)
        place = grid.to_frame(np.stack([row, col], axis=-1))
        return {
            "row": place[:, 0].astype(np.float32),
            "col": place[:, 1].astype(np.float32),
            "score": height.astype(np.float32),
            "sigma_px": np.full(len(where), POSITION_SIGMA_PX / float(grid.factor.mean()), np.float32),
            "species": species[where[:, 0], where[:, 1]].astype(np.int16),
            "intensity": height.astype(np.float32),
            "logit": _logit(height),
        }


def _domes(best: NDArray[np.float32], spacing_px: float) -> tuple[NDArray[np.float32], float]:
    """The map with every column as one dome, and how far it was smoothed for that; 0 where it has peaks already.

    A network trained on masks (AtomAI, segmentation) paints columns as flat disks, on which any pixel may be the largest.
    Smoothed by half the radius of these disks their centres are the maxima. The radius is that of the largest circle that fits
    into each piece above one half, which columns that touch do not change.
    """
    inside = best > 0.5
    depth = ndi.distance_transform_edt(inside)
    label, pieces = ndi.label(inside)
    if not pieces:
        return best, 0.0
    index = np.arange(1, pieces + 1)
    radius = np.asarray(ndi.maximum(depth, label, index))
    area = np.asarray(ndi.sum_labels(inside, label, index))
    order = np.argsort(radius)
    weight = np.cumsum(area[order])
    typical = float(radius[order][np.searchsorted(weight, weight[-1] / 2)])
    sigma_px = min(typical, spacing_px) / 2
    if sigma_px < _PEAK_SIGMA_PX:
        return best, 0.0
    return ndi.gaussian_filter(best, sigma_px, mode="nearest"), sigma_px


def _disk(radius_px: float) -> NDArray[np.bool_]:
    axis = np.arange(-int(radius_px), int(radius_px) + 1)
    return np.asarray(axis[:, None] ** 2 + axis[None, :] ** 2 <= radius_px**2)


def _logit(probability: NDArray[Any]) -> NDArray[np.float32]:
    p = np.clip(np.asarray(probability, np.float64), _TINY, 1 - _TINY)
    return np.log(p / (1 - p)).astype(np.float32)
