"""Flip passes: disks found in a pattern and in its three mirror images, averaged, with the spread between the passes.

A finder that measures a disk in the mirrored pattern elsewhere than in the pattern itself is wrong by at least that much, in a
way its own error does not know. All passes see the same noise, so their mean is hardly less noisy; what they tell is the error
that comes from the finder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.pairing import agreement_distance_px, pair_disks
from napari_emdl.diffraction.find.probe import Probe
from napari_emdl.diffraction.find.reading import Reading
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.finder import Finder, FinderInfo

#: Axes that each pass mirrors.
FLIPS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 1))
_SUMS = ("seen", "sum_row", "sum_col", "sum_square", "sum_intensity", "sum_score", "sum_variance")


class FlipFinder:
    """Finds disks in four flips of each pattern; a :class:`napari_emdl.workflow.finder.Finder`.

    The table has a further field ``spread_px``: standard deviation of the passes per axis, NaN where only one saw the disk.
    ``score`` is the mean over the passes (zero where a pass did not see the disk), and ``sigma_px`` is widened to the spread
    where the passes disagree by more than the finder's own error.

    Parameters
    ----------
    make
        Makes a finder for a probe.
    probe
        Vacuum probe on the detector's grid.
    """

    def __init__(self, make: Callable[[Probe], Finder], probe: Probe) -> None:
        first = make(probe)
        self._finders = [first]
        for axes in FLIPS[1:]:
            flipped = flipped_probe(probe, axes)
            alike = probe.covered is None and np.allclose(flipped.image, probe.image, atol=1e-3)
            self._finders.append(first if alike else make(flipped))
        self._reach_px = agreement_distance_px(probe.radius_px)
        self.default_min_score: float = first.default_min_score
        self.parallel: bool = first.parallel

    @property
    def info(self) -> FinderInfo:
        """What the finder of the first pass says of itself."""
        return self._finders[0].info

    def find(self, patterns: NDArray[Any], control: Control | None = None) -> PeakTable:
        """PeakTable over (n,) of (n, rows, cols) patterns: row, col, intensity, score, sigma_px, spread_px as float32."""
        tables = []
        for finder, axes in zip(self._finders, FLIPS, strict=True):
            found = finder.find(np.flip(patterns, tuple(1 + axis for axis in axes)) if axes else patterns, control)
            tables.append(_flipped_back(found, axes, (patterns.shape[1], patterns.shape[2])))
        merged = merge_passes(tables, self._reach_px)
        merged.attrs = dict(tables[0].attrs)
        return merged

    def structure_factor(self, pattern: NDArray[Any], control: Control | None = None) -> NDArray[np.float32]:
        """Structure-factor image of the pattern as it is."""
        from napari_emdl.diffraction.find.network import NetworkFinder

        first = self._finders[0]
        if not isinstance(first, NetworkFinder):
            raise EmdlError("only networks give a structure-factor image")
        return first.structure_factor(pattern, control)


def flipped_probe(probe: Probe, axes: tuple[int, ...]) -> Probe:
    """Mirrored probe, its centre again at (rows // 2, cols // 2)."""
    image = np.flip(probe.image, axes)
    even = tuple(axis for axis in axes if image.shape[axis] % 2 == 0)
    covered = None if probe.covered is None else np.ascontiguousarray(np.flip(probe.covered, axes))
    reading = None if covered is None else Reading(covered)  # patterns are read before they are mirrored
    return replace(
        probe, reading=reading, image=np.ascontiguousarray(np.roll(image, (1,) * len(even), even) if even else image)
    )


def _flipped_back(table: PeakTable, axes: tuple[int, ...], shape: tuple[int, int]) -> PeakTable:
    """Positions of a mirrored pattern on the pattern itself."""
    moved = {name: shape[axis] - 1 - table.column(name) for axis, name in enumerate(("row", "col")) if axis in axes}
    return PeakTable(table.shape, table.offset, {n: table.column(n) for n in table.fields} | moved, table.attrs)


def merge_passes(tables: list[PeakTable], max_distance_px: float) -> PeakTable:
    """One table of several finds of the same patterns; see :class:`FlipFinder` for its fields.

    Parameters
    ----------
    tables
        Tables over the same (n,) positions with row, col, intensity, score, sigma_px.
    max_distance_px
        Farthest that passes may place the same disk from the pass that saw it first.
    """
    merged = _begin(tables[0])
    for table in tables[1:]:
        pairs = pair_disks(merged, table, max_distance_px)
        new = _begin(table)
        a, b = pairs.first, pairs.second
        columns = {name: merged.column(name).copy() for name in merged.fields}
        shift = {axis: new.column(axis)[b] - columns[axis][a] for axis in ("row", "col")}
        columns["sum_square"][a] += shift["row"] ** 2 + shift["col"] ** 2
        for name in ("seen", "sum_intensity", "sum_score", "sum_variance"):
            columns[name][a] += new.column(name)[b]
        for axis in ("row", "col"):
            columns[f"sum_{axis}"][a] += shift[axis]
        alone = np.zeros(new.n_peaks, bool)
        alone[pairs.only_second] = True
        merged = _both(PeakTable(merged.shape, merged.offset, columns), new.where(alone))
    return _end(merged, len(tables))


def _begin(table: PeakTable) -> PeakTable:
    """First sight of disks: positions, and sums relative to them."""
    columns = {name: table.column(name).astype(np.float64) for name in ("row", "col")}
    n = table.n_peaks
    columns |= {"seen": np.ones(n), **{name: np.zeros(n) for name in ("sum_row", "sum_col", "sum_square")}}
    columns["sum_intensity"] = table.column("intensity").astype(np.float64)
    columns["sum_score"] = table.column("score").astype(np.float64)
    columns["sum_variance"] = np.square(table.column("sigma_px").astype(np.float64))
    return PeakTable(table.shape, table.offset, columns)


def _both(first: PeakTable, second: PeakTable) -> PeakTable:
    """Peaks of both tables at each position."""
    of = np.concatenate([first.flat_index(), second.flat_index()])
    order = np.argsort(of, kind="stable")
    columns = {n: np.concatenate([first.column(n), second.column(n)])[order] for n in ("row", "col", *_SUMS)}
    return PeakTable(first.shape, np.r_[0, np.cumsum(np.bincount(of, minlength=first.n_positions))], columns)


def _end(merged: PeakTable, passes: int) -> PeakTable:
    seen = merged.column("seen")
    shift = np.stack([merged.column("sum_row"), merged.column("sum_col")], axis=1) / seen[:, None]
    square = np.maximum(merged.column("sum_square") - seen * np.square(shift).sum(axis=1), 0)
    spread = np.where(seen > 1, np.sqrt(square / np.maximum(2 * (seen - 1), 1)), np.nan)
    sigma = np.sqrt(merged.column("sum_variance") / seen)
    columns = {
        "row": merged.column("row") + shift[:, 0],
        "col": merged.column("col") + shift[:, 1],
        "intensity": merged.column("sum_intensity") / seen,
        "score": merged.column("sum_score") / passes,
        "sigma_px": np.fmax(sigma, spread),
        "spread_px": spread,
    }
    order = np.lexsort((-columns["score"], merged.flat_index()))
    return PeakTable(merged.shape, merged.offset, {name: values[order].astype(np.float32) for name, values in columns.items()})
