"""Evidence from what a coming and going column does to the image, learned from the movie itself.

Once it is roughly known which sites are occupied when, the movie tells what one column adds to the image: every frame is a
background plus a kernel at each occupied site. The kernel is the least-squares solution over all frames and blinking sites
(a Wiener deconvolution), so that aberrations, camera and neighbours that overlap are taken care of, and its matched filter
(Turin, IRE Trans. Inf. Theory 6, 311 (1960)) is the best linear evidence in the noise of the movie. It knows nothing of the
network, and errs elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emdl.atoms.drift import Alignment
from napari_emdl.jobs.control import Control

#: sampling of the aligned frames, reach of the kernel, and width of its soft edge
SAMPLING_A, REACH_A, EDGE_A = 0.3, 3.0, 1.5
#: spectra are shrunken by this part of their mean power where the sites hardly blink
RIDGE = 0.02


@dataclass(frozen=True)
class Difference:
    """What blinking sites tell.

    Attributes
    ----------
    response
        (T, n) matched-filter response in noise sigmas, what the neighbours do taken off; NaN in frames that were not used.
    kernel
        (k, k) image of one column, centred, pixels of `sampling_A`.
    sampling_A
        Pixel size of the kernel.
    """

    response: NDArray[np.float32]
    kernel: NDArray[np.float32]
    sampling_A: float


class AlignedSpectra:
    """Whitened spectra of the drift-corrected frames around the sites, at about SAMPLING_A a pixel."""

    def __init__(
        self,
        frame_of: Callable[[int], NDArray[np.floating]],
        sites_px: NDArray[np.float64],
        alignment: Alignment,
        pixel_A: float,
        control: Control | None = None,
    ) -> None:
        self.sampling_A = max(SAMPLING_A, pixel_A)
        step = self.sampling_A / pixel_A
        margin_px = (REACH_A + EDGE_A) / pixel_A
        low, high = sites_px.min(0) - margin_px, sites_px.max(0) + margin_px
        self.shape = (int(np.ceil((high[0] - low[0]) / step)) + 1, int(np.ceil((high[1] - low[1]) / step)) + 1)
        self.at = (sites_px - low) / step
        self.frames = np.flatnonzero(alignment.usable)
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij"), -1).reshape(-1, 2) * step + low
        spectra = np.empty((len(self.frames), self.shape[0], self.shape[1] // 2 + 1), np.complex64)
        for index, t in enumerate(self.frames):
            if control is not None:
                control.check()
                control.report(index, len(self.frames), "aligning frames")
            image = np.asarray(frame_of(int(t)), np.float32)
            spectra[index] = np.fft.rfft2(_resampled(image, grid, alignment, int(t), step).reshape(self.shape))
        self.mean = spectra.mean(0)
        self.k = np.hypot(np.fft.fftfreq(self.shape[0])[:, None], np.fft.rfftfreq(self.shape[1])[None, :])
        power = np.mean(np.abs(spectra - self.mean) ** 2, axis=0)
        self.noise = _radial(power, self.k)
        self.spectra = spectra

    def comb(self, weight: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Spectrum of points at the sites with weights (n,)."""
        rows, cols = self.phases
        return np.asarray((rows * weight[:, None]).T @ cols)

    @property
    def phases(self) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """exp(-2 pi i k x) of the sites along either axis."""
        if not hasattr(self, "_phases"):
            self._phases = (
                np.exp(-2j * np.pi * self.at[:, :1] * np.fft.fftfreq(self.shape[0])),
                np.exp(-2j * np.pi * self.at[:, 1:] * np.fft.rfftfreq(self.shape[1])),
            )
        return self._phases

    def image(self, spectrum: NDArray[np.complexfloating]) -> NDArray[np.float64]:
        """Back to pixels."""
        return np.asarray(np.fft.irfft2(spectrum, s=self.shape))


def _resampled(
    image: NDArray[np.float32], grid: NDArray[np.float64], alignment: Alignment, t: int, step: float
) -> NDArray[np.float32]:
    """Frame t at drift-corrected points, without aliasing, in its own standard deviations; its mean out of view."""
    finite = np.isfinite(image)
    mean = float(image[finite].mean())
    image = np.where(finite, image - mean, 0.0).astype(np.float32)
    if step > 1.3:
        image = ndi.gaussian_filter(image, 0.4 * step)
    image /= max(float(image.std()), 1e-12)
    local = grid - alignment.centre_px
    points = alignment.centre_px + local @ alignment.linear[t].T + alignment.shift_px[t]
    return np.asarray(ndi.map_coordinates(image, points.T, order=3, mode="constant", cval=0.0, output=np.float32))


def _radial(power: NDArray[np.floating], k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power as a smooth function of |k|."""
    bins = np.minimum((k / 0.5 * 24).astype(int), 24)
    total, count = np.bincount(bins.ravel(), power.ravel(), 25), np.bincount(bins.ravel(), minlength=25)
    curve = total / np.maximum(count, 1)
    return np.asarray(np.interp(k, (np.arange(25) + 0.5) * 0.5 / 24, np.maximum(curve, 1e-3 * curve.max())))


def learn(aligned: AlignedSpectra, p_occupied: NDArray[np.float64], blinking: NDArray[np.float64]) -> Difference:
    """Kernel and responses from the occupancy as known so far.

    Parameters
    ----------
    aligned
        Spectra of the frames.
    p_occupied
        (T, n) chance of being occupied.
    blinking
        (n,) chance that a site blinks; the others do not shape the kernel.
    """
    p = p_occupied[aligned.frames]
    change = (p - p.mean(0)) * blinking
    kernel = _kernel(aligned, change)
    kernel_k = np.fft.rfft2(kernel)
    matched = np.conj(kernel_k) / aligned.noise
    coupling = _coupling(aligned, aligned.image(kernel_k * matched))
    own = np.empty(p.shape)
    for row, spectrum in zip(own, aligned.spectra, strict=True):
        row[:] = ndi.map_coordinates(aligned.image(matched * spectrum), aligned.at.T, order=3, mode="nearest")
    # the mean is that of all columns together, steady ones as well; what changes is the site's own and its neighbours'
    size = coupling[0, 0]
    level = np.linalg.solve(coupling + RIDGE * size * np.eye(len(coupling)), own.mean(0)) * size
    np.fill_diagonal(coupling, 0)
    out = np.full(p_occupied.shape, np.nan, np.float32)
    out[aligned.frames] = (own - own.mean(0) - change @ coupling + level) * np.sqrt(np.prod(aligned.shape) / size)
    half = int(np.ceil((REACH_A + EDGE_A) / aligned.sampling_A))
    centred = np.roll(kernel, (half, half), (0, 1))[: 2 * half + 1, : 2 * half + 1]
    return Difference(out, centred.astype(np.float32), aligned.sampling_A)


def _kernel(aligned: AlignedSpectra, change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares image of one column (origin at the corner) from what changes, (frames, n), at the sites."""
    top, bottom = np.zeros(aligned.mean.shape, np.complex128), np.zeros(aligned.mean.shape)
    for spectrum, s in zip(aligned.spectra, change, strict=True):
        comb = aligned.comb(s)
        top += np.conj(comb) * (spectrum - aligned.mean)
        bottom += np.abs(comb) ** 2
    raw = aligned.image(top / (bottom + RIDGE * bottom.mean()))
    r = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in raw.shape), indexing="ij")) * aligned.sampling_A
    return np.asarray(raw * np.clip((REACH_A + EDGE_A - r) / EDGE_A, 0, 1) ** 2)


def _coupling(aligned: AlignedSpectra, spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n) response at one site to a column at another."""
    apart = aligned.at[:, None] - aligned.at[None]
    around = (apart.reshape(-1, 2) % np.array(aligned.shape)).T
    coupling = ndi.map_coordinates(spread, around, order=3, mode="grid-wrap").reshape(apart.shape[:2])
    coupling[np.hypot(*apart.transpose(2, 0, 1)) > 2 * (REACH_A + EDGE_A) / aligned.sampling_A] = 0
    return np.asarray(0.5 * (coupling + coupling.T))


def discriminant(
    features: NDArray[np.floating], p_occupied: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fisher's linear discriminant (m,) of features (m, T, n) between occupied and empty frames of the same site.

    Features are taken against the site's own mean in either state, so that what differs between sites does not count. The
    combination has unit variance within a state. Fisher, Ann. Eugenics 7, 179 (1936).

    Parameters
    ----------
    features
        (m, T, n), NaN where missing.
    p_occupied, weight
        (T, n) chance of being occupied, (n,) weight of the sites.
    """
    known = np.isfinite(features).all(0)
    x = np.where(known, features, 0.0)
    scatter, total = np.zeros((len(x), len(x))), 0.0
    means, counts = [], []
    for chance in (1 - p_occupied, p_occupied):
        w = np.where(known, chance, 0.0) * weight
        count = w.sum(0)
        mean = (x * w).sum(1) / np.maximum(count, 1e-9)
        residual = x - mean[:, None]
        # single gross failures must not decide
        spread = np.sqrt((residual**2 * w).sum((1, 2)) / max(w.sum(), 1e-9))[:, None, None]
        residual = np.clip(residual, -3 * spread, 3 * spread)
        scatter += np.einsum("atn,btn,tn->ab", residual, residual, w, optimize=True)
        total += w.sum()
        means.append(mean)
        counts.append(count)
    both = np.minimum(*counts)
    gap = ((means[1] - means[0]) * both).sum(1) / max(both.sum(), 1e-9)
    covariance = scatter / max(total, 1e-9)
    direction = np.linalg.solve(covariance + 1e-3 * np.diag(np.diag(covariance)), gap)
    return np.asarray(direction / np.sqrt(max(direction @ covariance @ direction, 1e-30)))
