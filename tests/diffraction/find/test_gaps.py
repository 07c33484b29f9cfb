"""Gaps between the modules of a detector: seen in few electrons, no disks at their rims, disks that they cut are found."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.disks_made import G, lattice_points, pattern
from napari_emdl.base.params import DiskParams
from napari_emdl.diffraction.find.disks import find_disks
from napari_emdl.diffraction.find.gaps import dead_lines, find_gaps, overlap
from napari_emdl.diffraction.find.kernels import detection_kernel, kernel_parts
from napari_emdl.diffraction.find.masked import MaskedCorrelation, known_bins
from napari_emdl.diffraction.find.probe import synthetic_probe
from napari_emdl.diffraction.find.template import TemplateFinder

SHAPE = (192, 192)
ORIGIN = np.array([96.0, 95.4])


def image(level: float = 1.0, seed: int = 0) -> np.ndarray:
    place, _ = lattice_points(G, ORIGIN, SHAPE)
    return np.random.default_rng(seed).poisson(level * pattern(place, SHAPE)).astype(np.uint16)


@pytest.mark.parametrize("level", [0.2, 1.0])
@pytest.mark.parametrize("width", [1, 3, 6])
def test_dead_lines_are_seen_at_any_dose(level: float, width: int) -> None:
    cut = image(level).astype(float)
    cut[94 : 94 + width] = 0
    cut[:, 60 : 60 + width] = 0
    lines = dead_lines(cut)
    assert lines[94 : 94 + width].all() and lines[:, 60 : 60 + width].all()
    assert lines.mean() == pytest.approx(1 - (1 - width / 192) ** 2)


@pytest.mark.parametrize(("radius", "spacing"), [(3, 8), (3, 9), (6, 13), (6, 16), (6, 24), (8, 17), (8, 20), (14, 30)])
def test_rows_of_disks_along_the_detector_are_no_gaps(radius: float, spacing: int) -> None:
    row, col = np.mgrid[:192, :192]
    away = np.hypot((row + spacing // 2) % spacing - spacing // 2, (col + spacing // 2) % spacing - spacing // 2)
    counts = np.random.default_rng(1).poisson(20.0 * (away < radius) + 0.01).astype(float)
    assert not dead_lines(counts).any()


def test_few_electrons_on_an_empty_detector_are_no_gaps() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert not find_gaps(rng.poisson(rng.uniform(0.001, 0.1), SHAPE).astype(float)).any()


def test_what_a_gap_leaves_of_disks() -> None:
    gap = np.zeros(SHAPE, bool)
    gap[:, 100:] = True
    part = overlap(gap, np.array([[90.0, 50.0], [90.0, 99.5], [90.0, 150.0]]), 8.0)
    assert part[0] == 1 and part[1] == pytest.approx(0.5, abs=0.1) and part[2] == 0


def test_correlation_beside_a_gap_makes_no_rim_and_keeps_cut_disks() -> None:
    probe = synthetic_probe(5.0, SHAPE, 0.6)
    kernel, parts = detection_kernel(probe, "auto", 1, SHAPE), kernel_parts(probe, "auto", 1, SHAPE)
    gap = np.zeros(SHAPE, bool)
    gap[:, 95:99] = True
    masked = MaskedCorrelation(parts, known_bins(gap, 1))
    noise = np.random.default_rng(2).normal(size=(4, *SHAPE)).astype(np.float32)
    level = 30.0 * np.ones(SHAPE, np.float32)
    level[gap] = 0
    disk = 4.0 * (np.hypot(np.arange(192)[:, None] - 96, np.arange(192) - 92) < 5)

    def correlated(stabilised: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft2(stabilised) * np.conj(np.fft.rfft2(kernel))
        plain = np.fft.irfft2(spectrum, s=SHAPE).astype(np.float32)
        return masked.replaced(plain, stabilised - stabilised[:, ~gap].mean())

    rim = correlated(level + noise)
    assert 0.8 < rim[:, masked.cut].std() < 1.2  # noise of one, whatever is cut
    assert np.abs(rim[:, masked.cut]).max() < 6
    cut = correlated((level + disk) * ~gap + noise)[:, 96, 92]
    assert cut.min() > 0.6 * correlated(level * ~gap + noise + disk)[:, 96, 92].min() > 10


@pytest.mark.parametrize("method", ["template", "light"])
def test_disks_cut_by_a_gap_are_found_and_none_at_its_rims(method: str) -> None:
    place, _ = lattice_points(G, ORIGIN, SHAPE)
    counts = image()
    counts[:, 94:97] = 0
    probe = synthetic_probe(5.0, SHAPE, 0.6)
    table = find_disks(counts[None, None], probe=probe, method=method)
    shown = table.filter(min_score=table.attrs["default_min_score"]).positions_px()
    distance = np.linalg.norm(place[:, None] - shown[None], axis=2)
    cut = (np.abs(place[:, 1] - 95) < 4) & (place[:, 0] > 6) & (place[:, 0] < 185)
    assert cut.sum() > 2
    assert distance[cut].min(axis=1).max() < 1.5
    assert distance.min(axis=0).max() < 2


def test_proposals_count_electrons_and_measuring_does_not() -> None:
    """In patterns of few electrons what is counted adds to what the root sees, and takes nothing away."""
    counts = image(0.05)[None]
    finder = TemplateFinder(synthetic_probe(5.0, SHAPE, 0.6), DiskParams(method="template"), SHAPE)
    gain, gap = np.ones(1, np.float32), np.zeros(SHAPE, bool)
    measured, proposed = (finder._correlate(counts, gain, gap, proposing) for proposing in (False, True))
    assert (proposed >= measured).all() and (proposed > measured + 0.5).any()


def test_the_dark_ground_between_disks_is_no_gap() -> None:
    row, col = np.mgrid[:40, :40]
    pattern = np.full((40, 40), 0.5)
    for r in range(4, 40, 8):
        for c in range(4, 40, 8):
            pattern += 60 * (np.hypot(row - r, col - c) < 2.5)
    for seed in range(5):
        counts = np.random.default_rng(seed).poisson(pattern).astype(float)
        assert not find_gaps(counts).any()
