"""Frames in which the contrast of a crystal turns over: the columns there are placed by the lattice around."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.atoms.find.finders import ColumnFinder
from napari_emdl.atoms.inverted import LEAST_SHOWN, inverted_parts
from napari_emdl.atoms.lattices import find_lattices
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control

#: score of a column that the lattice tells of alone
TOLD = 0.9
#: spots between columns are nearer to these than so many usual spacings; there is nothing to look into where fewer are, or so
#: large a part of all that they make a sublattice
CLOSE, LEAST_CLOSE, MOST_CLOSE = 0.9, 2, 0.5
#: frames of more columns are left as they are: the search for lattices takes all pairs of neighbours
MOST_COLUMNS = 400


class Inverting:
    """A finder's ``find`` that puts right what the contrast of a thick crystal turns over; picklable when the finder is."""

    def __init__(self, finder: ColumnFinder, pixel_A: float) -> None:
        self.finder, self.pixel_A = finder, pixel_A

    def __call__(self, frames: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Columns of frames; the attribute "inverted_frames" counts those that were changed."""
        table = self.finder.find(frames, control)
        least = float(self.finder.default_min_score)
        changed = [_put_right(table.at(k), least, self.pixel_A, frames[k]) for k in range(len(table))]
        count = sum(rows is not None for rows in changed)
        if count:
            every = [table.at(k) if rows is None else rows for k, rows in enumerate(changed)]
            attrs = table.attrs
            table = PeakTable.from_lists([{name: rows[name] for name in table.fields} for rows in every], table.shape)
            table.attrs.update(attrs)
        table.attrs["inverted_frames"] = count
        return table


def _put_right(peaks: NDArray[np.void], least: float, pixel_A: float, images: NDArray[Any]) -> NDArray[np.void] | None:
    """Peaks of one frame with columns where the lattice has them in place of the spots between; None where all is well."""
    shown = np.flatnonzero(peaks["score"] >= least)
    if not LEAST_SHOWN <= len(shown) <= MOST_COLUMNS:
        return None
    places = np.stack([peaks["row"], peaks["col"]], -1).astype(np.float64)
    nearest = cKDTree(places[shown]).query(places[shown], k=2)[0][:, 1]
    close = int((nearest < CLOSE * np.median(nearest)).sum())
    if not LEAST_CLOSE <= close <= MOST_CLOSE * len(shown):
        return None
    seen = np.ones(len(shown))
    lattices, crystal = find_lattices(places[shown], seen, pixel_A)
    found = inverted_parts(places[shown], seen, np.zeros(len(shown), bool), crystal, lattices)
    if not found.spots.any():
        return None
    keep = np.ones(len(peaks), bool)
    keep[shown[found.spots]] = False
    if len(found.missing_px):  # a weak candidate at such a place is this column
        keep &= cKDTree(found.missing_px).query(places)[0] > 0.25 * lattices[0].spacing_px
    return np.concatenate([peaks[keep], _columns_at(found.missing_px, peaks, images)])


def _columns_at(points_px: NDArray[np.float64], peaks: NDArray[np.void], images: NDArray[Any]) -> NDArray[np.void]:
    """Peaks at points, as wide as the others."""
    out = np.zeros(len(points_px), peaks.dtype)
    image = images if images.ndim == 2 else images[0]
    rows, cols = np.clip(np.rint(points_px).astype(int), 0, np.array(image.shape) - 1).T
    values = {
        "row": points_px[:, 0], "col": points_px[:, 1], "score": TOLD, "logit": np.log(TOLD / (1 - TOLD)),
        "sigma_px": np.median(peaks["sigma_px"]), "intensity": np.nan_to_num(image[rows, cols]), "lattice_evidence": np.nan,
    }  # fmt: skip
    for name, value in values.items():
        if name in (peaks.dtype.names or ()):
            out[name] = value
    return out
