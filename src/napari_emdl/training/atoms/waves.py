"""A bank of simulated exit waves on disk: written in shards by seed, so that generation resumes and training may start
early."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from napari_emdl.training.atoms.lattices import BOX_A, Structure
from napari_emdl.training.atoms.multislice import Multislice, wave_to_coefficients
from napari_emdl.training.atoms.specimens import blinking_pair, random_structure
from napari_emdl.training.atoms.structures import CarbonBank

SHARD = 128
#: half precision keeps coefficients to 1e-3; the scale lifts the weak ones out of the subnormal range
SCALE = 256.0
U_RMS_A = (0.06, 0.075, 0.09)
GRID = 320

METAL_KEV = ((300.0, 0.68), (200.0, 0.2), (80.0, 0.12))
SHEET_KEV = ((80.0, 0.7), (60.0, 0.15), (200.0, 0.05), (300.0, 0.1))


def held_out(structure: Structure) -> bool:
    """Whether a structure's kind is kept for validation only: palladium on [110] is never trained on."""
    return structure.meta["element"] == "Pd" and structure.meta["zone"] == "110"


@dataclass(frozen=True)
class Mixture:
    """What a bank of waves is drawn from: relative shares of the kinds of specimen, of the monolayers' materials and of
    the beam energies (keV) of sheets; None stands for the simulator's own.

    With the kind "blinking", the bank holds nothing but pairs of waves: a particle with and without its columns that come and
    go (``meta["blinking"]`` of the first).
    """

    shares: dict[str, float]
    materials: dict[str, float] | None = None
    sheet_keV: dict[float, float] | None = None


def draw_structure(
    rng: np.random.Generator, carbon: CarbonBank, mixture: Mixture, split: str
) -> tuple[Structure, float, float]:
    """A structure of the given split ("train" or "val") with its beam energy (keV) and thermal amplitude (A)."""
    while True:
        s = random_structure(rng, carbon, mixture.shares, mixture.materials)
        if split == "val" or not held_out(s):
            break
    sheet = tuple(mixture.sheet_keV.items()) if mixture.sheet_keV else SHEET_KEV
    table = sheet if s.meta["kind"] in ("monolayer", "graphene") else METAL_KEV
    p = np.array([p for _, p in table])
    energy = float(rng.choice([e for e, _ in table], p=p / p.sum()))
    return s, energy, float(rng.choice(U_RMS_A))


def draw_pair(rng: np.random.Generator, carbon: CarbonBank, split: str) -> list[tuple[Structure, float, float]]:
    """A particle with and without the columns that come and go, at one energy and thermal amplitude."""
    while True:
        pair = blinking_pair(rng, carbon)
        if split == "val" or not held_out(pair[0]):
            break
    energy = float(rng.choice([e for e, _ in METAL_KEV], p=[p for _, p in METAL_KEV]))
    u = float(rng.choice(U_RMS_A))
    return [(s, energy, u) for s in pair]


@dataclass
class Waves:
    """Exit waves in memory.

    Attributes
    ----------
    half
        (n, K, K, 2) float16: real and imaginary part of the centred Fourier coefficients, times `SCALE`.
    energy_keV
        (n,) beam energies.
    start
        (n + 1,) offsets into the columns.
    column_A, column_class, column_surface
        Columns of all structures in a row, see `Structure`.
    meta
        One dict per wave.
    """

    half: np.ndarray
    energy_keV: np.ndarray
    start: np.ndarray
    column_A: np.ndarray
    column_class: np.ndarray
    column_surface: np.ndarray
    meta: list[dict]

    def __len__(self) -> int:
        return len(self.half)

    def coefficients(self, index: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
        """Complex Fourier coefficients (len(index), K, K) of the chosen waves."""
        x = torch.as_tensor(self.half[index], device=device).float() / SCALE
        return torch.view_as_complex(x.contiguous())

    def columns(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions (m, 2) in angstrom, classes and surface flags of wave i."""
        a, b = self.start[i], self.start[i + 1]
        return self.column_A[a:b], self.column_class[a:b], self.column_surface[a:b]

    def select(self, index: np.ndarray) -> Waves:
        """The waves with the given indices."""
        parts = [self.columns(int(i)) for i in index]
        start = np.r_[0, np.cumsum([len(p[0]) for p in parts])]
        xy, kind, surface = (np.concatenate([p[k] for p in parts]) for k in range(3))
        return Waves(self.half[index], self.energy_keV[index], start, xy, kind, surface, [self.meta[int(i)] for i in index])


def simulate(structures: list[tuple[Structure, float, float]], solver: Multislice) -> Waves:
    """Exit waves of (structure, energy in keV, thermal amplitude in A), in memory."""
    half = []
    for s, energy, u in structures:
        c = wave_to_coefficients(solver.exit_waves([s], energy, u))
        half.append((torch.view_as_real(c) * SCALE).half().cpu().numpy())
    only = [s for s, _, _ in structures]
    return Waves(
        np.concatenate(half),
        np.array([e for _, e, _ in structures]),
        np.r_[0, np.cumsum([len(s.column_A) for s in only])],
        np.concatenate([s.column_A for s in only]).astype(np.float32),
        np.concatenate([s.column_class for s in only]).astype(np.int8),
        np.concatenate([s.column_surface for s in only]),
        [{**s.meta, "u_rms_A": u} for s, _, u in structures],
    )


def write_shard(
    folder: Path, number: int, seed: int, split: str, mixture: Mixture, solver: Multislice, carbon: CarbonBank
) -> None:
    """Simulate shard `number` of a split; its random stream depends on (seed, split, number) alone."""
    rng = np.random.default_rng([seed, {"train": 0, "val": 1, "test": 2}[split], number])
    kept = "val" if split != "train" else split
    if "blinking" in mixture.shares:
        made = [s for _ in range(SHARD // 2) for s in draw_pair(rng, carbon, kept)]
    else:
        made = [draw_structure(rng, carbon, mixture, kept) for _ in range(SHARD)]
    w = simulate(made, solver)
    path = folder / f"{split}_{number:04d}.npz"
    part = path.with_suffix(".part")
    with open(part, "wb") as f:
        np.savez(
            f,
            half=w.half,
            energy_keV=w.energy_keV,
            start=w.start,
            column_A=w.column_A,
            column_class=w.column_class,
            column_surface=w.column_surface,
            meta=json.dumps(w.meta),
        )
    part.rename(path)


def generate(folder: Path, count: int, split: str, seed: int, mixture: Mixture, device: str = "cpu") -> None:
    """Write shards until the split has at least `count` waves; shards that exist are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    solver = Multislice(box_A=BOX_A, grid=GRID, device=device)
    carbon = CarbonBank(np.random.default_rng([seed, {"train": 10, "val": 11, "test": 12}[split]]))
    for number in range(-(-count // SHARD)):
        if not (folder / f"{split}_{number:04d}.npz").exists():
            write_shard(folder, number, seed, split, mixture, solver, carbon)


def load(folder: Path, split: str, limit: int | None = None) -> Waves:
    """Read all shards of a split (at most `limit` waves)."""
    paths = sorted(folder.glob(f"{split}_*.npz"))
    if limit is not None:
        paths = paths[: -(-limit // SHARD)]
    if not paths:
        raise FileNotFoundError(f"no exit waves of split {split!r} in {folder}")
    shards = []
    for p in paths:
        with np.load(p) as z:
            shards.append({k: z[k] for k in z.files})
    base = np.cumsum([0] + [len(s["column_A"]) for s in shards[:-1]])
    start = np.concatenate(
        [s["start"][:-1] + b for s, b in zip(shards, base, strict=True)] + [[base[-1] + shards[-1]["start"][-1]]]
    )
    meta = [m for s in shards for m in json.loads(str(s["meta"]))]
    join = {
        k: np.concatenate([s[k] for s in shards]) for k in ("half", "energy_keV", "column_A", "column_class", "column_surface")
    }
    return Waves(
        join["half"],
        join["energy_keV"],
        start.astype(int),
        join["column_A"],
        join["column_class"],
        join["column_surface"],
        meta,
    )
