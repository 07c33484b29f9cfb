"""More specimens for HRTEM: graphene with grain boundaries and islands, other crystals, particles whose surface columns come
and go; and a draw among all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial import Delaunay, cKDTree

from napari_emdl.training.atoms.lattices import (
    BOX_A,
    COLUMN,
    RING,
    ColumnLattice,
    Structure,
    bcc_lattice,
    diamond_lattice,
    perovskite_lattice,
    rotation,
)
from napari_emdl.training.atoms.structures import (
    GRAPHENE_A,
    CarbonBank,
    assemble,
    crystal,
    graphene,
    metal_particle,
    monolayer,
    on_carbon,
    oxide,
    ripple,
)

#: (symbols, a in A) of the perovskites, diamond and zincblende structures, and (symbol, a in A) of the bcc metals
PEROVSKITES = (("Sr", "Ti", 3.905), ("Ba", "Ti", 4.0), ("La", "Mn", 3.88), ("Pb", "Ti", 3.97))
DIAMONDS = ((("Si", "Si"), 5.431), (("Ge", "Ge"), 5.658), (("Ga", "As"), 5.653), (("In", "P"), 5.869))
BCC = (("Fe", 2.866), ("W", 3.165), ("Mo", 3.147))
#: longest columns of tilted oxides, A beyond their width
TILTED_A = 2.4
#: a column belongs to a blinking site when its own atoms are nearer than so, A
NEAR_A = 1.3


def ring_centres(rng: np.random.Generator, extent_A: float) -> np.ndarray:
    """Ring centres (n, 2) of graphene around the origin: one grain, two that meet, or a turned island in a grain.

    Where grains meet, points that are too close are dropped and the rest relax to one bond length, which leaves pentagons and
    heptagons.
    """
    cell = GRAPHENE_A * np.array([[1, 0], [-0.5, np.sqrt(3) / 2]])
    n = int(2 * extent_A / GRAPHENE_A)
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1), indexing="ij")
    lattice = np.c_[i.ravel(), j.ravel()] @ cell
    turn = rng.uniform(0, 2 * np.pi)
    one = lattice @ rotation(turn).T + rng.uniform(-1, 1, 2)
    kind = rng.choice(["grain", "boundary", "island"], p=[0.4, 0.35, 0.25])
    if kind == "grain":
        return one[np.max(np.abs(one), axis=1) < extent_A]
    two = lattice @ rotation(turn + rng.uniform(0.1, np.pi / 3 - 0.1)).T + rng.uniform(-1, 1, 2)
    middle = rng.normal(0, 5, 2)
    if kind == "island":
        radius = rng.uniform(3, 12)
        one, two = one[np.hypot(*(one - middle).T) > radius], two[np.hypot(*(two - middle).T) < radius]
    else:
        normal, wave, height = rotation(rng.uniform(0, 2 * np.pi))[0], rng.uniform(15, 40), rng.uniform(0, 2)

        def side(p: np.ndarray) -> np.ndarray:
            along = p @ [-normal[1], normal[0]]
            return (p - middle) @ normal - height * np.sin(2 * np.pi * along / wave)

        one, two = one[side(one) < 0], two[side(two) > 0]
    p = np.concatenate([one, two])
    p = p[np.max(np.abs(p), axis=1) < extent_A]
    pairs = cKDTree(p).query_pairs(0.68 * GRAPHENE_A, output_type="ndarray")
    p = np.delete(p, np.unique(pairs[:, 1]), axis=0) if len(pairs) else p
    return _relaxed(p)


def _relaxed(p: np.ndarray, steps: int = 25) -> np.ndarray:
    """Points with springs to the neighbours that triangulation gives them."""
    for _ in range(steps):
        edges = _edges(p)
        d = p[edges[:, 1]] - p[edges[:, 0]]
        length = np.linalg.norm(d, axis=1)
        near = length < 1.6 * GRAPHENE_A
        pull = 0.12 * (d * (1 - GRAPHENE_A / length)[:, None])[near]
        move = np.zeros_like(p)
        np.add.at(move, edges[near, 0], pull)
        np.add.at(move, edges[near, 1], -pull)
        p = p + move
    return p


def _edges(p: np.ndarray) -> np.ndarray:
    t = Delaunay(p).simplices
    return np.unique(np.sort(np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [0, 2]]]), axis=1), axis=0)


def graphene_rings(rng: np.random.Generator) -> Structure:
    """A sheet of graphene as the dual of its ring centres: atoms and ring centres, with defects, holes and ripples."""
    p = ring_centres(rng, BOX_A / 2 + 5)
    triangles = Delaunay(p).simplices
    corner = p[triangles]
    longest = np.max(np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2), axis=1)
    atoms, triangles = corner.mean(1)[longest < 1.75 * GRAPHENE_A], triangles[longest < 1.75 * GRAPHENE_A]
    inside = np.max(np.abs(atoms), axis=1) < BOX_A / 2 - 0.6
    if rng.random() < 0.35:
        hole, radius = rng.uniform(-BOX_A / 3, BOX_A / 3, 2), rng.uniform(2, 14)
        inside &= np.linalg.norm((atoms - hole) * rng.uniform(0.7, 1.4, 2), axis=1) > radius
    missing = np.bincount(triangles[~inside].ravel(), minlength=len(p)) > 0
    whole = ~missing & (np.bincount(triangles.ravel(), minlength=len(p)) >= 5)
    strain = np.eye(2) + rng.normal(0, 0.006, (2, 2))
    xy, rings = atoms[inside] @ strain + BOX_A / 2, p[whole] @ strain + BOX_A / 2
    n, m = len(xy), len(rings)
    near = cKDTree(xy).query_ball_point(xy, 1.8, return_length=True) - 1
    columns = {
        "xy": np.r_[xy, rings], "cls": np.r_[np.full(n, COLUMN), np.full(m, RING)], "n": np.ones(n + m, int),
        "surface": np.r_[near < 3, np.zeros(m, bool)],
    }  # fmt: skip
    meta = {"kind": "graphene", "element": "C", "zone": "001", "carbon_A": 0.0}
    return assemble(["C"] * n, np.c_[xy, ripple(rng, xy, 3.0)], columns, [], meta)


def other_crystal(rng: np.random.Generator, carbon: CarbonBank) -> Structure:
    """A perovskite along [100], a bcc metal along [100] or [110], or a semiconductor along [110]."""
    kind = rng.choice(["perovskite", "bcc", "diamond"], p=[0.45, 0.25, 0.3])
    zone, lattice, name = _other_lattice(rng, str(kind))
    radius, centre = rng.uniform(10, 34), BOX_A / 2 + rng.normal(0, 3, 2)
    symbols, atoms, columns = crystal(rng, lattice, zone, radius, centre, flat=rng.random() < 0.5, thickness_A=(10.0, 60.0))
    thickness = 0.0 if rng.random() < 0.5 else float(rng.uniform(6, 30))
    meta = {"kind": "crystal", "element": name, "zone": zone, "carbon_A": thickness}
    return assemble(symbols, atoms, columns, on_carbon(rng, atoms, carbon, thickness), meta)


def _other_lattice(rng: np.random.Generator, kind: str) -> tuple[str, ColumnLattice, str]:
    if kind == "perovskite":
        large, small, a = PEROVSKITES[rng.integers(len(PEROVSKITES))]
        return "100", perovskite_lattice(large, small, a), large + small
    if kind == "bcc":
        symbol, a = BCC[rng.integers(len(BCC))]
        zone = str(rng.choice(["100", "110"]))
        return zone, bcc_lattice(symbol, zone, a), symbol
    pair, a = DIAMONDS[rng.integers(len(DIAMONDS))]
    return "110", diamond_lattice(pair, a), "".join(pair)


def blinking_pair(rng: np.random.Generator, carbon: CarbonBank) -> tuple[Structure, Structure]:
    """A particle with all its surface columns, and the same without those that come and go.

    Returns
    -------
    Structures whose columns agree but for the missing ones; ``meta["blinking"]`` of the first lists these.
    """
    s = metal_particle(rng, carbon) if rng.random() < 0.75 else oxide(rng, carbon)
    candidates = np.flatnonzero(s.column_surface & (s.column_class == COLUMN))
    chosen = np.sort(candidates[rng.random(len(candidates)) < rng.uniform(0.25, 0.9)])
    column = cKDTree(s.column_A)
    distance, owner = column.query(s.xyz_A[:, :2])
    gone = np.isin(owner, chosen) & (distance < NEAR_A) & ~np.isin(s.symbols, ["C", "O"])
    keep = np.ones(len(s.column_A), bool)
    keep[chosen] = False
    without = Structure(
        [x for x, g in zip(s.symbols, gone, strict=True) if not g], s.xyz_A[~gone], s.column_A[keep], s.column_class[keep],
        s.column_atoms[keep], s.column_surface[keep], s.box_A, {**s.meta, "partner": "without"},
    )  # fmt: skip
    return replace(s, meta={**s.meta, "blinking": [int(i) for i in chosen]}), without


def _draw(rng: np.random.Generator, shares: dict[str, float]) -> str:
    """A name, drawn by its relative share."""
    p = np.array(list(shares.values()), float)
    return str(rng.choice(list(shares), p=p / p.sum()))


def random_structure(
    rng: np.random.Generator, carbon: CarbonBank, shares: dict[str, float], materials: dict[str, float] | None = None
) -> Structure:
    """Draw a specimen; `shares` gives the relative share of metal, oxide, monolayer and graphene, `materials` that of
    the monolayers' materials (MoS2, ...)."""
    kind = _draw(rng, shares)
    if kind == "metal":
        return metal_particle(rng, carbon)
    if kind == "oxide":
        return oxide(rng, carbon)
    if kind == "monolayer":
        return monolayer(rng, _draw(rng, materials) if materials else None)
    if kind == "graphene":
        return graphene(rng)
    if kind == "tilted":
        return oxide(rng, carbon, TILTED_A)
    if kind in ("rings", "crystal"):
        return graphene_rings(rng) if kind == "rings" else other_crystal(rng, carbon)
    raise ValueError(f"unknown kind of specimen {kind!r}; use metal, oxide, tilted, monolayer, graphene, rings, crystal")
