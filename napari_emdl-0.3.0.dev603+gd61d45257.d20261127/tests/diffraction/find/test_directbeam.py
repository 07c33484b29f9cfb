"""A direct beam that does not look like the disks is in the table all the same, and nothing else is made one."""

from __future__ import annotations

import numpy as np
import pytest

import napari_emdl as emdl
from napari_emdl.base.peaks import PeakTable
from napari_emdl.base.signals import in_memory
from napari_emdl.diffraction.find.candidates import FIELDS
from napari_emdl.diffraction.find.directbeam import with_direct_beam

CENTRE = np.array([65.3, 62.6])
G1, G2 = np.array([2.0, 19.0]), np.array([-17.0, 3.0])


def sites(count: int = 2) -> np.ndarray:
    hk = [(h, k) for h in range(-count, count + 1) for k in range(-count, count + 1) if (h, k) != (0, 0)]
    return np.array([CENTRE + h * G1 + k * G2 for h, k in hk])


def pattern(kind: str, seed: int = 0) -> np.ndarray:
    """Spots of a lattice under a direct beam that is cut off at the top, wide with a halo, or missing."""
    rr, cc = np.mgrid[:128, :128].astype(float)
    out = np.full(rr.shape, 2.0)
    for n, (r, c) in enumerate(sites()):
        out += (150 + 40 * (n % 5)) * np.exp(-((rr - r) ** 2 + (cc - c) ** 2) / (2 * 1.4**2))
    away = np.hypot(rr - CENTRE[0], cc - CENTRE[1])
    if kind == "saturated":
        out = np.minimum(out + 40_000 * np.exp(-(away**2) / (2 * 2.6**2)), 4000)
    elif kind == "haloed":
        out += 6000 / (1 + (away / 4) ** 2) ** 1.5
    return np.random.default_rng(seed).poisson(out).astype("u2")


@pytest.mark.parametrize("kind", ["saturated", "haloed"])
def test_the_beam_is_found_where_it_looks_like_no_disk(kind: str) -> None:
    cube = in_memory(np.stack([pattern(kind, s) for s in range(3)])[None], "datacube")
    table = emdl.find_disks(cube).filter(min_score=0.5)
    for col in range(3):
        disks = table[0, col]
        away = np.hypot(disks["row"] - CENTRE[0], disks["col"] - CENTRE[1])
        beam = disks[away.argmin()]
        assert away.min() < 0.6
        assert away.min() < 3 * beam["sigma_px"]
        assert beam["intensity"] == disks["intensity"].max()
        assert (away < 7).sum() == 1
        assert len(disks) >= 20


def table_of(*patterns: np.ndarray) -> PeakTable:
    """Table of disks at the given places, one (n, 2) array a pattern."""
    places = np.concatenate(patterns)
    columns = {name: np.ones(len(places), np.float32) for name in FIELDS}
    columns |= {"row": places[:, 0].astype(np.float32), "col": places[:, 1].astype(np.float32)}
    return PeakTable((len(patterns),), np.r_[0, np.cumsum([len(p) for p in patterns])], columns)


def test_only_patterns_without_a_beam_gain_one() -> None:
    both = np.stack([pattern("saturated"), pattern("saturated", 1)])
    table = table_of(sites(), np.concatenate([sites(), CENTRE[None]]))
    after = with_direct_beam(table, both, 1.7, 0.5)
    assert np.diff(after.offset).tolist() == [25, 25]
    added = after.at(0)[after.at(0)["score"] < 1]
    assert np.hypot(added["row"] - CENTRE[0], added["col"] - CENTRE[1]).max() < 0.5


@pytest.mark.parametrize("places", [sites()[:3], np.random.default_rng(4).uniform(10, 118, (24, 2))], ids=["few", "no pairs"])
def test_a_bright_place_without_pairs_about_it_stays_out(places: np.ndarray) -> None:
    table = table_of(places)
    assert with_direct_beam(table, pattern("saturated")[None], 1.7, 0.5) is table


def test_without_a_bright_beam_nothing_is_added() -> None:
    table = table_of(sites())
    assert with_direct_beam(table, pattern("none")[None], 1.7, 0.5) is table
