"""The origin lies on the direct beam, not on a lattice point beside it, wherever the beam jumps, hides or is outshone."""

import numpy as np
import pytest

from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.fit.calibrate import calibrate

G = np.array([[18.0, 3.0], [-4.0, 19.0]])
BEAM = np.array([80.0, 78.0])


def _scan(jump, covered_px=0.0, outshone=False, vacuum_rows=0, rows=12, cols=10, seed=5):
    """Disks and true origins; a stop of a radius about BEAM, `jump(row)` by which the pattern lies off."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.mgrid[-4:5, -4:5], axis=-1).reshape(-1, 2)
    lists, true = [], np.zeros((rows, cols, 2))
    for r in range(rows):
        for c in range(cols):
            true[r, c] = BEAM + jump(r)
            place = true[r, c] + index @ G + rng.normal(0, 0.05, (len(index), 2))
            light = 1000 * np.exp(-np.linalg.norm(index, axis=1) / 1.5) * rng.uniform(0.5, 1, len(index))
            light[(index == 0).all(axis=1)] = 1500.0
            if outshone:
                light[(index == [0, 1]).all(axis=1)] = 1500.0 * (1.4 if c % 3 else 0.8)
            seen = (np.abs(place - 80) < 78).all(axis=1) & (light > 15) & (np.linalg.norm(place - BEAM, axis=1) > covered_px)
            if r < vacuum_rows:
                seen &= (index == 0).all(axis=1)
            row, col, bright = place[seen, 0], place[seen, 1], light[seen]
            sigma = np.full(len(row), 0.05)
            lists.append({"row": row, "col": col, "intensity": bright, "score": 0 * row + 0.9, "sigma_px": sigma})
    return PeakTable.from_lists(lists, (rows, cols)), true


HALF, NEARLY_G = np.array([11.0, -7.0]), 0.95 * G[0] + 0.1 * G[1]


@pytest.mark.parametrize("covered_px", [0.0, 8.0])
@pytest.mark.parametrize("by", [HALF, NEARLY_G], ids=["by more than half a g", "by almost g"])
def test_after_a_step_of_the_beam_the_origin_is_right_on_both_sides(by, covered_px) -> None:
    disks, true = _scan(lambda r: by * (r > 6), covered_px)
    found = calibrate(disks)
    assert np.linalg.norm(found.origin_px - true, axis=-1).max() < 1.0


def test_positions_without_a_pattern_take_the_origin_of_the_nearest() -> None:
    disks, true = _scan(lambda r: HALF * (r > 6), 8.0, vacuum_rows=3)
    found = calibrate(disks)
    assert np.linalg.norm(found.origin_px - true, axis=-1).max() < 1.0
    assert any("jumps" in w and "hidden in 40 of them" in w for w in found.warnings)


def test_a_reflection_that_outshines_the_beam_in_most_positions_is_not_the_origin() -> None:
    disks, true = _scan(lambda r: np.zeros(2), outshone=True)
    found = calibrate(disks)
    assert np.linalg.norm(found.origin_px - true, axis=-1).max() < 1.0


def test_one_line_that_jumps_is_followed() -> None:
    disks, true = _scan(lambda r: HALF * (r == 5), 8.0)
    found = calibrate(disks)
    assert np.linalg.norm(found.origin_px - true, axis=-1).max() < 1.0


def test_a_beam_that_rests_or_drifts_is_left_as_it_was() -> None:
    disks, true = _scan(lambda r: np.array([0.8, -0.5]) * r)
    found = calibrate(disks)
    assert np.linalg.norm(found.origin_px - true, axis=-1).max() < 0.2
    assert not found.warnings
