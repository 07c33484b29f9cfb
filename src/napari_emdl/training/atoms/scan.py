"""One scan of columns by a focused probe: probe, film, dirt, unsteady scan lines, detector and its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from napari_emdl.training.atoms.degrade import smooth_field
from napari_emdl.training.atoms.probes import random_transfer
from napari_emdl.training.atoms.sheets import HIDING, contamination

Detector = Literal["haadf", "abf", "phase"]

#: share of images, sheets and others, on which dirt lies
DIRTY_SHEETS, DIRTY = 0.4, 0.15
#: share of crystals under which electrons are scattered to the detector wherever they enter: at most so many times the height
#: of a column, as smooth as this, A
DIFFUSE, DIFFUSE_HEIGHT, DIFFUSE_A = 0.5, 1.0, (1.5, 5.0)
#: width over which a phase image has a mean of zero, A
HALO_A = (1.0, 3.0)
#: what a phase image's darkest point is above zero, in heights of a column: there is noise everywhere
PHASE_OFFSET = 0.2
#: counts of the strongest column in a pixel, or, in this share of images and of sheets always, in a square angstrom: there
#: small pixels have few
COUNTS_PX, COUNTS_A2, BY_AREA = (3.0, 800.0), (20.0, 2e4), 0.3


@dataclass(frozen=True)
class Scan:
    """What is the same in all frames of a random scan of a square field, which has a margin around it.

    Attributes
    ----------
    at_px
        (n, 2) columns in pixels of the field with its margin; `near` are those within it.
    under_dirt
        (n,) columns that dirt hides.
    phases
        Waves (rows, k) and (columns of half the spectrum, k) of the columns in `near`.
    transfer, spread, halo
        Half spectra of the probe, of diffuse scattering, and of what a phase image leaves out.
    """

    detector: Detector
    size: int
    margin: int
    at_px: np.ndarray
    near: np.ndarray
    under_dirt: np.ndarray
    phases: tuple[torch.Tensor, torch.Tensor]
    transfer: np.ndarray
    film: np.ndarray
    jitter_px: np.ndarray | None
    level: float
    pedestal: float
    diffuse: float
    spread: np.ndarray
    halo: np.ndarray
    readout: float
    glow: float

    def columns(self, height: np.ndarray) -> np.ndarray:
        """Columns of such heights (n,) without noise, in heights of the strongest, on steady scan lines."""
        return self._sum(height, self.transfer) / max(float(self.transfer.real.mean()), 1e-9)

    def record(self, rng: np.random.Generator, height: np.ndarray, count: int) -> np.ndarray:
        """Mean (size, size) of `count` noisy frames."""
        counts = rng.poisson(np.maximum(self.level * count * self._signal(height, count), 0)).astype(np.float32)
        if self.glow:
            counts = counts + self.glow * np.roll(counts, 1, 1) + self.glow**2 * np.roll(counts, 2, 1)
        noise = rng.normal(0, 1, counts.shape) * self.readout / np.sqrt(count)
        window = slice(self.margin, self.margin + self.size)
        return (counts / count + self.pedestal * self.level + noise)[window, window]

    def _signal(self, height: np.ndarray, count: int) -> np.ndarray:
        """What reaches the detector, in heights of the strongest column."""
        clean, n = self.columns(height), len(self.film)
        if self.jitter_px is not None:
            shifts = self.jitter_px / np.sqrt(count)
            phase = np.exp(-2j * np.pi * np.fft.rfftfreq(n)[None] * shifts[:, None])
            clean = np.fft.irfft(np.fft.rfft(clean, axis=1) * phase, n, axis=1)
        if self.detector == "phase":
            signal = clean + self.film
            signal = signal - np.fft.irfft2(np.fft.rfft2(signal) * self.halo, s=(n, n))
            return signal - signal.min() + PHASE_OFFSET
        signal = np.maximum(clean, 0) + self.film
        if self.diffuse and len(height):
            thick = self._sum(height, self.spread)
            signal = signal + self.diffuse * np.maximum(thick, 0) / max(float(thick.max()), 1e-9)
        return np.maximum(1.15 * signal.max() - signal, 0) if self.detector == "abf" else signal

    def _sum(self, height: np.ndarray, transfer: np.ndarray) -> np.ndarray:
        """A function of such a half spectrum at every column, times its height."""
        rows, cols = self.phases
        weight = torch.as_tensor(height[self.near], dtype=torch.complex64)
        spectrum = (rows * weight) @ cols.T * torch.as_tensor(transfer, dtype=torch.complex64)
        return torch.fft.irfft2(spectrum, s=self.film.shape).numpy()


def draw_scan(
    rng: np.random.Generator, xy_A: np.ndarray, height: np.ndarray, size: int, sampling_A: float,
    width_and_spacing_A: tuple[float, float], detector: Detector, sheet: bool,
) -> Scan:  # fmt: skip
    """A random microscope that scans columns at `xy_A` (n, 2) around the origin with a probe of such a width, as bright
    as `height` (n,) asks for."""
    margin = int(np.ceil(4.0 / sampling_A)) + 2
    n = size + 2 * margin
    fr, fc = np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]
    transfer = random_transfer(rng, *width_and_spacing_A, fr / sampling_A, fc / sampling_A)
    at = xy_A / sampling_A + (size - 1) / 2 + margin
    near = np.all((at > 0) & (at < n - 1), axis=1)
    rows, cols = (
        torch.as_tensor(np.exp(-2j * np.pi * f.reshape(-1, 1) * at[near, k]), dtype=torch.complex64)
        for k, f in enumerate((fr, fc))
    )
    jitter = _jitter(rng, n) * max(1.0, 0.1 / sampling_A) if rng.random() < 0.6 else None
    film = _film(rng, n, sampling_A)
    hidden = np.zeros((n, n), bool)
    if rng.random() < (DIRTY_SHEETS if sheet else DIRTY):
        dirt = contamination(rng, n, sampling_A)
        film, hidden = film + dirt, dirt > HIDING
    level = _level(rng, sampling_A, height, sheet)
    pedestal = rng.uniform(0, 1.0)
    diffuse = rng.uniform(0, DIFFUSE_HEIGHT) * (not sheet and rng.random() < DIFFUSE)
    spread, halo = (
        np.exp(-2 * np.pi**2 * rng.uniform(*width_A) ** 2 * (fr**2 + fc**2) / sampling_A**2) for width_A in (DIFFUSE_A, HALO_A)
    )
    halo = halo * rng.uniform(0.5, 1.0)
    readout = float(np.exp(rng.uniform(np.log(0.02), np.log(1.5)))) * np.sqrt(level) * (rng.random() < 0.5)
    glow = rng.uniform(0.2, 0.8) if rng.random() < 0.25 else 0.0
    under = hidden[tuple(np.clip(np.round(at).astype(int), 0, n - 1).T)]
    return Scan(
        detector, size, margin, at, near, under, (rows, cols), transfer, film, jitter, level, pedestal, diffuse, spread, halo,
        readout, glow,
    )  # fmt: skip


def _level(rng: np.random.Generator, sampling_A: float, height: np.ndarray, sheet: bool) -> float:
    """Counts of the strongest column in a pixel."""
    if sheet or rng.random() < BY_AREA:
        level = float(np.exp(rng.uniform(*np.log(COUNTS_A2)))) * sampling_A**2
        return level / float(np.median(height)) if sheet and len(height) else level
    return float(np.exp(rng.uniform(*np.log(COUNTS_PX)))) * (0.5 if rng.random() < 0.2 else 1)


def _jitter(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Shift of every scan line in pixels: white and slowly wandering parts, now and then a jump."""
    shift = rng.normal(0, rng.uniform(0, 0.5), rows)
    shift += gaussian_filter(rng.normal(0, 1, rows), 3.0) * rng.uniform(0, 1.0)
    if rng.random() < 0.15:
        shift[int(rng.integers(rows)) :] += rng.normal(0, 1.0)
    return shift


def _film(rng: np.random.Generator, n: int, sampling_A: float) -> np.ndarray:
    """Background (n, n) in heights of the strongest column: even, sloping, and the grain of amorphous carbon."""
    base = np.full((n, n), rng.uniform(0.0, 0.6))
    if rng.random() < 0.5:
        base += rng.uniform(0, 0.3) * smooth_field(rng, n, rng.uniform(5, 15) / sampling_A)
    if rng.random() < 0.6:
        base += float(np.exp(rng.uniform(np.log(0.01), np.log(0.12)))) * smooth_field(
            rng, n, rng.uniform(0.6, 2.0) / sampling_A
        )
    return np.maximum(base, 0)
