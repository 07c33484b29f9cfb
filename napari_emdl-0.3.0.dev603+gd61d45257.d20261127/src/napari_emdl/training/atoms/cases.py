"""Movies of particles whose surface columns come and go, with exact truth, for ``napari-emdl bench occupancy``.

    python -m napari_emdl.training.atoms.cases OUT_FOLDER [--count 4] [--frames 48] [--seed 501]

Writes PREFIX.tif and PREFIX_truth.h5 for every particle in every regime of :data:`evaluate.REGIMES`. The movies of one particle
share their occupancy, and with it their rates: what differs between doses is the measurement alone. An exit wave depends on
which columns are there, so every frame has its own multislice run. The simulator is the one that the networks are trained
with, the particles are not: they measure how well occupancy is followed on other specimens, not on other microscopes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import tifffile
import torch

from napari_emdl.training.atoms.evaluate import REGIMES, Regime
from napari_emdl.training.atoms.imaging import Detector, Microscope, image_contrast, image_intensity, record
from napari_emdl.training.atoms.lattices import BOX_A, FCC_A, Structure, fcc_lattice, lattice_sites
from napari_emdl.training.atoms.multislice import Multislice, wave_to_coefficients
from napari_emdl.training.atoms.structures import CarbonBank, outline
from napari_emdl.training.atoms.waves import GRID

SAMPLING_A, SIZE_PX, ENERGY_KEV, U_RMS_A = 0.095, 448, 300.0, 0.075
ELEMENTS = ("Ag", "Pd", "Cu", "Au", "Pt")
#: chance a frame of a blinking column to leave and to arrive
P_OFF, P_ON = 0.1, 0.2
#: grey values an electron, so that rounding to integers adds no noise
GAIN, OFFSET = 40.0, 400.0


@dataclass(frozen=True)
class BlinkingParticle:
    """A particle, which of its columns are there when, and the exit wave of every frame.

    Attributes
    ----------
    column_A
        (n, 2) sites in the box.
    blinking
        (n,) bool.
    occupied
        (T, n) bool.
    waves
        (T, K, K) complex64 Fourier coefficients.
    element
        Chemical symbol.
    """

    column_A: np.ndarray
    blinking: np.ndarray
    occupied: np.ndarray
    waves: torch.Tensor
    element: str


def blinking_particle(element: str, frames: int, seed: int, solver: Multislice | None = None) -> BlinkingParticle:
    """An fcc particle on [110] and about 20 Å of carbon; most of its surface columns blink.

    Parameters
    ----------
    element
        One of structures.FCC_A.
    frames
        Number of frames.
    seed
        The random stream depends on it alone.
    """
    rng = np.random.default_rng([seed, 9100])
    solver = solver or Multislice(box_A=BOX_A, grid=GRID)
    column_A, neighbours, atoms, column = _particle(rng, element)
    blinking = (neighbours <= 4) & (rng.random(len(column_A)) < rng.uniform(0.6, 1.0))
    occupied = np.ones((frames, len(column_A)), bool)
    occupied[:, blinking] = chains(rng, frames, int(blinking.sum()), P_OFF, P_ON)
    film = CarbonBank(rng, 1).film(rng, float(rng.uniform(15, 25)))
    film[:, 2] += atoms[:, 2].max() + 2.0 if rng.random() < 0.6 else -film[:, 2].max() - 2.0
    bottom = min(atoms[:, 2].min(), film[:, 2].min())
    atoms[:, 2] -= bottom
    film[:, 2] -= bottom
    waves = []
    for there in occupied:
        xyz = np.r_[atoms[there[column]], film]
        symbols = [element] * (len(xyz) - len(film)) + ["C"] * len(film)
        none = np.zeros(0)
        psi = solver.exit_waves([Structure(symbols, xyz, none, none, none, none)], ENERGY_KEV, U_RMS_A)
        waves.append(wave_to_coefficients(psi)[0])
    return BlinkingParticle(column_A, blinking, occupied, torch.stack(waves), element)


def chains(rng: np.random.Generator, frames: int, sites: int, p_off: float, p_on: float) -> np.ndarray:
    """(frames, sites) bool, two-state Markov chains that start in equilibrium."""
    out = np.empty((frames, sites), bool)
    out[0] = rng.random(sites) < p_on / (p_on + p_off)
    for t in range(1, frames):
        out[t] = out[t - 1] ^ (rng.random(sites) < np.where(out[t - 1], p_off, p_on))
    return out


def _particle(rng: np.random.Generator, element: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Columns (n, 2), their neighbours (n,), atoms (k, 3) and the column of each atom (k,)."""
    lattice = fcc_lattice(element, "110", FCC_A[element])
    radius = rng.uniform(13, 16.5)
    xy, kind = lattice_sites(lattice, radius + 8)
    xy = xy + rng.uniform(-1.5, 1.5, 2)
    normal, distance = outline(rng, "110", radius)
    inside = np.min(distance[None] - xy @ normal.T, axis=1) > 0
    reach = 1.15 * FCC_A[element] / np.sqrt(2)

    def count(points: np.ndarray) -> np.ndarray:
        apart = np.linalg.norm(points[:, None] - points[None], axis=2)
        return np.asarray((apart < reach).sum(1) - 1)

    xy, kind = xy[inside], kind[inside]
    for _ in range(3):  # no columns that hang on by two neighbours
        keep = count(xy) >= 3
        xy, kind = xy[keep], kind[keep]
    neighbours = count(xy)
    # a lens: thinner towards the rim, with rough faces
    from_centre = np.linalg.norm(xy - xy.mean(0), axis=1)
    period = float(lattice.period_A[0])
    thick = 0.45 * rng.uniform(1.1, 1.6) * 2 * np.sqrt(np.maximum((1.15 * radius) ** 2 - from_centre**2, 0))
    number = np.clip(np.round(thick / period + rng.normal(0, 0.5, len(xy))), 3, 9).astype(int)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xy = xy @ (turn @ (np.eye(2) + rng.normal(0, 0.004, (2, 2)))).T + rng.normal(0, 0.03, xy.shape)
    xy += BOX_A / 2 - (xy.max(0) + xy.min(0)) / 2
    column = np.repeat(np.arange(len(xy)), number)
    step = np.arange(len(column)) - np.repeat(np.cumsum(number) - number, number)
    z = (step - number[column] // 2) * period + lattice.offset_A[kind][column]
    atoms = np.c_[xy[column], z]
    tilt = np.deg2rad(rng.uniform(0, 1.2))
    azimuth = rng.uniform(0, 2 * np.pi)
    atoms[:, :2] += (np.tan(tilt) * z)[:, None] * [np.cos(azimuth), np.sin(azimuth)]
    xy = np.stack([np.bincount(column, atoms[:, axis]) for axis in (0, 1)], 1) / number[:, None]
    return xy, neighbours, atoms, column


def record_movie(particle: BlinkingParticle, regime: Regime, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (T, rows, cols) uint16, sites (n, 2) and drift (T, 2) in pixels; the view drifts by about 2 pixels a frame.

    Aberrations are drawn like those of the held-out images, again and again until the columns have the contrast of the regime.
    """
    rng = np.random.default_rng([seed, 9200])
    frames = len(particle.waves)
    step = rng.normal(0, 2.0, (frames, 2))
    drift_px = np.zeros((frames, 2))
    for t in range(1, frames):  # a stage that creeps and is brought back
        drift_px[t] = 0.93 * drift_px[t - 1] + step[t]
    margin_px = (int(BOX_A / SAMPLING_A) - SIZE_PX) / 2
    sites_px = particle.column_A / SAMPLING_A - margin_px
    sign = 1.0 if regime.contrast == "bright" else -1.0
    for _ in range(100):
        microscope = _microscope(rng, regime, sign)
        look = _view(particle.waves[:1], microscope, np.full(2, margin_px))[0].numpy()
        if sign * image_contrast(look, sites_px[particle.occupied[0]], SAMPLING_A, rng) >= 0.35:
            break
    detector = Detector.ideal(torch.tensor([float(regime.dose_e_per_A2)]))
    detector.c1, detector.c2 = torch.tensor([0.005]), torch.tensor([rng.uniform(0.12, 0.5)], dtype=torch.float32)
    detector.c3, detector.noise_power = torch.tensor([2.5]), torch.tensor([rng.uniform(0.5, 1.0)], dtype=torch.float32)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    out = np.empty((frames, SIZE_PX, SIZE_PX), np.uint16)
    for t in range(frames):
        intensity = _view(particle.waves[t : t + 1], microscope, margin_px - drift_px[t])
        counts = record(intensity, SAMPLING_A, detector, generator)[0].numpy()
        out[t] = np.clip(np.round(counts * GAIN + OFFSET), 0, 65535)
    return out, sites_px, drift_px


def _microscope(rng: np.random.Generator, regime: Regime, sign: float) -> Microscope:
    return Microscope.single(
        energy_keV=ENERGY_KEV, C10_A=sign * rng.uniform(50, 80), Cs_A=rng.uniform(-9e4, -8e4), C12_A=rng.uniform(*regime.C12_A),
        phi12_rad=rng.uniform(0, 2 * np.pi), focal_spread_A=rng.uniform(20, 25),
    )  # fmt: skip


def _view(waves: torch.Tensor, microscope: Microscope, start_px: np.ndarray) -> torch.Tensor:
    """Intensity (1, SIZE_PX, SIZE_PX) of the part of the box that starts at `start_px`."""
    origin_A = torch.as_tensor(start_px * SAMPLING_A, dtype=torch.float32)[None]
    return image_intensity(waves, microscope, BOX_A, SAMPLING_A, (SIZE_PX, SIZE_PX), origin_A)


def write_case(prefix: Path, particle: BlinkingParticle, regime: Regime, seed: int) -> None:
    """Write PREFIX.tif and PREFIX_truth.h5."""
    frames, sites_px, drift_px = record_movie(particle, regime, seed)
    tifffile.imwrite(
        f"{prefix}.tif", frames, imagej=True, compression="zlib", resolution=(10 / SAMPLING_A, 10 / SAMPLING_A),
        metadata={"axes": "TYX", "unit": "nm", "finterval": 0.5},
    )  # fmt: skip
    with h5py.File(f"{prefix}_truth.h5", "w") as file:
        file.attrs.update(
            s=SAMPLING_A, dose=regime.dose_e_per_A2, regime=regime.name, contrast=regime.contrast, element=particle.element,
            poff=P_OFF, pon=P_ON, seed=seed,
        )  # fmt: skip
        for name, values in (
            ("sites_px", sites_px), ("drift_px", drift_px), ("occupied", particle.occupied), ("blinking", particle.blinking),
        ):  # fmt: skip
            file[f"truth/{name}"] = values


def main() -> None:
    """Write all cases into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=4, help="particles")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--seed", type=int, default=501)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    solver = Multislice(box_A=BOX_A, grid=GRID)
    for number in range(args.count):
        element, seed = ELEMENTS[number % len(ELEMENTS)], 1000 * args.seed + number
        particle = blinking_particle(element, args.frames, seed, solver)
        for index, regime in enumerate(REGIMES):
            prefix = args.folder / f"{regime.name.replace(' ', '_')}_{element.lower()}_{seed}"
            write_case(prefix, particle, regime, 10 * seed + index)
            print(prefix, flush=True)


if __name__ == "__main__":
    main()
