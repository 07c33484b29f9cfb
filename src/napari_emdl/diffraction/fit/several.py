"""Lattices of a scan of several crystals, found by themselves: grains, phases, a precipitate in its matrix.

Lattices are taken one after the other: the one that explains most of the disks, then the one that explains most of those
which are left, until what is left repeats no more. Every position then belongs to the lattice whose disks are brightest there,
so that a position where two crystals lie above each other goes to the stronger one. The fit of such regions is
:mod:`napari_emdl.diffraction.fit.regions`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import StrainParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.basis import find_basis
from napari_emdl.diffraction.fit.calibrate import DiffractionCalibration, calibrate
from napari_emdl.diffraction.fit.origin import nearest_neighbour
from napari_emdl.diffraction.fit.segment import Labels
from napari_emdl.diffraction.fit.single import FirstFit, weighted_lattices
from napari_emdl.diffraction.lattice import LatticeFit, distance_from_lattice
from napari_emdl.jobs.control import Control

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_MOST_LATTICES = 12
#: Positions that a further lattice must have, as a share of those with disks and in number.
_LEAST_SHARE, _LEAST_POSITIONS = 0.02, 6
#: Share of the positions with disks off the first lattice from which others are looked for.
_ASKED_FROM = 0.05
#: Positions that may be lost for each that is gained.
_LOST = 0.1
#: Share of a position's disks near its lattice's points below which it has others besides.
_WHOLE = 0.7
#: A lattice further from another than this is none of the same crystal: no epitaxial film is strained so far.
_MOST_STRAIN, _MOST_TURN_RAD = 0.12, 0.2
#: Positions that lattices are learnt from.
_LEARNT = 4000
#: Neighbourhoods that are asked for a lattice where all positions together have none.
_SEEDS = 40
#: Share of the disks left at a position that a further lattice explains there; its disks without the direct beam.
_EXPLAINED, _LEAST_DISKS = 0.6, 6
#: Disks of a position that lie on no other lattice.
_ALONE = 3
#: The same of a lattice that is known from other positions: by chance a place lies on it in one of fourteen cases.
_SHARED = 0.35
#: Share of the disks of a position that all lattices together explain where it belongs to one; where two lie above each other
#: hardly a disk is left over.
_TOGETHER, _TOGETHER_TWO = 0.6, 0.8
#: In units of the shorter lattice vector: how near disks on a lattice lie, how near they must lie to a basis that is being
#: searched, how well the fit must meet them, and how far the points of two lattices that are one are apart.
_ON_LATTICE, _SEARCHED, _MISFIT, _SAME = 0.15, 0.2, 0.06, 0.24


@dataclass(frozen=True)
class Lattices:
    """Lattices of a scan.

    Attributes
    ----------
    labels
        (R, C) uint8, the number of a position's lattice, the most frequent being 1; 0 where it has none.
    g
        One (2, 2) basis in px for each number from 1 on.
    beneath
        Bases of lattices that are the stronger one at too few positions for a number.
    """

    labels: Labels
    g: tuple[Floats, ...]
    beneath: tuple[Floats, ...] = ()

    def bases(self) -> dict[int, Floats]:
        """Basis of every number, those `beneath` behind them."""
        return dict(enumerate((*self.g, *self.beneath), start=1))


def find_lattices(
    disks: PeakTable,
    params: StrainParams | None = None,
    calibration: DiffractionCalibration | None = None,
    control: Control | None = None,
) -> Lattices:
    """Lattices of the crystals in a scan and the positions of each.

    Parameters
    ----------
    disks
        Table over (scan rows, scan cols), with the disks that count.
    params
        The fewest disks of a position.
    calibration
        Origin of every position; measured when None.

    Raises
    ------
    EmdlError
        When there is no lattice.
    """
    params = params or StrainParams()
    measured = calibration or calibrate(disks, params.calibrate, disks.attrs.get("calibration"))
    origin = measured.origin_px.reshape(-1, 2)
    some, at = _thinned(disks)
    search = _Search(some, origin[at], params.min_disks)
    while len(search.bases) < _MOST_LATTICES and search.step():
        if control is not None:
            control.check()
    if not search.bases:
        raise EmdlError("no lattice explains the disks of enough positions; give g1 and g2, or raise the threshold")
    return _assigned(disks, origin, params.min_disks, search.bases, control)


def _thinned(disks: PeakTable) -> tuple[PeakTable, NDArray[np.int64]]:
    """Every so many rows and columns of a large scan, and their flat positions: lattices are learnt from some thousand."""
    rows, cols = disks.shape
    step = max(1, int(np.ceil(np.sqrt(rows * cols / _LEARNT))))
    grid = np.add.outer(np.arange(0, rows, step) * cols, np.arange(0, cols, step))
    if step == 1:
        return disks, grid.ravel()
    return disks.select_positions(grid.ravel()).reshape(grid.shape), grid.ravel()


def several_lattices(
    first: FirstFit, shape: tuple[int, ...], params: StrainParams, control: Control | None = None
) -> Lattices | None:
    """Lattices of a scan where many positions with disks do not lie on the one that was fitted; None where one will do.

    Nothing is looked for where the user gave a lattice or wants one. Positions on the first lattice keep it where no other
    is found for them. What is found counts where it explains many more positions than one lattice and loses hardly any.
    """
    if params.lattices == "one" or params.g1 is not None:
        return None
    rich = first.reason != 1
    good = (first.reason == 0) & near_lattice(first.fit.g, first.basis.g)
    on = np.bincount(first.disks.flat_index()[_on(first.disks, first.fit)], minlength=len(rich))
    whole = on >= _WHOLE * first.fit.n_disks
    clear = good & whole
    asked = max(_LEAST_POSITIONS, _ASKED_FROM * int(rich.sum()))
    if int((rich & ~clear).sum()) < asked:
        return None
    try:
        found = find_lattices(first.disks.reshape(shape), params, first.calibration, control)
    except EmdlError:
        return None
    if len(found.bases()) < 2:
        return None
    own = next((number for number, g in enumerate(found.g, start=1) if _same(g, first.basis.g)), 0)
    labels = np.where((found.labels == 0) & good.reshape(shape), own, found.labels)
    gained, lost = int((found.labels.ravel() > 0)[~clear].sum()), int((labels.ravel() == 0)[good].sum())
    return replace(found, labels=labels.astype(np.uint8)) if gained >= asked and lost <= _LOST * gained else None


class _Search:
    """Lattices found so far, and the disks that none of them explains."""

    def __init__(self, disks: PeakTable, origin: Floats, min_disks: int) -> None:
        self.disks, self.origin, self.min_disks = disks, origin, max(min_disks, _LEAST_DISKS)
        self.of = disks.flat_index()
        self.central = _central(disks, origin)
        self.left = np.ones(disks.n_peaks, bool)
        self.least = _least(disks.counts().ravel() >= min_disks)
        self.bases: list[Floats] = []

    def step(self) -> bool:
        """Look for a lattice in what is left: of all positions, then around those with most disks; False if there is none."""
        counts = np.bincount(self.of[self.left & ~self.central], minlength=len(self.origin))
        worth = counts >= self.min_disks
        if worth.sum() < self.least:
            return False
        if self._take(worth, worth):
            return True
        untried = worth.copy()
        for _ in range(_SEEDS):
            if not untried.any():
                return False
            around = worth & self._around(int(np.argmax(np.where(untried, counts, -1))))
            if self._take(worth, around):
                return True
            untried &= ~around
        return False

    def _around(self, position: int) -> Bools:
        """(n,) a position of the scan and its neighbours."""
        rows, cols = self.disks.shape
        row, col = divmod(position, cols)
        near = np.zeros((rows, cols), bool)
        near[max(0, row - 1) : row + 2, max(0, col - 1) : col + 2] = True
        return near.ravel()

    def _take(self, worth: Bools, seed: Bools) -> bool:
        """Take the lattice of the positions `seed` where it explains what is left at enough of those that are `worth` it."""
        here = (self.left | self.central) & worth[self.of]
        rest = self.disks.where(here)
        try:
            g = find_basis(self.disks.where(here & seed[self.of]), self.origin).g
        except EmdlError:
            return False
        fit = weighted_lattices(rest, self.origin, g, _SEARCHED)
        credible, full, of = worth & _credible(fit, g), rest.counts().ravel(), rest.flat_index()
        good = credible & (fit.n_indexed >= np.maximum(self.min_disks, _EXPLAINED * full))
        if good.sum() < self.least:
            return False
        # known from there, it is also taken from positions where it shares the disks with another
        close = _on(rest, weighted_lattices(rest, self.origin, g, _ON_LATTICE))
        part = credible & (np.bincount(of[close], minlength=len(full)) >= np.maximum(self.min_disks, _SHARED * full))
        taken = np.flatnonzero(here)[close & part[of]]
        self.left[taken] = False
        if all(not _same(g, known) for known in self.bases):
            self.bases.append(g)
        return bool(len(taken))


def _central(disks: PeakTable, origin: Floats) -> Bools:
    """(N,) the direct beam, which lies on every lattice."""
    of, place = disks.flat_index(), disks.positions_px()
    return np.asarray(np.linalg.norm(place - origin[of], axis=1) < 0.3 * nearest_neighbour(place, of))


def _assigned(
    disks: PeakTable, origin: Floats, min_disks: int, bases: list[Floats], control: Control | None = None
) -> Lattices:
    """Every position with the lattice whose disks are brightest there."""
    n, of = len(origin), disks.flat_index()
    outer = ~_central(disks, origin)
    weight = disks.column("intensity") if "intensity" in disks.fields else np.ones(disks.n_peaks)
    weight = np.where(np.isfinite(weight), np.maximum(weight, 0), 0)
    on = np.zeros((len(bases), disks.n_peaks), bool)
    for k, g in enumerate(bases):
        if control is not None:
            control.check()
        fit = weighted_lattices(disks, origin, g, _ON_LATTICE)
        on[k] = _on(disks, fit) & _credible(fit, g)[of] & outer
    shared = on.sum(axis=0)
    strength, explained = np.zeros((len(bases), n)), np.zeros(disks.n_peaks, bool)
    for k, mine in enumerate(on):
        enough = np.bincount(of[mine], minlength=n) >= max(min_disks, _LEAST_DISKS) - 1
        alone = np.bincount(of[mine & (shared == 1)], minlength=n)
        known = enough & ((alone >= _ALONE) | (len(bases) == 1))
        strength[k] = np.where(known, np.bincount(of[mine], weight[mine], n), 0.0)
        explained |= mine & known[of]
    needed = np.where((strength > 0).sum(axis=0) > 1, _TOGETHER_TWO, _TOGETHER)
    together = np.bincount(of[explained], minlength=n) >= needed * np.bincount(of[outer], minlength=n)
    share = _smoothed(strength / np.maximum(strength.sum(axis=0), 1e-30), disks.shape) * (strength > 0)
    rich = disks.counts().ravel() >= min_disks
    labels = np.where(rich & together & (share.max(axis=0) > 0), share.argmax(axis=0) + 1, 0)
    return _ordered(labels.reshape(disks.shape), bases, _least(rich))


def _least(rich: Bools) -> float:
    """Positions that a lattice must have."""
    return max(_LEAST_POSITIONS, _LEAST_SHARE * int(rich.sum()))


def _credible(fit: LatticeFit, g: Floats) -> Bools:
    """(n,) positions whose lattice is near the scan's and fits its disks."""
    short = float(np.linalg.norm(g, axis=1).min())
    known = np.isfinite(fit.residual_px) & np.isfinite(fit.g).all(axis=(1, 2))
    close = np.nan_to_num(fit.residual_px, nan=np.inf) < _MISFIT * short
    return np.asarray(known & close & near_lattice(fit.g, g) & fit.rank_ok)


def near_lattice(fitted: Floats, g: Floats) -> Bools:
    """(n,) lattices (n, 2, 2) that a crystal of lattice g can have: little strained, turned as in a bent crystal at most."""
    change = np.linalg.solve(g, np.where(np.isfinite(fitted), fitted, 0.0))
    stretch = np.linalg.svd(change, compute_uv=False)
    turn = np.arctan2(change[:, 0, 1] - change[:, 1, 0], change[:, 0, 0] + change[:, 1, 1])
    strained = (stretch[:, 0] > 1 + _MOST_STRAIN) | (stretch[:, 1] < 1 / (1 + _MOST_STRAIN))
    return np.asarray(~strained & (np.abs(turn) < _MOST_TURN_RAD) & (np.linalg.det(change) > 0))


def _on(disks: PeakTable, fit: LatticeFit) -> Bools:
    """(N,) disks on the lattice fitted to their position."""
    of = disks.flat_index()
    known = np.isfinite(fit.residual_px)
    relative = disks.positions_px() - np.where(known[:, None], fit.origin, 0.0)[of]
    g = np.where(known[:, None, None], fit.g, np.eye(2))
    near = distance_from_lattice(relative, g[of]) < (_ON_LATTICE * np.linalg.norm(g, axis=2).min(axis=1))[of]
    return np.asarray(known[of] & near)


def _same(a: Floats, b: Floats) -> bool:
    """Whether two bases give the same lattice: the points of each near the origin lie on the other."""
    short = min(float(np.linalg.norm(x, axis=1).min()) for x in (a, b))
    grid = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)

    def apart(one: Floats, other: Floats) -> float:
        hk = grid @ one @ np.linalg.inv(other)
        return float(np.linalg.norm((hk - np.rint(hk)) @ other, axis=1).max())

    return max(apart(a, b), apart(b, a)) < _SAME * short


def _smoothed(share: Floats, shape: tuple[int, ...]) -> Floats:
    """Shares (k, n) of the lattices with those of the neighbours: a region stays whole where two lie above each other."""
    maps = share.reshape(len(share), *shape)
    return np.stack([ndimage.uniform_filter(one, 3, mode="nearest") for one in maps]).reshape(len(share), -1)


def own_disks(disks: PeakTable, labels: Labels, bases: dict[int, Floats], origin_px: Floats) -> Bools:
    """(N,) False for disks that lie on the lattice of another region and not on that of their position's own.

    Where crystals lie above each other their patterns add up; the disks of one are none of the other's.

    Parameters
    ----------
    labels
        (R, C) numbers of the regions.
    bases
        (2, 2) basis in px of each number.
    origin_px
        (positions, 2).
    """
    of = disks.flat_index()
    own = labels.ravel()[of]
    mine, others = np.zeros(len(of), bool), np.zeros(len(of), bool)
    for number, g in bases.items():
        fit = weighted_lattices(disks, origin_px, g, _ON_LATTICE)
        lies = _on(disks, fit) & _credible(fit, g)[of]
        mine |= lies & (own == number)
        others |= lies & (own != number)
    return np.asarray(mine | ~others)


def _ordered(labels: NDArray[np.int64], bases: list[Floats], least: float) -> Lattices:
    """Numbers by how many positions a lattice has; those of too few, and specks, go to 0."""
    kept = np.zeros(labels.shape, np.uint8)
    sizes = [(int((labels == k + 1).sum()), k) for k in range(len(bases))]
    chosen = [k for size, k in sorted(sizes, key=lambda pair: (-pair[0], pair[1])) if size >= least]
    for number, k in enumerate(chosen, start=1):
        kept[labels == k + 1] = number
    if min(labels.shape) > 2:
        kept = _without_specks(kept, len(chosen))
    return Lattices(kept, tuple(bases[k] for k in chosen), tuple(g for k, g in enumerate(bases) if k not in chosen))


def _without_specks(labels: Labels, count: int) -> Labels:
    """Single positions of a lattice with none of it beside them are no region."""
    out = labels.copy()
    for number in range(1, count + 1):
        inside = labels == number
        beside = ndimage.convolve(inside.astype(np.int16), np.ones((3, 3), np.int16), mode="constant") - inside
        out[inside & (beside == 0)] = 0
    return out
