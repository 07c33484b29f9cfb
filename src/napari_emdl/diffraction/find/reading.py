"""How the patterns of a scan are to be read before anything is looked for in them: as they are, nearly always."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.diffraction.find.linenoise import without_line_noise
from napari_emdl.diffraction.find.patterns import fill_from_around


@dataclass(frozen=True)
class Reading:
    """What is done to every pattern of a scan when it is read.

    Attributes
    ----------
    covered
        (rows, cols) True where the detector is known to see nothing: masked, burned in, outside its field. Filled from around.
    negative_of
        Value that stands for no electrons in inverted patterns, which are taken from it; None for others.
    line_axis
        0 where whole rows have an offset of their own in each pattern, 1 for columns; None where there is none.
    notes
        What of this the user must know, a line each.
    """

    covered: NDArray[np.bool_] | None = None
    negative_of: float | None = None
    line_axis: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def as_they_are(self) -> bool:
        """Whether patterns need nothing."""
        return self.covered is None and self.negative_of is None and self.line_axis is None

    @property
    def facts(self) -> dict[str, Any]:
        """For provenance."""
        covered = 0 if self.covered is None else int(self.covered.sum())
        return {"covered_px": covered, "negative_of": self.negative_of, "line_axis": self.line_axis}

    def __call__(self, patterns: NDArray[Any]) -> NDArray[Any]:
        """Patterns (n, rows, cols) as they are to be read: float32, or the array itself where they need nothing."""
        if self.as_they_are:
            return patterns
        out = patterns.astype(np.float32)
        if self.negative_of is not None:
            out = np.maximum(np.float32(self.negative_of) - out, 0)  # NaN stays
        if self.covered is not None:
            for image in out:
                fill_from_around(image, self.covered | ~np.isfinite(image))
        return out if self.line_axis is None else without_line_noise(out, self.line_axis)
