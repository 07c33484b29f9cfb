"""Crystals as columns along a zone axis, and what the simulator tells of a specimen.

Coordinates are (row, col, z) in angstrom in a periodic square box; the beam travels towards larger z.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

BOX_A = 44.8
FCC_A = {"Au": 4.078, "Ag": 4.086, "Pt": 3.924, "Cu": 3.615, "Pd": 3.891, "Ni": 3.524}
CEO2_A = 5.411
#: classes of columns in the truth
COLUMN, CHALCOGEN_PAIR, CHALCOGEN_SINGLE, WEAK = 0, 1, 2, 3
#: centre of a ring of a graphene sheet: the blob that is seen where single atoms are not resolved
RING = 4


@dataclass
class Structure:
    """Atoms and columns of one specimen.

    Attributes
    ----------
    symbols
        One chemical symbol per atom.
    xyz_A
        (n, 3) float, (row, col, z) in angstrom.
    column_A
        (m, 2) float, mean (row, col) of every column.
    column_class
        (m,) int: 0 column (metal site), 1 pair of chalcogens, 2 single chalcogen, 3 weak column that training leaves out
        (oxygen, single metal atoms), 4 centre of a ring of graphene.
    column_atoms
        (m,) int, number of atoms.
    column_surface
        (m,) bool, whether a lattice neighbour is missing.
    """

    symbols: list[str]
    xyz_A: np.ndarray
    column_A: np.ndarray
    column_class: np.ndarray
    column_atoms: np.ndarray
    column_surface: np.ndarray
    box_A: float = BOX_A
    meta: dict = field(default_factory=dict)


@dataclass(frozen=True)
class ColumnLattice:
    """A crystal seen along a zone axis: 2D cell (rows are vectors, A), and for each column fraction, z offset, period,
    symbol, class."""

    cell_A: np.ndarray
    fraction: np.ndarray
    offset_A: np.ndarray
    period_A: np.ndarray
    symbol: tuple[str, ...]
    column_class: np.ndarray


def fcc_lattice(symbol: str, zone: str, a_A: float) -> ColumnLattice:
    """Columns of an fcc metal along "110", "100" or "111"."""
    if zone == "110":
        p = a_A / np.sqrt(2)
        cell, frac, z = np.diag([a_A, p]), [(0, 0), (0.5, 0.5)], [0, p / 2]
    elif zone == "100":
        p = a_A
        cell, frac, z = np.diag([p, p]), [(0, 0), (0.5, 0.5), (0.5, 0), (0, 0.5)], [0, 0, p / 2, p / 2]
    elif zone == "111":
        p, h = a_A * np.sqrt(3), a_A / np.sqrt(2)
        cell = np.array([[h, 0], [-h / 2, h * np.sqrt(3) / 2]])
        frac, z = [(0, 0), (1 / 3, 2 / 3), (2 / 3, 1 / 3)], [0, p / 3, 2 * p / 3]
    else:
        raise ValueError(f"unknown zone axis {zone!r}; use 110, 100 or 111")
    n = len(frac)
    return ColumnLattice(cell, np.array(frac, float), np.array(z, float), np.full(n, p), (symbol,) * n, np.full(n, COLUMN))


def fluorite_lattice(zone: str, a_A: float = CEO2_A) -> ColumnLattice:
    """Columns of CeO2 along "110" or "100"; oxygen columns are weak."""
    metal = fcc_lattice("Ce", zone, a_A)
    p = metal.period_A[0]
    if zone == "110":
        frac, z, po = [(0.25, 0), (0.75, 0), (0.25, 0.5), (0.75, 0.5)], [p / 2, p / 2, 0, 0], p
    else:
        frac, z, po = [(0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)], [p / 4] * 4, p / 2
    return ColumnLattice(
        metal.cell_A,
        np.r_[metal.fraction, np.array(frac, float)],
        np.r_[metal.offset_A, z],
        np.r_[metal.period_A, np.full(4, po)],
        metal.symbol + ("O",) * 4,
        np.r_[metal.column_class, np.full(4, WEAK)],
    )


def bcc_lattice(symbol: str, zone: str, a_A: float) -> ColumnLattice:
    """Columns of a bcc metal along "100" or "110"."""
    if zone == "100":
        cell, period, z = np.diag([a_A, a_A]), a_A, [0.0, a_A / 2]
    elif zone == "110":
        cell, period, z = np.diag([a_A, a_A * np.sqrt(2)]), a_A * np.sqrt(2), [0.0, a_A / np.sqrt(2)]
    else:
        raise ValueError(f"unknown zone axis {zone!r}; use 100 or 110")
    centred = np.array([(0, 0), (0.5, 0.5)])
    return ColumnLattice(cell, centred, np.array(z), np.full(2, period), (symbol,) * 2, np.full(2, COLUMN))


def perovskite_lattice(large: str, small: str, a_A: float) -> ColumnLattice:
    """Columns of a cubic perovskite along "100"; oxygen columns are weak, the oxygen in the `small` columns is left out."""
    frac = np.array([(0, 0), (0.5, 0.5), (0.5, 0), (0, 0.5)])
    kind = np.array([COLUMN, COLUMN, WEAK, WEAK])
    return ColumnLattice(
        np.diag([a_A, a_A]), frac, np.array([0, a_A / 2, 0, 0]), np.full(4, a_A), (large, small, "O", "O"), kind
    )


def diamond_lattice(symbols: tuple[str, str], a_A: float) -> ColumnLattice:
    """Dumbbells of the diamond or zincblende structure along "110", a_A / 4 apart."""
    p = a_A / np.sqrt(2)
    frac = np.array([(0, 0), (0.5, 0.5), (0.25, 0), (0.75, 0.5)])
    return ColumnLattice(
        np.diag([a_A, p]), frac, np.array([0, p / 2, p / 2, 0]), np.full(4, p), (symbols[0],) * 2 + (symbols[1],) * 2,
        np.full(4, COLUMN),
    )  # fmt: skip


def rotation(angle: float) -> np.ndarray:
    """Matrix (2, 2) that turns by an angle in rad."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def lattice_sites(lattice: ColumnLattice, extent: float) -> tuple[np.ndarray, np.ndarray]:
    """Lattice column positions (n, 2) within `extent` of the origin and their index into the basis."""
    n = int(np.ceil(2.5 * extent / np.min(np.linalg.norm(lattice.cell_A, axis=1))))
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1), indexing="ij")
    k = len(lattice.fraction)
    f = np.c_[i.ravel(), j.ravel()][:, None, :] + lattice.fraction[None]
    xy = (f @ lattice.cell_A).reshape(-1, 2)
    kind = np.tile(np.arange(k), i.size)
    keep = np.max(np.abs(xy), axis=1) < extent
    return xy[keep], kind[keep]
