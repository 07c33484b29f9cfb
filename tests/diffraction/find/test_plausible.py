"""Nothing is found where there is nothing, and what is left out is said; a crystal is never refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_emdl.base.peaks import PeakTable
from napari_emdl.bench.nothing import count_disks
from napari_emdl.diffraction.find.disks import find_disks
from napari_emdl.diffraction.find.ownprobe import MEASURED
from napari_emdl.diffraction.find.plausible import keep_plausible, paired_share, spread_of
from napari_emdl.diffraction.find.probe import synthetic_probe
from napari_emdl.samples.nothing import KINDS, patterns_of

SHAPE = (256, 256)


def lattice(n: int = 4, spacing: float = 24.0) -> np.ndarray:
    hk = np.stack(np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1), indexing="ij"), axis=-1).reshape(-1, 2)
    return hk @ np.array([[spacing, 3.0], [-3.0, spacing]]) + 128.0


def table_of(position: np.ndarray, intensity: np.ndarray) -> PeakTable:
    columns = {"row": position[:, 0], "col": position[:, 1], "score": np.ones(len(position)), "intensity": intensity}
    columns["sigma_px"] = np.full(len(position), 0.05)
    return PeakTable((1,), np.array([0, len(position)]), {n: v.astype(np.float32) for n, v in columns.items()})


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_pattern_without_a_crystal_has_next_to_no_disk_and_a_line_says_why(kind: str) -> None:
    found = [count_disks(pattern, "template") for pattern in patterns_of(kind, 2, seed=41)]
    assert max(n for n, _ in found) <= 3
    assert all(note for _, note in found)


def test_places_alike_on_a_grid_are_no_pattern() -> None:
    position = lattice()
    intensity = np.random.default_rng(2).uniform(80, 120, len(position))
    probe = synthetic_probe(4.0, SHAPE, source=MEASURED)
    kept = keep_plausible(table_of(position, intensity), probe, 0.5, SHAPE)
    assert kept.n_peaks == 0 and kept.attrs["n_refused"] == 1
    given = keep_plausible(table_of(position, intensity), synthetic_probe(4.0, SHAPE), 0.5, SHAPE)
    assert given.n_peaks == len(position)  # who gives a probe knows what to look for


@pytest.mark.parametrize("beam", [1.0, 50.0])
def test_a_crystal_stays_with_and_without_its_direct_beam(beam: float) -> None:
    position = lattice()
    away = np.linalg.norm(position - 128, axis=1)
    intensity = 1000 * np.exp(-away / 60) * np.random.default_rng(3).uniform(0.2, 1, len(position))
    intensity[away.argmin()] *= beam
    kept = keep_plausible(table_of(position, intensity), synthetic_probe(4.0, SHAPE, source=MEASURED), 0.5, SHAPE)
    assert kept.n_peaks == len(position)


def test_a_crystal_that_the_network_is_sure_of_needs_less_order() -> None:
    random = np.random.default_rng(16)
    position = random.uniform(20, 236, (20, 2))
    position[0] = 128
    away = np.linalg.norm(position - 128, axis=1)
    intensity = 100 * random.uniform(0.2, 1, 20) * np.exp(-away / 200)
    intensity[0] = 500
    seen = spread_of(position, intensity)
    assert 4 < seen.beam < 15 and -0.5 < seen.falls < -0.3
    for crystal, kept in ((0.0, 0), (0.95, 20)):
        probe = replace(synthetic_probe(8.0, SHAPE, source=MEASURED), crystal=crystal)
        assert keep_plausible(table_of(position, intensity), probe, 0.5, SHAPE).n_peaks == kept


@pytest.mark.parametrize(("kind", "which"), [("noise", 5), ("picture", 4)])
def test_many_places_that_fall_off_by_chance_are_no_crystal(kind: str, which: int) -> None:
    """They gave 53 and 46 disks: the network was sure that there is no crystal, and nobody asked it."""
    found, note = count_disks(patterns_of(kind, 6, seed=6021)[which], "light")
    assert found <= 3 and note


def test_grains_come_in_pairs_about_the_beam_and_chance_does_not() -> None:
    random = np.random.default_rng(5)
    half = random.uniform(-90, 90, (10, 2))
    assert paired_share(128 + np.concatenate([half, -half]), 3.0) > 0.9
    assert paired_share(random.uniform(20, 236, (20, 2)), 3.0) < 0.4


def test_spread_knows_where_the_bright_ones_lie() -> None:
    position = lattice()
    away = np.linalg.norm(position - 128, axis=1)
    assert spread_of(position, np.exp(-away / 50)).falls < -0.9
    assert spread_of(position, np.exp(-away / 50)).gathered < 0.6


def test_reflections_all_alike_are_kept_where_they_are_paired_and_a_network_sees_a_crystal():
    """An export as logarithm makes 80 reflections nearly as bright as each other."""
    position = lattice()
    alike = np.random.default_rng(2).uniform(90, 110, len(position))
    scattered = np.random.default_rng(3).uniform(20, 236, position.shape)
    probe = synthetic_probe(5.0, SHAPE, source=MEASURED)
    seen = replace(probe, crystal=0.97)
    assert keep_plausible(table_of(position, alike), seen, 0.5, SHAPE).n_peaks == len(position)
    assert keep_plausible(table_of(position, alike), probe, 0.5, SHAPE).n_peaks == 0
    assert keep_plausible(table_of(scattered, alike), seen, 0.5, SHAPE).n_peaks == 0


def test_each_pattern_is_judged_by_itself_however_a_scan_is_cut_into_blocks() -> None:
    random = np.random.default_rng(5)
    away = np.linalg.norm(lattice() - 128, axis=1)
    crystal = table_of(lattice(), 1000 * np.exp(-away / 60) * random.uniform(0.2, 1, len(away)))
    alike = table_of(lattice(), random.uniform(80, 120, len(away)))
    probe = synthetic_probe(4.0, SHAPE, source=MEASURED)
    whole = keep_plausible(PeakTable.concatenate([crystal, crystal, alike]), probe, 0.5, SHAPE)
    assert np.diff(whole.offset).tolist() == [len(away), len(away), 0] and whole.attrs["n_refused"] == 1


def test_a_few_disks_of_a_scan_that_shows_a_crystal_are_kept() -> None:
    random = np.random.default_rng(8)
    tables = [table_of(random.uniform(20, 236, (12, 2)), random.uniform(80, 120, 12)) for _ in range(10)]
    probe = synthetic_probe(4.0, SHAPE, source=MEASURED)
    assert sum(keep_plausible(few, probe, 0.5, SHAPE).n_peaks == 0 for few in tables) >= 5
    assert all(keep_plausible(few, replace(probe, paired=True), 0.5, SHAPE).n_peaks == 12 for few in tables)


def test_many_disks_of_several_grains_stay_where_the_beam_stands_out_and_pairs_lie_about_it() -> None:
    random = np.random.default_rng(6)
    half = random.uniform(-90, 90, (14, 2))
    position = np.concatenate([[[128.0, 128.0]], 128 + half, 128 - half, random.uniform(30, 226, (25, 2))])
    intensity = random.uniform(50, 150, len(position))
    probe = replace(synthetic_probe(4.0, SHAPE, source=MEASURED), crystal=0.7)
    assert keep_plausible(table_of(position, intensity), probe, 0.5, SHAPE).n_peaks == 0
    intensity[0] = 9000
    assert keep_plausible(table_of(position, intensity), probe, 0.5, SHAPE).n_peaks == len(position)


def test_bright_parts_of_a_picture_are_no_crystal_though_they_fall_off() -> None:
    # a photograph without lattice, pairs or direct beam, of which 143 disks were shown without a word
    random = np.random.default_rng(8)
    position = random.uniform(10, 246, (140, 2))
    away = np.linalg.norm(position - 128, axis=1)
    table = table_of(position, 1000 * np.exp(-away / 90) * random.uniform(0.5, 1, len(position)))
    probe = replace(synthetic_probe(3.0, SHAPE, source=MEASURED), crystal=0.05)
    assert keep_plausible(table, probe, 0.5, SHAPE).attrs["n_refused"] == 1
    assert keep_plausible(table, replace(probe, crystal=0.6), 0.5, SHAPE).n_peaks == len(position)
    place = lattice(5, 20.0)
    heights = 1000 * np.exp(-np.linalg.norm(place - 128, axis=1) / 90)
    assert keep_plausible(table_of(place, heights), probe, 0.5, SHAPE).n_peaks == len(place)


@pytest.mark.parametrize(("crystal", "paired", "doubted"), [(0.02, False, True), (0.02, True, False), (0.6, False, False)])
def test_disks_in_what_does_not_look_like_a_crystal_are_shown_with_a_doubt(crystal: float, paired: bool, doubted: bool) -> None:
    """A position-averaged pattern of a wide probe gave 198 disks without a word: in pairs, as it is symmetric."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    counts = sum(150 * np.exp(-np.hypot(r - 128, c - 128) / 40) * (np.hypot(rows - r, cols - c) < 4) for r, c in lattice())
    probe = replace(synthetic_probe(4.0, SHAPE, source=MEASURED), crystal=crystal, paired=paired)
    table = find_disks(np.random.default_rng(9).poisson(counts + 1)[None, None], probe=probe, method="template")
    assert table.n_peaks > 20
    assert ("do not look like a crystal's" in table.attrs["note"]) == doubted
