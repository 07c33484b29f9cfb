"""Classical column finder: Laplacian of Gaussian at the size of a column, then a parabola. The baseline, and what needs no
network."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy import ndimage as ndi

from napari_emdl.atoms.find.clean import cleaned
from napari_emdl.base.caveats import Caveats
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.control import Control
from napari_emdl.workflow.finder import FinderInfo

#: standard deviation of the Gaussian that fits a column's image
COLUMN_SIGMA_A = 0.5
#: candidates are kept down to this many noise sigmas
FLOOR_Z = 2.0
#: crystal fills a frame when what lies between the spots is quieter by this factor than the quietest part of the frame; then
#: the threshold is no lower than so many sigmas, and this share of what passes may be noise
FILLED, LEAST_Z, FALSE_SHARE = 0.8, 2.6, 0.05
FIELDS = ("row", "col", "score", "sigma_px", "species", "intensity", "logit")


class LogFinder:
    """Laplacian-of-Gaussian finder.

    The response is divided by its robust standard deviation in the quietest part of the frame (film or vacuum), or, where
    crystal fills the frame, by that of what lies between the lattice's spots in its spectrum: it counts noise sigmas, z. The
    threshold z0 is what the largest of as many independent noise values as fit into the frame would reach, and where crystal
    fills the frame what leaves a twentieth of noise among all that passes; ``logit = z - z0`` and
    ``score = 1 / (1 + exp(-logit))``, hence 0.5 is the default threshold at any dose.

    Parameters
    ----------
    pixel_A
        Pixel size in angstrom.
    contrast
        "bright" or "dark" columns.
    min_spacing_A
        Least distance between columns.
    sigma_A
        Scale of the Gaussian.
    """

    method = "log"
    parallel = True
    default_min_score = 0.5
    species: tuple[str, ...] = ("column",)
    contrast_confidence: float | None = None

    def __init__(
        self, pixel_A: float, contrast: str = "bright", min_spacing_A: float = 0.8, sigma_A: float = COLUMN_SIGMA_A
    ) -> None:
        if contrast not in ("bright", "dark"):
            raise EmdlError(f"contrast must be bright or dark, got {contrast!r}")
        self.pixel_A, self.contrast = float(pixel_A), contrast
        self.caveats = Caveats()
        #: what spoke for the contrast, where it was chosen
        self.contrast_evidence: dict[str, Any] = {}
        self.sigma_px = max(0.8, sigma_A / pixel_A)
        self.min_spacing_px = max(1.0, min_spacing_A / pixel_A)

    @property
    def info(self) -> FinderInfo:
        """What runs, and what the user should know of it."""
        return FinderInfo(self.method, "log", provider="cpu", caveats=self.caveats)

    def find(self, frames: NDArray[Any], control: Control | None = None) -> PeakTable:
        """Columns of frames (n, rows, cols); NaN pixels are filled with the frame's median."""
        found = []
        for frame in frames:
            if control is not None:
                control.check()
            found.append(self._find_one(frame))
        return PeakTable.from_lists(found) if found else PeakTable.empty((0,), FIELDS)

    def sample(
        self, frames: NDArray[Any], points_px: NDArray[np.float64], control: Control | None = None
    ) -> NDArray[np.float32]:
        """Logit at points (n, k, 2) of frames (n, rows, cols), cubic between pixels; NaN outside the frame."""
        out = np.full(points_px.shape[:2], np.nan, np.float32)
        for index, (frame, points) in enumerate(zip(frames, points_px, strict=True)):
            if control is not None:
                control.check()
            z, z0, _ = self._response(frame)
            if z is not None:
                out[index] = sample_at(z - z0, points)
        return out

    def _response(self, frame: NDArray[Any]) -> tuple[NDArray[np.float32] | None, float, float]:
        """Response in noise sigmas, the threshold z0, and the noise in grey values; None for a frame without content."""
        image = np.asarray(frame, np.float32)
        if image.ndim == 3:  # a focal series: its images share the columns
            image = image.mean(0)
        clean = cleaned(image)
        if clean is None:
            return None, 0.0, 0.0
        image, hidden = clean.image, clean.hidden
        sign = -1.0 if self.contrast == "bright" else 1.0
        # the cut-off kernel does not sum to zero exactly: an offset of the camera must not leak through
        image = image - np.median(image)
        response = sign * ndi.gaussian_laplace(image, self.sigma_px, mode="reflect") * self.sigma_px**2
        if hidden is not None:  # the rim of what was filled makes edges
            hidden = ndi.binary_dilation(hidden, iterations=max(1, round(self.sigma_px)))
            response[hidden] = 0
        seen = 1.0 if hidden is None else max(0.05, 1 - float(hidden.mean()))
        quiet = quiet_sigma(response, max(8, round(8 * self.sigma_px)), hidden)
        noise = min(quiet, noise_between_spots(np.asarray(response)) / float(np.sqrt(seen)))
        if not noise > 1e-6 * max(1e-30, float(np.abs(image).max())):
            return None, 0.0, 0.0
        z = response / np.float32(noise)
        return z, self._threshold(z, noise < FILLED * quiet), noise

    def _threshold(self, z: NDArray[np.float32], filled: bool) -> float:
        """What the largest of the noise would reach; where crystal fills the frame, less: so much is higher that little of it
        can be noise, and there is no film to be mistaken for columns."""
        cells = z.size / (2 * np.pi * self.sigma_px**2)
        largest = float(np.sqrt(2 * np.log(max(2.0, cells))))
        if not filled:
            return largest
        where = local_maxima(z, self.min_spacing_px, LEAST_Z)
        height = np.sort(z[where[:, 0], where[:, 1]])
        # maxima of Gaussian noise through this filter, whose mean square gradient is 1.5 / sigma^2 (Euler characteristic)
        noise = z.size * 1.5 / self.sigma_px**2 / (2 * np.pi) ** 1.5 * height * np.exp(-(height**2) / 2)
        few = np.flatnonzero(noise <= FALSE_SHARE * np.arange(len(height), 0, -1))
        return min(largest, float(height[few[0]])) if len(few) else largest

    def _find_one(self, frame: NDArray[Any]) -> dict[str, NDArray[Any]]:
        z, z0, noise = self._response(frame)
        if z is None:
            return {name: np.zeros(0, np.int16 if name == "species" else np.float32) for name in FIELDS}
        rows, cols, height, sigma = refine_maxima(z, local_maxima(z, self.min_spacing_px, FLOOR_Z), self.sigma_px)
        logit = height - z0
        return {
            "row": rows.astype(np.float32),
            "col": cols.astype(np.float32),
            "score": (1 / (1 + np.exp(-logit))).astype(np.float32),
            "sigma_px": sigma.astype(np.float32),
            "species": np.zeros(len(rows), np.int16),
            "intensity": (height * noise).astype(np.float32),
            "logit": logit.astype(np.float32),
        }


def quiet_sigma(response: NDArray[np.floating], window_px: int, hidden: NDArray[np.bool_] | None = None) -> float:
    """Standard deviation of the quietest tenth of the frame's square windows; crystal fills the rest at most.

    Windows of which more than a third is hidden do not count.
    """
    window_px = max(8, min(window_px, min(response.shape) // 4))
    rows, cols = (n // window_px for n in response.shape)
    if rows * cols < 4:
        return float(np.std(response))

    def tiled(values: NDArray[Any]) -> NDArray[np.float64]:
        cut = values[: rows * window_px, : cols * window_px].reshape(rows, window_px, cols, window_px)
        return np.asarray(cut.mean(axis=(1, 3), dtype=np.float64))

    power = tiled(np.square(response))
    if hidden is not None:
        share = tiled(hidden)
        open_ = share < 1 / 3
        if not open_.any():
            return float(np.std(response))
        power = power[open_] / (1 - share[open_])
    return float(np.percentile(np.sqrt(power), 10)) * 1.05


def noise_between_spots(response: NDArray[np.floating]) -> float:
    """Standard deviation of the noise in a frame that a lattice may fill.

    A lattice stands in few spots of the spectrum and the noise, like an amorphous film, everywhere: the median of the power on
    a ring, over ln 2, is the noise's mean there (its power is distributed exponentially).
    """
    rows, cols = response.shape
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(cols + 2)[1:-1]).astype(np.float32)
    power = np.abs(fft.rfft2((response - response.mean()) * window)) ** 2 / float(np.sum(window**2, dtype=np.float64))
    radius = np.hypot(fft.fftfreq(rows)[:, None], fft.rfftfreq(cols)[None, :])
    bins = max(6, min(64, min(rows, cols) // 6))
    ring = np.minimum((radius * 2 * bins).astype(np.int32), bins).ravel()
    order = np.argsort(ring, kind="stable")
    edges = np.searchsorted(ring[order], np.arange(bins + 2))
    flat = power.ravel()[order]
    rings = (flat[a:b] for a, b in itertools.pairwise(edges) if b > a)
    total = sum(float(np.median(one)) / np.log(2) * len(one) for one in rings)
    # the half spectrum has all columns but two twice
    return float(np.sqrt(total / power.size))


def local_maxima(image: NDArray[np.floating], spacing_px: float, floor: float) -> NDArray[np.int64]:
    """(k, 2) pixels that are the largest within `spacing_px` and above `floor`; plateaus give one pixel."""
    reach = max(1, int(spacing_px))
    axis = np.arange(-reach, reach + 1)
    disk = axis[:, None] ** 2 + axis[None, :] ** 2 <= max(1.0, spacing_px) ** 2
    # the square filter is separable and fast; the disk is asked only of its few survivors
    square = ndi.maximum_filter(image, 2 * max(1, int(spacing_px / np.sqrt(2))) + 1)
    where = np.argwhere((image == square) & (image > floor))
    if not len(where):
        return where.astype(np.int64)
    padded = np.pad(image, reach, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))[where[:, 0], where[:, 1]]
    value = image[where[:, 0], where[:, 1]]
    keep = ~np.any((windows > value[:, None, None]) & disk, axis=(1, 2))
    where = where[keep]
    order = np.argsort(-image[where[:, 0], where[:, 1]], kind="stable")
    where = where[order]
    close = np.hypot(*(where[:, None, :] - where[None, :, :]).transpose(2, 0, 1)) < 1.5 if len(where) < 4000 else None
    if close is not None:  # equal neighbours of a plateau
        where = where[~np.any(np.tril(close, -1), axis=1)]
    return where.astype(np.int64)


def refine_maxima(
    image: NDArray[np.floating], where: NDArray[np.int64], sigma_px: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Parabola through the 3 x 3 pixels of each maximum.

    Returns
    -------
    row, col, height, sigma_px
        Position, interpolated height, and the standard deviation of the position an axis when `image` is in noise sigmas.
    """
    padded = np.pad(np.asarray(image, np.float64), 1, mode="edge")
    r, c = where[:, 0] + 1, where[:, 1] + 1
    centre = padded[r, c]
    grad = np.stack([padded[r + 1, c] - padded[r - 1, c], padded[r, c + 1] - padded[r, c - 1]], -1) / 2
    rr = padded[r + 1, c] + padded[r - 1, c] - 2 * centre
    cc = padded[r, c + 1] + padded[r, c - 1] - 2 * centre
    rc = (padded[r + 1, c + 1] - padded[r + 1, c - 1] - padded[r - 1, c + 1] + padded[r - 1, c - 1]) / 4
    det = rr * cc - rc**2
    safe = (det > 1e-12) & (rr < 0)
    det = np.where(safe, det, 1.0)
    step = -np.stack([cc * grad[:, 0] - rc * grad[:, 1], rr * grad[:, 1] - rc * grad[:, 0]], -1) / det[:, None]
    step = np.where(safe[:, None], np.clip(step, -0.6, 0.6), 0.0)
    height = centre + 0.5 * np.sum(grad * step, -1)
    # gradient noise of a Laplacian of Gaussian over white noise: <k_x^2> = 1.5 / sigma^2
    curvature = np.maximum(1e-6, -(rr + cc) / 2)
    sigma = np.minimum(np.sqrt(1.5) / sigma_px / curvature, 2 * sigma_px)
    return where[:, 0] + step[:, 0], where[:, 1] + step[:, 1], height, sigma


def sample_at(image: NDArray[np.floating], points_px: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values (k,) of an image at points (k, 2), cubic between pixels; NaN outside."""
    rows, cols = image.shape
    inside = np.all((points_px >= -0.5) & (points_px <= [rows - 0.5, cols - 0.5]), axis=1)
    values = ndi.map_coordinates(image, points_px.T, order=3, mode="nearest", output=np.float32)
    return np.where(inside, values, np.float32(np.nan)).astype(np.float32)
