"""Crystals and zone axes that strain is mapped in: half of a beam library, where contrast inside the disks is strongest.

Lattice parameters at room temperature from the textbook tables (Wyckoff; Kittel), to about half a per cent: a library varies
strain far more than that.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from napari_emdl.training.diffraction.crystals import EXCLUDED_FORMULAS, Crystal, build_crystal, catalogue
from napari_emdl.training.diffraction.prototypes import PROTOTYPES

#: Structure types whose strain people map.
MAPPED_TYPES = ("diamond", "zinc blende", "wurtzite", "rock salt", "perovskite", "fcc", "bcc", "hcp")

#: Low-index zones [uvw] of the conventional cell: cubic cells, and hexagonal ones in three-index notation.
CUBIC_ZONES = ((0, 0, 1), (0, 1, 1), (1, 1, 1), (0, 1, 1), (0, 0, 1), (1, 1, 2), (0, 1, 2))
HEXAGONAL_ZONES = ((0, 0, 1), (1, 0, 0), (2, 1, 0), (1, 1, 0))

# Structure type: elements of sites A, B, C and a (and c) in angstrom.
_KNOWN = """
diamond: Si 5.431; Ge 5.658; C 3.567; Sn 6.489
zinc blende: In-P 5.869; In-As 6.058; Ga-P 5.451; Al-As 5.661; Al-P 5.463; Ga-Sb 6.096; In-Sb 6.479; Al-Sb 6.136; Si-C 4.360
zinc blende: Zn-Se 5.668; Zn-S 5.409; Cd-Te 6.482; Zn-Te 6.103; Hg-Te 6.453
wurtzite: Ga-N 3.189 5.185; Al-N 3.112 4.982; In-N 3.545 5.703; Zn-O 3.250 5.207; Cd-S 4.136 6.713; Cd-Se 4.299 7.010
rock salt: Ni-O 4.177; Co-O 4.261; Mn-O 4.445; Ti-N 4.240; Ti-C 4.328; Pb-Te 6.462; Pb-Se 6.124; Pb-S 5.936; V-N 4.139
rock salt: Na-Cl 5.640
perovskite: La-Al-O 3.790; Ba-Ti-O 4.009; Sr-Ru-O 3.928; K-Ta-O 3.989; La-Mn-O 3.880; Nd-Ga-O 3.863; Pb-Ti-O 3.969
perovskite: La-Ni-O 3.838; Bi-Fe-O 3.965; Dy-Sc-O 3.945; La-Fe-O 3.930; Pb-Zr-O 4.139; La-Co-O 3.826; Ba-Zr-O 4.192
fcc: Au 4.078; Ag 4.086; Pt 3.924; Pd 3.891; Ni 3.524; Pb 4.951; Rh 3.803; Ir 3.839; Fe 3.570
bcc: Fe 2.867; W 3.165; Mo 3.147; Cr 2.885; V 3.024; Nb 3.301; Ta 3.303
hcp: Ti 2.951 4.684; Mg 3.209 5.211; Co 2.507 4.069; Zr 3.232 5.147; Zn 2.665 4.947; Ru 2.706 4.282; Re 2.761 4.458
"""


@cache
def known_crystals() -> tuple[Crystal, ...]:
    """Crystals of the structure types in `MAPPED_TYPES` with their measured lattice parameters."""
    types = {p.name: p for p in PROTOTYPES}
    found = []
    for line in _KNOWN.strip().splitlines():
        name, _, entries = line.partition(":")
        for entry in entries.split(";"):
            formula, *lengths = entry.split()
            a, c = float(lengths[0]), float(lengths[-1])
            elements = dict(zip("ABC", formula.split("-"), strict=False))
            sites = {elements[k]: points for k, points in types[name].sites.items()}
            found.append(
                build_crystal(f"{name} {formula} known", types[name].centring, (a, a, c), types[name].gamma_deg, sites)
            )
    return tuple(c for c in found if c.formula not in EXCLUDED_FORMULAS)


@cache
def _drawn_of_these_types() -> tuple[Crystal, ...]:
    return tuple(c for c in catalogue() if structure_type(c) in MAPPED_TYPES)


def structure_type(crystal: Crystal) -> str:
    """Name of the structure type of a crystal of this module or of the catalogue, "" for others."""
    return next((p.name for p in PROTOTYPES if crystal.name.startswith(f"{p.name} ")), "")


def draw_mapped(rng: np.random.Generator) -> tuple[Crystal, tuple[int, int, int]]:
    """A crystal of a structure type that strain is mapped in, half of them real ones, and a low-index zone of it."""
    crystals = known_crystals() if rng.random() < 0.5 else _drawn_of_these_types()
    crystal = crystals[int(rng.integers(len(crystals)))]
    zones = HEXAGONAL_ZONES if structure_type(crystal) in ("wurtzite", "hcp") else CUBIC_ZONES
    return crystal, zones[int(rng.integers(len(zones)))]
