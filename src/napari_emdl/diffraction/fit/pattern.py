"""Lattice from the pattern itself: all disks at once, each with an inner intensity of its own that is free.

Peaks are measured one by one, and what a disk looks like inside pulls at them: near a zone axis opposite disks are mirror
images, so all of them lean outwards or inwards together and the fit adds that up to a strain. Here the pattern is modelled as

    counts(x) = background_j(x) + A(x - c_j) I_j(x),   c_j = origin + h_j g1 + k_j g2

around every disk j, with the soft-edged aperture A, a plane as background and an inner intensity I_j that is a Gaussian
process: any smooth function, with a length scale in units of the radius and a standard deviation of several times the disk's
mean. Given the lattice, I_j and the background follow by weighted least squares (Fisher scoring for Poisson counts); they are
eliminated, and what is left is each disk's score and Fisher information for its place, 2 x 2. Only lit edges tell anything,
and they tell it across themselves. All disks of a pattern together give a Gauss-Newton step of origin, g1 and g2. Radius and
edge of the aperture are shared by the whole scan and fitted to it as well.

Variable projection: Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973) 413. Gaussian processes: Rasmussen and Williams (2006),
chapter 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.find.gaps import find_gaps
from napari_emdl.diffraction.find.patterns import estimate_gain, fill_from_around, fill_missing, filled_and_missing
from napari_emdl.diffraction.fit.patternmodel import REWEIGHTED, Aperture, Mask, PatternModel
from napari_emdl.diffraction.fit.projector import Distortion
from napari_emdl.diffraction.fit.weights import ON_PATTERNS
from napari_emdl.diffraction.lattice import LatticeFit
from napari_emdl.jobs.blockjob import run_block_job
from napari_emdl.jobs.blocks import Block
from napari_emdl.jobs.checkpoint import merge_peaks
from napari_emdl.jobs.control import Control

Floats = NDArray[np.float64]

#: Gauss-Newton steps of a pattern, and rounds of least squares in each.
_STEPS, _COARSE_ROUNDS = 3, 2
#: Rounds within a step that settle which disks count.
_STEP_ROUNDS = 2
#: A step that moves no disk by more is the last.
_SETTLED_PX = 0.04
#: Patterns that radius and edge are fitted to.
_APERTURE_PATTERNS, _APERTURE_ROUNDS = 24, 3
#: A disk that is sure of nothing stays where the lattice says, within this many radii.
_LOOSE_RADII = 1.0
#: The same on the way to the lattice, where what is left out may move it by a few hundredths of a pixel.
_COARSE_SHARE = 1e-2
#: Fewest disks of a pattern that is fitted, and the smallest of them.
_LEAST_DISKS, _LEAST_RADIUS_PX = 5, 2.5
#: Sharpest edge modelled: on a grid of pixels a sharper one has no slope to follow.
_SHARPEST_PX = 0.45
_NO_DISKS = np.zeros(0, np.intp), np.zeros((0, 2), np.int64)
#: Disks that are worked on together: enough to make little of Python's share, few enough to stay in the cache.
_TOGETHER = 96
#: Memory of a pattern while it is worked on.
_BYTES_A_PIXEL = 64


def fisher_information(model: PatternModel, counts: Floats, hk: NDArray[np.int64], origin: Floats, g: Floats) -> Floats:
    """(6, 6) information of a pattern on the rows and cols of origin, g1 and g2, everything inside the disks free."""
    _, information = model.measure(counts, hk, origin, g)
    terms = np.column_stack([np.ones(len(hk)), hk])
    return np.asarray(np.einsum("ni,nab,nj->iajb", terms, information[:, :2, :2], terms).reshape(6, 6), dtype=np.float64)


def lattice_steps(score: Floats, information: Floats, hk: NDArray[np.int64], of: NDArray[np.intp]) -> Floats:
    """Gauss-Newton steps (patterns, 3, 2) of origin, g1, g2, disks that disagree counting less.

    What a disk disagrees by is taken after the step, so that a few rounds are needed; they cost next to nothing. `of` (n,) says
    which pattern a disk is in, in order; every pattern has some.
    """
    terms = np.column_stack([np.ones(len(hk)), hk])
    place = information[:, :2, :2] + 1e-9 * np.eye(2)
    inverse = np.linalg.inv(place)
    each = (terms[:, :, None, None, None] * place[:, None, :, None] * terms[:, None, None, :, None]).reshape(len(hk), -1)
    toward = (terms[:, :, None] * score[:, None, :2]).reshape(len(hk), -1)
    start = np.searchsorted(of, np.arange(of[-1] + 1))
    step: Floats = np.zeros((len(start), 3, 2))
    for _ in range(_STEP_ROUNDS):
        left = score[:, :2] - np.einsum("nab,nb->na", place, np.einsum("ni,nib->nb", terms, step[of]))
        square = np.einsum("na,nab,nb->n", left, inverse, left)
        trust = (1 / (1 + square / 8))[:, None]
        normal = np.add.reduceat(trust * each, start).reshape(-1, 6, 6)
        right = np.add.reduceat(trust * toward, start)
        step = np.asarray(np.linalg.solve(normal + 1e-6 * np.eye(6), right[:, :, None]).reshape(-1, 3, 2), np.float64)
    return step


def fit_aperture(
    model: PatternModel, patterns: list[tuple[Floats, NDArray[np.int64], Floats, Floats, Mask | None]]
) -> Aperture:
    """Radius and edge that all disks of some patterns share, everything else free.

    Parameters
    ----------
    patterns
        Electrons, indices, origin and lattice of each, and which pixels are known.
    """
    aperture = model.aperture
    for _ in range(_APERTURE_ROUNDS):
        model = PatternModel(aperture, model.distortion)
        normal, right = np.zeros((2, 2)), np.zeros(2)
        for counts, hk, origin, g, seen in patterns:
            score, information = model.measure(counts, hk, origin, g, seen)
            terms = np.column_stack([np.ones(len(hk)), hk])
            own = np.einsum("ni,nab,nj->iajb", terms, information[:, :2, :2], terms).reshape(6, 6) + 1e-6 * np.eye(6)
            mixed = np.einsum("ni,nab->iab", terms, information[:, :2, 2:]).reshape(6, 2)
            alone = np.einsum("ni,na->ia", terms, score[:, :2]).reshape(6)
            normal += information[:, 2:, 2:].sum(axis=0) - mixed.T @ np.linalg.solve(own, mixed)
            right += score[:, 2:].sum(axis=0) - mixed.T @ np.linalg.solve(own, alone)
        step = np.linalg.solve(normal + np.diag([1e-3, 1e-3]), right)
        radius = aperture.radius_px + float(np.clip(step[0], -0.5, 0.5))
        edge = float(np.clip(aperture.edge_px + np.clip(step[1], -0.3, 0.3), _SHARPEST_PX, 0.5 * radius))
        excess, per_square_px = model.ripple_sums
        aperture = Aperture(radius, edge, float(np.sqrt(max(excess, 0.0) / max(per_square_px, 1e-12))))
    return aperture


def hidden_pixels(cube: Datacube, good: NDArray[np.bool_]) -> Mask | None:
    """(rows, cols) True where the detector saw nothing in any pattern: masked and dead pixels, gaps, a stop; None for none.

    Parameters
    ----------
    good
        (positions,) positions to go by.
    """
    sample = _spread(np.flatnonzero(good))
    if not len(sample):
        return None
    total = np.zeros(cube.detector_shape)
    for i in sample.tolist():
        total += fill_missing(cube.patterns(i, i + 1))[0]
    hidden = find_gaps(total / len(sample))
    if cube.mask is not None:
        hidden = hidden | cube.mask
    return hidden if hidden.any() else None


def _spread(positions: NDArray[np.intp]) -> NDArray[np.intp]:
    """Some positions from all over the scan."""
    return positions[np.unique(np.linspace(0, max(0, len(positions) - 1), _APERTURE_PATTERNS).astype(int))[: len(positions)]]


def measure_aperture(
    disks: PeakTable,
    cube: Datacube,
    fit: LatticeFit,
    good: NDArray[np.bool_],
    distortion: Distortion | None = None,
    hidden: Mask | None = None,
) -> Aperture:
    """Radius, edge and raggedness that the disks of a fitted scan share.

    Parameters
    ----------
    disks
        Table over the scan, with ``attrs["probe_radius_px"]``.
    cube
        The patterns.
    fit
        Lattices fitted to `disks`.
    good
        (positions,) positions to go by.
    distortion
        What `disks` are corrected for and the patterns are not.
    hidden
        Of the detector, from :func:`hidden_pixels`.

    Raises
    ------
    EmdlError
        When disks and patterns do not belong together, or disks are too small for a model of their inside.
    """
    if tuple(cube.scan_shape) != tuple(disks.shape):
        raise EmdlError(
            f"the disks are of a scan of {disks.shape}, the patterns of {cube.scan_shape}; give the cube they were found in"
        )
    radius = float(disks.attrs.get("probe_radius_px") or 0)
    if radius < _LEAST_RADIUS_PX:
        raise EmdlError(f"the pattern fit needs disks of a radius of at least {_LEAST_RADIUS_PX} px; use `fit='peaks'`")
    model = PatternModel(Aperture(radius, 0.6), distortion)
    known = []
    for i in _spread(np.flatnonzero(good)):
        hk = _disks_of(disks, fit, int(i), model, cube.detector_shape)[1]
        if len(hk) >= _LEAST_DISKS:
            counts, seen = _electrons(cube.patterns(int(i), int(i) + 1), hidden)
            known.append((counts, hk, fit.origin[i], fit.g[i], seen))
    return fit_aperture(model, known)


def measure_on_patterns(
    disks: PeakTable,
    cube: Datacube,
    fit: LatticeFit,
    good: NDArray[np.bool_],
    aperture: Aperture,
    control: Control | None = None,
    run: RunParams | None = None,
    output: str | Path | None = None,
    fingerprint: str = "",
    distortion: Distortion | None = None,
    hidden: Mask | None = None,
) -> PeakTable:
    """Disks of a fitted scan measured anew, all of a pattern around their common lattice.

    Parameters
    ----------
    disks, cube, fit, distortion, hidden
        As for :func:`measure_aperture`.
    good
        (positions,) positions to measure; the others keep what they have.
    aperture
        Of the disks.
    run, output, fingerprint, control
        See :func:`napari_emdl.jobs.blockjob.run_block_job`.

    Returns
    -------
    PeakTable
        The same disks with row, col and sigma_px anew, and ``sigma_row_px``, ``sigma_col_px`` and ``rho``. Disks off the
        lattice or cut by the detector's edge are left out where the pattern was fitted.
    """
    made: PeakTable = run_block_job(
        total=cube.n_patterns,
        read=cube.patterns,
        work=_OnPatterns(disks, fit, good, PatternModel(aperture, distortion), hidden),
        merge=lambda blocks: merge_peaks(blocks, disks.shape),
        bytes_per_item=_BYTES_A_PIXEL * int(np.prod(cube.detector_shape)),
        run=run or RunParams(),
        output=output,
        fingerprint=fingerprint,
        control=control,
        message="patterns",
    )
    made.attrs = disks.attrs | {ON_PATTERNS: True}
    return made


def measure_some(
    disks: PeakTable,
    cube: Datacube,
    fit: LatticeFit,
    positions: NDArray[np.int64],
    aperture: Aperture,
    distortion: Distortion | None = None,
    hidden: Mask | None = None,
    control: Control | None = None,
) -> PeakTable:
    """As :func:`measure_on_patterns`, a table (len(positions),) of some positions of the scan alone."""
    work = _OnPatterns(disks, fit, np.ones(disks.n_positions, bool), PatternModel(aperture, distortion), hidden)
    tables = []
    for number, i in enumerate(positions.tolist()):
        if control is not None:
            control.check()
        tables.append(work(cube.patterns(i, i + 1), Block(number, i, i + 1)))
    made = PeakTable.concatenate(tables)
    made.attrs[ON_PATTERNS] = True
    return made


class _OnPatterns:
    """Disks of a block of patterns, measured around their lattices; picklable."""

    def __init__(
        self, disks: PeakTable, fit: LatticeFit, good: NDArray[np.bool_], model: PatternModel, hidden: Mask | None
    ) -> None:
        self.disks, self.fit, self.good, self.model, self.hidden = disks, fit, good, model, hidden
        self.coarse = PatternModel(model.aperture, model.distortion, _COARSE_SHARE)
        self.columns = {name: disks.column(name).astype(float) for name in disks.fields}
        unknown = np.full(disks.n_peaks, np.nan)
        self.columns = {"sigma_px": unknown} | self.columns | dict.fromkeys(("sigma_row_px", "sigma_col_px", "rho"), unknown)

    def __call__(self, patterns: NDArray[Any], block: Block) -> PeakTable:
        shape = (patterns.shape[1], patterns.shape[2])
        told: list[dict[str, Floats]] = []
        waiting: list[_Waiting] = []
        for k, pattern in enumerate(patterns):
            i = block.start + k
            rows, hk = _disks_of(self.disks, self.fit, i, self.model, shape) if self.good[i] else _NO_DISKS
            if len(hk) < _LEAST_DISKS:
                rows = np.arange(self.disks.offset[i], self.disks.offset[i + 1])
            else:
                counts, known = _electrons(pattern[None], self.hidden)
                waiting.append(_Waiting(k, hk, counts, self.fit.origin[i], self.fit.g[i], known))
            told.append({name: values[rows] for name, values in self.columns.items()})
            if waiting and (k == len(patterns) - 1 or sum(len(one.hk) for one in waiting) >= _TOGETHER):
                for one, measured in zip(waiting, self._measured(waiting), strict=True):
                    told[one.number] |= measured
                waiting = []
        return PeakTable.from_lists(told)

    def _measured(self, waiting: list[_Waiting]) -> list[dict[str, Floats]]:
        """Places and their errors, pattern by pattern."""
        place, covariance = _fit_patterns(self.model, self.coarse, waiting)
        deviation = np.sqrt(covariance[:, [0, 1], [0, 1]])
        fields = {
            "row": place[:, 0],
            "col": place[:, 1],
            "sigma_row_px": deviation[:, 0],
            "sigma_col_px": deviation[:, 1],
            "rho": covariance[:, 0, 1] / (deviation[:, 0] * deviation[:, 1]),
            "sigma_px": np.sqrt(np.square(deviation).mean(axis=1)),
        }
        ends = np.cumsum([len(one.hk) for one in waiting])
        parts = [slice(end - len(one.hk), end) for one, end in zip(waiting, ends, strict=True)]
        return [{name: values[part] for name, values in fields.items()} for part in parts]


@dataclass(frozen=True)
class _Waiting:
    """A pattern to be fitted: its number in the block, indices of its disks, electrons, start, and pixels that count."""

    number: int
    hk: NDArray[np.int64]
    counts: Floats
    origin: Floats
    g: Floats
    known: Mask | None = None


def _known_of(patterns: list[_Waiting]) -> Mask | None:
    """(patterns, rows, cols) pixels that count; None where all do in all of them."""
    if all(one.known is None for one in patterns):
        return None
    return np.stack([np.ones(one.counts.shape, bool) if one.known is None else one.known for one in patterns])


def _fit_patterns(model: PatternModel, coarse: PatternModel, patterns: list[_Waiting]) -> tuple[Floats, Floats]:
    """Places (n, 2) of the disks of some patterns and their covariances (n, 2, 2), each free around its pattern's lattice."""
    counts, hk = np.stack([one.counts for one in patterns]), np.concatenate([one.hk for one in patterns])
    known = _known_of(patterns)
    of = np.repeat(np.arange(len(patterns)), [len(one.hk) for one in patterns])
    origin, g = np.stack([one.origin for one in patterns]), np.stack([one.g for one in patterns])
    limit = 0.1 * model.aperture.radius_px
    moving = np.ones(len(patterns), bool)
    for _ in range(_STEPS):
        some = moving[of]
        here, index = of[some], hk[some]
        own = (np.cumsum(moving) - 1)[here]
        look = coarse.look(counts, index, origin[here], g[here], known=known, of=here)
        score, information = coarse.told(look, _COARSE_ROUNDS)
        step = np.clip(lattice_steps(score, information, index, own), -limit, limit)
        origin[moving] += step[:, 0]
        g[moving] += step[:, 1:]
        moved = np.abs(step[own, 0] + np.einsum("na,nab->nb", index, step[own, 1:])).max(axis=1)
        moving[moving] = np.maximum.reduceat(moved, np.searchsorted(own, np.arange(len(step)))) >= _SETTLED_PX
        if not moving.any():
            break
    score, information = model.told(model.look(counts, hk, origin[of], g[of], known=known, of=of), REWEIGHTED)
    loose = np.eye(2) / (_LOOSE_RADII * model.aperture.radius_px) ** 2
    # information is never negative but by rounding
    value, vector = np.linalg.eigh(information[:, :2, :2])
    covariance = np.linalg.inv((vector * np.maximum(value, 0)[:, None]) @ vector.transpose(0, 2, 1) + loose)
    place = origin[of] + np.einsum("na,nab->nb", hk, g[of]) + np.einsum("nab,nb->na", covariance, score[:, :2])
    return place, covariance


def _disks_of(
    disks: PeakTable, fit: LatticeFit, i: int, model: PatternModel, shape: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Rows of the table and indices (h, k) of the disks of position `i` that lie on its lattice and wholly on the detector."""
    rows = _rows_of(disks.offset, fit.used, i)
    hk = fit.hk[rows]
    whole = model.fits(model.shown(fit.origin[i] + hk @ fit.g[i]), shape)
    hk, first = np.unique(hk[whole], axis=0, return_index=True)
    return rows[whole][first], hk


def _rows_of(offset: NDArray[np.int64], used: NDArray[np.bool_], i: int) -> NDArray[np.intp]:
    return np.asarray(offset[i] + np.flatnonzero(used[offset[i] : offset[i + 1]]), dtype=np.intp)


def _electrons(pattern: NDArray[Any], hidden: Mask | None) -> tuple[Floats, Mask | None]:
    """(rows, cols) of one pattern (1, rows, cols) in electrons, missing values filled, and which are known; None for all."""
    pattern, missing = filled_and_missing(pattern)
    bad = missing[0] if missing is not None else None
    if hidden is not None:
        bad = hidden if bad is None else bad | hidden
        pattern = pattern.astype(np.float32)
        fill_from_around(pattern[0], bad)
    counts = np.asarray(pattern[0] / estimate_gain(pattern)[0], dtype=np.float64)
    return counts, None if bad is None else ~bad
