"""Scans of several crystals with their truth: how much of a map is right with one lattice and with those that are found.

    python -m napari_emdl.training.diffraction.worlds [--seed 41] [--worlds grains,phases,...] [--method fcunet]

Patterns come from the simulator that the networks are trained with; crystals above each other add their patterns up. Prints a
row for each world and each choice of `lattices`: positions of a crystal that are fitted, and the rms error of the strain there
about each crystal's median, in %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch

from napari_emdl.base.physics import semiangle_invA, wavelength_A
from napari_emdl.training.diffraction.evaluate import _plain_scene
from napari_emdl.training.diffraction.library import Run, as_run
from napari_emdl.training.diffraction.mapped import known_crystals
from napari_emdl.training.diffraction.multislice import project, simulate
from napari_emdl.training.diffraction.render import render
from napari_emdl.training.diffraction.scene import RenderConfig, Scene

SCAN, DETECTOR_PX = 18, 160
ENERGY_KEV, SEMIANGLE_MRAD, SAMPLING_INVA, DOSE_E = 200.0, 2.0, 0.0165, 3e4
#: (row, col) mistilts in mrad, and thicknesses, of which a crystal takes one at every position
TILTS_MRAD = ((0.5, 0.0), (2.0, 1.0))
THICKNESS_A = (60.0, 120.0, 200.0, 300.0, 420.0)
#: spacings of the rings of amorphous carbon, 1/A
RINGS_INVA = (0.31, 0.5)
_CONFIG = RenderConfig(size_px=DETECTOR_PX)
Zone = tuple[int, int, int]


@dataclass(frozen=True)
class Grain:
    """A crystal as it lies in the scan."""

    crystal: str
    zone: Zone
    turn_deg: float


@dataclass
class World:
    """Patterns (R, C, rows, cols), basis (R, C, 2, 2) px of the crystal that is brightest, its number (0: none)."""

    seed: int
    patterns: np.ndarray = field(default_factory=lambda: np.zeros((SCAN, SCAN, DETECTOR_PX, DETECTOR_PX), np.uint16))
    basis_px: np.ndarray = field(default_factory=lambda: np.full((SCAN, SCAN, 2, 2), np.nan))
    number: np.ndarray = field(default_factory=lambda: np.zeros((SCAN, SCAN), int))

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        semiangle = semiangle_invA(SEMIANGLE_MRAD, ENERGY_KEV)
        self.scene: Scene = replace(
            _plain_scene(0, semiangle, DOSE_E, self.rng), sampling_invA=SAMPLING_INVA, rotation_rad=0.0, edge_px=0.7,
            origin_px=np.array([DETECTOR_PX / 2 + 0.7, DETECTOR_PX / 2 - 1.1]), deformation=np.eye(2),
        )  # fmt: skip

    def crystal(self, grain: Grain, thickness: int, tilt: int = 0, strain: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Expected counts of a crystal and its basis (rows g1, g2 in px)."""
        scene = replace(
            self.scene,
            thickness_index=int(np.clip(thickness, 0, len(THICKNESS_A) - 1)),
            rotation_rad=float(np.deg2rad(grain.turn_deg)),
            deformation=np.diag([1 + strain, 1.0]),
        )
        made = render(_run(grain.crystal, grain.zone, tilt), scene, _CONFIG, noise=False)
        return made.counts.numpy().astype(float), np.asarray(made.basis_px)

    def amorphous(self, share: float) -> np.ndarray:
        """Expected counts of a film that scatters this share of the beam."""
        rows, cols = np.mgrid[:DETECTOR_PX, :DETECTOR_PX]
        pixels = np.hypot(rows - self.scene.origin_px[0], cols - self.scene.origin_px[1])
        film = np.exp(-pixels * SAMPLING_INVA / 0.12) * 0.6
        for spacing, height in zip(RINGS_INVA, (1.0, 0.5), strict=True):
            film += height * np.exp(-((pixels * SAMPLING_INVA - spacing) ** 2) / 2 / 0.035**2)
        beam = np.clip((self.scene.radius_px - pixels) / self.scene.edge_px + 0.5, 0, 1)
        return np.asarray(DOSE_E * (share * film / film.sum() + (1 - share) * beam / beam.sum()))

    def put(self, at: tuple[int, int], expected: np.ndarray, basis_px: np.ndarray | None = None, number: int = 0) -> None:
        """Count a pattern."""
        self.patterns[at] = self.rng.poisson(np.maximum(expected, 0))
        if basis_px is not None:
            self.basis_px[at], self.number[at] = basis_px, number


@cache
def _run(name: str, zone: Zone, tilt: int) -> Run:
    crystal = next(c for c in known_crystals() if c.name == f"{name} known")
    row, col = (1e-3 * t / wavelength_A(ENERGY_KEV) for t in TILTS_MRAD[tilt])
    reach = 1.06 * semiangle_invA(SEMIANGLE_MRAD, ENERGY_KEV)
    beams = simulate(
        project(crystal, zone), ENERGY_KEV, reach, np.array(THICKNESS_A), tilt_invA=(row, col), nk=11, absorption=0.03
    )
    meta = {"energy_keV": ENERGY_KEV, "k_max_invA": beams.k_max_invA, "tilt_invA": [row, col], "crystal": name}
    meta |= {"thickness_A": beams.thickness_A.tolist(), "tilt_mrad": float(np.hypot(*TILTS_MRAD[tilt]))}
    return as_run(beams, meta)


def _places() -> Iterator[tuple[int, int]]:
    return ((r, c) for r in range(SCAN) for c in range(SCAN))


def two(world: World, grains: tuple[Grain, Grain]) -> None:
    """Two crystals beside each other, above each other where they meet."""
    for r, c in _places():
        share = float(np.clip(0.5 + (c - SCAN * 0.55 + 0.25 * (r - SCAN / 2)) / 4, 0, 1))
        made = [world.crystal(grain, 1 + r // 6, k, 0.004 * np.sin(r / 5)) for k, grain in enumerate(grains)]
        world.put((r, c), (1 - share) * made[0][0] + share * made[1][0], made[int(share >= 0.5)][1], 1 + int(share >= 0.5))


def precipitate(world: World) -> None:
    """A carbide in a strained matrix that goes on beneath it."""
    for r, c in _places():
        strain = 0.004 * np.exp(-np.hypot(r - 9, c - 10) / 6)
        expected, basis = world.crystal(Grain("fcc Ni", (0, 0, 1), 30.0), 1 + (c > 9), strain=strain)
        if abs(r - 9) < 3 and abs(c - 10) < 5:
            expected = 0.6 * expected + 0.4 * world.crystal(Grain("rock salt Ti-C", (0, 0, 1), 47.0), 1)[0]
        world.put((r, c), expected, basis, 1)


def polycrystal(world: World) -> None:
    """Six grains."""
    zones: tuple[Zone, ...] = ((0, 1, 1), (0, 0, 1), (1, 1, 2), (0, 1, 1), (0, 0, 1), (1, 1, 1))
    seeds = world.rng.uniform(0, SCAN, (len(zones), 2))
    grains = [Grain("fcc Pd", zone, float(world.rng.uniform(0, 180))) for zone in zones]
    for r, c in _places():
        distance = np.hypot(*(seeds - [r, c]).T)
        first, second = np.argsort(distance)[:2]
        share = float(np.clip(0.5 + (distance[second] - distance[first]) / 2.5, 0.5, 1.0))
        (one, basis), (other, _) = (world.crystal(grains[k], 1 + k % 4, k % 2) for k in (first, second))
        world.put((r, c), share * one + (1 - share) * other, basis, 1 + int(first))


def particles(world: World) -> None:
    """Seven particles on carbon."""
    centre, radius = world.rng.uniform(1, SCAN - 1, (7, 2)), world.rng.uniform(2, 4, 7)
    zones: tuple[Zone, ...] = ((0, 1, 1), (0, 0, 1), (1, 1, 2))
    grains = [Grain("fcc Au", zones[k % 3], float(world.rng.uniform(0, 180))) for k in range(7)]
    for r, c in _places():
        depth = 1 - (np.hypot(*(centre - [r, c]).T) / radius) ** 2
        film, inside = world.amorphous(0.25), np.flatnonzero(depth > 0)
        if not len(inside):
            world.put((r, c), film)
            continue
        k = int(inside[np.argmax(depth[inside])])
        expected, basis = world.crystal(grains[k], int(2.9 * np.sqrt(depth[k])))
        world.put((r, c), 0.5 * film + 0.5 * expected, basis, k + 1)


def film_on_substrate(world: World) -> None:
    """One lattice: a film strained by 1.5 %, amorphous cap, vacuum."""
    grain = Grain("diamond Si", (0, 1, 1), 12.0)
    for r, c in _places():
        if r < 6:
            world.put((r, c), world.amorphous(0.3 * (r > 2)))
        else:
            world.put((r, c), *world.crystal(grain, 1 + 3 * c // SCAN, int(c > 10), 0.015 * (r < 12)), 1)


def _grains(name: str, zone: Zone, turns: tuple[float, float]) -> Callable[[World], None]:
    return lambda world: two(world, (Grain(name, zone, turns[0]), Grain(name, zone, turns[1])))


WORLDS: dict[str, Callable[[World], None]] = {
    "grains": _grains("fcc Pt", (0, 1, 1), (5.0, 42.0)),
    "phases": lambda w: two(w, (Grain("zinc blende In-As", (0, 1, 1), 0.0), Grain("wurtzite Ga-N", (1, 0, 0), 15.0))),
    "tilted by 8 degrees": _grains("fcc Ni", (0, 0, 1), (0.0, 8.0)),
    "twins": _grains("fcc Ni", (0, 1, 1), (0.0, 70.53)),
    "precipitate": precipitate,
    "polycrystal": polycrystal,
    "particles": particles,
    "film on substrate": film_on_substrate,
}


def make_world(name: str, seed: int) -> World:
    """One of :data:`WORLDS`."""
    world = World(seed)
    WORLDS[name](world)
    return world


def strain_errors(world: World, strain_of: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n, 3) errors of exx, eyy, exy (R, C, 3) of fitted positions about the median of each crystal."""
    errors = [np.zeros((0, 3))]
    for number in np.unique(world.number[world.number > 0]):
        inside = (world.number == number) & mask
        if inside.sum() < 4:
            continue
        change = np.linalg.inv(np.linalg.solve(np.median(world.basis_px[inside], axis=0), world.basis_px[inside]))
        sym = (change + np.swapaxes(change, 1, 2)) / 2 - np.eye(2)
        wrong = strain_of[inside] - np.stack([sym[:, 0, 0], sym[:, 1, 1], sym[:, 0, 1]], axis=1)
        errors.append(wrong - np.median(wrong, axis=0))
    return np.concatenate(errors)


def main() -> None:
    """Print the table."""
    from napari_emdl.base.signals import Calibration, in_memory
    from napari_emdl.diffraction.find.disks import find_disks
    from napari_emdl.diffraction.fit.strain import fit_strain

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("--method", default="fcunet")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("world                | lattices | found | fitted of crystal | rms exx, eyy, exy % | beyond 3 sigma %")
    for index, name in enumerate(args.worlds.split(",")):
        world = make_world(name, args.seed + index)
        cube = in_memory(world.patterns, "datacube", Calibration(), name=name)
        disks = find_disks(cube, method=args.method)
        for lattices in ("one", "auto"):
            fitted = fit_strain(disks, lattices=lattices)
            values = np.stack([fitted.exx, fitted.eyy, fitted.exy], axis=-1)
            wrong = strain_errors(world, values, fitted.mask)
            crystal = world.number > 0
            rms = ", ".join(f"{100 * v:.3f}" for v in np.sqrt(np.mean(wrong**2, axis=0)))
            count = 1 if fitted.region is None else len(np.unique(fitted.region[fitted.region > 0]))
            far = np.mean(np.abs(wrong).max(axis=1) > 3 * np.median(fitted.sigma[fitted.mask][:, :3]))
            share = f"{(fitted.mask & crystal).sum()} of {crystal.sum()}"
            print(f"{name:20} | {lattices:8} | {count:5} | {share:17} | {rms} | {100 * far:.0f}", flush=True)


if __name__ == "__main__":
    main()
