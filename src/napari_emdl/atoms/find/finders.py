"""What every column finder does."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control


class ColumnFinder(Protocol):
    """Finds columns, and tells the evidence for a column at any point."""

    default_min_score: float
    species: tuple[str, ...]
    contrast: str
    contrast_confidence: float | None
    #: what the user should know of the result
    notes: list[str]

    @property
    def info(self) -> dict[str, Any]:
        """Method, model, model_sha256, provider that really runs, note for the user, contrast."""

    def find(self, frames: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Candidates of frames (n, rows, cols) or (n, foci, rows, cols), all above a low floor."""

    def sample(
        self, frames: NDArray[Any], points_px: NDArray[np.float64], control: Control | None = None
    ) -> NDArray[np.float32]:
        """Logit of "here is a column" at points (n, k, 2); NaN outside the frame."""
