"""Catalogue of crystals for the simulator: prototypes filled with elements, exclusions and the split by crystal.

Lattice parameters follow from covalent radii (Cordero et al., Dalton Trans. 2008, 2832) so that atoms touch, varied by a few
per cent: what counts is the variety of reciprocal lattices and structure factors, not the stability of a phase.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import yaml

from napari_emdl.base.errors import EmdlError
from napari_emdl.training.diffraction.prototypes import CENTRING, PROTOTYPES, Prototype

#: Compositions that no training or validation crystal may have: generalisation is measured on them.
EXCLUDED_FORMULAS = frozenset({"O3SrTi", "AsGa", "Cu", "Al", "MgO"})

#: Covalent radii in pm.
_RADII = """
Li 128 Be 96 B 84 C 76 N 71 O 66 F 57 Na 166 Mg 141 Al 121 Si 111 P 107 S 105 Cl 102
K 203 Ca 176 Sc 170 Ti 160 V 153 Cr 139 Mn 150 Fe 142 Co 138 Ni 124 Cu 132 Zn 122 Ga 122 Ge 120
As 119 Se 120 Br 120 Rb 220 Sr 195 Y 190 Zr 175 Nb 164 Mo 154 Ru 146 Rh 142 Pd 139 Ag 145 Cd 144
In 142 Sn 139 Sb 139 Te 138 I 139 Cs 244 Ba 215 La 207 Ce 204 Nd 201 Gd 196 Dy 192 Er 189 Yb 187
Hf 175 Ta 170 W 162 Re 151 Os 144 Ir 141 Pt 136 Au 136 Hg 132 Tl 145 Pb 146 Bi 148 Th 206 U 196
"""
RADII_PM: dict[str, int] = {a: int(b) for a, b in zip(_RADII.split()[::2], _RADII.split()[1::2], strict=True)}

_POOLS = {
    "metal": """Li Be Na Mg Al Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Sr Y Zr Nb Mo Ru Rh
    Pd Ag Cd In Sn La Ce Nd Gd Dy Er Yb Hf Ta W Re Os Ir Pt Au Tl Pb Bi Th U""",
    "cation": """Li Be Na Mg Al K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge Rb Sr Y Zr
    Nb Mo Ru Rh Pd Ag Cd In Sn Ba La Ce Gd Yb Hf Ta W Ir Pt Hg Tl Pb Th U""",
    "big": "Na K Ca Rb Sr Y Cs Ba La Ce Nd Gd Dy Yb Pb Bi Th",
    "anion": "N O F P S Cl As Se Br Sb Te I",
    "oxide": "O O O F S N",
    "chalcogen": "S Se Te O",
    "semi": "B C Si P Ge As Se Sn Sb Te",
}
#: Elements that each kind of site draws from.
POOLS: dict[str, tuple[str, ...]] = {name: tuple(text.split()) for name, text in _POOLS.items()}


@dataclass(frozen=True)
class Crystal:
    """A crystal as the simulator needs it.

    Attributes
    ----------
    name
        Unique name; the split and the random seeds of its simulations derive from it.
    cell_A
        Primitive lattice vectors as rows, (3, 3), in angstrom.
    conventional_A
        Conventional lattice vectors as rows; zone axes refer to it.
    symbols
        Element of each atom of the primitive cell.
    fractional
        Positions in the primitive cell, (n, 3).
    u2_A2
        Mean square displacement of each atom along one axis, (n,).
    """

    name: str
    cell_A: np.ndarray
    conventional_A: np.ndarray
    symbols: tuple[str, ...]
    fractional: np.ndarray
    u2_A2: np.ndarray

    @property
    def formula(self) -> str:
        """Reduced formula with elements in alphabetical order, such as ``"O3SrTi"``."""
        return reduced_formula(self.symbols)

    @property
    def volume_A3(self) -> float:
        """Volume of the primitive cell."""
        return abs(float(np.linalg.det(self.cell_A)))

    @property
    def key(self) -> int:
        """Stable 63-bit number derived from the name."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "big") >> 1


def reduced_formula(symbols: Sequence[str]) -> str:
    """Reduced chemical formula, elements in alphabetical order."""
    counts = {s: symbols.count(s) for s in sorted(set(symbols))}
    divisor = reduce(math.gcd, counts.values())
    return "".join(f"{s}{n // divisor if n > divisor else ''}" for s, n in counts.items())


def build_crystal(
    name: str,
    centring: str,
    lengths_A: Sequence[float],
    gamma_deg: float,
    sites: dict[str, list[tuple[float, float, float]]],
    u2_A2: float | dict[str, float] = 0.006,
) -> Crystal:
    """Crystal from conventional lengths, centring and the basis of one lattice point.

    Parameters
    ----------
    lengths_A
        a, b, c in angstrom.
    gamma_deg
        Angle between a and b (alpha = beta = 90 degrees).
    sites
        Element -> fractional coordinates in the conventional cell, without the copies made by the centring.
    u2_A2
        Mean square displacement along one axis, for all or by element.
    """
    a, b, c = lengths_A
    gamma = math.radians(gamma_deg)
    conventional = np.array([[a, 0, 0], [b * math.cos(gamma), b * math.sin(gamma), 0], [0, 0, c]])
    cell = CENTRING[centring] @ conventional
    symbols = tuple(s for s, points in sites.items() for _ in points)
    positions = np.array([p for points in sites.values() for p in points], float) @ conventional
    fractional = (positions @ np.linalg.inv(cell)) % 1.0
    u2 = np.array([u2_A2[s] if isinstance(u2_A2, dict) else u2_A2 for s in symbols])
    return Crystal(name, cell, conventional, symbols, fractional, u2)


def _touching_scale(prototype: Prototype, elements: dict[str, str], axes: tuple[float, float]) -> float:
    """Lattice parameter a at which the tightest pair of atoms is one sum of covalent radii apart."""
    sites = {f"{k}": v for k, v in prototype.sites.items()}
    unit = build_crystal("unit", prototype.centring, (1.0, *axes), prototype.gamma_deg, sites)
    shifts = np.array([(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
    delta = (unit.fractional[:, None, None] - unit.fractional[None, :, None] + shifts) @ unit.cell_A
    distance = np.linalg.norm(delta, axis=-1)
    distance[distance < 1e-6] = np.inf
    nearest = distance.min(-1)
    radius = np.array([RADII_PM[elements[s]] / 100 for s in unit.symbols])
    ratio = (radius[:, None] + radius[None]) / nearest
    # Pairs of like atoms in compounds may sit closer than their covalent radii ask for (cations beside cations).
    unlike = np.array([[x != y for y in unit.symbols] for x in unit.symbols])
    return float(max(ratio[unlike].max() if unlike.any() else 0.0, 0.78 * ratio.max() if unlike.any() else ratio.max()))


def _draw(prototype: Prototype, rng: np.random.Generator, index: int) -> Crystal | None:
    elements: dict[str, str] = {}
    for letter in sorted(prototype.sites):
        pool = [e for e in POOLS[prototype.pools[letter]] if e not in elements.values()]
        elements[letter] = pool[rng.integers(len(pool))]
    axes = tuple(1.0 if r == 1.0 else r * float(rng.uniform(0.94, 1.06)) for r in prototype.axes)
    scale = _touching_scale(prototype, elements, (axes[0], axes[1])) * float(rng.uniform(0.97, 1.06))
    sites = {elements[k]: v for k, v in prototype.sites.items()}
    mass = {e: RADII_PM[e] for e in elements.values()}
    u2 = {e: float(rng.uniform(0.003, 0.011)) * (1.2 if mass[e] < 80 else 1.0) for e in elements.values()}
    name = f"{prototype.name} {'-'.join(elements[k] for k in sorted(elements))} {index}"
    crystal = build_crystal(name, prototype.centring, (scale, scale * axes[0], scale * axes[1]), prototype.gamma_deg, sites, u2)
    return None if crystal.formula in EXCLUDED_FORMULAS else crystal


def catalogue(count: int = 1500, seed: int = 1) -> list[Crystal]:
    """Distinct crystals over all prototypes, none with an excluded composition.

    Parameters
    ----------
    count
        How many; prototypes take turns.
    seed
        Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, str], Crystal] = {}
    for _ in range(20 * count):
        if len(found) >= count:
            break
        prototype = PROTOTYPES[len(found) % len(PROTOTYPES)]
        crystal = _draw(prototype, rng, len(found))
        key = (prototype.name, "" if crystal is None else "-".join(crystal.symbols))
        if crystal is None or (key in found and rng.random() > 0.3):
            continue
        found[(key[0], f"{key[1]} {len(found)}")] = crystal
    return list(found.values())


def is_validation(crystal: Crystal, fraction: float = 0.1) -> bool:
    """Whether a crystal belongs to the held-out part: by its formula, so no composition is on both sides."""
    digest = hashlib.sha256(f"split {crystal.formula}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < fraction * 2**32


def load_crystals(path: str | Path) -> list[Crystal]:
    """Crystals from a YAML list.

    Each entry has ``name``, ``centring`` (P, I, F, C, R), ``lengths_A`` [a, b, c], ``gamma_deg`` (90 unless told), ``sites``
    (element -> fractional coordinates of one lattice point's basis) and ``u2_A2``.

    Raises
    ------
    EmdlError
        When the file is not such a list.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text("utf-8"))
        return [
            build_crystal(
                str(e["name"]),
                e.get("centring", "P"),
                [float(x) for x in e["lengths_A"]],
                float(e.get("gamma_deg", 90)),
                {str(k): [(float(p[0]), float(p[1]), float(p[2])) for p in v] for k, v in e["sites"].items()},
                e.get("u2_A2", 0.006),
            )
            for e in entries
        ]
    except (OSError, KeyError, TypeError, ValueError, IndexError, yaml.YAMLError) as error:
        raise EmdlError(f"cannot read crystals from {path}: {error}; see 'Own crystals' in docs/training.md") from error


def formulas(crystals: Iterable[Crystal]) -> set[str]:
    """Reduced formulas of some crystals."""
    return {c.formula for c in crystals}
