"""Scanning probes of an annular detector's image: a Gaussian with wide tails, or an aperture with aberrations and a source."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

#: grid on which an aberrated probe is made: pixel in A, and pixels a side
PROBE_PIXEL_A, PROBE_PX = 0.12, 128
#: share of probes with an aperture and aberrations, whose rings overlap half-way between columns
ABERRATED = 0.45
#: full width at half maximum of an aberration-free probe, times the radius of the aperture in 1/A
AIRY_WIDTH = 0.515
#: largest root mean square of the phase over the aperture, rad: beyond, nobody would call the probe focused
PHASE_RAD = 0.95
#: share of images whose columns throw a faint copy of themselves to one side, as tilted or stacked crystals do
COPIED = 0.12


def stretched(rng: np.random.Generator, kr: np.ndarray, kc: np.ndarray) -> np.ndarray:
    """Squared frequency (rows, cols) for a probe that is longer one way: astigmatism, tilt, or blur along the scan lines."""
    u = rng.random()
    if u < 0.4:
        return kr**2 + kc**2
    ratio = rng.uniform(1.0, 1.8)
    t = 0.0 if u < 0.6 else rng.uniform(0, np.pi)
    along, across = kc * np.cos(t) + kr * np.sin(t), kr * np.cos(t) - kc * np.sin(t)
    return ratio * along**2 + across**2 / np.sqrt(ratio)


def _aberrated(rng: np.random.Generator, width_A: float, kr: np.ndarray, kc: np.ndarray) -> np.ndarray:
    """Transfer of an aperture with aberrations and a source, about `width_A` wide, zero phase at the probe's middle."""
    airy = rng.uniform(0.5, 0.95) * width_A
    radius = min(AIRY_WIDTH / airy, 0.5 / PROBE_PIXEL_A / 1.05)
    f = np.fft.fftfreq(PROBE_PX, PROBE_PIXEL_A)
    rho, t = np.hypot(f[:, None], f[None]) / radius, np.arctan2(f[:, None], f[None])
    open_ = np.clip((1 - rho) * radius * PROBE_PX * PROBE_PIXEL_A + 0.5, 0, 1)
    a, b, c = rng.uniform(0, 2 * np.pi, 3)
    defocus, spherical, two, three, coma = rng.normal(0, (1.6, 1.6, 0.5, 0.4, 0.4))
    chi = defocus * rho**2 + spherical * rho**4 + two * rho**2 * np.cos(2 * (t - a))
    chi = chi + three * rho**3 * np.cos(3 * (t - b)) + coma * rho**3 * np.cos(t - c)
    spread = float(np.sqrt(np.average((chi - np.average(chi, weights=open_)) ** 2, weights=open_)))
    chi = chi * min(1.0, PHASE_RAD / max(spread, 1e-9))
    probe = np.abs(np.fft.fftshift(np.fft.ifft2(open_ * np.exp(-1j * chi)))) ** 2
    core = np.where(probe > 0.5 * probe.max(), probe, 0.0)
    at = np.arange(PROBE_PX) - PROBE_PX // 2
    middle = [float((core.sum(1 - axis) * at).sum() / core.sum()) * PROBE_PIXEL_A for axis in (0, 1)]
    transfer = np.fft.fft2(np.fft.ifftshift(probe))
    transfer = transfer / transfer[0, 0].real * np.exp(2j * np.pi * (f[:, None] * middle[0] + f[None] * middle[1]))
    transfer = np.fft.fftshift(transfer)
    step = f[1]
    where = np.broadcast_arrays(kr / step + PROBE_PX // 2, kc / step + PROBE_PX // 2)
    parts = [map_coordinates(x, where, order=1, mode="constant", cval=0.0) for x in (transfer.real, transfer.imag)]
    source = np.sqrt(max(width_A**2 - airy**2, 0.0)) / 2.355
    blur: np.ndarray = np.exp(-2 * np.pi**2 * source**2 * stretched(rng, kr, kc))
    return (parts[0] + 1j * parts[1]) * blur


def random_transfer(rng: np.random.Generator, width_A: float, spacing_A: float, kr: np.ndarray, kc: np.ndarray) -> np.ndarray:
    """Fourier transform (rows, cols) of a random probe of sum 1.

    Parameters
    ----------
    width_A
        Full width at half maximum.
    spacing_A
        Distance of neighbouring columns: faint copies lie about half-way.
    kr, kc
        Frequencies (rows, 1) and (1, cols), 1/A.
    """
    transfer: np.ndarray
    if rng.random() < ABERRATED:
        transfer = _aberrated(rng, width_A, kr, kc)
    else:
        k2 = stretched(rng, kr, kc)
        tail, gamma_A = rng.uniform(0, 0.45) * (rng.random() < 0.7), rng.uniform(0.4, 1.5) * width_A
        core = np.exp(-2 * np.pi**2 * (width_A / 2.355) ** 2 * k2)
        transfer = (1 - tail) * core + tail * np.exp(-2 * np.pi * gamma_A * np.sqrt(k2))
    if rng.random() < COPIED:
        share, away = rng.uniform(0.04, 0.2), rng.uniform(0.3, 0.6) * spacing_A
        t, blur_A = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3) * width_A
        copy = np.exp(-2j * np.pi * away * (kr * np.sin(t) + kc * np.cos(t)) - 2 * np.pi**2 * blur_A**2 * (kr**2 + kc**2))
        transfer = transfer * (1 - share + share * copy)
    return transfer
