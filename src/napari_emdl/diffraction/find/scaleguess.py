"""What a network says of the size of the disks in patterns, and of whether they are a crystal's patterns."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import ModelError
from napari_emdl.diffraction.find.scaleview import RADII_PX, on_network_grid, pyramid
from napari_emdl.models.ahead import Ahead
from napari_emdl.models.registry import Model, find_model
from napari_emdl.models.session import Session

Floats = NDArray[np.float64]

SCALE_MODEL = "disk_scale"
_AHEAD = Ahead()
#: Radii that count as the same, in units of the natural logarithm: a class and a half.
_SAME = 0.17


@dataclass(frozen=True)
class ScaleGuess:
    """Distribution of the disks' radius.

    Attributes
    ----------
    radii_px, probability
        (classes,) radii in detector pixels, rising, and their probabilities, sum 1.
    crystal
        Probability that a pattern shows disks of a crystal beside the direct beam, 0 to 1.
    """

    radii_px: Floats
    probability: Floats
    crystal: float

    @property
    def radius_px(self) -> float:
        """Likeliest radius: of all of one class's width, the one that holds most."""
        log_r = np.log(self.radii_px)
        near = np.exp(-0.5 * np.square((log_r[:, None] - log_r[None, :]) / (0.5 * _SAME)))
        top = int((near @ self.probability).argmax())
        weight = self.probability * (np.abs(log_r - log_r[top]) < _SAME)
        return float(np.exp((weight * log_r).sum() / weight.sum()))

    def chance(self, radius_px: float) -> float:
        """Probability that the radius is this one."""
        return float(self.probability[np.abs(np.log(self.radii_px / radius_px)) < _SAME].sum())

    def relative(self, radii_px: Floats) -> Floats:
        """(n,) probabilities of some radii over that of the likeliest, between classes by interpolation."""
        dense = np.interp(np.log(radii_px), np.log(self.radii_px), self.probability, left=0.0, right=0.0)
        return np.asarray(dense / self.probability.max(), np.float64)


def guess_scale(images: list[Floats]) -> ScaleGuess:
    """Radius of the disks in images of one detector; those that look like a crystal's patterns count most.

    Parameters
    ----------
    images
        (rows, cols) each, finite, without hot pixels and with gaps filled.
    """
    session = _session()
    probability, crystal, scale = [], [], 1.0
    for image in images:
        on_grid, scale = on_network_grid(image)
        feeds = {f"level{k}": level[None] for k, level in enumerate(pyramid(on_grid))}
        found = session.run(feeds)
        probability.append(found["probability"][0].astype(np.float64))
        crystal.append(float(found["crystal"][0]))
    weight = np.array(crystal) + 1e-3
    mean = (weight[:, None] * np.array(probability)).sum(axis=0) / weight.sum()
    return ScaleGuess(scale * RADII_PX, mean / mean.sum(), max(crystal))


def scale_model() -> dict[str, str]:
    """Name and checksum of the network, for provenance."""
    model = _session().model
    return {"model": model.name, "model_sha256": model.sha256}


@cache
def _session() -> Session:
    """The network is small: one core of the CPU does, wherever the others run."""
    return _AHEAD.session(*_how())


def begin_network() -> None:
    """Start to open the network in a thread, unless it is open."""
    if not _session.cache_info().currsize:
        with contextlib.suppress(ModelError):  # who uses it says what is wrong
            _AHEAD.begin(*_how())


def _how() -> tuple[Model, str, int]:
    return find_model(SCALE_MODEL, "disk-scale"), "cpu", 1
