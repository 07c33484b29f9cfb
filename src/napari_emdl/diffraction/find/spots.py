"""Spots: reflections too small to have an inside, as selected-area, precession and parallel nanobeam patterns show them.

A network that measures disks has nothing to see in a spot of a few pixels, and on the grid of FCU-Net a large detector of
small spots does not fit. So spots are found by a matched filter: difference of two Gaussians on variance-stabilised counts,
divided by its own spread about each place, so that a maximum on a halo or a streak must stand out from what lies around it.
Each is then fitted by a Gaussian on a plane; the score follows from how far the fitted height stands above its error. A
lattice that most strong spots share lowers what is asked of a faint spot on it and raises what is asked of one beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.complete import lattices_of
from napari_emdl.diffraction.find.directbeam import with_direct_beam
from napari_emdl.diffraction.find.gaps import fill_gaps
from napari_emdl.diffraction.find.kernels import Crop
from napari_emdl.diffraction.find.maxima import full_patterns, local_maxima, local_spread, parabola, strongest, thin
from napari_emdl.diffraction.find.measure import gather
from napari_emdl.diffraction.find.patterns import anscombe, count_defects, estimate_gain, fill_missing
from napari_emdl.diffraction.find.plausible import keep_plausible
from napari_emdl.diffraction.find.probe import Probe
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.finder import FinderInfo

Floats = NDArray[np.float64]
FIELDS = ("row", "col", "intensity", "score", "sigma_px")

#: Probes below the first radius are spots, and those below the second that have no plateau: their edge is as wide as this part.
SPOT_RADIUS_PX, _PEAK_RADIUS_PX, _PEAK_EDGE = 2.2, 4.0, 0.42
#: Half height of a Gaussian lies at 1.18 of its standard deviation.
_HALF_HEIGHT = 1.177
#: Spots of one pattern differ in width: the filter is never narrower, and a fit may be this many times wider.
_LEAST_WIDTH_PX, _WIDEST = 0.9, 3.3
#: Sigmas at which a spot is as likely as not: alone, on the lattice of the pattern, beside it.
_ALONE, _ON_LATTICE, _BESIDE = 5.5, 4.2, 8.0
#: Candidates, and spots strong enough to make a lattice, in sigmas.
_FLOOR, _STRONG = 4.0, 9.0
SCORE_FLOOR = 0.05
#: Least noise of the filtered image: where there are hardly any counts, one electron makes no spot.
_LEAST_SPREAD = 0.5
#: The part of the counting noise that is taken for certain: units of a file are known to some ten per cent.
_OF_COUNTING = 0.85
#: Where the filtered image shows its noise: so many widths from all that is above so many sigmas; and the least part of a
#: window for that.
_RING, _QUIET, _LEAST_FREE = 1.5, 3.0, 0.03
#: Ratio of the curvatures of a spot along and across; less is a streak or a ring.
_LEAST_ROUND = 0.2
#: Height of a spot over the third brightest of the eight directions about it, in units of its height over the median one. The
#: rim of a beam stop is bright on one side in three of them and more, a ring on both sides.
_LEAST_PROMINENT = 0.4
#: Part of the background about a spot below which a direction is dark, and by how many roots of the counts it must be lower.
_DARK, _DARK_NOISE = 0.4, 2.5
_ROUNDS = 6
_CHUNK = 16


def is_spot(probe: Probe) -> bool:
    """Whether a probe is a spot rather than a disk."""
    radius = probe.radius_px
    return radius < SPOT_RADIUS_PX or (radius < _PEAK_RADIUS_PX and probe.edge_width_px > _PEAK_EDGE * radius)


class SpotFinder:
    """Finds spots; a :class:`napari_emdl.workflow.finder.Finder`.

    Parameters
    ----------
    probe
        Probe of a radius below :data:`SPOT_RADIUS_PX`.
    params
        Limits.
    detector_shape
        (rows, cols) of the patterns.
    """

    default_min_score = 0.5
    parallel = True

    def __init__(self, probe: Probe, params: DiskParams, detector_shape: tuple[int, int]) -> None:
        self.probe, self.params = probe, params
        self.detector_shape = (int(detector_shape[0]), int(detector_shape[1]))
        self.sigma_px = max(probe.radius_px / _HALF_HEIGHT, _LEAST_WIDTH_PX)
        self.edge_px = max(1.5, probe.radius_px) if params.edge_px is None else params.edge_px
        self.spacing_px = max(3.0, 3 * self.sigma_px) if params.min_spacing_px is None else params.min_spacing_px
        self._crop = Crop.within(max(4.0, 3.3 * self.sigma_px))
        impulse = np.zeros((65, 65))
        impulse[32, 32] = 1
        self._norm = float(np.linalg.norm(self._filter(impulse[None])[0]))
        note = f"a probe of radius {probe.radius_px:.1f} px makes spots, not disks: they are fitted as peaks, without a network"
        self.info = FinderInfo(params.method, provider="CPU (numpy)", caveats=Caveats([note]))

    def find(self, patterns: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Spots of (n, rows, cols) patterns: PeakTable over (n,) with row, col, intensity, score, sigma_px (float32)."""
        if patterns.ndim != 3 or patterns.shape[1:] != self.detector_shape:
            rows, cols = self.detector_shape
            raise EmdlError(f"patterns have shape {patterns.shape}, expected (n, {rows}, {cols})")
        tables = []
        for start in range(0, len(patterns), _CHUNK):
            if control is not None:
                control.check()
            tables.append(self._chunk(patterns[start : start + _CHUNK]))
        table = PeakTable.concatenate(tables) if tables else PeakTable.empty((0,), FIELDS)
        table.attrs = {name: count for name, count in count_defects(patterns).items() if count}
        full = sum(part.attrs.get("n_full", 0) for part in tables)
        table.attrs |= {"n_full": full} if full else {}
        table = keep_plausible(table, self.probe, self.default_min_score, self.detector_shape, self.params.max_disks)
        return with_direct_beam(table, patterns, self.probe.radius_px, self.default_min_score)

    def _filter(self, images: NDArray[Any]) -> NDArray[Any]:
        """Difference of a Gaussian of the spot's width and one twice as wide."""
        narrow = ndimage.gaussian_filter(images, (0, self.sigma_px, self.sigma_px))
        return narrow - ndimage.gaussian_filter(images, (0, 2 * self.sigma_px, 2 * self.sigma_px))

    def _noise(self, maps: NDArray[Any]) -> NDArray[Any]:
        """Spread of the filtered image about each place, without strong spots and the dark rings about them."""
        reach = 16 * self.sigma_px
        noise = np.maximum(local_spread(maps, reach, crowded=True), _LEAST_SPREAD)
        size = 2 * int(np.ceil(_RING * self.sigma_px)) + 1
        window = (0, *(min(2 * int(reach) + 1, n) for n in self.detector_shape))
        for _ in range(2):
            free = ndimage.maximum_filter(np.abs(maps) / noise, (0, size, size)) < _QUIET
            share = ndimage.uniform_filter(free.astype(np.float32), window, mode="reflect")
            square = ndimage.uniform_filter(np.where(free, np.square(maps), 0), window, mode="reflect")
            spread = np.sqrt(np.maximum(square, 0) / np.maximum(share, 1e-6))  # running sums end a little below zero
            noise = np.maximum(np.where(share > _LEAST_FREE, np.minimum(spread, noise), noise), _LEAST_SPREAD)
        return noise

    def _counting(self, electrons: NDArray[Any]) -> NDArray[Any]:
        """What counting alone makes the filtered image scatter about each place: 1 where there are counts, else less.

        On the plateau of a large disk the rest of an empty detector says nothing about it.
        """
        reach = 4 * self.sigma_px
        level = ndimage.gaussian_filter(np.asarray(electrons, np.float32), (0, reach, reach))
        return _OF_COUNTING * np.sqrt(np.clip(level, 0, 1))

    def _chunk(self, patterns: NDArray[Any]) -> PeakTable:
        filled, gap = fill_gaps(fill_missing(patterns), self.probe.covered)
        gain = estimate_gain(filled)
        electrons = filled / gain[:, None, None]
        maps = self._filter(anscombe(electrons)) / self._norm
        maps /= np.maximum(self._noise(maps), self._counting(electrons))
        which, i, j, height = local_maxima(maps.astype(np.float32), _FLOOR)
        round_ = _roundness(maps, which, i, j) > _LEAST_ROUND
        top, around = _directions(electrons, which, i, j, self.sigma_px)
        round_ &= (_prominence(top, around) > _LEAST_PROMINENT) & ~_beside_dark(
            around, _background(electrons, which, i, j, self.sigma_px)
        )
        which, i, j, height = which[round_], i[round_], j[round_], height[round_]
        most = strongest(which, height, 2 * self.params.max_disks + 100)
        which, i, j, height = which[most], i[most], j[most], height[most]
        di, dj = parabola(maps, which, i, j)
        counts = gather(filled, gain, which, i, j, self._crop)
        fit = _fit_gaussians(counts.astype(float), self._crop, di, dj, self.sigma_px)
        moved = np.hypot(fit["row"] - di, fit["col"] - dj)
        fits = (
            (moved < max(1.5, 1.5 * self.sigma_px))
            & (fit["width"] > 0.4 * self.sigma_px)
            & (fit["width"] < _WIDEST * self.sigma_px)
        )
        # a spot that is cut off at the top, or on a slope that is not a plane, fits badly though it stands out
        fitted = np.maximum(1.3 * fit["height_sigma"], 0.5 * height)
        sure = np.where(fits, np.minimum(height, fitted), 0.0)
        row, col = i + fit["row"], j + fit["col"]
        keep = (sure > _FLOOR) & self._inside(row, col) & ~gap[i, j] & np.any(filled > 0, axis=(1, 2))[which]
        keep[keep] = thin(which[keep], row[keep], col[keep], sure[keep], self.spacing_px)
        which, row, col, sure = which[keep], row[keep], col[keep], sure[keep]
        sigma = fit["sigma"][keep]
        score = self._scores(len(patterns), which, row, col, sure, sigma)
        intensity = fit["counts"][keep] * gain[which]
        full = full_patterns(which, score >= self.default_min_score, len(patterns), self.params.max_disks)
        last = score >= SCORE_FLOOR
        last[last] = strongest(which[last], score[last], self.params.max_disks)
        columns = {"row": row, "col": col, "intensity": intensity, "score": score, "sigma_px": sigma}
        order = np.lexsort((-score[last], which[last]))
        counted = np.bincount(which[last], minlength=len(patterns))
        flat = {name: columns[name][last][order].astype(np.float32) for name in FIELDS}
        return PeakTable((len(patterns),), np.r_[0, np.cumsum(counted)], flat, full)

    def _inside(self, row: Floats, col: Floats) -> NDArray[np.bool_]:
        rows, cols, edge = *self.detector_shape, self.edge_px
        return (row >= edge) & (row <= rows - 1 - edge) & (col >= edge) & (col <= cols - 1 - edge)

    def _scores(self, n: int, which: NDArray[np.intp], row: Floats, col: Floats, sure: Floats, sigma: Floats) -> Floats:
        """Probability-like score of spots that stand `sure` sigmas out, by what the pattern's lattice says of their place."""
        strong = sure > _STRONG
        order = np.lexsort((-sure[strong], which[strong]))
        columns = {"row": row, "col": col, "score": sure, "sigma_px": sigma}
        table = PeakTable(
            (n,),
            np.r_[0, np.cumsum(np.bincount(which[strong], minlength=n))],
            {name: values[strong][order].astype(np.float32) for name, values in columns.items()},
        )
        lattices = lattices_of(table, max(2 * self.sigma_px, 4.0), np.array(self.detector_shape) / 2)
        away = lattices.distance_px(which, np.stack([row, col], axis=1))
        needed = np.full(len(which), _ALONE)
        near = away < np.maximum(1.0, self.sigma_px)
        needed[near] = _ON_LATTICE
        needed[np.isfinite(away) & ~near] = _BESIDE
        return 1 / (1 + np.exp(-np.clip(1.5 * (sure - needed), -30, 30)))


def _roundness(maps: NDArray[Any], which: NDArray[Any], i: NDArray[Any], j: NDArray[Any]) -> Floats:
    """Smaller over larger curvature at maxima of maps."""
    here = maps[which, i, j]
    rr = maps[which, i - 1, j] + maps[which, i + 1, j] - 2 * here
    cc = maps[which, i, j - 1] + maps[which, i, j + 1] - 2 * here
    rc = 0.25 * (maps[which, i + 1, j + 1] + maps[which, i - 1, j - 1] - maps[which, i + 1, j - 1] - maps[which, i - 1, j + 1])
    half, away = -0.5 * (rr + cc), np.hypot(0.5 * (rr - cc), rc)
    return np.clip((half - away) / np.maximum(half + away, 1e-12), 0, 1)


def _directions(
    electrons: NDArray[Any], which: NDArray[Any], i: NDArray[Any], j: NDArray[Any], sigma_px: float
) -> tuple[Floats, Floats]:
    """Smoothed counts at maxima (n,), and about them (n, distances, 8 directions); off the detector, those opposite."""
    smooth = ndimage.gaussian_filter(np.asarray(electrons, np.float32), (0, 0.7 * sigma_px, 0.7 * sigma_px))
    angle = np.arange(8) * np.pi / 4
    around = []
    for reach in (2.6 * sigma_px + 1, 3.4 * sigma_px + 1):
        row, col = i[:, None] + reach * np.sin(angle), j[:, None] + reach * np.cos(angle)
        off = (row < 0) | (row > smooth.shape[1] - 1) | (col < 0) | (col > smooth.shape[2] - 1)
        row, col = np.where(off, 2 * i[:, None] - row, row), np.where(off, 2 * j[:, None] - col, col)  # the opposite side
        at = [np.clip(np.rint(v).astype(int), 0, n - 1) for v, n in zip((row, col), smooth.shape[1:], strict=True)]
        around.append(smooth[which[:, None], at[0], at[1]])
    return smooth[which, i, j].astype(float), np.stack(around, axis=1).astype(float)


def _prominence(top: Floats, around: Floats) -> Floats:
    """How far maxima rise over the third brightest of eight directions, 1 for a spot on a plane, 0 on an edge or a ring."""
    level = np.sort(around.mean(axis=1), axis=1)
    return (top - level[:, -3]) / np.maximum(top - 0.5 * (level[:, 3] + level[:, 4]), 1e-9)


def _background(electrons: NDArray[Any], which: NDArray[Any], i: NDArray[Any], j: NDArray[Any], sigma_px: float) -> Floats:
    """Median counts in a wide window about maxima (n,), from means of small blocks."""
    block = max(2, round(2 * sigma_px))
    rows, cols = (n // block * block for n in electrons.shape[1:])
    small = electrons[:, :rows, :cols].reshape(len(electrons), rows // block, block, cols // block, block).mean(axis=(2, 4))
    wide = ndimage.median_filter(small, (1, 9, 9), mode="nearest")
    row, col = np.minimum(i // block, wide.shape[1] - 1), np.minimum(j // block, wide.shape[2] - 1)
    return np.asarray(wide[which, row, col], float)


def _beside_dark(around: Floats, background: Floats) -> NDArray[np.bool_]:
    """True where two directions and more run into the dark: a beam stop cuts bands and rings into what looks like spots."""
    level = background[:, None]
    outer = around[:, -1]
    dark = (outer < _DARK * level) & (level - outer > _DARK_NOISE * np.sqrt(np.maximum(level, 0) + 1))
    return dark.sum(axis=1) >= 2


def _fit_gaussians(counts: Floats, crop: Crop, row: Floats, col: Floats, sigma_px: float) -> dict[str, Floats]:
    """Gaussian on a plane fitted to crops (N, P) by weighted Gauss-Newton.

    Returns
    -------
    dict
        row, col (px from the crop's middle), width (standard deviation, px), height_sigma (height over its error),
        sigma (error of the position an axis, px), counts (of the whole spot).
    """
    y, x = crop.rows.astype(float), crop.cols.astype(float)
    n = len(counts)
    names = ("row", "col", "width", "height_sigma", "sigma", "counts")
    if not n:
        return {name: np.zeros(0) for name in names}
    low = np.percentile(counts, 25, axis=1)
    # height, row, col, log width, plane
    p = np.stack([counts.max(axis=1) - low, row, col, np.full(n, np.log(sigma_px)), low, 0 * low, 0 * low], axis=1)
    p[:, 0] = np.maximum(p[:, 0], 1e-3)
    weight = 1 / (np.maximum(counts, low[:, None]) + np.maximum(low, 0)[:, None] + 0.5)
    inverse = np.zeros((n, 7, 7))
    for _ in range(_ROUNDS):
        model, slope = _gaussian(p, y, x)
        left = counts - model
        weighted = slope * weight[:, :, None]
        normal = np.einsum("npi,npj->nij", weighted, slope)
        damp = 1e-3 * np.einsum("nii->ni", normal) + 1e-9
        normal[:, np.arange(7), np.arange(7)] += damp
        inverse = np.linalg.pinv(normal, hermitian=True)
        step = np.einsum("nij,nj->ni", inverse, np.einsum("npi,np->ni", weighted, left))
        step[:, 1:3] = np.clip(step[:, 1:3], -0.7, 0.7)
        step[:, 3] = np.clip(step[:, 3], -0.4, 0.4)
        p += np.nan_to_num(step)
        p[:, 3] = np.clip(p[:, 3], np.log(0.25 * sigma_px), np.log(3.5 * sigma_px))
    model, _ = _gaussian(p, y, x)
    misfit = np.maximum((weight * np.square(counts - model)).sum(axis=1) / max(len(y) - 7, 1), 1e-12)
    # weights of shot noise count twice the background: what the residual says of the noise decides
    error = np.sqrt(np.maximum(np.einsum("nii->ni", inverse), 0) * misfit[:, None])
    width = np.exp(p[:, 3])
    position = np.clip(np.sqrt(0.5 * (error[:, 1] ** 2 + error[:, 2] ** 2)), 0.01, 5.0)
    values = (p[:, 1], p[:, 2], width, p[:, 0] / np.maximum(error[:, 0], 1e-12), position, 2 * np.pi * width**2 * p[:, 0])
    return dict(zip(names, values, strict=True))


def _gaussian(p: Floats, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Gaussians on planes at (y, x): values (N, P) and derivatives by each parameter (N, P, 7)."""
    height, row, col, log_width = (p[:, k, None] for k in range(4))
    dy, dx, variance = y - row, x - col, np.exp(2 * log_width)
    bell = np.exp(-0.5 * (dy**2 + dx**2) / variance)
    one = np.ones_like(bell)
    value = height * bell + p[:, 4, None] + p[:, 5, None] * y + p[:, 6, None] * x
    by_width = height * bell * (dy**2 + dx**2) / variance
    return value, np.stack(
        [bell, height * bell * dy / variance, height * bell * dx / variance, by_width, one, one * y, one * x], axis=2
    )
