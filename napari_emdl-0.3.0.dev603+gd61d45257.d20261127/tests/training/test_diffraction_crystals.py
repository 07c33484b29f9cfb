"""Crystals of the disk simulator: variety, exclusions, split, own crystals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_emdl.base.errors import EmdlError
from napari_emdl.training.diffraction.crystals import (
    EXCLUDED_FORMULAS,
    build_crystal,
    catalogue,
    formulas,
    is_validation,
    load_crystals,
    reduced_formula,
)
from napari_emdl.training.diffraction.prototypes import PROTOTYPES

STOICHIOMETRY = {
    "fcc": "A",
    "rutile": "AB2",
    "anatase": "AB2",
    "corundum": "A2B3",
    "spinel": "AB2C4",
    "perovskite": "ABC3",
    "orthorhombic perovskite": "ABC3",
    "pyrite": "AB2",
    "C15 Laves": "AB2",
    "C14 Laves": "AB2",
    "A15": "AB3",
    "cuprite": "A2B",
    "Heusler": "AB2C",
    "K2NiF4": "A2BC4",
    "chalcopyrite": "ABC2",
    "Bi2Te3": "A2B3",
    "D0_19": "AB3",
    "MoS2-2H": "AB2",
}


@pytest.fixture(scope="module")
def crystals():
    return catalogue()


def test_catalogue_is_varied(crystals):
    assert len(crystals) >= 1000
    assert len({c.name for c in crystals}) == len(crystals)
    lattices = {(c.formula, tuple(np.linalg.norm(c.conventional_A, axis=1).round(4))) for c in crystals}
    assert len(lattices) >= 1000
    assert len(PROTOTYPES) >= 30
    assert {p.system for p in PROTOTYPES} == {"cubic", "tetragonal", "hexagonal", "orthorhombic"}


def test_excluded_materials_are_never_drawn(crystals):
    assert reduced_formula(("Sr", "Ti", "O", "O", "O")) in EXCLUDED_FORMULAS
    assert reduced_formula(("Ga", "As")) in EXCLUDED_FORMULAS
    assert reduced_formula(("Cu",) * 4) in EXCLUDED_FORMULAS
    for seed in (1, 2):
        assert not formulas(catalogue(seed=seed)) & EXCLUDED_FORMULAS


def test_split_is_by_composition(crystals):
    held_out = [c for c in crystals if is_validation(c)]
    rest = [c for c in crystals if not is_validation(c)]
    assert 0.05 < len(held_out) / len(crystals) < 0.2
    assert not formulas(held_out) & formulas(rest)


def test_interatomic_distances_are_physical(crystals):
    shifts = np.array([(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
    for crystal in crystals[::9]:
        delta = (crystal.fractional[:, None, None] - crystal.fractional[None, :, None] + shifts) @ crystal.cell_A
        distance = np.linalg.norm(delta, axis=-1)
        assert distance[distance > 1e-6].min() > 0.9, crystal.name


@pytest.mark.parametrize("name", sorted(STOICHIOMETRY))
def test_prototype_stoichiometry(name):
    prototype = next(p for p in PROTOTYPES if p.name == name)
    letters = tuple(k for k, v in prototype.sites.items() for _ in v)
    assert reduced_formula(letters) == STOICHIOMETRY[name]
    cell = build_crystal("x", prototype.centring, (1.0, *prototype.axes), prototype.gamma_deg, prototype.sites)
    delta = cell.fractional[:, None] - cell.fractional[None] + 1e-9
    apart = np.abs(delta - np.round(delta)).max(-1) + np.eye(len(letters))
    assert apart.min() > 1e-3, "two atoms on one place"


def test_primitive_cell_of_fcc():
    copper = build_crystal("Cu", "F", (3.615,) * 3, 90, {"Cu": [(0, 0, 0)]})
    assert copper.volume_A3 == pytest.approx(3.615**3 / 4)
    assert len(copper.symbols) == 1


def test_own_crystals_from_yaml(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "- name: GaN\n  lengths_A: [3.19, 3.19, 5.19]\n  gamma_deg: 120\n  u2_A2: 0.004\n"
        "  sites:\n    Ga: [[0.3333, 0.6667, 0], [0.6667, 0.3333, 0.5]]\n"
        "    N: [[0.3333, 0.6667, 0.377], [0.6667, 0.3333, 0.877]]\n"
    )
    (gan,) = load_crystals(path)
    assert gan.formula == "GaN"
    assert gan.volume_A3 == pytest.approx(3.19**2 * 5.19 * math.sin(math.radians(120)))
    assert np.all(gan.u2_A2 == 0.004)


@pytest.mark.parametrize("text", ["- name: x\n", "just text", "- {name: x, lengths_A: [1], sites: {Cu: [[0, 0, 0]]}}"])
def test_bad_crystal_list_is_one_line(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(EmdlError) as caught:
        load_crystals(path)
    assert "docs/training.md" in str(caught.value)
    assert "\n" not in str(caught.value)
