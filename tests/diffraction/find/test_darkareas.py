"""A stop on a long arm is known in one pattern, into its dim parts, and no disk is found along its rim."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.diffraction.find.darkareas import dark_areas
from napari_emdl.diffraction.find.disks import find_disks
from napari_emdl.samples.diffraction import strained_datacube

SHAPE = (200, 220)
ORIGIN = np.array([112.0, 90.0])
LATTICE = ORIGIN + (np.stack(np.mgrid[-5:6, -5:6], axis=-1).reshape(-1, 2) @ np.array([[26.0, 5.0], [-6.0, 24.0]]))


def expected() -> np.ndarray:
    """Electrons of a halo about the beam, which falls to one a pixel, and of spots on a lattice."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    out = 90 / (1 + (np.hypot(rows - ORIGIN[0], cols - ORIGIN[1]) / 16) ** 2)
    for place in LATTICE:
        out += (3000 if np.allclose(place, ORIGIN) else 150) * (np.hypot(rows - place[0], cols - place[1]) < 4.5)
    return out


def transmission(kind: str, leak: float = 0.0) -> np.ndarray:
    """What a stop lets through."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    away, arm = np.hypot(rows - ORIGIN[0], cols - ORIGIN[1]), (np.abs(cols - ORIGIN[1] + 0.05 * rows - 5) < 6)
    hidden = {"bar": arm & (rows < ORIGIN[0] + 12), "disk": (away < 13) | (arm & (rows < ORIGIN[0])), "none": away < -1}[kind]
    return np.where(hidden, leak, 1.0)


@pytest.mark.parametrize(("kind", "leak"), [("bar", 0.0), ("bar", 0.002), ("disk", 0.003)])
@pytest.mark.parametrize("eight_bit", [False, True])
def test_one_pattern_tells_a_stop_to_its_end(kind: str, leak: float, eight_bit: bool) -> None:
    passed = transmission(kind, leak)
    counts = np.random.default_rng(5).poisson(expected() * passed).astype(float)
    if eight_bit:
        counts = np.rint(255 * np.minimum(counts / 250, 1) ** 0.6)
    found, stop = dark_areas(counts), passed < 1
    assert found[stop].mean() > 0.95 and (found & ~stop).sum() < 0.6 * stop.sum()  # two or three pixels about it


def test_what_is_lit_is_not_dark() -> None:
    counts = np.random.default_rng(5).poisson(expected()).astype(float)
    assert not dark_areas(counts).any()
    rows, cols = np.mgrid[:200, :200]
    disks = np.hypot(rows % 40 - 20, cols % 40 - 20) < 16  # what lies between is dark and closed
    assert not dark_areas(np.random.default_rng(1).poisson(60.0 * disks + 0.2).astype(float)).any()
    assert not dark_areas(np.random.default_rng(1).poisson(0.02, (128, 128)).astype(float)).any()


def test_a_large_picture_is_looked_at_in_bins() -> None:
    passed = transmission("bar")
    counts = np.random.default_rng(6).poisson(np.kron(expected() * passed, np.ones((4, 4)))).astype(float)
    stop = np.kron(passed < 1, np.ones((4, 4), bool))
    found = dark_areas(counts)
    assert found.shape == counts.shape and found[stop].mean() > 0.95


def test_no_disk_is_found_along_an_arm_and_it_is_said() -> None:
    passed = transmission("bar", 0.002)
    counts = np.random.default_rng(7).poisson(expected() * passed).astype(np.uint16)
    table = find_disks(counts[None, None], method="light")
    assert "under a beam stop or in another dark area" in table.attrs["note"]
    shown = table.filter(min_score=table.attrs["default_min_score"]).positions_px()
    lattice = np.array(
        [ORIGIN + (h - 5) * np.array([26.0, 5.0]) + (k - 5) * np.array([-6.0, 24.0]) for h, k in np.ndindex(11, 11)]
    )
    nearest = np.linalg.norm(shown[:, None] - lattice[None], axis=2).min(axis=1)
    assert len(shown) > 25 and (nearest > 2).sum() <= 1


def test_the_dark_ground_between_small_disks_is_not_hidden() -> None:
    """Single patterns of the sample: nine tenths of the rims of such places are lit by disks, the rest is not."""
    cube, _ = strained_datacube(shape=(4, 6), detector=(96, 96))
    patterns = np.asarray(cube.data).reshape(-1, 96, 96).astype(np.float32)
    assert not any(dark_areas(pattern).any() for pattern in patterns)
