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
from pathlib import Path

import h5py
import numpy as np
import torch

from napari_emdl.base.physics import semiangle_invA, wavelength_A
from napari_emdl.training.diffraction.crystals import Crystal, catalogue, is_validation, load_crystals
from napari_emdl.training.diffraction.multislice import Beams, ZoneCell, project, simulate

ENERGIES_KEV = (80.0, 100.0, 120.0, 200.0, 300.0)
_LOW_INDEX = 2
_BLOCK = 25


@dataclass(frozen=True)
class Ranges:
    """What is drawn for a run."""

    energy_keV: tuple[float, float] = (80.0, 300.0)
    semiangle_mrad: tuple[float, float] = (1.0, 5.0)
    thickness_nm: tuple[float, float] = (2.0, 50.0)
    tilt_mrad: float = 15.0
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


def draw_run(crystal: Crystal, rng: np.random.Generator, ranges: Ranges = Ranges(), device: str = "cpu") -> tuple[Beams, dict]:
    """Simulate one crystal at a random zone, energy, semiangle, tilt and set of thicknesses."""
    cell = draw_zone(crystal, rng, ranges)
    low, high = ranges.energy_keV
    near = [e for e in ENERGIES_KEV if low <= e <= high]
    energy = float(rng.choice(near)) if near and rng.random() < 0.6 else float(rng.uniform(low, high))
    semiangle = float(np.exp(rng.uniform(*np.log(ranges.semiangle_mrad))))
    tilt_mrad = ranges.tilt_mrad * abs(rng.beta(1.0, 1.6))
    angle = rng.uniform(0, 2 * np.pi)
    tilt = tilt_mrad * 1e-3 / wavelength_A(energy) * np.array([np.cos(angle), np.sin(angle)])
    top = float(rng.uniform(0.4, 1.0)) * ranges.thickness_nm[1]
    thickness = 10 * np.sort(rng.uniform(ranges.thickness_nm[0], top, ranges.thicknesses))
    nk = 11 if semiangle < 1.6 else 13 if semiangle < 3.2 else 17
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
        "tilt_mrad": float(tilt_mrad),
        "k_max_invA": beams.k_max_invA,
        "tilt_invA": tilt.tolist(),
    }
    return beams, meta | {"thickness_A": beams.thickness_A.tolist()}


def write_run(group: h5py.Group, index: int, beams: Beams, meta: dict) -> None:
    """Append one run to an open library."""
    entry = group.create_group(f"{index:06d}")
    values = torch.view_as_real(beams.amplitude.cpu()).numpy()
    entry["amplitude"] = values.astype(np.float16)
    entry["g_invA"] = beams.g_invA.astype(np.float32)
    entry["hk"] = beams.hk.astype(np.int16)
    entry["v_V"] = beams.v_V.astype(np.float32)
    entry.attrs["meta"] = json.dumps(meta)


@dataclass(frozen=True)
class Run:
    """One run read back: amplitudes as float16 pairs (t, n, nk, nk, 2) and what it was simulated with."""

    amplitude: np.ndarray
    g_invA: np.ndarray
    hk: np.ndarray
    v_V: np.ndarray
    meta: dict


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


def build(path: str | Path, runs: int, seed: int = 1, crystals: list[Crystal] | None = None, device: str = "cpu") -> None:
    """Simulate `runs` runs into a library file, going on where it was cut."""
    crystals = crystals or catalogue()
    order = np.random.default_rng(seed).permutation(len(crystals))
    start = time.monotonic()
    with h5py.File(path, "a") as f:
        first = len(f.require_group("runs"))
    for begin in range(first, runs, _BLOCK):
        block = range(begin, min(begin + _BLOCK, runs))
        made = [draw_run(crystals[order[i % len(crystals)]], np.random.default_rng([seed, i]), device=device) for i in block]
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
