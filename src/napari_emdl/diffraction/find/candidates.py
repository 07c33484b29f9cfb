"""Candidates of disks between proposal and result: joined, located, judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.base.peaks import PeakTable

#: Fields of every table of disks.
FIELDS = ("row", "col", "intensity", "score", "sigma_px")
#: Score of a disk off a convincing lattice, as a factor; where more than this share of the sure disks is off it, what the odds
#: are divided by instead.
OFF_LATTICE, MANY_STRAYS, OFF_LATTICE_ODDS = 0.4, 0.2, 25.0
#: Disks overlap where the next one is nearer than this, in radii.
OVERLAPPING = 2.05
_FOUND_FIELDS = ("which", "position", "sigma", "score", "intensity", "prior", "ellipse", "moved")
#: Fields of disks measured by a refiner that knows directions.
ELLIPSE_FIELDS = ("sigma_row_px", "sigma_col_px", "rho")


@dataclass
class Found:
    """Disks of some patterns, flat.

    `prior` is how sure the proposer was, 0..1; `ellipse` (n, 3) as `ELLIPSE_FIELDS`; `moved` how far in px the last pass of the
    refiner moved each, 0 where it was left alone.
    """

    which: NDArray[np.intp]
    position: NDArray[np.float64]
    sigma: NDArray[np.float64]
    score: NDArray[np.float64]
    intensity: NDArray[np.float64]
    prior: NDArray[np.float64]
    ellipse: NDArray[np.float64] = field(default=None)  # type: ignore[arg-type]
    moved: NDArray[np.float64] = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if self.ellipse is None:
            self.ellipse = np.stack([self.sigma, self.sigma, np.zeros(len(self.sigma))], axis=1)
        if self.moved is None:
            self.moved = np.zeros(len(self.sigma))

    def pick(self, keep: NDArray[Any]) -> Found:
        return Found(*(getattr(self, name)[keep] for name in _FOUND_FIELDS))

    def replaced(self, where: NDArray[np.bool_], new: Found) -> Found:
        """These with `new` in place of those at `where`; the others have not moved."""
        values = {name: getattr(self, name).copy() for name in _FOUND_FIELDS}
        values["moved"][:] = 0.0
        for name, value in values.items():
            value[where] = getattr(new, name)
        return Found(**values)

    @staticmethod
    def of(table: PeakTable) -> Found:
        """Disks of a table over (n,), the proposer being sure of all."""
        sigma, score, intensity = (table.column(name).astype(float) for name in ("sigma_px", "score", "intensity"))
        return Found(table.flat_index(), table.positions_px(), sigma, score, intensity, np.ones(table.n_peaks))

    @staticmethod
    def join(parts: list[Found]) -> Found:
        return Found(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FOUND_FIELDS))

    def table(self, n: int, fields: tuple[str, ...] = FIELDS) -> PeakTable:
        order = np.lexsort((-self.score, self.which))
        counts = np.bincount(self.which, minlength=n)
        columns = {
            "row": self.position[order, 0],
            "col": self.position[order, 1],
            "intensity": self.intensity[order],
            "score": self.score[order],
            "sigma_px": self.sigma[order],
        }
        columns |= dict(zip(ELLIPSE_FIELDS, self.ellipse[order].T, strict=True))
        return PeakTable((n,), np.r_[0, np.cumsum(counts)], {name: columns[name].astype(np.float32) for name in fields})


def unlike(found: Found, others: list[Found], distance_px: float) -> Found:
    """Those of `found` that are farther than `distance_px` from all others of their pattern; the others gain from the rest."""
    if not others or not len(found.which) or not len(others[0].which):
        return found
    first = others[0]
    apart = 4 * (1 + max(float(np.abs(part.position).max()) for part in (found, first)))
    places = [np.c_[part.position[:, 0] + apart * part.which, part.position[:, 1]] for part in (first, found)]
    distance, nearest = cKDTree(places[0]).query(places[1])
    same = distance <= distance_px
    np.maximum.at(first.prior, nearest[same], found.prior[same])
    return found.pick(~same)


def off_lattice(found: Found, strange: NDArray[np.bool_], sure: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n,) scores, those of disks off their pattern's lattice lowered.

    Parameters
    ----------
    strange
        (n,) disks off the lattice.
    sure
        (n,) disks beyond reasonable doubt. Where only a few of these are strange, all strange ones fall. Where many are, they
        are another grain or a distortion, and those that are sure stay.
    """
    n = int(found.which.max(initial=0)) + 1
    strays, all_sure = np.bincount(found.which[sure & strange], minlength=n), np.bincount(found.which[sure], minlength=n)
    many = (strays > MANY_STRAYS * all_sure)[found.which]
    lowered = np.where(many, found.score / (found.score + OFF_LATTICE_ODDS * (1 - found.score)), OFF_LATTICE * found.score)
    return np.where(strange, lowered, found.score)


def located(sigma_px: NDArray[np.float64], radius_px: float) -> NDArray[np.float64]:
    """Probability that a disk measured with this error per axis lies within 2 px, or a fifth of the radius if that is more.

    A disk that is there but cannot be placed is not a find: where disks overlap, a faint one may be off by half its radius.
    """
    reach_px = max(2.0, 0.2 * radius_px)
    return 1 - np.exp(-0.5 * np.square(reach_px / np.maximum(sigma_px, 1e-6)))


def inside(position: NDArray[np.float64], detector_shape: tuple[int, int], edge_px: float) -> NDArray[np.bool_]:
    corner = np.array(detector_shape) - 1
    return np.all((position >= edge_px) & (position <= corner - edge_px), axis=1)


def crowded(sure: Found, radius_px: float) -> bool:
    """Whether most of these disks, of any patterns, have a neighbour in their pattern that they overlap with."""
    if len(sure.which) < 4:
        return False
    apart = 4 * (np.ptp(sure.position, axis=0).max() + radius_px)
    points = np.c_[sure.position[:, 0] + apart * sure.which, sure.position[:, 1]]
    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    return bool(np.median(nearest) < OVERLAPPING * radius_px)
