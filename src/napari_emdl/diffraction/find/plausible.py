"""Whether what was found in a pattern can be the disks of a crystal at all, where nothing but the data told the probe.

Printed text, a screen, a photograph or a regular structure in real space are full of small bright places with sharp rims, and
a finder that knows nothing else measures them. A diffraction pattern differs from them as a whole: it has a direct beam far
above the rest, or reflections that fall off from some place outwards; and its reflections lie on a lattice or in pairs about
a centre. Each of these may be missing (a beam stop, saturation, several grains), so a pattern is refused only where all that
it could show is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.complete import lattices_of
from napari_emdl.diffraction.find.ownprobe import MEASURED
from napari_emdl.diffraction.find.probeshape import Probe

Floats = NDArray[np.float64]

#: Most disks kept of a pattern unless the user asks for fewer, as in DiskParams.
_USUAL_MOST = 400
#: Fewer disks say nothing about the whole; on a lattice so many are needed before their intensities do.
_LEAST_DISKS, _LEAST_ALIKE = 4, 40
#: The brightest of a few disks over the median one, where it is the direct beam; below the second number, many are all alike.
_BEAM, _ALIKE = 15.0, 4.0
#: Rank correlation of intensity with the distance from the brightest disk below which intensity falls off from there; the
#: stricter one is asked of disks without an order, unless a network is sure of a crystal.
_FALLS, _FALLS_CLEARLY = -0.3, -0.5
#: Spread of the brightest fifth over that of all, less than 1 by this over the root of their number: chance does not do that.
_GATHERED = 1.25
#: Share of the disks in pairs about the best centre, over what chance gives, that is an order.
_PAIRED, _PAIRS_OVER_CHANCE = 0.5, 2.0
#: Share of many disks in pairs that is enough where one is far brighter: of several grains, or amid others that are not right.
_BEAM_PAIRED = 0.25
#: Probability of a crystal by the scale network that goes with it.
_LIKELY = 0.5
#: Probability by which the scale network is sure of a crystal; share of disks in pairs where they are many and all alike.
_CRYSTAL, _NEARLY_ALL = 0.9, 0.8
#: Probability of a crystal by the scale network below which it sees none; so many disks must then have an order, whatever beam
#: and brightness say.
NO_CRYSTAL, _SEVERAL = 0.1, 12


@dataclass(frozen=True)
class Spread:
    """How intensities lie in a pattern: brightest over median, fall with distance (rank), spread of the brightest fifth."""

    beam: float
    falls: float
    gathered: float


def keep_plausible(
    table: PeakTable, probe: Probe, min_score: float, detector_shape: tuple[int, int], most: int = _USUAL_MOST
) -> PeakTable:
    """The table without the disks of patterns that cannot be a crystal's; its attribute ``n_refused`` counts these patterns.

    Parameters
    ----------
    table
        Table over (n,) patterns, each judged by itself, so that what is found does not depend on how a scan is cut into blocks.
    probe
        A probe that the user gave says what to look for: then nothing is refused. Where the scan as a whole shows a crystal
        (`probe.paired`), only patterns of many disks are judged.
    min_score
        Disks from here on count.
    most
        Most disks kept of a pattern: the strongest few are alike in any pattern.
    """
    if probe.source != MEASURED or not table.n_peaks:
        return table
    shown = table.filter(min_score=min_score).compact()
    counts = np.diff(shown.offset)
    rich = np.flatnonzero(counts >= (_LEAST_ALIKE if probe.paired else _LEAST_DISKS))
    refused = [int(i) for i in rich if not _convinces(shown, int(i), probe, detector_shape, most)]
    if not refused:
        return table
    gone = np.isin(table.flat_index(), refused)
    kept = table.where(~gone).compact()
    kept.attrs = {**table.attrs, "n_refused": len(refused)}
    return kept


def _convinces(shown: PeakTable, i: int, probe: Probe, detector_shape: tuple[int, int], most: int) -> bool:
    peaks, radius_px = shown.at(i), probe.radius_px
    intensity = np.clip(peaks["intensity"].astype(float), 0, None)
    many = len(peaks) >= _LEAST_ALIKE
    if len(peaks) >= _SEVERAL and 0 < probe.crystal < NO_CRYSTAL and not probe.paired:
        # a beam above the bands and lines of Kikuchi, with places on them: some are paired by chance
        position = np.stack([peaks["row"], peaks["col"]], axis=1).astype(float)
        if not (paired_share(position, radius_px) > _PAIRED or _on_lattice(shown, i, radius_px, detector_shape)):
            return False
    if not many and intensity.max() > _BEAM * np.median(intensity):
        return True
    position = np.stack([peaks["row"], peaks["col"]], axis=1).astype(float)
    seen = spread_of(position, intensity)
    # of many places by chance some fall off; where a network sees no crystal that is not enough
    least = _FALLS if probe.crystal > NO_CRYSTAL else _FALLS_CLEARLY
    falls = seen.falls < least or seen.gathered < 1 - _GATHERED / np.sqrt(max(4, len(peaks) // 5))
    if many and falls and probe.crystal > NO_CRYSTAL:
        return True
    few_kept = len(peaks) >= most and most < _USUAL_MOST
    paired = paired_share(position, radius_px)
    if many and falls:  # as the bright parts of a photograph do
        return paired > _BEAM_PAIRED or _on_lattice(shown, i, radius_px, detector_shape)
    if many and probe.crystal > _LIKELY and seen.beam > _BEAM and paired > _BEAM_PAIRED:
        return True
    if many and seen.beam < _ALIKE and not few_kept:
        # an export as logarithm makes reflections all alike; a network takes it for a crystal's pattern still
        return probe.crystal > _CRYSTAL and paired > _NEARLY_ALL
    if probe.crystal > _CRYSTAL and seen.beam > _ALIKE and seen.falls < _FALLS:
        return True  # where disks overlap or lie on rings, too few of them are right to make a lattice or pairs
    if paired > _PAIRED or (seen.falls < _FALLS_CLEARLY and (probe.crystal > NO_CRYSTAL or seen.beam > _ALIKE)):
        return True
    return _on_lattice(shown, i, radius_px, detector_shape)


def _on_lattice(shown: PeakTable, i: int, radius_px: float, detector_shape: tuple[int, int]) -> bool:
    one = shown.select_positions([i])
    return bool(lattices_of(one, max(radius_px, 2.0), np.array(detector_shape) / 2).good[0])


def spread_of(position_px: Floats, intensity: Floats) -> Spread:
    """How the intensities of disks (n, 2), (n,) lie around the brightest of them."""
    away = np.linalg.norm(position_px - position_px[intensity.argmax()], axis=1)
    others = away > 0
    ranks = [values[others].argsort().argsort().astype(float) for values in (away, intensity)]
    falls = float(np.corrcoef(*ranks)[0, 1]) if others.sum() > 2 else 0.0
    brightest = np.argsort(-intensity)[: max(4, len(intensity) // 5)]
    beam = float(intensity.max() / max(float(np.median(intensity)), 1e-12))
    return Spread(beam, falls, _reach(position_px[brightest]) / max(_reach(position_px), 1e-9))


def _reach(position_px: Floats) -> float:
    return float(np.sqrt(np.square(position_px - np.median(position_px, axis=0)).sum(axis=1).mean()))


def paired_share(position_px: Floats, radius_px: float) -> float:
    """Share of disks with a partner opposite the centre that most pairs have in common; 0 where chance gives half as many.

    Reflections come in pairs about the direct beam (Friedel), from one grain as from many.
    """
    n = len(position_px)
    first, second = np.triu_indices(n, 1)
    middles = 0.5 * (position_px[first] + position_px[second])
    near = max(1.0, 0.35 * radius_px)
    counts = cKDTree(middles).query_ball_point(middles, near, return_length=True)
    area = float(np.prod(np.maximum(np.ptp(position_px, axis=0), 1.0)))
    by_chance = len(middles) * np.pi * near**2 / area
    pairs = float(counts.max())
    # the fullest of many places holds more than the mean one
    likely = by_chance + 2.5 * np.sqrt(by_chance) + 1
    return 2 * pairs / n if pairs > _PAIRS_OVER_CHANCE * likely or (by_chance < 0.2 and pairs >= 3) else 0.0
