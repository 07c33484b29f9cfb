"""Random specimens for HRTEM: metal particles, oxides, MoS2-type monolayers, graphene, and their supports.

Everything is built column by column, so that the truth (a column's mean position and number of atoms) is exact. Coordinates are
(row, col, z) in angstrom in a periodic square box; the beam travels towards larger z.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from napari_emdl.training.atoms.lattices import (
    BOX_A,
    CHALCOGEN_PAIR,
    CHALCOGEN_SINGLE,
    COLUMN,
    FCC_A,
    WEAK,
    ColumnLattice,
    Structure,
    fcc_lattice,
    fluorite_lattice,
    lattice_sites,
    rotation,
)

TMD = {
    "MoS2": ("Mo", "S", 3.16, 1.56),
    "WS2": ("W", "S", 3.153, 1.57),
    "MoSe2": ("Mo", "Se", 3.288, 1.67),
    "WSe2": ("W", "Se", 3.282, 1.67),
}
GRAPHENE_A = 2.46
#: number of atoms per cubic angstrom of amorphous carbon (1.8 to 2.0 g/cm3)
CARBON_DENSITY = (0.090, 0.100)


def outline(rng: np.random.Generator, zone: str, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Normals (k, 2) and distances (k,) of a facetted outline; the crystal is where all n.x < d."""
    if zone == "110" and rng.random() < 0.65:
        t = np.deg2rad([0, 180, 54.74, -54.74, 180 - 54.74, 180 + 54.74, 90, 270])
        family = np.array([1, 1, 1, 1, 1, 1, 1.12, 1.12]) * np.r_[np.full(2, rng.uniform(0.85, 1.2)), np.ones(6)]
    else:
        k = rng.integers(5, 11)
        t = np.linspace(0, 2 * np.pi, k, endpoint=False) + rng.normal(0, 0.2, k)
        family = np.ones(k)
    return np.c_[np.cos(t), np.sin(t)], radius * family * rng.uniform(0.82, 1.15, len(t))


def _surface_growth(
    rng: np.random.Generator, xy: np.ndarray, inside: np.ndarray, main: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Randomly strip and grow surface columns of the `main` sublattice; returns occupied (n,) and number of missing
    neighbours."""
    index = np.flatnonzero(main)
    tree = cKDTree(xy[index])
    near = np.sort(tree.query(xy[index], k=3)[0][:, 1])[len(index) // 2]
    pairs = tree.query_pairs(1.32 * near, output_type="ndarray")
    occ = inside[index].copy()

    def neighbours(o: np.ndarray) -> np.ndarray:
        n = np.zeros(len(o), int)
        np.add.at(n, pairs[:, 0], o[pairs[:, 1]])
        np.add.at(n, pairs[:, 1], o[pairs[:, 0]])
        return n

    full = int(np.max(neighbours(np.ones(len(index), bool))))
    strip, grow = rng.uniform(0, 0.5), rng.uniform(0, 0.35)
    for _ in range(int(rng.integers(1, 3))):
        n = neighbours(occ)
        occ &= ~((n < full) & (rng.random(len(occ)) < strip * (full - n) / full))
        n = neighbours(occ)
        occ |= ~occ & (n > 0) & (rng.random(len(occ)) < grow * np.where(n == 1, 0.25, 1.0))
    occ &= ~((neighbours(occ) == full) & (rng.random(len(occ)) < rng.choice([0, 0, 0.01, 0.03])))  # column vacancies
    out = np.zeros(len(xy), bool)
    out[index] = occ
    missing = np.zeros(len(xy), int)
    missing[index] = full - neighbours(occ)
    return out, missing


def crystal(
    rng: np.random.Generator,
    lattice: ColumnLattice,
    zone: str,
    radius_A: float,
    centre_A: np.ndarray,
    cut: tuple[np.ndarray, float] | None = None,
    flat: bool = False,
    max_tilt_deg: float = 2.5,
    thickness_A: tuple[float, float] = (8.0, 45.0),
    smear_A: float | None = None,
) -> tuple[list[str], np.ndarray, dict]:
    """One irregular crystal. `cut` = (normal, distance) keeps only n.(x - centre) < distance (an interface); with `smear_A`
    it is tilted so far that columns are up to so much longer than wide.

    Returns symbols, atoms (n, 3) with the smallest z at 0, and the columns as a dict of arrays.
    """
    strain = np.eye(2) + rng.normal(0, 0.008, (2, 2))
    angle = rng.uniform(0, 2 * np.pi)
    turn = rotation(angle) @ strain
    extent = min(1.35 * radius_A + 4, 0.72 * BOX_A + 6)
    xy, kind = lattice_sites(lattice, extent)
    xy = xy + rng.uniform(-2, 2, 2)
    normal, distance = outline(rng, zone, radius_A)
    depth = np.min(distance[None] - xy @ normal.T, axis=1)
    xy = xy @ turn.T
    box = np.max(np.abs(xy + centre_A - BOX_A / 2), axis=1) < BOX_A / 2 - 0.6  # periodic images must not touch
    inside = (depth > 0) & box
    if cut is not None:
        inside &= xy @ cut[0] < cut[1]
    main = lattice.column_class[kind] != WEAK
    occupied, missing = _surface_growth(rng, xy, inside, main)
    occupied &= box if cut is None else box & (xy @ cut[0] < cut[1] + 0.3)
    if not main.all():  # weak columns belong to occupied metal neighbours
        near = cKDTree(xy[occupied]).query(xy)[0] if occupied.any() else np.full(len(xy), np.inf)
        occupied |= ~main & (near < 0.51 * np.linalg.norm(lattice.cell_A[0])) & inside
    thick = np.exp(rng.uniform(*np.log(thickness_A)))
    edge = rng.uniform(5, 14)
    slope = rng.uniform(0.3, 3)
    t = np.minimum(thick, edge + slope * np.maximum(depth, 0)) if not flat else np.full(len(xy), thick)
    grain = lattice.period_A[kind]
    t = t + rng.normal(0, 0.35, len(t)) * grain * rng.uniform(0, 1.5)
    low = np.zeros(len(t)) if rng.random() < 0.5 else -t / 2
    xy, kind, t, low, missing, grain = (v[occupied] for v in (xy, kind, t, low, missing, grain))
    edge_column = missing > 0
    if len(xy):
        relax = (
            rng.normal(0, 0.01)
            * edge_column[:, None]
            * (xy - xy.mean(0))
            / np.maximum(np.linalg.norm(xy - xy.mean(0), axis=1), 1)[:, None]
        )
        xy = xy + 2.5 * relax + rng.normal(0, rng.uniform(0, 0.06), xy.shape)
    count = np.maximum(np.round(t / grain), rng.integers(1, 4)).astype(int)
    first = np.ceil((low - lattice.offset_A[kind]) / grain).astype(int)
    column = np.repeat(np.arange(len(xy)), count)
    step = np.arange(len(column)) - np.repeat(np.cumsum(count) - count, count)
    z = (first[column] + step) * grain[column] + lattice.offset_A[kind][column]
    atoms = np.c_[xy[column], z]
    if rng.random() < 0.3 and len(atoms):
        keep = rng.random(len(atoms)) > 0.01
        atoms, column = atoms[keep], column[keep]
    tilt = np.deg2rad(max_tilt_deg * rng.random() ** 1.5) if max_tilt_deg else 0.0
    if smear_A is not None:
        tilt = float(np.arctan(rng.uniform(0, smear_A) / max(float(np.ptp(atoms[:, 2])) if len(atoms) else 1.0, 1.0)))
    if len(atoms):
        azimuth = rng.uniform(0, 2 * np.pi)
        shift = np.tan(tilt) * (atoms[:, 2] - atoms[:, 2].mean())
        atoms[:, :2] += shift[:, None] * np.array([np.cos(azimuth), np.sin(azimuth)])
        atoms[:, 2] -= atoms[:, 2].min()
    number = np.bincount(column, minlength=len(xy)).astype(float)
    mean = np.stack([np.bincount(column, atoms[:, i], minlength=len(xy)) for i in (0, 1)], 1) / np.maximum(number, 1)[:, None]
    cls = lattice.column_class[kind].copy()
    cls[number < 2] = WEAK
    keep = number > 0
    atoms[:, :2] += centre_A
    columns = {"xy": mean[keep] + centre_A, "cls": cls[keep], "n": number[keep].astype(int), "surface": edge_column[keep]}
    return [lattice.symbol[k] for k in kind[column]], atoms, columns


def amorphous_carbon(rng: np.random.Generator, thickness_A: float, box_A: float = BOX_A) -> np.ndarray:
    """Random carbon atoms (n, 3), periodic in the plane, no two closer than 1.3 A (a hard-core random packing)."""
    n = int(rng.uniform(*CARBON_DENSITY) * box_A**2 * thickness_A)
    size = np.array([box_A, box_A, 1e4])
    xyz = rng.random((n, 3)) * [box_A, box_A, thickness_A]
    for _ in range(25):
        pairs = cKDTree(xyz, boxsize=size).query_pairs(1.3, output_type="ndarray")
        if not len(pairs):
            break
        move = np.unique(pairs[:, 1])
        xyz[move] = rng.random((len(move), 3)) * [box_A, box_A, thickness_A]
    return xyz


class CarbonBank:
    """A few 6 nm films, cut, rolled and mirrored: as random as a fresh film and much cheaper."""

    def __init__(self, rng: np.random.Generator, size: int = 6, thickness_A: float = 60.0) -> None:
        self.thickness_A = thickness_A
        self.films = [amorphous_carbon(rng, thickness_A) for _ in range(size)]

    def film(self, rng: np.random.Generator, thickness_A: float) -> np.ndarray:
        """A film (n, 3) of the given thickness with z from 0."""
        xyz = self.films[rng.integers(len(self.films))].copy()
        low = rng.uniform(0, max(self.thickness_A - thickness_A, 0))
        xyz = xyz[(xyz[:, 2] >= low) & (xyz[:, 2] < low + thickness_A)]
        xyz[:, 2] -= low
        if rng.random() < 0.5:
            xyz = xyz[:, [1, 0, 2]]
        for axis in (0, 1):
            if rng.random() < 0.5:
                xyz[:, axis] = BOX_A - xyz[:, axis]
        xyz[:, :2] = (xyz[:, :2] + rng.uniform(0, BOX_A, 2)) % BOX_A
        return xyz


def assemble(
    symbols: list[str], atoms: np.ndarray, columns: dict, support: list[tuple[str, np.ndarray]], meta: dict
) -> Structure:
    """Specimen from a crystal's atoms and columns and the atoms of its supports."""
    all_symbols, parts = list(symbols), [atoms]
    for symbol, xyz in support:
        all_symbols += [symbol] * len(xyz)
        parts.append(xyz)
    xyz = np.concatenate(parts)
    if len(xyz):
        xyz[:, 2] -= xyz[:, 2].min()
        xyz[:, :2] %= BOX_A
    # mean distance of the specimen's own atoms from the exit face: what a microscopist focuses on is the specimen
    height = float(xyz[:, 2].max() - xyz[: len(atoms), 2].mean()) if len(atoms) else 0.0
    meta = {**meta, "height_A": height}
    return Structure(all_symbols, xyz, columns["xy"] % BOX_A, columns["cls"], columns["n"], columns["surface"], meta=meta)


def on_carbon(
    rng: np.random.Generator, atoms: np.ndarray, carbon: CarbonBank, thickness_A: float, below: bool | None = None
) -> list[tuple[str, np.ndarray]]:
    """Carbon above or below the atoms, sometimes with a hole."""
    if thickness_A <= 0:
        return []
    film = carbon.film(rng, thickness_A)
    top = atoms[:, 2].max() if len(atoms) else 0.0
    film[:, 2] += top + 2.0 if (rng.random() < 0.6 if below is None else below) else -thickness_A - 2.0
    if rng.random() < 0.1:
        normal = rotation(rng.uniform(0, 2 * np.pi))[0]
        film = film[(film[:, :2] - BOX_A / 2) @ normal < rng.normal(0, 10)]
    return [("C", film)]


def metal_particle(
    rng: np.random.Generator,
    carbon: CarbonBank,
    elements: Sequence[str] = tuple(FCC_A),
    zone: str | None = None,
    carbon_A: float | None = None,
    thickness_A: tuple[float, float] = (8.0, 45.0),
    below: bool | None = None,
) -> Structure:
    """A truncated, irregular fcc particle on amorphous carbon (`below`: on its exit side) or in vacuum."""
    symbol = str(rng.choice(list(elements)))
    zone = zone or str(rng.choice(["110", "100", "111"], p=[0.78, 0.15, 0.07]))
    lattice = fcc_lattice(symbol, zone, FCC_A[symbol])
    u = rng.random()
    radius = rng.uniform(10, 19) if u < 0.75 else (rng.uniform(6, 10) if u < 0.85 else rng.uniform(19, 34))
    centre = BOX_A / 2 + rng.normal(0, 1, 2) * np.clip(22 - radius, 1, 8)
    centre = np.clip(centre, 6, BOX_A - 6)
    symbols, atoms, columns = crystal(rng, lattice, zone, radius, centre, thickness_A=thickness_A)
    if carbon_A is None:
        carbon_A = 0.0 if rng.random() < 0.18 else float(rng.uniform(6, 35) if rng.random() < 0.8 else rng.uniform(35, 60))
    meta = {"kind": "metal", "element": symbol, "zone": zone, "carbon_A": carbon_A}
    return assemble(symbols, atoms, columns, on_carbon(rng, atoms, carbon, carbon_A, below), meta)


def oxide(rng: np.random.Generator, carbon: CarbonBank, smear_A: float | None = None) -> Structure:
    """A CeO2 crystal, or a metal particle on its edge seen in profile; `smear_A`: see `crystal`."""
    zone = str(rng.choice(["110", "100"], p=[0.8, 0.2]))
    centre = np.full(2, BOX_A / 2) + rng.normal(0, 2, 2)
    thickness = 0.0 if rng.random() < 0.6 else float(rng.uniform(6, 30))
    if rng.random() < 0.45:
        lattice, radius = fluorite_lattice(zone), rng.uniform(10, 24)
        symbols, atoms, columns = crystal(rng, lattice, zone, radius, centre, smear_A=smear_A)
        meta = {"kind": "oxide", "element": "CeO2", "zone": zone, "carbon_A": thickness}
    else:
        normal = rotation(rng.uniform(0, 2 * np.pi))[0]
        offset = rng.uniform(-6, 4)
        metal = str(rng.choice(["Pt", "Au", "Pd", "Ni", "Cu"]))
        symbols, atoms, columns = crystal(
            rng, fluorite_lattice(zone), zone, 34, centre, cut=(normal, offset), flat=True, max_tilt_deg=1.5, smear_A=smear_A
        )
        shift = normal * (offset + rng.uniform(3, 9))
        more, atoms2, columns2 = crystal(
            rng,
            fcc_lattice(metal, "110", FCC_A[metal]),
            "110",
            rng.uniform(8, 14),
            centre + shift,
            cut=(-normal, float(normal @ shift) - offset - 2.2),
        )
        if len(atoms) and len(atoms2):
            atoms2[:, 2] += (atoms[:, 2].max() - atoms2[:, 2].max()) / 2
        symbols, atoms = symbols + more, np.r_[atoms, atoms2]
        columns = {k: np.concatenate([columns[k], columns2[k]]) for k in columns}
        meta = {"kind": "profile", "element": f"{metal}/CeO2", "zone": zone, "carbon_A": thickness}
    return assemble(symbols, atoms, columns, on_carbon(rng, atoms, carbon, thickness), meta)


def _graphene_sheet(rng: np.random.Generator, holes: bool = False) -> np.ndarray:
    cell = np.array([[GRAPHENE_A, 0], [-GRAPHENE_A / 2, GRAPHENE_A * np.sqrt(3) / 2]])
    lattice = ColumnLattice(
        cell, np.array([(1 / 3, 2 / 3), (2 / 3, 1 / 3)]), np.zeros(2), np.ones(2), ("C", "C"), np.zeros(2, int)
    )
    xy, _ = lattice_sites(lattice, 40)
    xy = xy @ rotation(rng.uniform(0, 2 * np.pi)).T @ (np.eye(2) + rng.normal(0, 0.006, (2, 2))) + rng.uniform(0, 3, 2)
    xy = xy[np.max(np.abs(xy), axis=1) < BOX_A / 2 - 0.6]
    if holes and rng.random() < 0.6 and len(xy):
        hole = rng.uniform(-BOX_A / 3, BOX_A / 3, 2)
        xy = xy[np.linalg.norm((xy - hole) * rng.uniform(0.7, 1.4, 2), axis=1) > rng.uniform(2, 14)]
    return xy + BOX_A / 2


def ripple(rng: np.random.Generator, xy: np.ndarray, max_tilt_deg: float) -> np.ndarray:
    """Height of a tilted, gently rippled sheet at xy."""
    tilt = np.tan(np.deg2rad(max_tilt_deg * rng.random()))
    t = rng.uniform(0, 2 * np.pi)
    k = 2 * np.pi / rng.uniform(25, 60)
    d = xy - BOX_A / 2
    return tilt * (d @ [np.cos(t), np.sin(t)]) + rng.uniform(0, 0.6) * np.sin(
        k * d[:, 0] * np.sin(t) + k * d[:, 1] * np.cos(t) + t
    )


def graphene(rng: np.random.Generator) -> Structure:
    """One sheet of graphene with holes, every atom a column; rarely with adsorbed carbon."""
    xy = _graphene_sheet(rng, holes=True)
    atoms = np.c_[xy, ripple(rng, xy, 3.0)]
    near = cKDTree(xy).query_ball_point(xy, 1.6, return_length=True) - 1
    n = len(xy)
    columns = {"xy": xy.copy(), "cls": np.full(n, COLUMN), "n": np.ones(n, int), "surface": near < 3}
    return assemble(["C"] * n, atoms, columns, [], {"kind": "graphene", "element": "C", "zone": "001", "carbon_A": 0.0})


def monolayer(rng: np.random.Generator, material: str | None = None) -> Structure:
    """A 2H monolayer (MoS2 type) with chalcogen vacancies, edges, holes and strain on 0 to 2 graphene sheets."""
    material = material or str(rng.choice(list(TMD), p=[0.55, 0.15, 0.15, 0.15]))
    metal, chalcogen, a, half = TMD[material]
    cell = np.array([[a, 0], [-a / 2, a * np.sqrt(3) / 2]])
    lattice = ColumnLattice(
        cell,
        np.array([(1 / 3, 2 / 3), (2 / 3, 1 / 3)]),
        np.zeros(2),
        np.ones(2),
        (metal, chalcogen),
        np.array([COLUMN, CHALCOGEN_PAIR]),
    )
    xy, kind = lattice_sites(lattice, 42)
    outline = rotation(rng.uniform(0, 2 * np.pi))
    inside = np.ones(len(xy), bool)
    for side in range(int(rng.integers(0, 4))):
        normal = rotation(rng.integers(6) * np.pi / 3 + rng.choice([0, 0, rng.uniform(0, 1)]))[side % 2]
        inside &= xy @ normal < rng.uniform(4, 26)
    if rng.random() < 0.3:
        inside &= np.linalg.norm(xy - rng.uniform(-12, 12, 2), axis=1) > rng.uniform(2, 7)
    strain = np.eye(2) + rng.uniform(-0.03, 0.03, (2, 2)) * np.array([[1, 0.5], [0.5, 1]])
    xy = xy @ (outline @ strain).T + rng.uniform(-1, 1, 2)
    inside &= np.max(np.abs(xy), axis=1) < BOX_A / 2 - 0.6
    xy, kind = xy[inside] + BOX_A / 2, kind[inside]
    near = cKDTree(xy).query_ball_point(xy, 0.72 * a, return_length=True) - 1 if len(xy) else np.zeros(0, int)
    keep = (near >= 2) | ((near == 1) & (rng.random(len(xy)) < 0.4))  # dangling atoms are rare
    xy, kind, near = xy[keep], kind[keep], near[keep]
    is_x = kind == 1
    xy = xy + rng.normal(0, rng.uniform(0, 0.05), xy.shape)
    number = np.where(is_x, 2, 1)
    vacancy = rng.choice([0.0, 0.02, 0.05, 0.12])
    number[is_x & (rng.random(len(xy)) < vacancy)] = 1
    number[is_x & (rng.random(len(xy)) < 0.1 * vacancy)] = 0
    number[is_x & (near < 3) & (rng.random(len(xy)) < rng.uniform(0, 0.4))] = 1
    height = ripple(rng, xy, 5.0) if len(xy) else np.zeros(0)
    slope = np.tan(np.deg2rad(rng.uniform(0, 5))) * rotation(rng.uniform(0, 2 * np.pi))[0]
    up, both = rng.random(len(xy)) < rng.random(), is_x & (number == 2)
    one = is_x & (number == 1)
    offset = np.where(up, half, -half)
    atoms = np.concatenate(
        [
            np.c_[xy[~is_x], height[~is_x]],
            np.c_[xy[both] + half * slope, height[both] + half],
            np.c_[xy[both] - half * slope, height[both] - half],
            np.c_[xy[one] + offset[one, None] * slope, height[one] + offset[one]],
        ]
    )
    symbols = [metal] * int((~is_x).sum()) + [chalcogen] * int(2 * both.sum() + one.sum())
    cls = np.where(is_x, np.where(number == 2, CHALCOGEN_PAIR, CHALCOGEN_SINGLE), COLUMN)
    mean = xy + np.where(one, offset, 0)[:, None] * slope
    exists = number > 0
    columns = {"xy": mean[exists], "cls": cls[exists], "n": number[exists], "surface": (near < 3)[exists]}
    support = []
    sheets = int(rng.integers(0, 3))
    base, direction = (atoms[:, 2].max(), 1.0) if rng.random() < 0.5 else (atoms[:, 2].min(), -1.0)
    for i in range(sheets):
        sheet = _graphene_sheet(rng)
        z = np.full(len(sheet), base + direction * (3.2 + 3.35 * i))
        support.append(("C", np.c_[sheet, z]))
    meta = {"kind": "monolayer", "element": material, "zone": "001", "carbon_A": 0.0, "graphene_layers": sheets}
    return assemble(symbols, atoms, columns, support, meta)
