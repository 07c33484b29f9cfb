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

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import DiskParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.candidates import FIELDS, Found
from napari_emdl.diffraction.find.complete import lattices_of
from napari_emdl.diffraction.find.directbeam import with_direct_beam
from napari_emdl.diffraction.find.doubt import doubt
from napari_emdl.diffraction.find.gaps import fill_gaps, overlap
from napari_emdl.diffraction.find.kernels import (
    Bank,
    Crop,
    bin_factor,
    binned_at_origin,
    correlation_bank,
    detection_kernel,
    fit_bank,
    kernel_parts,
)
from napari_emdl.diffraction.find.masked import MaskedCorrelation, known_bins
from napari_emdl.diffraction.find.maxima import local_maxima, local_spread, parabola, strongest, thin
from napari_emdl.diffraction.find.measure import (
    best_point,
    gather,
    locate_both,
    photometry,
    photometry_matrix,
    without_outliers,
)
from napari_emdl.diffraction.find.ownprobe import MEASURED
from napari_emdl.diffraction.find.patterns import anscombe, bin_patterns, count_defects, estimate_gain, even_noise, fill_missing
from napari_emdl.diffraction.find.plausible import keep_plausible
from napari_emdl.diffraction.find.poisson import PoissonFilter, is_sparse
from napari_emdl.diffraction.find.probe import Probe
from napari_emdl.diffraction.find.rings import ON_RING, Rings
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.finder import FinderInfo

#: Disks at 5 sigma above the local background are taken as seen.
DEFAULT_MIN_SCORE = 5.0
#: Candidates below are not kept at all.
SCORE_FLOOR = 3.0
#: Correlation proposals for the refiner, in sigma of noise: at the limit of what can be seen. Lower ones are mostly maxima of
#: the noise, which look like disks to the refiner; faint disks of a crystal come in by its lattice.
LIGHT_FLOOR = 4.5
#: What varies about a place is in part the disks themselves, so its spread counts for less than noise, by this factor.
_STRUCTURE = 1.6
#: Least part of a disk that a beam stop or a gap of the detector leaves.
_LEAST_SEEN = 0.5
_CHUNK_BYTES = 8 << 20


class TemplateFinder:
    """Finds Bragg disks by template matching; a :class:`napari_emdl.workflow.finder.Finder`.

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
    parallel = True

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
        self._parts = kernel_parts(probe, params.template.kernel, self.binning, self._fft_shape)
        disk = binned_at_origin(probe, self.binning, self._fft_shape)
        self._poisson = PoissonFilter(disk / disk.max(), radius / self.binning, self._binned_shape)
        self._kernel_ft = np.conj(fft.rfft2(kernel)).astype(np.complex64)
        self._make_banks(radius)
        self.info = FinderInfo("template", provider="CPU (numpy)")

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
        self._photometry = photometry_matrix(self._crop, radius, self.probe.edge_width_px)

    def find(self, patterns: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Disks of (n, rows, cols) patterns: PeakTable over (n,) with row, col, intensity, score, sigma_px (float32).

        The table's attributes are what :func:`napari_emdl.diffraction.find.patterns.count_defects` found, without the zeros.
        """
        table, ringed = self._off_rings(self._run(patterns, control, measure=True), patterns)
        if self.probe.source == MEASURED and self.probe.trust < 1:
            table = self._doubted(table, patterns)
        seen = {**count_defects(patterns), "n_ringed": ringed}
        table.attrs = {name: count for name, count in seen.items() if count}
        table = keep_plausible(table, self.probe, self.default_min_score, self.detector_shape, self.params.max_disks)
        return with_direct_beam(table, patterns, self.probe.radius_px, self.default_min_score)

    def _doubted(self, table: PeakTable, patterns: NDArray[Any]) -> PeakTable:
        """Scores where the data were not sure of the probe: what is not round, or of a radius that one place tells, falls."""
        found = Found.of(table)
        nothing = np.zeros(len(found.which), bool)
        if self.probe.trust < 0.5:
            strong = table.filter(min_score=2 * self.default_min_score).compact()
            known = lattices_of(strong, self.probe.radius_px, np.array(self.detector_shape) / 2).witnessed(strong)
            nothing = ~known[found.which]
        middle, sure = (np.array(self.detector_shape) - 1) / 2, 2 * self.default_min_score
        factor = doubt(fill_missing(patterns).astype(np.float32), found, nothing, self.probe, middle, sure)
        return self._limited(table, np.where(factor < 1, factor, np.inf))

    def _off_rings(self, table: PeakTable, patterns: NDArray[Any]) -> tuple[PeakTable, int]:
        """Scores of what a ring about the direct beam makes look like a disk fall; and how many patterns have one."""
        if not table.n_peaks:
            return table, 0

        def electrons(i: int) -> NDArray[np.float32]:
            filled = fill_missing(patterns[i : i + 1])
            return np.asarray(filled[0] / estimate_gain(filled)[0], np.float32)

        middle = (np.array(self.detector_shape) - 1) / 2
        rings = Rings(electrons, middle, self.probe.radius_px, self.default_min_score, quick=True)
        ring = rings.hold(Found.of(table))
        ringed = np.unique(table.flat_index()[ring & (table.column("score") >= self.default_min_score)])
        return (self._limited(table, np.where(ring, ON_RING, np.inf)) if ring.any() else table), len(ringed)

    def _limited(self, table: PeakTable, factor: NDArray[np.float64]) -> PeakTable:
        """Scores no higher than a factor times the default threshold."""
        limit = self.default_min_score * factor
        changed = {name: table.column(name) for name in table.fields}
        changed["score"] = np.minimum(changed["score"], limit).astype(np.float32)
        return PeakTable(table.shape, table.offset, changed)

    def propose(
        self, patterns: NDArray[Any], control: Control | None = None, gap: NDArray[np.bool_] | None = None
    ) -> PeakTable:
        """Fast candidates from the detection step alone, positions by parabola.

        The score is the correlation in sigma of the noise, or of what else varies about the place where that is more: on
        diffuse structure, and where a camera spreads or scales its counts, shot noise alone says too little.

        Parameters
        ----------
        gap
            (rows, cols) True for pixels of which nothing is known and that were filled in; found here without.
        """
        return self._run(patterns, control, measure=False, gap=gap)

    def _run(
        self, patterns: NDArray[Any], control: Control | None, measure: bool, gap: NDArray[np.bool_] | None = None
    ) -> PeakTable:
        if patterns.ndim != 3 or patterns.shape[1:] != self.detector_shape:
            raise EmdlError(
                f"patterns have shape {patterns.shape}, expected (n, {self.detector_shape[0]}, {self.detector_shape[1]})"
            )
        step = max(1, _CHUNK_BYTES // (4 * self.detector_shape[0] * self.detector_shape[1]))
        tables = []
        for start in range(0, len(patterns), step):
            if control is not None:
                control.check()
            tables.append(self._chunk(patterns[start : start + step], measure, gap))
        return PeakTable.concatenate(tables) if tables else PeakTable.empty((0,), FIELDS)

    def _chunk(self, patterns: NDArray[Any], measure: bool, gap: NDArray[np.bool_] | None) -> PeakTable:
        patterns = fill_missing(patterns)
        if gap is None:
            patterns, gap = fill_gaps(patterns, self.probe.covered)
        gain = estimate_gain(patterns)
        which, row, col, score = self._detect(patterns, gain, gap, proposing=not measure)
        if measure:
            columns = self._measure(patterns, gain, which, row, col, score)
            which = columns.pop("which").astype(np.intp)
        else:
            sigma = np.hypot(0.25 * self.binning, self.probe.radius_px / np.maximum(score, 1))
            columns = {"row": row, "col": col, "intensity": np.square(score), "score": score, "sigma_px": sigma}
        keep = (columns["score"] >= self.score_floor) & self._inside(columns["row"], columns["col"])
        position = np.stack([columns["row"], columns["col"]], axis=1).astype(float)
        keep &= overlap(gap, position, self.probe.radius_px) >= _LEAST_SEEN
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
        return self._correlate(patterns, estimate_gain(patterns), np.zeros(self.detector_shape, bool), False)

    def _correlate(
        self, patterns: NDArray[Any], gain: NDArray[np.float32], gap: NDArray[np.bool_], proposing: bool
    ) -> NDArray[np.float32]:
        """Correlation of patterns; for proposals, in patterns of few electrons, what counting them says where that is more.

        Where counts are few next to bright disks the root sees faint disks that their bright neighbours hide from a sum of
        counts; in the dark the sum sees more. Which of both is a disk, the refiner tells; template matching by itself has no
        such judge.
        """
        template = self.params.template
        binned = bin_patterns(patterns, self.binning) / gain[:, None, None]
        masked = None
        if gap.any() and template.correlation == "cross":
            masked = MaskedCorrelation(self._parts, known_bins(gap, self.binning))
        out = self._correlate_stabilised(binned, masked)
        sparse = is_sparse(binned) if proposing and template.correlation == "cross" else np.zeros(len(binned), bool)
        if sparse.any():
            counted = self._poisson.significance(binned[sparse], None if masked is None else masked.known)
            out[sparse] = np.maximum(out[sparse], counted)
        return out

    def _correlate_stabilised(self, binned: NDArray[np.float32], masked: MaskedCorrelation | None) -> NDArray[np.float32]:
        template = self.params.template
        stabilised = anscombe(binned)
        stabilised -= stabilised.mean(axis=(1, 2), keepdims=True)
        spectrum = fft.rfft2(stabilised, s=self._fft_shape, axes=(1, 2), overwrite_x=masked is None)
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
        out = out.astype(np.float32, copy=False)
        return out if masked is None else masked.replaced(out, stabilised)

    def _detect(
        self, patterns: NDArray[Any], gain: NDArray[np.float32], gap: NDArray[np.bool_], proposing: bool = False
    ) -> tuple[NDArray[Any], ...]:
        """Candidates: flat pattern index, row, col (px, by parabola) and score (sigma), one per spacing.

        With `proposing` the correlation is divided by its own spread about the place where that is more than one.
        """
        corr = self._correlate(patterns, gain, gap, proposing)
        if proposing:
            corr /= np.maximum(local_spread(corr, 6 * self.probe.radius_px / self.binning, crowded=True) / _STRUCTURE, 1)
        # low background counts have less than unit variance after stabilisation, hence a floor below the score floor
        which, i, j, score = local_maxima(corr, 0.7 * self.score_floor)
        di, dj = parabola(corr, which, i, j)
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
        if self.probe.radius_px >= 2:
            patterns = without_outliers(patterns, gain)
        counts = gather(patterns, gain, which, centre_row, centre_col, self._crop)
        if self._coarse is not None and self._fine is not None and len(which):
            self._recentre(patterns, gain, which, centre_row, centre_col, counts)
        if self._fine is not None and len(which):
            shift, sigma = locate_both(counts, self._fine)
            row, col = centre_row + shift[:, 0], centre_col + shift[:, 1]
        intensity, score = photometry(counts, self._photometry)
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
        counts: NDArray[np.float32],
    ) -> None:
        """Move centres and their crops in place to the best whole pixel; again where one went to the end of its reach."""
        bank = self._coarse
        assert bank is not None
        rows, cols = self.detector_shape
        shifts = np.rint(bank.shifts()).astype(np.intp)
        moving = np.arange(len(which))
        for _ in range(2):
            shift = shifts[best_point(even_noise(counts[moving]), bank)]
            moved = shift.any(axis=1)
            moving, shift = moving[moved], shift[moved]
            centre_row[moving] = np.clip(centre_row[moving] + shift[:, 0], 0, rows - 1)
            centre_col[moving] = np.clip(centre_col[moving] + shift[:, 1], 0, cols - 1)
            counts[moving] = gather(patterns, gain, which[moving], centre_row[moving], centre_col[moving], self._crop)
            if not np.any(np.abs(shift) == bank.reach):
                break


def _max_degree(radius_px: float) -> int:
    """Degree of the inner intensity that the pixels of a disk can bear."""
    return int(np.clip(np.floor(radius_px) - 1, 0, 4))


def light_proposer(probe: Probe, params: DiskParams, detector_shape: tuple[int, int]) -> TemplateFinder:
    """Finder of what correlation sees, for a network to decide about."""
    loose = params.model_copy(update={"max_disks": min(2 * params.max_disks, 1000), "min_score": None})
    return TemplateFinder(probe, loose, detector_shape, score_floor=LIGHT_FLOOR)


def beam_finder(probe: Probe, params: DiskParams, detector_shape: tuple[int, int]) -> TemplateFinder:
    """Finder of the direct beam by plain correlation."""
    plain = params.template.model_copy(update={"correlation": "cross", "subpixel": "none"})
    return TemplateFinder(probe, params.model_copy(update={"template": plain}), detector_shape)
