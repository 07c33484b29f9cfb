"""Support by neighbouring positions: faint disks of a lattice are raised, changes stay, nothing is invented."""

from __future__ import annotations

import numpy as np

from helpers.disks_made import G, lattice_points
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.find.disks import find_disks
from napari_emdl.diffraction.find.neighbours import with_support

SHAPE, RADIUS, THRESHOLD = (160, 160), 4.0, 0.5
ORIGIN = np.array([80.0, 80.0])


def table_of(patterns: dict[tuple[int, int], np.ndarray], shape: tuple[int, int]) -> PeakTable:
    """Table over `shape` of (n, 3) row, col, score a position."""
    lists = []
    for position in np.ndindex(*shape):
        row, col, score = patterns[position].T
        lists.append({"row": row, "col": col, "score": score, "intensity": score, "sigma_px": np.full(len(row), 0.1)})
    return PeakTable.from_lists(lists, shape)


def scores(place: np.ndarray, score: float | np.ndarray) -> np.ndarray:
    return np.column_stack([place, np.broadcast_to(score, len(place))])


def uniform(shape: tuple[int, int] = (5, 5), g: np.ndarray = G, score: float = 0.9) -> dict[tuple[int, int], np.ndarray]:
    random = np.random.default_rng(0)
    place = lattice_points(g, ORIGIN, SHAPE)[0]
    return {at: scores(place + 0.2 * random.standard_normal(place.shape), score) for at in np.ndindex(*shape)}


def test_a_faint_disk_that_the_neighbours_show_passes():
    patterns = uniform()
    patterns[2, 2][7, 2] = 0.2
    before = table_of(patterns, (5, 5))
    after = with_support(before, RADIUS, THRESHOLD)
    assert after[2, 2]["score"][7] >= THRESHOLD
    assert after.attrs["n_supported"] == 1
    assert np.all(after.column("score") >= before.column("score"))


def test_a_defect_keeps_its_own_disks_and_gets_none():
    """One position of another crystal: what was found in it stays, and noise off the neighbours' disks is not raised."""
    patterns = uniform()
    turned = G @ np.array([[np.cos(0.4), np.sin(0.4)], [-np.sin(0.4), np.cos(0.4)]])
    own = lattice_points(turned, ORIGIN, SHAPE)[0]
    patterns[2, 2] = np.concatenate([scores(own, 0.7), [[31.0, 52.0, 0.3], [100.0, 37.0, 0.2]]])
    before = table_of(patterns, (5, 5))
    after = with_support(before, RADIUS, THRESHOLD)
    assert np.array_equal(after[2, 2]["score"], before[2, 2]["score"])
    assert "n_supported" not in after.attrs


def test_a_grain_boundary_stays_sharp():
    turned = G @ np.array([[np.cos(0.4), np.sin(0.4)], [-np.sin(0.4), np.cos(0.4)]])
    left, right = uniform((6, 6)), uniform((6, 6), turned)
    patterns = {at: (left if at[1] < 3 else right)[at] for at in np.ndindex(6, 6)}
    far = lattice_points(G, ORIGIN, SHAPE)[0]
    far = far[np.linalg.norm(far[:, None] - lattice_points(turned, ORIGIN, SHAPE)[0], axis=2).min(axis=1) > 6]
    # at the boundary's right side a few maxima of the noise lie where the left grain has disks, with the lowest scores kept
    patterns[2, 3] = np.concatenate([patterns[2, 3], scores(far[:3], 0.06)])
    after = with_support(table_of(patterns, (6, 6)), RADIUS, THRESHOLD)
    shown = after.filter(min_score=THRESHOLD)
    assert [len(shown[2, c]) for c in range(6)] == [len(left[2, c]) for c in range(3)] + [len(right[2, c]) for c in range(3, 6)]


def test_what_a_camera_shows_everywhere_is_no_lattice():
    """Places that are alike at all positions, without an order: no support."""
    random = np.random.default_rng(4)
    place = random.uniform(10, 150, (14, 2))
    patterns = {at: scores(place, np.r_[np.full(9, 0.8), np.full(5, 0.3)]) for at in np.ndindex(4, 4)}
    patterns[1, 1][9:, 2], patterns[2, 1][:3, 2] = 0.3, 0.3
    before = table_of(patterns, (4, 4))
    assert np.array_equal(with_support(before, RADIUS, THRESHOLD).column("score"), before.column("score"))


def test_few_electrons_and_a_hole_in_the_crystal():
    """Scan of some hundred electrons a pattern, nothing set: disks are found, the hole stays empty, support is counted."""
    random = np.random.default_rng(6)
    place, hk = lattice_points(1.3 * G, ORIGIN, SHAPE)
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    expected = np.full(SHAPE, 0.004)
    for (row, col), index in zip(place, hk, strict=True):
        height = 4.0 if not index.any() else 0.7 * np.exp(-0.15 * (index**2).sum())
        expected += height * (np.hypot(rows - row, cols - col) < 5)
    counts = random.poisson(expected, (5, 6, *SHAPE)).astype(np.uint16)
    counts[2, 3] = random.poisson(np.full(SHAPE, expected.mean()))
    table = find_disks(counts)
    assert 0.9 < table.attrs["probe_radius_px"] / 5 < 1.1
    shown = table.filter(min_score=table.attrs["default_min_score"])
    assert len(shown[2, 3]) <= 1
    strong = place[np.exp(-0.15 * (hk**2).sum(axis=1)) > 0.35]
    found = [
        np.linalg.norm(np.stack([d["row"], d["col"]], 1)[:, None] - strong, axis=2).min(0) < 2 for d in shown if len(d) > 2
    ]
    assert len(found) == 29 and np.mean(found) > 0.9
    away = np.concatenate(
        [np.linalg.norm(np.stack([d["row"], d["col"]], 1)[:, None] - place, axis=2).min(1) for d in shown if len(d) > 2]
    )
    assert np.mean(away < 2) > 0.95
    assert table.attrs["provenance"]["n_supported"] == table.attrs.get("n_supported", 0)
