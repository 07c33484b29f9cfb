"""The scale network tells the radius of disks whatever detector, dose and export, and a crystal's pattern from others."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.base.params import DiskParams
from napari_emdl.base.signals import in_memory
from napari_emdl.diffraction.find.disks import find_disks
from napari_emdl.diffraction.find.ownprobe import MEASURED, measure_probe
from napari_emdl.diffraction.find.scaleguess import ScaleGuess, guess_scale
from napari_emdl.diffraction.find.scaleview import LEVELS, RADII_PX, on_network_grid, pyramid
from napari_emdl.samples.nothing import patterns_of


def pattern(
    radius: float, size: int = 256, electrons: float = 1e6, spacing: float = 5.0, halo: float = 0.2, seed: int = 0
) -> np.ndarray:
    """Disks of random height on a slightly turned square lattice, spacing in radii, with a halo around the direct beam."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2 + 0.37
    reach = int(radius) + 2
    g = spacing * radius * np.array([[1.0, 0.21], [-0.21, 1.0]])
    image = halo * np.exp(-np.hypot(y, x) / (0.12 * size)) / (0.12 * size) ** 2
    for hk in np.mgrid[-12:13, -12:13].reshape(2, -1).T:
        place = hk @ g
        height = np.exp(-np.hypot(*place) / (0.25 * size)) * rng.uniform(0.1, 1) * (6 if not hk.any() else 1)
        low = np.round(place + size / 2 - 0.37).astype(int) - reach
        here = tuple(slice(max(0, n), max(0, n + 2 * reach + 1)) for n in low)
        distance = np.hypot(y[here] - place[0], x[here] - place[1])
        image[here] += height * np.clip(radius + 0.5 - distance, 0, 1) / radius**2 / 40
    return rng.poisson(electrons * image / image.sum()).astype(np.float64)


@pytest.mark.parametrize("radius, size", [(2.5, 128), (4.0, 256), (8.0, 256), (8.0, 512), (20.0, 512), (16.0, 1024)])
def test_the_radius_of_disks_on_any_detector(radius, size):
    guess = guess_scale([pattern(radius, size)])
    assert guess.radius_px == pytest.approx(radius, rel=0.15)
    assert guess.crystal > 0.5 and guess.chance(radius) > 0.5


@pytest.mark.parametrize("bend", [np.sqrt, np.log1p, lambda image: np.floor(255 * (image / image.max()) ** 0.4)])
def test_bent_exports_have_the_same_radius(bend):
    assert guess_scale([bend(pattern(6.0))]).radius_px == pytest.approx(6.0, rel=0.15)


def test_few_electrons():
    assert guess_scale([pattern(6.0, electrons=6e3)]).radius_px == pytest.approx(6.0, rel=0.2)


def test_a_haloed_direct_beam_does_not_hide_the_disks():
    haloed = pattern(5.0, halo=3.0, electrons=3e6)
    probe = measure_probe(in_memory(haloed[None, None].astype(np.float32), "datacube"))
    assert probe.radius_px == pytest.approx(5.0, rel=0.1) and probe.trust == 1 and not probe.note


@pytest.mark.parametrize("kind", ["vacuum", "halo", "amorphous rings", "noise", "picture", "dead detector"])
def test_patterns_without_a_crystal(kind):
    seen = [guess_scale([image.astype(float)]).crystal > 0.5 for image in patterns_of(kind, 6, seed=31)]
    assert sum(seen) <= 1


def test_the_view_does_not_change_with_the_unit_of_the_counts():
    image = pattern(6.0)
    for one, other in zip(pyramid(on_network_grid(image)[0]), pyramid(on_network_grid(37 * image)[0]), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


@pytest.mark.parametrize("shape", [(61, 64), (100, 256), (515, 515), (1000, 1100), (2048, 2048)])
def test_levels_have_whole_pixels(shape):
    on_grid, scale = on_network_grid(np.random.default_rng(0).random(shape))
    levels = pyramid(on_grid)
    assert len(levels) == LEVELS and max(on_grid.shape) <= 400 and max(on_grid.shape) >= 190
    for k, level in enumerate(levels):
        assert level.shape == (2, on_grid.shape[0] / 2**k, on_grid.shape[1] / 2**k) and np.isfinite(level).all()
    assert scale == pytest.approx(max(shape) / max(on_grid.shape), rel=0.1)


def test_constant_and_single_pixel_images_are_finite():
    for image in (np.zeros((256, 256)), np.full((128, 128), 7.0), np.eye(200)):
        assert all(np.isfinite(level).all() for level in pyramid(on_network_grid(image)[0]))


def test_chances_of_a_distribution():
    probability = np.exp(-0.5 * np.square(6 * np.log2(RADII_PX / 5.0) / 0.8))
    guess = ScaleGuess(2 * RADII_PX, probability / probability.sum(), 0.9)
    assert guess.radius_px == pytest.approx(10.0, rel=0.03)
    assert guess.chance(10.0) > 0.8 > 0.01 > guess.chance(20.0)
    np.testing.assert_allclose(guess.relative(np.array([10.0, 40.0])), [1, 0], atol=0.15)


def test_the_result_says_which_network_told_the_radius():
    found = find_disks(pattern(6.0)[None, None].astype(np.float32), params=DiskParams(method="template"))
    assert found.attrs["probe_source"] == MEASURED
    assert found.attrs["provenance"]["probe"]["model"] == "disk_scale"
    assert len(found.attrs["provenance"]["probe"]["model_sha256"]) == 64
