"""What a finder of columns does beside finding."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.caveats import Caveats
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.finder import Finder


class ColumnFinder(Finder, Protocol):
    """A finder of columns in frames (n, rows, cols) or (n, foci, rows, cols) that also gives the evidence for a column at any
    point.

    Attributes
    ----------
    species
        Names of what is told apart.
    contrast
        "bright", "dark" or "unknown".
    contrast_confidence
        How sure it is, where it was chosen from the frames.
    contrast_evidence
        What spoke for it, for provenance.
    caveats
        What the user should know of the result; what is settled later is added. Part of ``info.caveats``.
    """

    species: tuple[str, ...]
    contrast: str
    contrast_confidence: float | None
    contrast_evidence: dict[str, Any]
    caveats: Caveats

    def sample(
        self, frames: NDArray[Any], points_px: NDArray[np.float64], control: Control | None = None
    ) -> NDArray[np.float32]:
        """Logit of "here is a column" at points (n, k, 2); NaN outside the frame."""
