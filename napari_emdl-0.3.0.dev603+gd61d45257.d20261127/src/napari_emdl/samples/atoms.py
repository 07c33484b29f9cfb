"""A small HRTEM movie made on the fly: a gold particle on carbon whose surface columns come and go, with exact truth.

A thin phase object and a contrast transfer function, made for trying things out and for tests: fast, deterministic, and with
all that the analysis has to cope with (ringing, film contrast, drift, shot noise). Networks train on multislice images instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.physics import wavelength_A
from napari_emdl.base.signals import Calibration, Movie, in_memory
from napari_emdl.jobs.control import Control

#: lattice parameter of gold
GOLD_A = 4.078
#: phase of one gold atom integrated over its area (rad Å2) and width of its projected potential, at 300 kV
ATOM_PHASE_RAD_A2, ATOM_SIGMA_A = 0.33, 0.33
COUNTS_PER_ELECTRON = 20


@dataclass(frozen=True)
class Conditions:
    """Microscope and specimen of a sample movie.

    Attributes
    ----------
    c10_A, cs_um, astigmatism_A, focal_spread_A
        Aberrations; C10 > 0 (overfocus) with negative Cs makes atoms bright, C10 < 0 with positive Cs dark.
    dose_e_per_A2
        Electrons per frame and area.
    p_off, p_on
        Chance that an occupied (empty) blinking site is empty (occupied) in the next frame.
    carbon_rad
        Standard deviation of the carbon film's phase.
    drift_step_A
        Standard deviation of the drift from frame to frame and axis.
    """

    pixel_A: float = 0.12
    energy_keV: float = 300.0
    c10_A: float = 60.0
    cs_um: float = -13.0
    astigmatism_A: float = 10.0
    focal_spread_A: float = 25.0
    dose_e_per_A2: float = 200.0
    p_off: float = 0.10
    p_on: float = 0.20
    carbon_rad: float = 0.08
    drift_step_A: float = 0.15
    frame_interval_s: float = 0.5
    rotation_deg: float = 17.0


@dataclass(frozen=True)
class MovieTruth:
    """What is true of a sample movie; site i lies at ``sites_px[i] + drift_px[t]`` in frame t.

    Attributes
    ----------
    sites_px, drift_px
        (n, 2) and (T, 2), row and col.
    occupied
        (T, n) bool.
    blinking
        (n,) bool, sites that come and go.
    atoms
        (n,) int, atoms in the column.
    """

    sites_px: NDArray[np.float64]
    drift_px: NDArray[np.float64]
    occupied: NDArray[np.bool_]
    blinking: NDArray[np.bool_]
    atoms: NDArray[np.int64]
    conditions: Conditions


def blinking_movie(
    shape: tuple[int, int, int] = (40, 256, 256),
    seed: int = 0,
    control: Control | None = None,
    conditions: Conditions | None = None,
) -> tuple[Movie, MovieTruth]:
    """Simulate an HRTEM movie of a gold [110] particle with blinking surface columns.

    Parameters
    ----------
    shape
        (frames, rows, cols); the particle fills about two thirds of the shorter side.
    seed
        Same seed, same movie.
    control
        Progress and cancel.
    conditions
        Microscope and specimen.

    Returns
    -------
    movie, truth
        uint16 frames, calibrated in nm, s and keV, and what is true of them.

    Raises
    ------
    EmdlError
        When the frames are too small for a particle.
    """
    frames, rows, cols = shape
    use = conditions or Conditions()
    if frames < 1 or min(rows, cols) * use.pixel_A < 12:
        raise EmdlError(
            f"a sample movie needs a frame or more, each at least 12 Å wide; {shape} at {use.pixel_A} Å/px is too small"
        )
    random = np.random.default_rng(seed)
    truth = _particle(shape, use, random)
    wave_of = _exit_waves((rows, cols), use, truth, random)
    transfer = _transfer((rows, cols), use)
    counts = np.empty(shape, np.uint16)
    electrons_per_px = use.dose_e_per_A2 * use.pixel_A**2
    for t in range(frames):
        if control is not None:
            control.check()
            control.report(t, frames, "simulating a movie")
        spectrum = np.fft.fft2(wave_of(t))
        image = np.mean([np.abs(np.fft.ifft2(spectrum * h)) ** 2 for h in transfer], axis=0)
        counts[t] = np.minimum(random.poisson(image * electrons_per_px) * COUNTS_PER_ELECTRON, 65535)
    if control is not None:
        control.report(frames, frames, "simulating a movie")
    nm = use.pixel_A / 10
    calibration = Calibration().override(
        "file", pixel_nm=(nm, nm), frame_interval_s=use.frame_interval_s, energy_keV=use.energy_keV
    )
    movie = in_memory(counts, "movie", calibration, name="sample HRTEM movie")
    assert isinstance(movie, Movie)
    if conditions is None:  # how it was made stays with it: a project that was saved on the sample makes it again
        movie = replace(movie, metadata={"sample": {"shape": tuple(shape), "seed": seed}})
    return movie, truth


def _particle(shape: tuple[int, int, int], use: Conditions, random: np.random.Generator) -> MovieTruth:
    """Truncated particle: full columns inside, single outermost columns that blink."""
    frames, rows, cols = shape
    radius_A = 0.34 * min(rows, cols) * use.pixel_A
    a, b = GOLD_A / np.sqrt(2), GOLD_A
    reach = int(2 * radius_A / a) + 2
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij")
    cell = np.concatenate(
        [np.stack([i * a, j * b], -1).reshape(-1, 2), np.stack([(i + 0.5) * a, (j + 0.5) * b], -1).reshape(-1, 2)]
    )
    # facets {111} and {100} of the Wulff shape seen along [110]
    normals = np.array([[0.8165, 0.5774], [0.8165, -0.5774], [0.0, 1.0]])
    distance = np.abs(cell @ normals.T) / np.array([1.0, 1.0, 1.12])
    inside = distance.max(1) < 0.96 * radius_A
    depth_A = radius_A - distance.max(1)
    neighbours = np.array([np.sum(np.hypot(*(cell[inside] - p).T) < 1.2 * a) - k for p, k in zip(cell, inside, strict=True)])
    vacant_surface = ~inside & (neighbours >= 2)
    # a site that has its neighbours outside the particle as well would blink on nothing: only the first layer counts
    chosen = np.flatnonzero(vacant_surface)
    adatoms = random.permutation(chosen)[: max(3, int(0.4 * len(chosen)))]
    outer = np.flatnonzero(inside & (neighbours <= 4))
    shrinking = random.permutation(outer)[: int(0.5 * len(outer))]
    keep = np.concatenate([np.flatnonzero(inside), adatoms])
    blinking = np.isin(keep, adatoms) | np.isin(keep, shrinking)
    atoms = np.where(blinking, random.integers(2, 5, len(keep)), np.clip(np.round(depth_A[keep] / 1.4), 3, 12)).astype(np.int64)
    angle = np.deg2rad(use.rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    sites_px = cell[keep] @ turn.T / use.pixel_A + np.array([rows / 2, cols / 2]) + random.uniform(-3, 3, 2)
    step_px = use.drift_step_A / use.pixel_A
    drift = np.cumsum(random.normal(0, step_px, (frames, 2)), axis=0)
    drift *= min(1.0, 0.08 * min(rows, cols) / max(1e-9, np.abs(drift).max()))
    occupied = np.ones((frames, len(keep)), bool)
    occupied[:, blinking] = _blink(frames, int(blinking.sum()), use.p_off, use.p_on, random)
    return MovieTruth(sites_px, drift, occupied, blinking, atoms, use)


def _blink(frames: int, sites: int, p_off: float, p_on: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Two-state Markov chains that start in equilibrium."""
    state = np.empty((frames, sites), bool)
    state[0] = random.random(sites) < p_on / max(1e-12, p_on + p_off)
    for t in range(1, frames):
        flip = random.random(sites) < np.where(state[t - 1], p_off, p_on)
        state[t] = state[t - 1] ^ flip
    return state


def _exit_waves(frame: tuple[int, int], use: Conditions, truth: MovieTruth, random: np.random.Generator):
    """Function t -> exit wave of frame t; columns saturate with thickness as channelling makes them."""
    k_row, k_col = (np.fft.fftfreq(n) for n in frame)
    k2 = (k_row[:, None] ** 2 + k_col[None, :] ** 2) / use.pixel_A**2
    atom = ATOM_PHASE_RAD_A2 / use.pixel_A**2 * np.exp(-2 * np.pi**2 * ATOM_SIGMA_A**2 * k2)
    film = np.fft.fft2(random.normal(size=frame)) * np.exp(-2 * np.pi**2 * 0.5**2 * k2) * (k2 > 0)
    film *= use.carbon_rad / max(1e-12, float(np.std(np.fft.ifft2(film).real)))
    strength = truth.atoms**0.55

    def wave(t: int) -> NDArray[np.complex128]:
        at = (truth.sites_px + truth.drift_px[t])[truth.occupied[t]]
        rows = np.exp(-2j * np.pi * k_row[:, None] * at[:, 0]) * strength[truth.occupied[t]]
        cols = np.exp(-2j * np.pi * at[:, 1][:, None] * k_col)
        shift = truth.drift_px[t]
        moved = film * np.exp(-2j * np.pi * (k_row[:, None] * shift[0] + k_col * shift[1]))
        return np.exp(1j * np.fft.ifft2(atom * (rows @ cols) + moved).real)

    return wave


def _transfer(frame: tuple[int, int], use: Conditions) -> list[NDArray[np.complex128]]:
    """Transfer functions of the wave at three defoci that stand for the focal spread (Gauss-Hermite nodes)."""
    wavelength = wavelength_A(use.energy_keV)
    k_row, k_col = (np.fft.fftfreq(n, use.pixel_A) for n in frame)
    k2 = k_row[:, None] ** 2 + k_col[None, :] ** 2
    azimuth = np.cos(2 * (np.arctan2(k_col[None, :], k_row[:, None]) - 0.6))
    aperture = 1 / (1 + np.exp((np.sqrt(k2) - 1.25) / 0.03))
    transfers = []
    for focus in (-1.5, 0.0, 1.5):
        c10 = use.c10_A + focus * use.focal_spread_A / 1.5 + use.astigmatism_A * azimuth
        phase = np.pi * wavelength * k2 * (c10 + 0.5 * use.cs_um * 1e4 * wavelength**2 * k2)
        transfers.append(aperture * np.exp(-1j * phase))
    return transfers
