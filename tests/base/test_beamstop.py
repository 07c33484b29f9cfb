"""Beam stops are told by their rim, also where patterns have few counts and the stop reaches out into the dark."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.base.missing import find_missing

SHAPE = (192, 192)


def patterns(count: int, halo: float, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Poisson counts (n, rows, cols) of a halo and disks about the centre, and what a stop hides."""
    rng = np.random.default_rng(7)
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    origin = np.array(SHAPE) / 2 + [1.3, -2.1]
    away = np.hypot(rows - origin[0], cols - origin[1])
    expected = halo * np.exp(-away / 48)
    for h, k in np.ndindex(9, 9):
        height = 400 if h == k == 4 else 8 * np.exp(-((h - 4) ** 2 + (k - 4) ** 2) / 8)
        expected += halo * height * (np.hypot(rows - origin[0] - 25 * (h - 4), cols - origin[1] - 25 * (k - 4)) < 4)
    disc, bar = away < 11, (np.abs(rows - origin[0]) < 11) & (cols < origin[1])
    stop = {"disc": disc, "bar": disc | bar, "none": np.zeros(SHAPE, bool)}[kind]
    return rng.poisson(np.where(stop, 0, expected), (count, *SHAPE)).astype(np.uint16), stop


@pytest.mark.parametrize(("count", "halo"), [(8, 1.0), (30, 0.5), (30, 3.0)])
@pytest.mark.parametrize("kind", ["disc", "bar"])
def test_a_stop_is_found_and_hides_no_disk_beside_it(count: int, halo: float, kind: str) -> None:
    counts, stop = patterns(count, halo, kind)
    missing = find_missing(counts, diffraction=True)
    assert any("under a beam stop" in line for line in missing.found)
    assert missing.pixels is not None and missing.pixels[stop].all() and (missing.pixels & ~stop).sum() < 0.1 * stop.sum()
    assert missing.covered is not None and missing.covered[stop].all()


@pytest.mark.parametrize(("count", "halo"), [(1, 0.3), (1, 5.0), (30, 0.1), (30, 3.0)])
def test_a_beam_that_is_there_has_no_stop(count: int, halo: float) -> None:
    missing = find_missing(patterns(count, halo, "none")[0], diffraction=True)
    assert not any("beam stop" in line for line in missing.found)
