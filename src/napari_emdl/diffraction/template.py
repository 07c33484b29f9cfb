"""Template matching: Bragg disks by correlation with the probe, then a local fit of every disk.

1. *Detection* on patterns binned so that the disk is about two bins wide in radius: counts are variance-stabilised (Anscombe
   1948), correlated with a zero-mean kernel of unit norm (so a correlation of 5 is 5 sigma of noise), local maxima taken and
   thinned to one per `min_spacing_px`.
2. *Measurement* of every candidate on a crop at full resolution by one matrix product with a bank of shifted disks: the
   likelihood of a disk at each shift, maximised over an unknown smooth inner intensity (dynamical disks are not uniform) and
   a background plane. Its maximum is the position, its curvature the error.

The score is the significance of the disk: its counts above the local background over the standard deviation of that
background, in electrons. It means the same for every correlation, probe size and dose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree

from napari_emdl.diffraction.kernels import Bank, Crop, bin_factor, correlation_bank, detection_kernel, fit_bank
from napari_emdl.diffraction.probe import Probe
from napari_emdl.errors import EmdlError
from napari_emdl.jobs.control import Control
from napari_emdl.params import DiskParams
from napari_emdl.peaks import PeakTable

FIELDS = ("row", "col", "intensity", "score", "sigma_px")
#: Disks at 5 sigma above the local background are taken as seen.
DEFAULT_MIN_SCORE = 5.0
#: Candidates below are not kept at all.
SCORE_FLOOR = 3.0
#: Background counts per pixel assumed at least, so that an empty surround does not make one electron a disk.
MIN_BACKGROUND = 0.05
_CHUNK_BYTES = 8 << 20
_ANNULUS_SECTORS = 8


class TemplateFinder:
    """Finds Bragg disks by template matching; implements :class:`napari_emdl.diffraction.disks.DiskFinder`.

    Parameters
    ----------
    probe
        Vacuum probe on the detector's grid.
    params
        Correlation, sub-pixel method and limits.
    detector_shape
        (rows, cols) of the patterns.
    score_floor
        Candidates of a lower score are dropped.
    """

    default_min_score = DEFAULT_MIN_SCORE

    def __init__(
        self, probe: Probe, params: DiskParams, detector_shape: tuple[int, int], score_floor: float = SCORE_FLOOR
    ) -> None:
        if probe.shape != tuple(detector_shape):
            raise EmdlError(f"the probe is {probe.shape} but the detector is {tuple(detector_shape)}; measure the probe again")
        self.probe, self.params, self.detector_shape = probe, params, (int(detector_shape[0]), int(detector_shape[1]))
        self.score_floor = score_floor
        radius = probe.radius_px
        self.spacing_px = radius if params.min_spacing_px is None else params.min_spacing_px
        self.edge_px = radius if params.edge_px is None else params.edge_px
        self.binning = bin_factor(radius)
        self._binned_shape = (self.detector_shape[0] // self.binning, self.detector_shape[1] // self.binning)
        if min(self._binned_shape) < 8:
            raise EmdlError(f"disks of radius {radius:.1f} px are too large for a detector of {self.detector_shape}")
        # without a margin a disk cut by the edge would answer at the opposite edge
        margin = 0 if self.edge_px >= radius else int(np.ceil(2 * radius / self.binning))
        self._fft_shape = tuple(fft.next_fast_len(n + margin, real=True) for n in self._binned_shape)
        kernel = detection_kernel(probe, params.template.kernel, self.binning, self._fft_shape)
        self._kernel_ft = np.conj(fft.rfft2(kernel)).astype(np.complex64)
        self._make_banks(radius)
        self.info: dict[str, Any] = {
            "method": "template",
            "model": None,
            "model_sha256": None,
            "provider": "CPU (numpy)",
            "note": "",
        }

    def _make_banks(self, radius: float) -> None:
        subpixel = self.params.template.subpixel
        self._crop = Crop.within(max(1.6 * radius, radius + 2.5))
        reach = int(np.clip(np.ceil(self.binning), 2, 4))
        self._coarse: Bank | None = None
        self._fine: Bank | None = None
        if subpixel == "fit":
            degree = _max_degree(radius)
            if self.probe.source == "synthetic":
                # a guessed radius or edge that is a little off lets higher degrees trade a shift for an inner slope
                degree = min(degree, 2)
            self._coarse = fit_bank(self.probe, self._crop, 1.0, reach, degree=min(3, degree))
            self._fine = fit_bank(self.probe, self._crop, 0.3, 2, degree=degree)
        elif subpixel == "dft":
            self._coarse = correlation_bank(self.probe, self._crop, 1.0, reach)
            self._fine = correlation_bank(self.probe, self._crop, 0.25, 3)
        self._photometry = _photometry_matrix(self._crop, radius, self.probe.edge_width_px)

    def find(self, patterns: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Disks of (n, rows, cols) patterns: PeakTable over (n,) with row, col, intensity, score, sigma_px (float32)."""
        return self._run(patterns, control, measure=True)

    def propose(self, patterns: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Fast candidates from the detection step alone, positions by parabola; score is the correlation in sigma of noise."""
        return self._run(patterns, control, measure=False)

    def _run(self, patterns: NDArray[Any], control: Control | None, measure: bool) -> PeakTable:
        if patterns.ndim != 3 or patterns.shape[1:] != self.detector_shape:
            raise EmdlError(
                f"patterns have shape {patterns.shape}, expected (n, {self.detector_shape[0]}, {self.detector_shape[1]})"
            )
        step = max(1, _CHUNK_BYTES // (4 * self.detector_shape[0] * self.detector_shape[1]))
        tables = []
        for start in range(0, len(patterns), step):
            if control is not None:
                control.check()
            tables.append(self._chunk(patterns[start : start + step], measure))
        return PeakTable.concatenate(tables) if tables else PeakTable.empty((0,), FIELDS)

    def _chunk(self, patterns: NDArray[Any], measure: bool) -> PeakTable:
        patterns = fill_missing(patterns)
        gain = estimate_gain(patterns)
        which, row, col, score = self._detect(patterns, gain)
        if measure:
            columns = self._measure(patterns, gain, which, row, col, score)
            which = columns.pop("which").astype(np.intp)
        else:
            sigma = np.hypot(0.25 * self.binning, self.probe.radius_px / np.maximum(score, 1))
            columns = {"row": row, "col": col, "intensity": np.square(score), "score": score, "sigma_px": sigma}
        keep = (columns["score"] >= self.score_floor) & self._inside(columns["row"], columns["col"])
        keep[keep] = thin(which[keep], columns["row"][keep], columns["col"][keep], columns["score"][keep], self.spacing_px)
        keep[keep] = strongest(which[keep], columns["score"][keep], self.params.max_disks)
        order = np.lexsort((-columns["score"][keep], which[keep]))
        counts = np.bincount(which[keep], minlength=len(patterns))
        return PeakTable(
            (len(patterns),),
            np.r_[0, np.cumsum(counts)],
            {name: columns[name][keep][order].astype(np.float32) for name in FIELDS},
        )

    def _inside(self, row: NDArray[Any], col: NDArray[Any]) -> NDArray[np.bool_]:
        rows, cols, edge = *self.detector_shape, self.edge_px
        return (row >= edge) & (row <= rows - 1 - edge) & (col >= edge) & (col <= cols - 1 - edge)

    def correlation(self, patterns: NDArray[Any]) -> NDArray[np.float32]:
        """(n, binned rows, binned cols) correlation of the patterns in sigma of noise, as the detection sees it."""
        patterns = fill_missing(patterns)
        return self._correlate(patterns, estimate_gain(patterns))

    def _correlate(self, patterns: NDArray[Any], gain: NDArray[np.float32]) -> NDArray[np.float32]:
        template = self.params.template
        stabilised = anscombe(bin_patterns(patterns, self.binning) / gain[:, None, None])
        stabilised -= stabilised.mean(axis=(1, 2), keepdims=True)
        spectrum = fft.rfft2(stabilised, s=self._fft_shape, axes=(1, 2), overwrite_x=True)
        spectrum *= self._kernel_ft
        power = {"cross": 1.0, "phase": 0.0, "hybrid": template.corr_power}[template.correlation]
        if power < 1:
            magnitude = np.abs(spectrum)
            floor = 1e-6 * magnitude.max(axis=(1, 2), keepdims=True) + 1e-12
            spectrum *= np.maximum(magnitude, floor) ** (power - 1)
        out = fft.irfft2(spectrum, s=self._fft_shape, axes=(1, 2), overwrite_x=True)
        out = out[:, : self._binned_shape[0], : self._binned_shape[1]]
        if power < 1:  # the exponent changes the scale of the noise: measure it
            sample = np.abs(out[:, ::2, ::2]).reshape(len(out), -1)
            out = out / (np.median(sample, axis=1) / 0.6745 + 1e-12)[:, None, None]
        return out.astype(np.float32, copy=False)

    def _detect(self, patterns: NDArray[Any], gain: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """Candidates: flat pattern index, row, col (px, by parabola) and score (sigma), one per spacing."""
        corr = self._correlate(patterns, gain)
        # low background counts have less than unit variance after stabilisation, hence a floor below the score floor
        which, i, j, score = local_maxima(corr, 0.7 * self.score_floor)
        di, dj = _parabola(corr, which, i, j)
        middle = (self.binning - 1) / 2
        row = (i + di) * self.binning + middle
        col = (j + dj) * self.binning + middle
        # measuring may move a candidate; those well outside the allowed area cannot come back
        slack = 2.0 * self.binning
        rows, cols = self.detector_shape
        lo = self.edge_px - slack
        ok = (row >= lo) & (row <= rows - 1 - lo) & (col >= lo) & (col <= cols - 1 - lo)
        ok[ok] = thin(which[ok], row[ok], col[ok], score[ok], self.spacing_px)
        ok[ok] = strongest(which[ok], score[ok], 2 * self.params.max_disks + 100)
        return which[ok], row[ok], col[ok], score[ok]

    def _measure(
        self,
        patterns: NDArray[Any],
        gain: NDArray[np.float32],
        which: NDArray[Any],
        row: NDArray[Any],
        col: NDArray[Any],
        score: NDArray[Any],
    ) -> dict[str, NDArray[Any]]:
        centre_row, centre_col = np.rint(row).astype(np.intp), np.rint(col).astype(np.intp)
        sigma = np.hypot(0.25 * self.binning, self.probe.radius_px / np.maximum(score, 1))
        clean = self.probe.radius_px >= 2
        if self._coarse is not None and self._fine is not None and len(which):
            for _ in range(2):
                moved = self._recentre(patterns, gain, which, centre_row, centre_col, clean)
                if not moved:
                    break
        counts = gather(patterns, gain, which, centre_row, centre_col, self._crop, clean)
        if self._fine is not None and len(which):
            shift, sigma = locate_both(counts, self._fine)
            row, col = centre_row + shift[:, 0], centre_col + shift[:, 1]
        intensity, score = _photometry(counts, self._photometry)
        if self.params.template.subpixel == "none":
            row, col = centre_row.astype(float), centre_col.astype(float)
        return {
            "which": which,
            "row": row,
            "col": col,
            "intensity": intensity * gain[which],
            "score": score,
            "sigma_px": sigma,
        }

    def _recentre(
        self,
        patterns: NDArray[Any],
        gain: NDArray[np.float32],
        which: NDArray[Any],
        centre_row: NDArray[np.intp],
        centre_col: NDArray[np.intp],
        clean: bool,
    ) -> bool:
        """Move centres in place to the best whole pixel; True when one went to the end of its reach and may go on."""
        bank = self._coarse
        assert bank is not None
        counts = gather(patterns, gain, which, centre_row, centre_col, self._crop, clean)
        best = likelihood(even_noise(counts), bank)[-1].argmax(axis=1)
        shift = np.rint(bank.shifts()).astype(np.intp)[best]
        rows, cols = self.detector_shape
        centre_row[:] = np.clip(centre_row + shift[:, 0], 0, rows - 1)
        centre_col[:] = np.clip(centre_col + shift[:, 1], 0, cols - 1)
        return bool(np.any(np.abs(shift) == bank.reach))


def _max_degree(radius_px: float) -> int:
    """Degree of the inner intensity that the pixels of a disk can bear."""
    return int(np.clip(np.floor(radius_px) - 1, 0, 4))


def fill_missing(patterns: NDArray[Any]) -> NDArray[Any]:
    """NaN, inf and negative values count as missing: replaced by the pattern's median, so that they make no disk."""
    if patterns.dtype.kind in "ub":
        return patterns
    bad = ~np.isfinite(patterns) | (patterns < 0) if patterns.dtype.kind == "f" else patterns < 0
    if not bad.any():
        return patterns
    out = patterns.astype(np.float32)
    for i in np.flatnonzero(bad.any(axis=(1, 2))):
        good = out[i][~bad[i]]
        out[i][bad[i]] = np.median(good) if good.size else 0.0
    return out


def estimate_gain(patterns: NDArray[Any]) -> NDArray[np.float32]:
    """(n,) detector units per electron, from the noise between neighbouring pixels; 1 where the data are counts.

    For Poisson noise the squared difference of neighbours is on average gain times their sum; blocks of pixels are
    compared and the median taken, so that the edges of disks do not matter.
    """
    sample = patterns[:, ::4, :].astype(np.float32)
    width = sample.shape[2] // 16 * 16
    if width < 16:
        return np.ones(len(patterns), np.float32)
    left, right = sample[:, :, 0:width:2], sample[:, :, 1:width:2]
    square = np.square(left - right).reshape(len(sample), -1, 8).sum(axis=2)
    total = (left + right).reshape(len(sample), -1, 8).sum(axis=2)
    ratio = np.where(total > 0, square / np.where(total > 0, total, 1), np.nan)
    gain = np.ones(len(patterns), np.float32)
    for i, values in enumerate(ratio):
        known = values[np.isfinite(values)]
        if known.size >= 16:
            gain[i] = np.median(known) / 0.92  # median of chi squared with 8 degrees of freedom over its mean
    if patterns.dtype.kind in "ui":
        gain[(gain < 3) & (gain > 0.2)] = 1.0
    return np.where(gain > 0, gain, 1.0).astype(np.float32)


def anscombe(counts: NDArray[Any]) -> NDArray[np.float32]:
    """2 sqrt(counts + 3/8): Poisson counts with a standard deviation of about one."""
    out = np.asarray(counts, dtype=np.float32) + np.float32(0.375)
    np.sqrt(out, out=out)
    out *= 2
    return out


def even_noise(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, P) crops scaled so that their mean noise is one.

    The inner intensity of a dynamical disk is smooth in counts, where a fringe that goes to zero makes no cusp as it does in
    the square root; but the noise is uneven.
    """
    return counts / np.sqrt(counts.mean(axis=1, keepdims=True) + np.float32(0.375))


def bin_patterns(patterns: NDArray[Any], binning: int) -> NDArray[np.float32]:
    """Sum over binning x binning pixels; rows and columns left over at the end are dropped."""
    rows, cols = patterns.shape[1] // binning, patterns.shape[2] // binning
    if binning == 1:
        return patterns.astype(np.float32)
    cut = patterns[:, : rows * binning, : cols * binning]
    tall = cut[:, 0::binning].astype(np.float32)
    for k in range(1, binning):
        tall += cut[:, k::binning]
    out = tall[:, :, 0::binning].copy()
    for k in range(1, binning):
        out += tall[:, :, k::binning]
    return out


def local_maxima(maps: NDArray[np.float32], floor: float) -> tuple[NDArray[Any], ...]:
    """Places above `floor` and above all eight neighbours (ties: the first wins), not on the border.

    Returns
    -------
    which, row, col, value
        Flat arrays.
    """
    rows, cols = maps.shape[1:]
    flat = maps.ravel()
    place = np.flatnonzero(flat > floor)
    within = place % (rows * cols)
    row, col = within // cols, within % cols
    place = place[(row > 0) & (row < rows - 1) & (col > 0) & (col < cols - 1)]
    for step in (1, cols, cols + 1, cols - 1):
        value = flat[place]
        place = place[(value > flat[place - step]) & (value >= flat[place + step])]
    which, within = np.divmod(place, rows * cols)
    return which, within // cols, within % cols, flat[place]


def _parabola(maps: NDArray[np.float32], which: NDArray[Any], i: NDArray[Any], j: NDArray[Any]) -> tuple[Any, Any]:
    """Vertex of a parabola through each maximum and its neighbours, within half a step."""
    here = maps[which, i, j]

    def vertex(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
        curvature = before + after - 2 * here
        return np.clip(np.where(curvature < 0, 0.5 * (before - after) / np.where(curvature < 0, curvature, -1), 0), -0.5, 0.5)

    return vertex(maps[which, i - 1, j], maps[which, i + 1, j]), vertex(maps[which, i, j - 1], maps[which, i, j + 1])


def thin(
    which: NDArray[Any], row: NDArray[Any], col: NDArray[Any], score: NDArray[Any], spacing_px: float
) -> NDArray[np.bool_]:
    """Mask of the peaks that stay when, strongest first, each takes out the weaker ones within `spacing_px`."""
    keep = np.ones(len(which), bool)
    if spacing_px <= 0 or len(which) < 2:
        return keep
    apart = 10 * spacing_px + float(max(np.ptp(row), np.ptp(col)))
    pairs = cKDTree(np.stack([row + which * apart, col], axis=1)).query_pairs(spacing_px, output_type="ndarray")
    if not len(pairs):
        return keep
    rank = np.empty(len(which), np.intp)
    rank[np.lexsort((np.arange(len(which)), -score))] = np.arange(len(which))
    swap = rank[pairs[:, 0]] > rank[pairs[:, 1]]
    strong, weak = np.where(swap, pairs[:, 1], pairs[:, 0]), np.where(swap, pairs[:, 0], pairs[:, 1])
    undecided = np.zeros(len(which), bool)
    undecided[pairs] = True
    while undecided.any():
        blocked = np.zeros(len(which), bool)
        blocked[weak[undecided[strong]]] = True
        settled = undecided & ~blocked  # nothing stronger and undecided is near: these stay
        undecided &= ~settled
        gone = weak[settled[strong]]
        keep[gone] = False
        undecided[gone] = False
    return keep


def strongest(which: NDArray[Any], score: NDArray[Any], most: int) -> NDArray[np.bool_]:
    """Mask of the `most` highest scores of each pattern."""
    order = np.lexsort((-score, which))
    ordered = which[order]
    first = np.searchsorted(ordered, ordered)
    keep = np.empty(len(which), bool)
    keep[order] = np.arange(len(which)) - first < most
    return keep


def gather(
    patterns: NDArray[Any],
    gain: NDArray[np.float32],
    which: NDArray[Any],
    centre_row: NDArray[np.intp],
    centre_col: NDArray[np.intp],
    crop: Crop,
    clean: bool,
) -> NDArray[np.float32]:
    """(N, P) electrons of the crop's pixels around whole-pixel centres; beyond the detector its border is repeated.

    With `clean`, a pixel far above or below all its eight neighbours (hot, dead, cosmic ray) takes their extreme.
    """
    rows, cols = patterns.shape[1:]
    n = int(max(np.abs(crop.rows).max(), np.abs(crop.cols).max())) + 1
    span = np.arange(-n, n + 1)
    r = np.clip(centre_row[:, None] + span, 0, rows - 1)
    c = np.clip(centre_col[:, None] + span, 0, cols - 1)
    start = (which * (rows * cols))[:, None] + r * cols
    square = np.take(patterns.reshape(-1), start[:, :, None] + c[:, None, :]).astype(np.float32)
    square /= gain[which][:, None, None]
    if clean:
        _clean_in_place(square)
    return square[:, crop.rows + n, crop.cols + n]


def _clean_in_place(square: NDArray[np.float32]) -> None:
    """Replace single outlying pixels of (N, s, s) crops by the extreme of their neighbours, six sigma beyond it."""
    middle = square[:, 1:-1, 1:-1]
    wide = np.maximum(np.maximum(square[:, :, :-2], square[:, :, 1:-1]), square[:, :, 2:])
    high = np.maximum(np.maximum(wide[:, :-2], wide[:, 2:]), np.maximum(square[:, 1:-1, :-2], square[:, 1:-1, 2:]))
    hot = middle > high + 6 * np.sqrt(high) + 12
    wide = np.minimum(np.minimum(square[:, :, :-2], square[:, :, 1:-1]), square[:, :, 2:])
    low = np.minimum(np.minimum(wide[:, :-2], wide[:, 2:]), np.minimum(square[:, 1:-1, :-2], square[:, 1:-1, 2:]))
    dead = middle < low - 6 * np.sqrt(low)
    if hot.any():
        middle[hot] = high[hot]
    if dead.any():
        middle[dead] = low[dead]


def likelihood(crops: NDArray[np.float32], bank: Bank) -> NDArray[np.float32]:
    """(models, N, grid points) drop of chi squared by a disk at each shift, for inner intensities of rising degree."""
    product = (crops - crops.mean(axis=1, keepdims=True)) @ bank.matrix
    product = product.reshape(len(crops), -1, bank.n_filters)
    bright = product[:, :, :1] > 0  # a disk is brighter than its surround
    square = np.square(product)
    ends, degree = [], 0
    while (degree + 1) * (degree + 2) // 2 <= bank.n_filters:
        ends.append(degree * (degree + 1) // 2)
        degree += 1
    by_degree = np.add.reduceat(square, ends, axis=2)
    return np.moveaxis(np.cumsum(np.where(bright, by_degree, 0), axis=2), 2, 0)


def locate_both(counts: NDArray[np.float32], bank: Bank) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position as the weighted mean of two fits: to counts, whose noise is uneven, and to their roots, whose shape is.

    Either is right where its flaw is small (strongly structured disks, weak disks) and its sigma, which counts the misfit,
    says so.

    Returns
    -------
    shift_px, sigma_px
        (N, 2) and (N,).
    """
    linear, sigma_linear = locate(even_noise(counts), bank)
    root, sigma_root = locate(anscombe(counts), bank)
    share = np.square(sigma_root) / (np.square(sigma_root) + np.square(sigma_linear))
    shift = share[:, None] * linear + (1 - share)[:, None] * root
    # the two see the same noise, so averaging does not lessen it
    return shift, np.sqrt(share * np.square(sigma_linear) + (1 - share) * np.square(sigma_root))


def locate(crops: NDArray[np.float32], bank: Bank) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Most likely shift of every crop and its error.

    The degree of the inner intensity is chosen for each disk by the Bayesian information criterion.

    Returns
    -------
    shift_px, sigma_px
        (N, 2) and (N,).
    """
    gains = likelihood(crops, bank)
    n_pixels = crops.shape[1]
    n_filters = np.array([(d + 1) * (d + 2) // 2 for d in range(len(gains))])
    evidence = gains.max(axis=2) - DEGREE_PENALTY * np.log(n_pixels) * n_filters[:, None]
    degree = evidence.argmax(axis=0)
    chosen = gains[degree, np.arange(len(crops))].reshape(-1, bank.width, bank.width)
    total = np.square(crops - crops.mean(axis=1, keepdims=True)).sum(axis=1)
    best = chosen.reshape(len(crops), -1).argmax(axis=1)
    i = np.clip(best // bank.width, 1, bank.width - 2)
    j = np.clip(best % bank.width, 1, bank.width - 2)
    around = np.stack([chosen[np.arange(len(crops)), i + a, j + b] for a in (-1, 0, 1) for b in (-1, 0, 1)], axis=1)
    coef = around.astype(np.float64) @ _QUADRATIC.T
    _, gr, gc, hrr, hcc, hrc = coef.T
    determinant = 4 * hrr * hcc - hrc**2
    peaked = (hrr < 0) & (hcc < 0) & (determinant > 0)
    safe = np.where(peaked, determinant, 1.0)
    dr = np.where(peaked, (-2 * hcc * gr + hrc * gc) / safe, 0.0)
    dc = np.where(peaked, (-2 * hrr * gc + hrc * gr) / safe, 0.0)
    far = np.maximum(np.maximum(np.abs(dr), np.abs(dc)), 1.5) / 1.5
    shift = np.stack([i - bank.reach + dr / far, j - bank.reach + dc / far], axis=1) * bank.step_px
    # the log likelihood is half the drop of chi squared, so the covariance is the inverse of minus half its Hessian
    misfit = np.maximum(1.0, (total - around[:, 4]) / np.maximum(n_pixels - 3 - n_filters[degree], 1))
    variance = np.where(peaked, -(hrr + hcc) / safe, np.inf) * misfit * bank.step_px**2
    return shift, np.clip(SIGMA_SCALE * np.sqrt(variance), 0.005, 5.0)


#: Weight of the information criterion's penalty on parameters, and what the error must be multiplied by for deviations to have
#: unit spread; both from simulated disks (Bloch waves; eight crystals, radii of 3 to 9 px, 2e4 to 6e5 electrons a pattern).
DEGREE_PENALTY = 0.5
SIGMA_SCALE = 1.5


def _quadratic_fit() -> NDArray[np.float64]:
    """(6, 9) least squares of 1, r, c, rr, cc, rc on a 3 x 3 neighbourhood."""
    r, c = (x.ravel().astype(float) for x in np.mgrid[-1:2, -1:2])
    return np.linalg.pinv(np.stack([np.ones(9), r, c, r * r, c * c, r * c], axis=1))


_QUADRATIC = _quadratic_fit()


def _photometry_matrix(crop: Crop, radius_px: float, edge_px: float) -> tuple[NDArray[np.float32], float, float]:
    """(P, 1 + sectors) filters: sum over the disk and means over sectors of the annulus; and the two areas in pixels."""
    distance = crop.distance
    disk = distance <= radius_px
    ring = distance > min(radius_px + 1.5 * edge_px, 1.3 * radius_px + 0.5)
    angle = (np.arctan2(crop.rows, crop.cols) / (2 * np.pi) * _ANNULUS_SECTORS).astype(int) % _ANNULUS_SECTORS
    columns = [disk.astype(float)]
    for sector in range(_ANNULUS_SECTORS):
        chosen = ring & (angle == sector)
        columns.append(chosen / max(1, chosen.sum()))
    return np.stack(columns, axis=1).astype(np.float32), float(disk.sum()), float(ring.sum())


def _photometry(
    counts: NDArray[np.float32], filters: tuple[NDArray[np.float32], float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Electrons of each disk above the local background, and their significance.

    The background is the mean of the annulus' middle sectors: neighbouring disks reach into the highest ones.
    """
    matrix, area, ring = filters
    values = counts @ matrix
    sectors = np.sort(values[:, 1:], axis=1)
    background = sectors[:, 1 : _ANNULUS_SECTORS - 2].mean(axis=1)
    signal = values[:, 0] - area * background
    noise = np.sqrt(area * np.maximum(background, MIN_BACKGROUND) * (1 + area / (0.6 * ring)))
    return signal, signal / noise
