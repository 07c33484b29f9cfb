"""Lattice from the power spectrum of a pattern's edges: no disk is measured, and the direct beam need not be known.

The logarithm turns the pattern, a lattice of disks under an envelope, nearly into a sum, so that its Fourier transform has
peaks at the vectors of the real-space lattice (exit-wave power cepstrum; Padgett et al., Ultramicroscopy 214 (2020) 112994).
Their places do not depend on where the pattern lies. The transform of the logarithm itself follows the centroids of the disks,
which lean with what they look like inside: on simulated unstrained wedges it is off by .5 to .8 %. So the steepness of the
logarithm is transformed, in which every disk is a ring at its edge (.2 to .5 %, and twice as many peaks). That is blunter than
a fit to disks, but its errors are others: where both agree, they are right for different reasons.

A lattice g1, g2 in px has its peaks at (m, n) @ inv(G).T in periods a pixel. Each is found on the transform itself, which is
computed where it is wanted (a matrix product along rows and one along columns), and the four numbers of the lattice follow by
least squares of all peaks, each weighted by how far it strays over the scan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal.windows import tukey

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RunParams
from napari_emdl.base.signals import Datacube
from napari_emdl.diffraction.find.patterns import estimate_gain, fill_missing
from napari_emdl.diffraction.lattice import LatticeFit
from napari_emdl.jobs.blockjob import arrays, run_block_job
from napari_emdl.jobs.blocks import Block
from napari_emdl.jobs.control import Control

Floats = NDArray[np.float64]

#: Highest multiple of a lattice vector looked at, and the farthest peak in periods over a disk's radius.
_MOST, _FARTHEST = 3, 0.8
#: Blur before the steepness is taken, in px.
_BLUR_PX = 0.8
#: Errors that the peaks of a pattern share, so that their scatter does not show them: factor on sigma from simulated wedges.
_SHARED = 3.2
#: A peak counts where its power is this many times what lies around it, in the median of the scan.
_STANDS_OUT = 6.0
#: Steps of the two looks at a peak, in units of the spectrum's resolution.
_STEPS = (0.5, 0.25)
_GRID = np.arange(-2, 3)
_LEAST_PEAKS, _PATTERNS_TRIED = 3, 16
_LEAST_SIGMA = 1e-3
#: Median of the mean of two squared normal variates.
_MEDIAN_OF_CHI2 = 0.693
#: Memory of a pattern while it is worked on.
_BYTES_A_PIXEL = 48


@dataclass(frozen=True)
class CepstralPeaks:
    """Peaks that a scan shows.

    Attributes
    ----------
    mn
        (p, 2) multiples of the two real-space vectors.
    """

    mn: NDArray[np.int64]


def edges(patterns: NDArray[np.generic]) -> Floats:
    """(n, rows, cols) steepness of the logarithm of the electrons less its mean, fading to zero at the detector's edges."""
    filled = fill_missing(patterns)
    electrons = np.clip(filled / estimate_gain(filled)[:, None, None], 0, None).astype(np.float64)
    blurred = np.log1p(ndimage.gaussian_filter(electrons, (0, _BLUR_PX, _BLUR_PX)))
    image = np.hypot(np.gradient(blurred, axis=1), np.gradient(blurred, axis=2))
    window = np.outer(tukey(image.shape[1], 0.5), tukey(image.shape[2], 0.5))
    image -= (image * window).sum(axis=(1, 2), keepdims=True) / window.sum()
    return np.asarray(image * window, dtype=np.float64)


def choose_peaks(images: Floats, g: Floats, radius_px: float) -> CepstralPeaks:
    """Peaks that stand out in the median of some images.

    Parameters
    ----------
    images
        (n, rows, cols) as :func:`edges` gives them.
    g
        (n, 2, 2) about the lattice of each, in px.
    radius_px
        Of the disks.

    Raises
    ------
    EmdlError
        When fewer than three stand out, or all lie on a line.
    """
    half = [(m, n) for m in range(-_MOST, _MOST + 1) for n in range(-_MOST, _MOST + 1) if m > 0 or (m == 0 and n > 0)]
    mn = np.array(half, np.int64)
    typical = np.median(np.linalg.inv(g).transpose(0, 2, 1), axis=0)
    mn = mn[np.linalg.norm(mn @ typical, axis=1) * radius_px < _FARTHEST]
    power = np.empty((len(images), len(mn)))
    for i, (image, lattice) in enumerate(zip(images, g, strict=True)):
        place = mn @ np.linalg.inv(lattice).T
        fine = 1 / np.array(image.shape)
        beside = [place + fine * offset for offset in ((3, 0), (-3, 0), (0, 3), (0, -3))]
        around = np.median([_power(image, u[:, None], u[:, None, :1] * 0 + u[:, None, 1:])[:, 0, 0] for u in beside], axis=0)
        power[i] = _power(image, place[:, None], place[:, None, 1:])[:, 0, 0] / np.maximum(around, 1e-30)
    stands = np.median(power, axis=0) > _STANDS_OUT if len(mn) else np.zeros(0, bool)
    mn = mn[stands]
    if len(mn) < _LEAST_PEAKS or np.linalg.matrix_rank(mn) < 2:
        raise EmdlError(
            f"the cepstrum of these patterns shows {len(mn)} peaks of the lattice, too few to fit: the disks are too large for "
            "their distance, or too few; use `fit='peaks'`"
        )
    return CepstralPeaks(mn)


def _power(image: Floats, rows: Floats, cols: Floats) -> Floats:
    """(p, a, b) power of an image at row frequencies rows[p, a, 0] and column frequencies cols[p, b, 0], in periods a pixel."""
    y, x = np.arange(image.shape[0]) - image.shape[0] / 2, np.arange(image.shape[1]) - image.shape[1] / 2
    along = np.exp(-2j * np.pi * rows[..., 0][..., None] * y)
    across = np.exp(-2j * np.pi * cols[..., 0][..., None] * x)
    first = along.reshape(-1, len(y)) @ image
    both = first.reshape(*along.shape[:2], len(x)) @ across.transpose(0, 2, 1)
    return np.asarray(np.square(np.abs(both)), dtype=np.float64)


def measure_peaks(image: Floats, g: Floats, peaks: CepstralPeaks) -> Floats:
    """(p, 2) places of the peaks of one image, in periods a pixel; NaN where there is no maximum.

    Parameters
    ----------
    image
        (rows, cols) as :func:`edges` gives it.
    g
        (2, 2) about its lattice in px.
    """
    place = peaks.mn @ np.linalg.inv(g).T
    fine = 1 / np.array(image.shape)
    for step in _STEPS:
        grid = step * _GRID
        rows = place[:, None, :1] + (grid * fine[0])[None, :, None]
        cols = place[:, None, 1:] + (grid * fine[1])[None, :, None]
        log_power = np.log(np.maximum(_power(image, rows, cols), 1e-30)).reshape(len(place), -1)
        _, gr, gc, rr, cc, rc = _QUADRATIC @ log_power.T
        determinant = 4 * rr * cc - rc**2
        peaked = (rr < 0) & (cc < 0) & (determinant > 0)
        safe = np.where(peaked, determinant, 1.0)
        move = np.stack([-2 * cc * gr + rc * gc, -2 * rr * gc + rc * gr], axis=1) / safe[:, None]
        move = np.where(peaked[:, None], np.clip(move, -2.5, 2.5), np.nan)
        place = place + move * step * fine
    return np.asarray(place, dtype=np.float64)


def _quadratic() -> Floats:
    """(6, 25) least squares of 1, r, c, rr, cc, rc on the 5 x 5 grid."""
    r, c = (x.ravel().astype(float) for x in np.meshgrid(_GRID, _GRID, indexing="ij"))
    return np.asarray(np.linalg.pinv(np.stack([np.ones(25), r, c, r * r, c * c, r * c], axis=1)), dtype=np.float64)


_QUADRATIC = _quadratic()


def lattices_from(places: Floats, peaks: CepstralPeaks, detector_shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Lattices (n, 2, 2) in px and covariances (n, 4, 4) of g1 row, g1 col, g2 row, g2 col; NaN where too few peaks are seen.

    Parameters
    ----------
    places
        (n, p, 2) as :func:`measure_peaks` gives them.
    """
    n = len(places)
    mn = peaks.mn.astype(float)
    fine = 1 / np.array(detector_shape, float)
    sigma = np.full(len(mn), 0.05)
    seen = np.isfinite(places).all(axis=2)
    vectors, normal = np.full((n, 2, 2), np.nan), np.full((n, 2, 2), np.nan)
    for _ in range(4):
        weight = seen / np.square(sigma)
        normal = np.einsum("np,pi,pj->nij", weight, mn, mn)
        right = np.einsum("np,pi,npa->nia", weight, mn, np.nan_to_num(places))
        usable = (seen.sum(axis=1) >= _LEAST_PEAKS) & (np.linalg.det(normal) > 1e-9)
        vectors = np.full((n, 2, 2), np.nan)
        vectors[usable] = np.linalg.solve(normal[usable], right[usable])
        miss = (places - np.einsum("pi,nia->npa", mn, vectors)) / fine
        free = 1 - np.einsum("np,pi,nij,pj->np", weight, mn, np.linalg.pinv(normal), mn)
        with np.errstate(invalid="ignore"):
            spread = np.square(miss).mean(axis=2) / np.maximum(free, 0.1)
        known = np.isfinite(spread).any(axis=0)
        sigma = np.where(known, np.sqrt(np.nanmedian(np.where(known, spread, 1.0), axis=0) / _MEDIAN_OF_CHI2), np.inf)
        sigma = np.maximum(sigma, _LEAST_SIGMA)
        z = np.sqrt(np.square(miss).mean(axis=2)) / sigma
        seen = seen & (np.nan_to_num(z, nan=np.inf) < 5)
    of_vectors = np.full((n, 2, 2), np.nan)
    ok = np.isfinite(vectors).all(axis=(1, 2))
    of_vectors[ok] = np.linalg.inv(normal[ok])
    # rows of R are the vectors: of_vectors is their covariance in units of the squared resolution of each axis
    g = np.full((n, 2, 2), np.nan)
    g[ok] = np.linalg.inv(vectors[ok]).transpose(0, 2, 1)
    # G_ij changes by -G_ib dR_ab G_aj
    spread = np.einsum("nac,b,bd->nabcd", _SHARED**2 * of_vectors, np.square(fine), np.eye(2))
    jacobian = -np.einsum("nib,naj->nijab", g, g)
    covariance = np.einsum("nijab,nabcd,nklcd->nijkl", jacobian, spread, jacobian).reshape(n, 4, 4)
    return g, np.asarray(covariance, dtype=np.float64)


class _Places:
    """Peaks of a block of patterns; picklable."""

    def __init__(self, g: Floats, good: NDArray[np.bool_], peaks: CepstralPeaks) -> None:
        self.g, self.good, self.peaks = g, good, peaks

    def __call__(self, patterns: NDArray[Any], block: Block) -> dict[str, Floats]:
        places = np.full((block.size, len(self.peaks.mn), 2), np.nan)
        wanted = np.flatnonzero(self.good[block.start : block.stop])
        if len(wanted):
            for i, image in zip(wanted, edges(patterns[wanted]), strict=True):
                places[i] = measure_peaks(image, self.g[block.start + i], self.peaks)
        return {"places": places}


def fit_cepstra(
    cube: Datacube,
    fit: LatticeFit,
    good: NDArray[np.bool_],
    radius_px: float,
    run: RunParams | None = None,
    output: str | Path | None = None,
    fingerprint: str = "",
    control: Control | None = None,
) -> LatticeFit:
    """Lattices of a scan from the cepstra of its patterns, started from those of its disks; origins stay.

    Parameters
    ----------
    cube
        The patterns.
    fit
        Lattices fitted to the disks.
    good
        (positions,) positions to fit; the others become NaN.
    radius_px
        Of the disks.
    run, output, fingerprint, control
        See :func:`napari_emdl.jobs.blockjob.run_block_job`.

    Raises
    ------
    EmdlError
        When the lattice has too few peaks in these patterns.
    """
    wanted = np.flatnonzero(good)
    some = wanted[np.unique(np.linspace(0, len(wanted) - 1, min(_PATTERNS_TRIED, len(wanted))).astype(int))]
    if not len(some):
        raise EmdlError("no position has a lattice for the cepstrum to start from; lower the thresholds or give g1 and g2")
    tried = edges(np.concatenate([cube.patterns(int(i), int(i) + 1) for i in some]))
    peaks = choose_peaks(tried, fit.g[some], radius_px)
    made = run_block_job(
        total=cube.n_patterns,
        read=cube.patterns,
        work=_Places(fit.g, good, peaks),
        merge=arrays(cube.n_patterns),
        bytes_per_item=_BYTES_A_PIXEL * int(np.prod(cube.detector_shape)),
        run=run or RunParams(),
        output=output,
        fingerprint=fingerprint,
        control=control,
        message="cepstra",
    )
    g, covariance = lattices_from(made["places"], peaks, cube.detector_shape)
    both = np.full((len(g), 6, 6), np.nan)
    both[:, 2:, 2:] = covariance
    both[:, :2, :2] = fit.covariance[:, :2, :2]
    return replace(fit, g=g, covariance=both)
