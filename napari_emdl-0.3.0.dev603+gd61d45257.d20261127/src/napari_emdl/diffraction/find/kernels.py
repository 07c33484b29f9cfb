"""Correlation kernels and banks of shifted disks that measure a crop by one matrix product.

Two kinds of linear filter, both built once from the probe:

* the *detection kernel*: probe minus a surround, zero mean and unit norm, so that on variance-stabilised counts the
  correlation reads in standard deviations of noise;
* *banks* for the sub-pixel step: the probe shifted to every point of a small grid. A crop times the bank gives, for all grid
  points at once, the correlation (``dft``) or the likelihood of a disk there whose inner intensity is an unknown polynomial
  (``fit``, variable projection after Golub and Pereyra 1973).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from napari_emdl.diffraction.find.probe import Probe


def bin_factor(radius_px: float) -> int:
    """Binning for detection: the disk keeps a radius of at least two bins, which keeps its signal to noise ratio."""
    return max(1, int(radius_px / 2))


def detection_kernel(probe: Probe, kind: str, binning: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Zero-mean, unit-norm kernel on the binned grid with its centre at (0, 0), wrapped.

    Parameters
    ----------
    kind
        "flat" (probe minus its mean), "gaussian" (probe minus a wider Gaussian), "sigmoid" (probe minus an annulus with soft
        edges from r to 1.8 r); "auto" takes sigmoid for disks of at least 1.5 px, where there is an annulus to speak of,
        and gaussian for spots.
    shape
        Shape of the binned and padded pattern.
    """
    disk = binned_at_origin(probe, binning, shape)
    radius = probe.radius_px / binning
    rows = fft.fftfreq(shape[0], 1 / shape[0])
    cols = fft.fftfreq(shape[1], 1 / shape[1])
    distance = np.hypot(rows[:, None], cols[None, :])
    if kind == "auto":
        kind = "sigmoid" if probe.radius_px >= 1.5 else "gaussian"
    edge = max(0.35, probe.edge_width_px / binning)
    if kind == "flat":
        surround = (distance < 6 * max(radius, 1)).astype(float)
    elif kind == "gaussian":
        surround = np.exp(-0.5 * np.square(distance / max(1.6 * radius, 1.5)))
    else:
        inner, outer = radius + edge, max(1.8 * radius, radius + 1.5)
        surround = _logistic((distance - inner) / edge) * _logistic((outer - distance) / edge)
    disk = disk / disk.sum()
    kernel = disk - surround * (disk.sum() / surround.sum())
    kernel -= kernel.mean()
    return (kernel / np.linalg.norm(kernel)).astype(np.float32)


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(2 * x, -60, 60)))


def binned_at_origin(probe: Probe, binning: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Probe summed over bins, its centre on the centre of bin (0, 0), wrapped into `shape`."""
    reach = int(np.ceil((probe.radius_px + 4 * probe.edge_width_px) / binning)) + 1
    reach = min(reach, (min(shape) - 1) // 2)
    size = (2 * reach + 1) * binning
    offset = np.arange(size) - (size - 1) / 2
    half = np.array(probe.shape) // 2
    rows, cols = np.meshgrid(half[0] + offset, half[1] + offset, indexing="ij")
    fine = ndimage.map_coordinates(probe.image.astype(float), [rows, cols], order=1, mode="constant")
    coarse = fine.reshape(2 * reach + 1, binning, 2 * reach + 1, binning).sum(axis=(1, 3))
    out = np.zeros(shape)
    index = np.arange(-reach, reach + 1)
    out[np.ix_(index % shape[0], index % shape[1])] = coarse
    return out


@dataclass(frozen=True)
class Crop:
    """Pixels around a candidate that a bank looks at: all within `reach_px`, in one flat order.

    Attributes
    ----------
    rows, cols
        (P,) int offsets from the candidate's pixel.
    """

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]

    @classmethod
    def within(cls, reach_px: float) -> Crop:
        """All pixels no farther than `reach_px`."""
        n = int(np.ceil(reach_px))
        rows, cols = np.mgrid[-n : n + 1, -n : n + 1]
        inside = np.hypot(rows, cols) <= reach_px
        return cls(rows[inside], cols[inside])

    @property
    def distance(self) -> NDArray[np.float64]:
        """(P,) distance from the candidate's pixel."""
        return np.hypot(self.rows, self.cols)


@dataclass(frozen=True)
class Splines:
    """Cubic splines of a probe, made once for all its shifts."""

    coefficients: NDArray[np.float64]

    @classmethod
    def of(cls, probe: Probe) -> Splines:
        """Splines through the pixels of the probe."""
        return cls(ndimage.spline_filter(probe.image.astype(float), order=3))

    def shifted(self, crop: Crop, shift: tuple[float, float]) -> NDArray[np.float64]:
        """Probe moved by `shift` (row, col) px, sampled on the crop; zero beyond its image."""
        half = np.array(self.coefficients.shape) // 2
        where = [crop.rows - shift[0] + half[0], crop.cols - shift[1] + half[1]]
        return np.clip(ndimage.map_coordinates(self.coefficients, where, order=3, mode="constant", prefilter=False), 0, None)


def polynomials(u: NDArray[np.float64], v: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """(P, (degree + 1)(degree + 2) / 2) monomials, ordered by degree."""
    powers = [(np.ones_like(u), np.ones_like(v))]
    for _ in range(degree):
        powers.append((powers[-1][0] * u, powers[-1][1] * v))
    return np.stack([powers[n - k][0] * powers[k][1] for n in range(degree + 1) for k in range(n + 1)], axis=1)


@dataclass(frozen=True)
class Bank:
    """Orthonormal filters for every shift of a square grid.

    Attributes
    ----------
    step_px
        Distance of grid points; the grid is (2 * reach + 1) points wide and centred on zero shift.
    reach
        Grid points on each side of the middle.
    matrix
        (P, grid points * n_filters) float32; a crop's squared products, summed over filters 0..m, are its likelihood.
    n_filters
        Filters at each grid point, ordered so that the first belong to the simpler disk.
    """

    step_px: float
    reach: int
    matrix: NDArray[np.float32]
    n_filters: int

    @property
    def width(self) -> int:
        """Grid points along one side."""
        return 2 * self.reach + 1

    def shifts(self) -> NDArray[np.float64]:
        """(grid points, 2) shift of each grid point in px."""
        axis = np.arange(-self.reach, self.reach + 1) * self.step_px
        return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def fit_bank(probe: Probe, crop: Crop, step_px: float, reach: int, degree: int) -> Bank:
    """Bank of nested disk models: at each shift the probe times polynomials up to `degree`, background plane projected out.

    The filters at one shift are orthonormal and orthogonal to the plane, so the drop of chi squared that a disk of degree m
    brings is the sum of the squares of the first (m + 1)(m + 2) / 2 products.
    """
    plane = np.linalg.qr(polynomials(crop.rows.astype(float), crop.cols.astype(float), 1))[0]
    blank = Bank(step_px, reach, np.zeros((0, 0), np.float32), (degree + 1) * (degree + 2) // 2)
    splines = Splines.of(probe)
    blocks = []
    for shift in blank.shifts():
        disk = splines.shifted(crop, (float(shift[0]), float(shift[1])))
        u, v = (crop.rows - shift[0]) / probe.radius_px, (crop.cols - shift[1]) / probe.radius_px
        columns = disk[:, None] * polynomials(u, v, degree)
        columns -= plane @ (plane.T @ columns)
        blocks.append(np.linalg.qr(columns)[0])
    return Bank(step_px, reach, np.concatenate(blocks, axis=1).astype(np.float32), blank.n_filters)


def correlation_bank(probe: Probe, crop: Crop, step_px: float, reach: int) -> Bank:
    """Bank of one filter a shift: the probe minus its surround, as an upsampled DFT of the correlation would give it."""
    blank = Bank(step_px, reach, np.zeros((0, 0), np.float32), 1)
    splines = Splines.of(probe)
    columns = []
    for shift in blank.shifts():
        disk = splines.shifted(crop, (float(shift[0]), float(shift[1])))
        kernel = disk - disk.mean()
        columns.append(kernel / np.linalg.norm(kernel))
    return Bank(step_px, reach, np.stack(columns, axis=1).astype(np.float32), 1)
