"""Drift-corrected surroundings of the sites as spectra, which kernels are learned from and matched filters work on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emdl.atoms.fit.drift import Alignment
from napari_emdl.jobs.control import Control

#: sampling of the aligned frames, reach of the kernel, and width of its soft edge
SAMPLING_A, REACH_A, EDGE_A = 0.3, 3.0, 1.5
#: frames that the kernel is learned from, and memory for them
MOST_FRAMES, MOST_BYTES = 400, 512 << 20
RADIAL_BINS = 24


class AlignedFrames:
    """Spectra of the drift-corrected surroundings of the sites.

    Parameters
    ----------
    frame_of
        Frame t as (rows, cols).
    sites_px
        (n, 2) drift-corrected sites.
    valid
        (T, n) bool, in view.
    alignment
        Where they are in each frame.
    pixel_A
        Pixel size.
    control
        Progress and cancel.
    """

    def __init__(
        self,
        frame_of: Callable[[int], NDArray[np.floating]],
        sites_px: NDArray[np.float64],
        valid: NDArray[np.bool_],
        alignment: Alignment,
        pixel_A: float,
        control: Control | None = None,
    ) -> None:
        self._frame_of, self._alignment, self.valid = frame_of, alignment, valid
        self.sampling_A = max(SAMPLING_A, pixel_A)
        self._step = self.sampling_A / pixel_A
        margin_px = (REACH_A + EDGE_A) / pixel_A
        low, high = sites_px.min(0) - margin_px, sites_px.max(0) + margin_px
        rows, cols = (int(np.ceil(n / self._step)) + 1 for n in high - low)
        self.shape = (rows, cols)
        self.at = (sites_px - low) / self._step
        grid = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1).reshape(-1, 2)
        self._grid = grid * self._step + low
        k_row, k_col = np.fft.fftfreq(rows), np.fft.rfftfreq(cols)
        self.k = np.hypot(k_row[:, None], k_col[None, :])
        rows_k, cols_k = np.exp(-2j * np.pi * self.at[:, :1] * k_row), np.exp(-2j * np.pi * self.at[:, 1:] * k_col)
        self._phases = rows_k.astype(np.complex64), cols_k.astype(np.complex64)
        self.frames = np.flatnonzero(valid.any(1))
        most = int(np.clip(MOST_BYTES // (4 * rows * cols), 3, MOST_FRAMES))
        #: frames that the kernel is learned from
        self.kept = self.frames[np.unique(np.linspace(0, len(self.frames) - 1, most).astype(int))]
        images = np.empty((len(self.kept), rows, cols), np.float32)
        for index, t in enumerate(self.kept):
            if control is not None:
                control.check()
                control.report(index, len(self.kept), "aligning frames")
            images[index] = self._image(int(t))
        seen = np.isfinite(images)
        self._mean_image = np.where(seen, images, 0).sum(0) / np.maximum(1, seen.sum(0))
        self._spectra = {int(t): self._filled(image) for t, image in zip(self.kept, images, strict=True)}
        self.mean = np.fft.rfft2(self._mean_image)
        power = sum(np.abs(spectrum - self.mean) ** 2 for spectrum in self._spectra.values()) / len(self.kept)
        noise = self.radial(np.asarray(power))
        self.noise = np.maximum(noise, max(1e-3 * float(noise.max()), 1e-30))

    def _image(self, t: int) -> NDArray[np.float32]:
        """Frame t at drift-corrected points, without aliasing, in its own standard deviations; NaN out of view."""
        image = np.asarray(self._frame_of(t), np.float32)
        finite = np.isfinite(image)
        level = image[finite].mean() if finite.any() else 0.0
        image = np.where(finite, image - level, 0.0).astype(np.float32)
        if self._step > 1.3:
            image = ndi.gaussian_filter(image, 0.4 * self._step)
        image /= max(float(image.std()), 1e-12)
        a = self._alignment
        points = a.centre_px + (self._grid - a.centre_px) @ a.linear[t].T + a.shift_px[t]
        values = ndi.map_coordinates(image, points.T, order=3, mode="constant", cval=np.nan, output=np.float32)
        if not finite.all():
            missing = ndi.map_coordinates((~finite).astype(np.float32), points.T, order=1, mode="nearest")
            values[missing > 0.1] = np.nan
        return np.asarray(values.reshape(self.shape))

    def _filled(self, image: NDArray[np.float32]) -> NDArray[np.complex64]:
        return np.fft.rfft2(np.where(np.isfinite(image), image, self._mean_image)).astype(np.complex64)

    def spectrum(self, t: int) -> NDArray[np.complex64]:
        """Spectrum of frame t; what is out of view is like the mean."""
        known = self._spectra.get(t)
        return self._filled(self._image(t)) if known is None else known

    def comb(self, weight: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Spectrum of points at the sites with weights (n,)."""
        rows, cols = self._phases
        some = weight != 0
        return np.asarray((rows[some] * weight[some, None].astype(np.float32)).T @ cols[some])

    def pixels(self, spectrum: NDArray[np.complexfloating]) -> NDArray[np.float64]:
        """Back to pixels."""
        return np.asarray(np.fft.irfft2(spectrum, s=self.shape))

    def radial(self, power: NDArray[np.floating]) -> NDArray[np.float64]:
        """Power as a smooth function of |k|."""
        bins = np.minimum((self.k / 0.5 * RADIAL_BINS).astype(int), RADIAL_BINS)
        total = np.bincount(bins.ravel(), power.ravel(), RADIAL_BINS + 1)
        count = np.bincount(bins.ravel(), minlength=RADIAL_BINS + 1)
        centre = (np.arange(RADIAL_BINS + 1) + 0.5) * 0.5 / RADIAL_BINS
        return np.asarray(np.interp(self.k, centre[count > 0], total[count > 0] / count[count > 0]))
