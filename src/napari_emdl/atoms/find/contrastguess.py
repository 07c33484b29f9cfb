"""What the contrast network says of whether columns are bright or dark, and of whether an image is of an annular detector.

It decides where no column network with a probe of its own looks. The probe of the shipped column network is as good, and both
fail on the same images, so that asking both gains nothing (``docs/training_columns.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from napari_emdl.atoms.find.clean import cleaned
from napari_emdl.atoms.find.contrastview import VIEW_A, view_of
from napari_emdl.atoms.find.resample import Grid
from napari_emdl.models.registry import find_model
from napari_emdl.models.session import Session

CONTRAST_MODEL = "contrast"
#: smaller parts of frames, pixels of the view, hold too little to be asked about
LEAST_PX = 32


@dataclass(frozen=True)
class Part:
    """Part of a frame that is asked about: the frame's index, and row0, row1, col0, col1."""

    frame: int
    box_px: tuple[int, int, int, int]


@dataclass(frozen=True)
class ContrastGuess:
    """What the network says, and from what.

    Attributes
    ----------
    bright, stem
        Probabilities that columns are bright, and that the image is of an annular detector.
    logit
        Mean of the network's own logits, positive for bright, before calibration.
    frames
        Frames that were asked about.
    sure
        Least confidence that counts as sure.
    model_sha256
        Checksum of the network.
    """

    bright: float
    stem: float
    logit: float
    frames: int
    sure: float
    model_sha256: str

    @property
    def contrast(self) -> str:
        """The likelier one."""
        return "bright" if self.bright >= 0.5 else "dark"

    @property
    def confidence(self) -> float:
        """Its probability, 0.5 to 1."""
        return max(self.bright, 1 - self.bright)

    @property
    def evidence(self) -> dict[str, Any]:
        """For provenance."""
        return {
            "decided_by": "contrast network", "bright": round(self.bright, 4), "stem": round(self.stem, 4),
            "frames": self.frames, "model": CONTRAST_MODEL, "model_sha256": self.model_sha256,
        }  # fmt: skip


def guess_contrast(
    frames: NDArray[Any], parts: Sequence[Part], counts: tuple[int, int], pixel_A: float, session: Session | None = None
) -> ContrastGuess | None:
    """Contrast of the columns in parts of frames; None where there is nothing to ask about.

    Parameters
    ----------
    frames
        (n, images, rows, cols): a frame, and the means of its near and far neighbours where there are any.
    parts
        What to ask about.
    counts
        Frames behind the means of the neighbours.
    pixel_A
        Pixel size of the frames.
    session
        Of a contrast network; the shipped one when None.
    """
    session = session or _session()
    told: dict[str, Any] = session.model.card.emdl.model_extra or {}
    feeds = (_feeds(frames[part.frame], part.box_px, counts, pixel_A) for part in parts)
    found = [session.run(feed)["logits"][0] for feed in feeds if feed is not None]
    if not found:
        return None
    logit, stem = (float(v) for v in np.mean(found, axis=0))
    rule = told["decision"]
    bright = float(expit(rule["weight"] * logit + rule["offset"]))
    return ContrastGuess(bright, float(expit(stem)), logit, len(found), float(rule["sure"]), session.model.sha256)


def _feeds(
    images: NDArray[Any], box_px: tuple[int, int, int, int], counts: tuple[int, int], pixel_A: float
) -> dict[str, NDArray[np.float32]] | None:
    """The network's inputs for a part of a frame and its neighbours; None where it is blank or too small."""
    row0, row1, col0, col1 = box_px
    total, weight, hidden = None, 0.0, None
    for image, count in zip(images, (1, *counts), strict=False):
        clean = cleaned(image[row0:row1, col0:col1]) if count else None
        if clean is None:
            if weight == 0:
                return None
            continue
        total = clean.image * float(count) if total is None else total + clean.image * float(count)
        weight += count
        hidden = clean.hidden if hidden is None else hidden if clean.hidden is None else hidden | clean.hidden
    grid = Grid.scaled((row1 - row0, col1 - col0), pixel_A / VIEW_A)
    if total is None or min(grid.shape) < LEAST_PX:
        return None
    mask = None if hidden is None else grid.resample(hidden.astype(np.float32)) > 0.5
    if mask is not None and mask.all():
        return None
    view, spectrum = view_of(grid.resample(total / weight), VIEW_A, mask)
    return {"view": view[None], "spectrum": spectrum[None]}


@cache
def _session() -> Session:
    """The network is small: one core of the CPU does, wherever the others run."""
    return Session(find_model(CONTRAST_MODEL, "contrast"), device="cpu", threads=1)
