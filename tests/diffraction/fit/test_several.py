"""Lattices of a scan of several crystals are found by themselves; a scan of one crystal stays one."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.disks_made import G, deformation, table_of
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.fit.several import find_lattices
from napari_emdl.diffraction.fit.strain import COMPONENTS, REASONS, fit_strain

ROWS, COLS = 8, 12
SHAPE = (160, 160)
G2 = np.array([[17.0, 12.0], [-16.0, 20.0]])
#: G turned by 30 degrees: a grain of the same crystal
TURN = np.deg2rad(30.0)
G3 = G @ np.array([[np.cos(TURN), np.sin(TURN)], [-np.sin(TURN), np.cos(TURN)]])


def crystal(g: np.ndarray, seed: int) -> tuple[PeakTable, np.ndarray]:
    """Disks of a whole scan on one lattice with known strain; truth (R, C, 4)."""
    truth = np.random.default_rng(seed).uniform(-0.01, 0.01, (ROWS, COLS, 4))
    f = np.stack([deformation(*t) for t in truth.reshape(-1, 4)]).reshape(ROWS, COLS, 2, 2)
    return table_of(f, g, SHAPE, noise_px=0.03), truth * [1, 1, 1, -1]


def scan(parts: list[PeakTable], present: np.ndarray) -> PeakTable:
    """Positions with the disks of all crystals that are `present` (k, R, C) there; the direct beam once."""
    lists = []
    for flat in range(ROWS * COLS):
        here = [part.at(flat) for part, there in zip(parts, present, strict=True) if there.flat[flat]]
        rows = np.concatenate([disks if k == 0 else disks[1:] for k, disks in enumerate(here)]) if here else parts[0].at(0)[:1]
        lists.append({name: rows[name] for name in rows.dtype.names})
    table = PeakTable.from_lists(lists, (ROWS, COLS))
    table.attrs["detector_shape"] = SHAPE
    return table


def half(first: bool) -> np.ndarray:
    return np.broadcast_to((np.arange(COLS) < COLS // 2) == first, (ROWS, COLS))


@pytest.mark.parametrize("other", [G2, G3], ids=["phase", "grain"])
def test_two_crystals_are_found_and_each_is_right(other: np.ndarray) -> None:
    (one, truth1), (two, truth2) = crystal(G, 1), crystal(other, 2)
    strain = fit_strain(scan([one, two], np.stack([half(True), half(False)])))
    assert strain.mask.all() and strain.region is not None and len(np.unique(strain.region)) == 2
    assert strain.evidence is not None and "2 lattices were found, at 48, 48 positions" in strain.evidence.warnings[0]
    truth = np.where(half(True)[..., None], truth1, truth2)
    for inside in (half(True), half(False)):
        assert len(np.unique(strain.region[inside])) == 1
        got = np.stack([getattr(strain, name)[inside] for name in COMPONENTS], axis=-1)
        wrong = got - truth[inside]
        assert np.abs(wrong - np.median(wrong, axis=0)).max() < 3e-3


def test_a_position_with_two_crystals_goes_to_one_and_is_not_pulled_by_the_other() -> None:
    (one, truth), (two, _) = crystal(G, 1), crystal(G2, 2)
    inside = np.zeros((ROWS, COLS), bool)
    inside[2:6, 3:9] = True  # a precipitate in a matrix that is everywhere
    table = scan([one, two], np.stack([np.ones((ROWS, COLS), bool), inside]))
    strain = fit_strain(table)
    assert strain.mask.all() and strain.region is not None
    matrix = strain.region == np.bincount(strain.region.ravel()).argmax()
    wrong = np.stack([getattr(strain, name) for name in COMPONENTS], axis=-1)[matrix] - truth[matrix]
    assert matrix[~inside].all() and np.abs(wrong - np.median(wrong, axis=0)).max() < 3e-3


def test_one_crystal_with_holes_and_false_disks_stays_one() -> None:
    (one, _), random = crystal(G, 3), np.random.default_rng(0)
    lists = [{name: disks[name] for name in disks.dtype.names} for disks in one]
    for flat in range(24):  # amorphous: disks anywhere
        lists[flat]["row"], lists[flat]["col"] = random.uniform(10, 150, (2, len(lists[flat]["row"])))
    table = PeakTable.from_lists(lists, (ROWS, COLS))
    table.attrs["detector_shape"] = SHAPE
    strain = fit_strain(table)
    assert strain.region is None and strain.mask.ravel()[24:].all() and strain.mask.ravel()[:24].mean() < 0.1


def test_what_has_no_lattice_says_why() -> None:
    (one, _), (two, _) = crystal(G, 1), crystal(G2, 2)
    empty = np.zeros((ROWS, COLS), bool)
    empty[:2] = True
    strain = fit_strain(scan([one, two], np.stack([half(True) & ~empty, half(False) & ~empty])))
    assert {REASONS[i] for i in strain.reason[:2].ravel()} == {"too few disks"} and strain.mask[2:].all()


def test_a_lattice_that_is_given_is_the_only_one() -> None:
    (one, _), (two, _) = crystal(G, 1), crystal(G2, 2)
    strain = fit_strain(scan([one, two], np.stack([half(True), half(False)])), g1=tuple(G[0]), g2=tuple(G[1]))
    assert strain.region is None and strain.mask[:, : COLS // 2].all() and not strain.mask[:, COLS // 2 :].any()


def test_disks_anywhere_have_no_lattice() -> None:
    random = np.random.default_rng(1)
    lists = [{"row": random.uniform(0, 160, 14), "col": random.uniform(0, 160, 14), "score": np.ones(14)} for _ in range(30)]
    with pytest.raises(EmdlError, match="no lattice explains the disks"):
        find_lattices(PeakTable.from_lists(lists, (5, 6)))
