"""The direct beam of patterns whose beam is not like their disks: saturated, haloed, wider than the reflections.

A finder measures places that look like the probe. A direct beam that is cut off at the top or drowned in its own halo does not,
and a table without it has lost the one disk that every user looks for. Where the disks that were found lie in pairs about a
bright place without one (Friedel), that place is the direct beam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.kernels import bin_factor
from napari_emdl.diffraction.find.patterns import bin_patterns

Floats = NDArray[np.float64]

#: Disks in pairs about the beam that it takes to call it one, and their share of all disks.
_LEAST_PAIRED, _LEAST_SHARE = 4, 0.3
#: The beam stands this many times higher above its surroundings than any place beyond it.
_BRIGHTER = 1.5
#: Error of the beam's own centre in units of its radius: halos and saturation are seldom symmetric.
_OWN_ERROR = 0.15
#: A beam that a network places worse than this, in radii, lies where the pairs of the other disks say.
_UNSURE = 0.1
#: Score of a beam that its pairs and its brightness speak for.
_SCORE = 0.9


@dataclass(frozen=True)
class Beam:
    """Direct beam of one pattern: place and error (px), radius at half its height, counts above the background."""

    position_px: Floats
    sigma_px: float
    radius_px: float
    counts: float


def with_direct_beam(table: PeakTable, patterns: NDArray[Any], radius_px: float, min_score: float) -> PeakTable:
    """The table with the direct beam of every pattern in which it stands out and lies amid pairs of disks.

    One that was not found is added; one that was found but drowns in its halo, so that its place is poorly known, is put
    into the middle of the pairs.

    Parameters
    ----------
    table
        Disks over (n,) patterns with row, col, intensity, score, sigma_px.
    patterns
        (n, rows, cols).
    radius_px
        Of the disks.
    min_score
        Disks from here on count.
    """
    shown = table.filter(min_score=min_score).compact()
    rich = np.flatnonzero(np.diff(shown.offset) >= _LEAST_PAIRED)
    if not len(rich):
        return table
    place = _brightest(np.mean(patterns[rich], axis=0, dtype=np.float64), radius_px)
    added: dict[int, Beam] = {}
    for i in rich:
        disks = shown.at(int(i))
        positions = np.stack([disks["row"], disks["col"]], axis=1).astype(float)
        away = np.linalg.norm(positions - place, axis=1)
        if away.min() < radius_px:
            found = int(away.argmin())
            if disks["sigma_px"][found] > _UNSURE * radius_px:
                _put_amid_pairs(table, int(i), positions, found, radius_px)
            continue
        beam = _beam_at(np.asarray(patterns[i], np.float64), place, positions, radius_px)
        if beam is not None:
            added[int(i)] = beam
    return _joined(table, added) if added else table


def _smooth(pattern: Floats, radius_px: float) -> Floats:
    known = np.isfinite(pattern)
    return np.asarray(ndimage.gaussian_filter(np.where(known, pattern, 0.0), max(1.0, 0.7 * radius_px)))


def _brightest(pattern: Floats, radius_px: float) -> Floats:
    """Where a pattern is brightest, to half a bin, which is half a radius at most."""
    binning = bin_factor(radius_px)
    smooth = _smooth(bin_patterns(pattern[None], binning)[0], radius_px / binning)
    return np.array(np.unravel_index(int(smooth.argmax()), smooth.shape), float) * binning + (binning - 1) / 2


def _beam_at(pattern: Floats, place: Floats, positions: Floats, radius_px: float) -> Beam | None:
    """Beam near `place`, or None where nothing there stands out, was not found already and has pairs about it."""
    pattern = np.where(np.isfinite(pattern), pattern, 0.0)
    smooth = _smooth(pattern, radius_px)
    reach = int(np.ceil(max(4.0, 2 * radius_px)))
    corner = np.maximum(np.rint(place).astype(int) - reach, 0)
    near = smooth[corner[0] : corner[0] + 2 * reach + 1, corner[1] : corner[1] + 2 * reach + 1]
    top = corner + np.array(np.unravel_index(int(near.argmax()), near.shape))
    floor = float(np.median(smooth))
    height = float(smooth[tuple(top)]) - floor
    if height <= 0:
        return None
    labels, _ = ndimage.label(smooth > floor + 0.5 * height)
    inside = labels == labels[tuple(top)]
    wide = float(np.sqrt(inside.sum() / np.pi))
    around = ndimage.binary_dilation(inside, iterations=int(np.ceil(wide + radius_px)))
    if wide > 0.15 * min(pattern.shape) or height < _BRIGHTER * (float(smooth[~around].max(initial=0.0)) - floor):
        return None
    weight = np.where(inside, np.minimum(pattern, floor + 0.9 * (pattern[inside].max() - floor)) - floor, 0).clip(0)
    if not weight.any():
        return None
    centre = np.array(ndimage.center_of_mass(weight))
    if np.linalg.norm(positions - centre, axis=1).min() < max(wide, radius_px):
        return None
    middle, paired = _pairs(positions, centre, max(1.5, 0.5 * radius_px, 0.25 * wide))
    if paired < _LEAST_PAIRED or paired < _LEAST_SHARE * len(positions):
        return None
    sigma = float(np.hypot(_OWN_ERROR * wide, np.linalg.norm(centre - middle) / np.sqrt(2)))
    return Beam(centre, sigma, wide, float((pattern[inside] - floor).clip(0).sum()))


def _pairs(positions: Floats, centre: Floats, reach_px: float) -> tuple[Floats, int]:
    """Median middle of the disks that have a partner opposite `centre`, and how many disks have one."""
    away, partner = cKDTree(positions).query(2 * centre - positions)
    has = away < reach_px
    if not has.any():
        return centre, 0
    return np.median(0.5 * (positions[has] + positions[partner[has]]), axis=0), int(has.sum())


def _put_amid_pairs(table: PeakTable, pattern: int, positions: Floats, beam: int, radius_px: float) -> None:
    """Move a beam, one of the disks shown of a pattern, into the middle of the pairs about it, if it has enough of them."""
    others = np.delete(positions, beam, axis=0)
    middle, paired = _pairs(others, positions[beam], 2 * radius_px)  # a partner is off by twice what the beam is
    if paired < _LEAST_PAIRED or paired < _LEAST_SHARE * len(others) or np.linalg.norm(middle - positions[beam]) > radius_px:
        return
    rows = np.arange(table.offset[pattern], table.offset[pattern + 1])
    row = rows[np.linalg.norm(table.positions_px()[rows] - positions[beam], axis=1).argmin()]
    table.column("row")[row], table.column("col")[row] = middle


def _joined(table: PeakTable, beams: dict[int, Beam]) -> PeakTable:
    """Table with a beam for some of its patterns, by falling score like the rest."""
    which = np.concatenate([table.flat_index(), np.fromiter(beams, np.int64)])
    columns = {
        name: np.concatenate([table.column(name), np.array([_value(beam, name) for beam in beams.values()], np.float32)])
        for name in table.fields
    }
    order = np.lexsort((-columns["score"], which))
    counts = np.bincount(which, minlength=table.n_positions)
    flat = {name: values[order] for name, values in columns.items()}
    return PeakTable(table.shape, np.r_[0, np.cumsum(counts)], flat, dict(table.attrs))


def _value(beam: Beam, name: str) -> float:
    values = {"row": beam.position_px[0], "col": beam.position_px[1], "intensity": beam.counts, "score": _SCORE, "rho": 0.0}
    return float(values.get(name, beam.sigma_px))  # sigma_px, sigma_row_px, sigma_col_px
