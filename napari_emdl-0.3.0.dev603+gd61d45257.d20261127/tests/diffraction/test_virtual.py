from __future__ import annotations

import numpy as np
import pytest

from napari_emdl.base.errors import Cancelled, EmdlError
from napari_emdl.base.signals import in_memory
from napari_emdl.diffraction.navigation import BRIGHT, DARK, TOTAL, navigation, shows_most
from napari_emdl.diffraction.virtual import Detector, mean_pattern, navigation_image, virtual_image
from napari_emdl.jobs.control import Control


@pytest.fixture
def cube():
    data = np.random.default_rng(0).poisson(5.0, (5, 7, 20, 24)).astype(np.uint16)
    return in_memory(data, "datacube")


def test_images_are_the_weighted_sums(cube):
    disk = Detector.disk((20, 24), (10, 12), 4.0)
    ring = Detector.annulus((20, 24), (10, 12), 5.0, 9.0)
    both = virtual_image(cube, [disk, ring])
    assert both.shape == (2, 5, 7)
    assert np.allclose(both[0], (cube.data * disk.weights).sum(axis=(2, 3)))
    assert np.allclose(virtual_image(cube, ring), both[1])
    assert np.array_equal(navigation_image(cube), cube.data.sum(axis=(2, 3)))
    assert np.allclose(mean_pattern(cube), cube.data.mean(axis=(0, 1)))


def test_detectors_have_the_area_of_their_shape():
    disk = Detector.disk((64, 64), (31.3, 30.8), 12.0)
    assert disk.weights.sum() == pytest.approx(np.pi * 144, rel=0.01)
    ring = Detector.annulus((64, 64), (31.3, 30.8), 6.0, 12.0)
    assert ring.weights.sum() == pytest.approx(np.pi * (144 - 36), rel=0.01)
    square = Detector.polygon((64, 64), [[9.5, 9.5], [9.5, 19.5], [19.5, 19.5], [19.5, 9.5]])
    assert square.weights.sum() == 100 and square.weights[10, 10] == 1 and square.weights[9, 9] == 0


def test_image_grows_by_blocks_and_can_be_cancelled(cube):
    seen = []
    virtual_image(
        cube, Detector.disk((20, 24), (10, 12), 4.0), on_block=lambda block, values: seen.append((block.start, len(values)))
    )
    assert len(seen) > 4 and sum(n for _, n in seen) == 35
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        navigation_image(cube, control)


def test_missing_values_count_as_nothing():
    data = np.ones((1, 2, 8, 8), np.float32)
    data[0, 1, 3, 3] = np.nan
    data[0, 1, 4, 4] = np.inf
    assert navigation_image(in_memory(data, "datacube")).tolist() == [[64.0, 62.0]]


def test_bad_detectors_are_one_clear_line(cube):
    with pytest.raises(EmdlError, match="outer radius"):
        Detector.annulus((20, 24), (10, 12), 5.0, 5.0)
    with pytest.raises(EmdlError, match="3 vertices"):
        Detector.polygon((20, 24), [[0, 0], [1, 1]])
    with pytest.raises(EmdlError, match="patterns"):
        virtual_image(cube, Detector.disk((8, 8), (4, 4), 2.0))


def test_an_image_resumes_and_keeps_the_memory_limit(cube, tmp_path):
    """Block jobs are shared with the peaks: a killed image goes on where it was."""
    from napari_emdl.base.params import RunParams
    from napari_emdl.jobs import part_path

    control, seen = Control(), []

    def stop(block, _values):
        seen.append(block.size)
        if len(seen) == 3:
            control.cancel()

    run = RunParams(workers=1, max_memory="20KB")  # 14 kB hold two patterns of 4.8 kB
    with pytest.raises(Cancelled):
        navigation_image(cube, control, stop, run, tmp_path / "nav.h5")
    assert part_path(tmp_path / "nav.h5").exists() and max(seen) <= 2
    again = []
    resumed = run.model_copy(update={"resume": True})
    image = navigation_image(cube, None, lambda block, values: again.append(block), resumed, tmp_path / "nav.h5")
    assert np.array_equal(image, cube.data.sum(axis=(2, 3))) and sum(block.size for block in again) == 35


def made(disk_counts, rest_counts, seed=1):
    """Patterns with a bright disk of (rows, cols) counts a pixel and an even rest."""
    disk = Detector.disk((32, 30), (15.0, 13.0), 5.0).weights
    mean = disk_counts[..., None, None] * disk + rest_counts[..., None, None] * (1 - disk)
    return in_memory(np.random.default_rng(seed).poisson(mean).astype(np.uint16), "datacube")


def test_the_navigation_image_is_the_one_that_shows_most():
    thick = np.linspace(0, 1, 12)[:, None] + np.zeros(11)
    disk = Detector.disk((32, 30), (15.0, 13.0), 5.0).weights
    inside, outside = disk.sum(), (1 - disk).sum()
    moved = 6 * thick  # counts a pixel that go from the disk to the rest: the sum stays
    cube = made(40 - moved, 1 + moved * inside / outside)
    seen = np.full((12, 11), np.nan)

    def fill(start, stop, values):
        seen.reshape(-1)[start:stop] = values

    image, name = navigation(cube, on_values=fill)
    assert name in (BRIGHT, DARK)
    np.testing.assert_array_equal(seen, image)
    assert abs(np.corrcoef(image.ravel(), thick.ravel())[0, 1]) > 0.9
    total = np.asarray(cube.data, float).sum(axis=(2, 3))
    assert abs(np.corrcoef(total.ravel(), thick.ravel())[0, 1]) < 0.5


def test_the_sum_stays_where_it_shows_as_much_and_where_no_disk_is_plain():
    edge = np.where(np.arange(11) > 5, 1.0, 0.2) + np.zeros((12, 1))
    image, name = navigation(made(40 * edge, 3 * edge))
    assert name == TOTAL and image.shape == (12, 11)
    noise = np.random.default_rng(2).poisson(4, (9, 9, 16, 16)).astype(np.uint8)
    assert navigation(in_memory(noise, "datacube"))[1] == TOTAL
    assert navigation(in_memory(noise[:1, :1], "datacube"))[1] == TOTAL
    assert shows_most(np.full((3, 3, 2), np.nan)) == 0
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        navigation(in_memory(noise, "datacube"), control)
