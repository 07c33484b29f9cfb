"""Library of simulated beams: many crystals, zones, tilts and thicknesses in one HDF5 file, rendered afresh for every sample.

    python -m napari_emdl.training.diffraction.library OUT.h5 --runs 2000 [--crystals own.yaml] [--seed 1]

Complex amplitudes are stored as pairs of float16 scaled per run, about half a megabyte a run of eight thicknesses. The file
grows by 25 runs at a time and may be read meanwhile, or continued after a cut.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import torch

from napari_emdl.base.physics import semiangle_invA, wavelength_A
from napari_emdl.training.diffraction.crystals import Crystal, catalogue, is_validation, load_crystals
from napari_emdl.training.diffraction.mapped import draw_mapped
from napari_emdl.training.diffraction.multislice import Beams, ZoneCell, project, simulate

ENERGIES_KEV = (20.0, 30.0, 60.0, 80.0, 100.0, 120.0, 200.0, 300.0)
_LOW_INDEX = 2
_BLOCK = 25


@dataclass(frozen=True)
class Ranges:
    """What is drawn for a run.

    Attributes
    ----------
    semiangle_invA
        Probes smaller than the lower end on the detector are spots; the semiangle stays within `semiangle_mrad` as well.
    thickness_nm
        Thin slabs are the most frequent: half of the runs end below half of the largest thickness.
    zone_share, zone_tilt_mrad
        Part of the runs on mapped zones (`draw_mapped`) that are tilted by at most this.
    """

    energy_keV: tuple[float, float] = (20.0, 300.0)
    semiangle_mrad: tuple[float, float] = (0.6, 6.0)
    semiangle_invA: tuple[float, float] = (0.018, 0.22)
    thickness_nm: tuple[float, float] = (2.0, 100.0)
    tilt_mrad: float = 25.0
    zone_share: float = 0.4
    zone_tilt_mrad: float = 3.0
    thicknesses: int = 8
    max_area_A2: float = 75.0
    max_length_A: float = 14.0


def draw_zone(crystal: Crystal, rng: np.random.Generator, ranges: Ranges) -> ZoneCell:
    """Random zone axis, mostly of low indices, whose projected cell is neither huge nor needle-like."""
    for _ in range(200):
        top = _LOW_INDEX if rng.random() < 0.75 else 5
        zone = tuple(int(x) for x in rng.integers(-top, top + 1, 3))
        if not any(zone) or math.gcd(*zone) != 1 or rng.random() > 1.6 / math.sqrt(sum(z * z for z in zone)):
            continue
        cell = project(crystal, (zone[0], zone[1], zone[2]))
        lengths = np.linalg.norm(cell.cell_A, axis=1)
        area = abs(np.linalg.det(cell.cell_A))
        if lengths.max() < ranges.max_length_A and 2.0 < area < ranges.max_area_A2:
            return cell
    return project(crystal, (0, 0, 1))


def _draw_optics(rng: np.random.Generator, ranges: Ranges, on_zone: bool) -> tuple[float, float, float, np.ndarray]:
    """Energy in keV, semiangle and size of the mistilt in mrad, thicknesses in angstrom."""
    low, high = ranges.energy_keV
    near = [e for e in ENERGIES_KEV if low <= e <= high]
    energy = float(rng.choice(near)) if near and rng.random() < 0.6 else float(rng.uniform(low, high))
    reach = np.array(ranges.semiangle_invA) * wavelength_A(energy) * 1e3
    smallest = max(ranges.semiangle_mrad[0], float(reach[0]))
    largest = max(1.2 * smallest, min(ranges.semiangle_mrad[1], float(reach[1])))
    semiangle = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    tilt_mrad = ranges.zone_tilt_mrad * rng.random() if on_zone else ranges.tilt_mrad * abs(rng.beta(1.0, 1.6))
    top = float(rng.uniform(0.2, 1.0)) ** 1.3 * ranges.thickness_nm[1]
    thickness = 10 * np.sort(rng.uniform(ranges.thickness_nm[0], max(top, 5 * ranges.thickness_nm[0]), ranges.thicknesses))
    return energy, semiangle, float(tilt_mrad), thickness


def draw_run(
    crystal: Crystal,
    rng: np.random.Generator,
    ranges: Ranges = Ranges(),
    device: str = "cpu",
    zone: tuple[int, int, int] | None = None,
) -> tuple[Beams, dict]:
    """Simulate one crystal at a random energy, semiangle, tilt and set of thicknesses, on a given or a random zone."""
    cell = draw_zone(crystal, rng, ranges) if zone is None else project(crystal, zone)
    on_zone = zone is not None and rng.random() < ranges.zone_share
    energy, semiangle, tilt_mrad, thickness = _draw_optics(rng, ranges, on_zone)
    angle = rng.uniform(0, 2 * np.pi)
    tilt = tilt_mrad * 1e-3 / wavelength_A(energy) * np.array([np.cos(angle), np.sin(angle)])
    # The rocking curve of a thick slab has more fringes across a disk.
    fine = semiangle * (1 + float(thickness.max()) / 2000)
    nk = 11 if fine < 1.6 else 13 if fine < 3.2 else 17
    beams = simulate(
        cell,
        energy,
        1.06 * semiangle_invA(semiangle, energy),
        thickness,
        tilt_invA=(float(tilt[0]), float(tilt[1])),
        nk=nk,
        slice_A=float(rng.uniform(2.6, 3.6)),
        absorption=float(rng.uniform(0.01, 0.07)),
        keep_intensity=2e-6,
        device=device,
    )
    meta = {"crystal": crystal.name, "formula": crystal.formula, "validation": is_validation(crystal), "energy_keV": energy}
    meta |= {
        "semiangle_mrad": semiangle,
        "tilt_mrad": tilt_mrad,
        "zone": None if zone is None else list(zone),
        "k_max_invA": beams.k_max_invA,
        "tilt_invA": tilt.tolist(),
    }
    return beams, meta | {"thickness_A": beams.thickness_A.tolist()}


def write_run(group: h5py.Group, index: int, beams: Beams, meta: dict) -> None:
    """Append one run to an open library."""
    entry = group.create_group(f"{index:06d}")
    run = as_run(beams, meta)
    for name in ("amplitude", "g_invA", "hk", "v_V"):
        entry[name] = getattr(run, name)
    entry.attrs["meta"] = json.dumps(meta)


@dataclass(frozen=True)
class Run:
    """One run read back: amplitudes as float16 pairs (t, n, nk, nk, 2) and what it was simulated with."""

    amplitude: np.ndarray
    g_invA: np.ndarray
    hk: np.ndarray
    v_V: np.ndarray
    meta: dict


def as_run(beams: Beams, meta: dict) -> Run:
    """A run as `read_library` would read it back, without a file."""
    amplitude = torch.view_as_real(beams.amplitude.cpu()).numpy().astype(np.float16)
    return Run(amplitude, beams.g_invA.astype(np.float32), beams.hk.astype(np.int16), beams.v_V.astype(np.float32), meta)


def beam_run(index: int, seed: int) -> Run:
    """Run `index` of the library of a seed, on one thread: for pools of processes."""
    torch.set_num_threads(1)
    return as_run(*make_run(index, seed))


def read_library(paths: list[str | Path], validation: bool | None = None, limit: int | None = None) -> list[Run]:
    """Read runs into memory.

    Parameters
    ----------
    paths
        Library files.
    validation
        True: held-out crystals only; False: the others; None: all.
    limit
        At most this many runs.
    """
    runs: list[Run] = []
    for path in paths:
        with h5py.File(path, "r", locking=False) as f:
            for name in sorted(f["runs"]):
                entry = f["runs"][name]
                meta = json.loads(entry.attrs["meta"])
                if validation is not None and meta["validation"] != validation:
                    continue
                amplitude, g, hk, v = (entry[k][()] for k in ("amplitude", "g_invA", "hk", "v_V"))
                runs.append(Run(amplitude, g, hk, v, meta))
                if limit is not None and len(runs) >= limit:
                    return runs
    return runs


def make_run(index: int, seed: int, crystals: list[Crystal] | None = None, device: str = "cpu") -> tuple[Beams, dict]:
    """Run `index` of a library: without own crystals, odd ones are crystals and zones that strain is mapped in."""
    rng = np.random.default_rng([seed, index])
    if crystals is None and index % 2:
        crystal, zone = draw_mapped(rng)
        return draw_run(crystal, rng, device=device, zone=zone)
    pool = catalogue_of_all() if crystals is None else crystals
    order = np.random.default_rng(seed).permutation(len(pool))
    which = index // 2 if crystals is None else index
    return draw_run(pool[order[which % len(pool)]], rng, device=device)


@cache
def catalogue_of_all() -> list[Crystal]:
    """The catalogue, made once."""
    return catalogue()


def build(path: str | Path, runs: int, seed: int = 1, crystals: list[Crystal] | None = None, device: str = "cpu") -> None:
    """Simulate `runs` runs into a library file, going on where it was cut."""
    start = time.monotonic()
    with h5py.File(path, "a") as f:
        first = len(f.require_group("runs"))
    for begin in range(first, runs, _BLOCK):
        block = range(begin, min(begin + _BLOCK, runs))
        made = [make_run(i, seed, crystals, device) for i in block]
        # The file is open only while a block is written: a process that is killed leaves a file that opens.
        with h5py.File(path, "a") as f:
            for index, (beams, meta) in zip(block, made, strict=True):
                write_run(f["runs"], index, beams, meta)
        print(f"{block.stop} runs, {(block.stop - first) / (time.monotonic() - start):.2f} runs/s", flush=True)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crystals", help="YAML list of own crystals")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    build(args.out, args.runs, args.seed, load_crystals(args.crystals) if args.crystals else None, args.device)


if __name__ == "__main__":
    main()
