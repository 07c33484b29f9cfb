"""Spots of selected-area and precession patterns: found, placed, counted, and none where there is nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_emdl.base.params import DiskParams
from napari_emdl.diffraction.find.disks import find_disks, make_finder
from napari_emdl.diffraction.find.ownprobe import MEASURED
from napari_emdl.diffraction.find.probe import synthetic_probe
from napari_emdl.diffraction.find.small import SmallDiskFinder
from napari_emdl.diffraction.find.spots import SpotFinder, is_spot


def spots(n: int = 256, spacing: float = 13.3, sigma: float = 1.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pattern, places and heights: a lattice over five hundred to one in height on a halo, by shot noise."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:n, :n]
    index = np.stack(np.meshgrid(np.arange(-12, 13), np.arange(-12, 13), indexing="ij"), -1).reshape(-1, 2)
    place = n / 2 + 0.2 + index @ np.array([[1.0, 0.13], [-0.13, 1.0]]) * spacing
    place = place[np.all((place > 5) & (place < n - 6), axis=1)]
    height = 3000 * 10 ** -rng.uniform(0, 2.2, len(place))
    distance = np.hypot(row - n / 2, col - n / 2)
    image = 5 + 400 * (1 + np.square(distance / 8)) ** -1.5
    for p, h in zip(place, height, strict=True):
        image += h * np.exp(-0.5 * (np.square(row - p[0]) + np.square(col - p[1])) / sigma**2)
    return rng.poisson(image).astype(np.uint16), place, height


def test_spots_are_found_with_nothing_set() -> None:
    image, place, height = spots()
    table = find_disks(image[None, None])
    assert table.attrs["probe_radius_px"] < 2.2 and "spots" in table.attrs["note"]
    shown = table.filter(min_score=table.attrs["default_min_score"])
    found = shown.positions_px()
    apart = np.linalg.norm(found[:, None] - place[None], axis=2)
    assert len(place) > 250
    assert (apart.min(axis=0) < 1).mean() > 0.85  # the faintest do not stand out from the tails of their neighbours
    assert (apart.min(axis=0) < 1)[height > 100].mean() > 0.97
    assert (apart.min(axis=1) < 1).mean() > 0.98
    assert np.sqrt(np.mean(apart.min(axis=1) ** 2)) < 0.15
    error = apart.min(axis=1) / shown.column("sigma_px")
    assert 0.7 < np.sqrt(np.mean(error**2) / 2) < 1.8


def test_intensity_is_the_counts_of_the_spot() -> None:
    image, place, height = spots()
    finder = SpotFinder(synthetic_probe(1.3, image.shape), DiskParams(), image.shape)
    table = finder.find(image[None])
    near = np.linalg.norm(table.positions_px()[:, None] - place[None], axis=2)
    strong = height[near.argmin(axis=1)] > 500
    ratio = table.column("intensity") / (2 * np.pi * 1.1**2 * height[near.argmin(axis=1)])
    assert np.median(ratio[strong]) == pytest.approx(1, abs=0.05)


def test_the_most_disks_are_said_when_reached() -> None:
    image, _, _ = spots()
    table = find_disks(image[None, None], max_disks=100)
    assert table.n_peaks == 100 and "1 pattern with more disks than were kept" in table.attrs["note"]
    assert DiskParams().max_disks >= 400


@pytest.mark.parametrize("seed", range(4))
def test_no_spot_in_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.poisson(10 ** rng.uniform(-1, 2), (128, 128)).astype(np.uint16)
    finder = SpotFinder(synthetic_probe(1.5, image.shape), DiskParams(), image.shape)
    table = finder.find(image[None])
    assert (table.column("score") >= finder.default_min_score).sum() <= 1


def test_what_a_spot_is() -> None:
    assert is_spot(synthetic_probe(1.6, (64, 64)))
    assert is_spot(synthetic_probe(3.0, (64, 64), 1.6))
    assert not is_spot(synthetic_probe(3.0, (64, 64), 0.6))
    small = synthetic_probe(1.6, (64, 64))
    assert isinstance(make_finder(DiskParams(), small, (64, 64)), SmallDiskFinder)
    measured = replace(small, source=MEASURED)
    assert isinstance(make_finder(DiskParams(method="template"), measured, (64, 64)), SpotFinder)


def test_small_disks_with_an_edge_are_measured_by_the_network() -> None:
    # binned nanobeam patterns: as peaks alone, three of four were found, half a pixel off, as what is inside a disk pulls them
    rng = np.random.default_rng(4)
    index = np.stack(np.meshgrid(np.arange(-5, 6), np.arange(-5, 6), indexing="ij"), -1).reshape(-1, 2)
    place = 128 + 0.6 + index @ np.array([[21.0, 2.6], [-2.6, 21.0]])
    place = place[np.all((place > 10) & (place < 245), axis=1)]
    row, col = np.mgrid[:256, :256]
    image = np.zeros((256, 256))
    for p in place:
        away, t = np.hypot(row - p[0], col - p[1]), rng.uniform(0, 2 * np.pi)
        inside = 1 + 0.9 * np.clip(((row - p[0]) * np.sin(t) + (col - p[1]) * np.cos(t)) / 4.2, -1, 1)
        image += (6 + 240 * np.exp(-np.sum(np.square(p - 128.6)) / 3600)) * inside * (away < 4.2)
    fine = rng.poisson(image + 0.05)
    data = fine.reshape(128, 2, 128, 2).sum((1, 3)).astype(np.uint16)[None, None]
    true = (place - 0.5) / 2
    table = find_disks(data)
    assert table.attrs["probe_radius_px"] < 2.3 and "small disks" in table.attrs["note"]
    shown = table.filter(min_score=table.attrs["default_min_score"])
    apart = np.linalg.norm(shown.positions_px()[:, None] - true[None], axis=2)
    assert (apart.min(axis=0) < 1).mean() > 0.95 and (apart.min(axis=1) < 1).mean() > 0.95
    assert np.sqrt(np.mean(apart.min(axis=1)[apart.min(axis=1) < 1] ** 2)) < 0.25
    assert "disk_refiner" in str(table.attrs["provenance"])


def ringed(stop: bool) -> np.ndarray:
    """Powder rings, cut by a beam stop whose dark is not zero."""
    rng = np.random.default_rng(3)
    row, col = np.mgrid[:160, :160]
    away = np.hypot(row - 80, col - 76)
    image = 30 + 300 / (1 + (away / 12) ** 2)
    for radius, height in ((28, 260), (45, 120), (62, 60)):
        image += height * np.exp(-((away - radius) ** 2) / (2 * 1.6**2))
    if stop:
        image[(np.abs(col - 76) < 5) & (row < 86)] = 1.5
    return rng.poisson(image).astype(np.uint16)


@pytest.mark.parametrize("stop", [False, True])
def test_rings_cut_by_a_beam_stop_make_no_spots(stop: bool) -> None:
    image = ringed(stop)
    finder = SpotFinder(synthetic_probe(2.0, image.shape), DiskParams(), image.shape)
    assert finder.find(image[None]).filter(min_score=finder.default_min_score).n_peaks <= 1


def test_spots_at_the_edge_of_the_detector_stay() -> None:
    row, col = np.mgrid[:96, :96]
    places = [(r, c) for r in (6, 34, 62, 90) for c in (6, 34, 62, 90)]
    image = 8 + sum(200 * np.exp(-((row - r) ** 2 + (col - c) ** 2) / (2 * 1.4**2)) for r, c in places)
    counts = np.random.default_rng(0).poisson(image).astype(np.uint16)
    finder = SpotFinder(synthetic_probe(1.6, counts.shape), DiskParams(), counts.shape)
    assert finder.find(counts[None]).filter(min_score=finder.default_min_score).n_peaks == len(places)
