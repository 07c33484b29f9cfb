"""The probe from the data alone: radius whatever the camera did, vacuum positions, patterns without disks, how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_emdl.base.signals import in_memory
from napari_emdl.diffraction.find.disks import find_disks
from napari_emdl.diffraction.find.gaps import find_gaps
from napari_emdl.diffraction.find.ownprobe import VACUUM
from napari_emdl.diffraction.find.patterns import fill_missing, missing_pixels
from napari_emdl.diffraction.find.probe import measure_probe
from napari_emdl.diffraction.find.probeshape import Probe
from napari_emdl.samples.diffraction import strained_datacube

RADIUS = 6.0


def expected(radius: float = RADIUS, n: int = 192, spacing: float = 27.0, halo: float = 0.0) -> np.ndarray:
    """Electrons of a lattice of disks lit on one side, a direct beam a hundred times stronger, and a halo around it."""
    row, col = np.mgrid[:n, :n]
    out = np.full((n, n), 2.0)
    middle = n / 2 + 0.3
    for h in range(-3, 4):
        for k in range(-3, 4):
            place = middle + spacing * np.array([h + 0.15 * k, k - 0.15 * h])
            distance = np.hypot(row - place[0], col - place[1])
            height = 4000.0 if h == k == 0 else 40.0 * np.exp(-0.08 * (h * h + k * k))
            tilt = 1.0 if h == k == 0 else 1 + 0.7 * (h * (row - place[0]) + k * (col - place[1])) / (3 * radius)
            out += height * np.clip(tilt, 0, None) * np.clip(radius + 0.5 - distance, 0, 1)
    distance = np.hypot(row - middle, col - middle)
    return out + halo * (1 + np.square(distance / (2 * radius))) ** -1.5


def measured(image: np.ndarray) -> Probe:
    return measure_probe(in_memory(image[None, None], "datacube"))


def bent(kind: str) -> np.ndarray:
    """The pattern as cameras and exports bend it."""
    rng = np.random.default_rng(3)
    counts = rng.poisson(expected(halo=900.0 if kind in ("halo", "8 bit") else 0.0)).astype(float)
    if kind == "8 bit":
        return np.clip(counts / np.percentile(counts, 99) * 255, 0, 255).astype(np.uint8)
    if kind == "gamma":
        return ((counts / counts.max()) ** 0.4 * 255).astype(np.uint8)
    if kind == "spread":
        return ndimage.gaussian_filter(0.5 * counts + 0.5 * ndimage.gaussian_filter(counts, 2.5 * RADIUS), 0.7)
    if kind == "few":
        return rng.poisson(expected() * 0.04).astype(np.uint16)
    if kind == "stop":
        counts += rng.poisson(30.0, counts.shape)
        counts[:110, 86:107] = 0
    if kind == "hot":
        counts[rng.integers(0, 192, 20), rng.integers(0, 192, 20)] = 60_000
        counts[40:44] = np.nan
    return counts


@pytest.mark.parametrize("kind", ["plain", "halo", "8 bit", "gamma", "spread", "few", "stop", "hot"])
def test_radius_is_that_of_the_disks_whatever_the_camera_did(kind: str) -> None:
    probe = measured(bent(kind))
    assert probe.radius_px == pytest.approx(RADIUS, rel=0.1)
    assert probe.trust == 1 and not probe.note


@pytest.mark.parametrize("positions", [1, 16])
def test_radius_from_single_electrons(positions: int) -> None:
    """Some thousand electrons a pattern: an electron is no disk, and the patterns of a scan are looked at together."""
    random = np.random.default_rng(7)
    mean = expected() - 2.0
    counts = random.poisson(mean * (6000 / mean.sum()) + 0.01, (1, positions, 192, 192)).astype(np.uint16)
    probe = measure_probe(in_memory(counts, "datacube"))
    assert probe.radius_px == pytest.approx(RADIUS, rel=0.12)


def test_the_beam_alone_in_all_patterns_is_one_witness() -> None:
    """A halo that every position shows is no crowd of disks, however many patterns show it."""
    distance = np.hypot(*np.mgrid[-96:96, -96:96])
    halo = 3 * (1 + np.square(distance / 9)) ** -1.5
    counts = np.random.default_rng(9).poisson(halo, (5, 5, 192, 192)).astype(np.uint16)
    assert measure_probe(in_memory(counts, "datacube")).trust < 1
    found = find_disks(counts)
    assert found.filter(min_score=found.attrs["default_min_score"]).n_peaks <= 2


@pytest.mark.parametrize("radius", [2.5, 4.0, 10.0, 14.0])
def test_radius_from_small_to_large(radius: float) -> None:
    counts = np.random.default_rng(1).poisson(expected(radius, n=256, spacing=max(14.0, 2.6 * radius)))
    assert measured(counts.astype(float)).radius_px == pytest.approx(radius, rel=0.1)


def test_vacuum_positions_of_a_scan_are_found_and_used() -> None:
    cube, truth = strained_datacube((12, 20))
    probe = measure_probe(cube)
    assert probe.source == VACUUM
    assert probe.radius_px == pytest.approx(truth["probe_radius_px"], rel=0.02)
    assert np.abs(probe.image - truth["probe"]).max() < 0.25
    crystal = in_memory(np.asarray(cube.data[:, 4:]), "datacube")
    assert measure_probe(crystal).source != VACUUM
    assert measure_probe(crystal).radius_px == pytest.approx(truth["probe_radius_px"], rel=0.05)


@pytest.mark.parametrize("kind", ["noise", "empty", "halo", "amorphous", "image", "beam"])
def test_patterns_without_disks_give_an_empty_table_and_one_line(kind: str) -> None:
    rng = np.random.default_rng(5)
    row, col = np.mgrid[:160, :160]
    distance = np.hypot(row - 80.3, col - 79.1)
    rings = 40 * np.exp(-0.5 * np.square((distance - 40) / 6)) + 300 * np.exp(-distance / 9)
    grain = ndimage.gaussian_filter(rng.normal(size=(160, 160)), 4)
    image = {
        "noise": np.full((160, 160), 5.0),
        "empty": np.zeros((160, 160)),
        "halo": 500 * (1 + np.square(distance / 9)) ** -1.5,
        "amorphous": rings,
        "image": np.clip(100 + 40 * grain / grain.std(), 1, None),
        "beam": 200.0 * (distance < 7) + 0.05,
    }[kind]
    table = find_disks(rng.poisson(image)[None, None].astype(np.uint16))
    shown = table.filter(min_score=table.attrs["default_min_score"])
    assert shown.n_peaks <= 1
    assert any(text in table.attrs["note"] for text in ("no disk was found", "no pattern has a disk", "patterns are empty"))
    assert "give a vacuum probe or a probe radius" in table.attrs["note"]
    if shown.n_peaks:
        assert np.hypot(shown.column("row")[0] - 80.3, shown.column("col")[0] - 79.1) < 3


def test_provenance_says_where_the_probe_came_from() -> None:
    table = find_disks(bent("plain")[None, None], method="template")
    probe = table.attrs["provenance"]["probe"]
    assert probe["source"] == "measured from the data" and probe["radius_px"] == pytest.approx(RADIUS, rel=0.1)


def test_a_beam_stop_is_a_gap_and_no_disk() -> None:
    image = bent("stop")
    gap = find_gaps(image)
    inside = np.zeros(image.shape, bool)
    inside[:110, 86:107] = True
    assert gap[inside].mean() > 0.95 and not gap[~ndimage.binary_dilation(inside, iterations=6)].any()
    assert not find_gaps(bent("plain")).any() and not find_gaps(bent("few").astype(float)).any()
    table = find_disks(image[None, None])
    shown = table.filter(min_score=table.attrs["default_min_score"])
    assert shown.n_peaks > 30
    hidden = (shown.column("row") < 110) & (np.abs(shown.column("col") - 96) < 11)
    assert not hidden.any()


@pytest.mark.parametrize("dtype", ["int32", "uint16", "uint32", "float32"])
def test_masked_pixels_of_every_type_are_filled_from_around_them(dtype: str) -> None:
    image = np.random.default_rng(2).poisson(50.0, (1, 64, 64)).astype(dtype)
    mark = {"int32": -1, "uint16": 2**16 - 1, "uint32": 2**32 - 1, "float32": np.nan}[dtype]
    image[0, 30:33, :] = mark
    assert missing_pixels(image).sum() == 3 * 64
    filled = fill_missing(image)
    assert filled[0, 30:33].mean() == pytest.approx(50, abs=3) and np.isfinite(filled).all()


def test_saturated_pixels_are_counts_not_marks() -> None:
    image = np.full((1, 32, 32), 60_000, np.uint16)
    image[0, 10:14, 10:14] = 2**16 - 1
    assert not missing_pixels(image).any()


def test_a_sharp_direct_beam_wider_than_any_disk_is_the_probe() -> None:
    rng = np.random.default_rng(4)
    distance = np.hypot(*(np.mgrid[:256, :256] - 128.0))
    speckle = ndimage.gaussian_filter(rng.standard_normal((256, 256)), 3)
    mean = 40 * (1 + 0.4 * speckle / speckle.std()) / (1 + np.exp((distance - 61) / 1.5)) + 0.2
    probe = measured(rng.poisson(np.clip(mean, 0, None)).astype(float))
    assert probe.radius_px == pytest.approx(61, rel=0.05)
    assert probe.trust < 1 and "alone" in probe.note


def test_a_beam_too_wide_to_be_a_disk_is_said_and_no_error() -> None:
    rows, cols = np.mgrid[:96, :96]
    image = np.random.default_rng(4).poisson(200.0 * (np.hypot(rows - 48, cols - 48) < 0.265 * 96) + 0.2)
    table = find_disks(image.astype(np.uint16)[None, None], method="light")
    assert table.filter(min_score=table.attrs["default_min_score"]).n_peaks <= 1
    assert table.attrs["note"]
