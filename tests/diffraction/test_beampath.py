"""Virtual detectors go with a beam that moves over the scan, and stay where it rests."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.disks_made import pattern, table_of
from napari_emdl.base.errors import EmdlError
from napari_emdl.base.signals import Datacube, in_memory
from napari_emdl.diffraction.beampath import measure_path, path_of, path_of_strain, ways_differ
from napari_emdl.diffraction.fit.strain import fit_strain
from napari_emdl.diffraction.navigation import navigation
from napari_emdl.diffraction.virtual import Detector, mean_pattern, virtual_image

SCAN, SIZE = (12, 14), (64, 64)
CENTRE = np.array([31.0, 33.0])
G = np.array([[17.0, 2.0], [-2.0, 16.0]])


def scan_of(way, thickness=lambda r, c: 1.0, seed: int = 3) -> tuple[Datacube, np.ndarray]:
    """Patterns about places that move by `way(r, c)`; the direct beam has a share of the electrons, the disks the rest."""
    rng = np.random.default_rng(seed)
    hk = np.array([(h, k) for h in (-1, 0, 1) for k in (-1, 0, 1)])
    data, offset = np.zeros((*SCAN, *SIZE), np.uint16), np.zeros((*SCAN, 2))
    for r in range(SCAN[0]):
        for c in range(SCAN[1]):
            offset[r, c] = way(r, c)
            places = CENTRE + offset[r, c] + hk @ G
            beam, disks = pattern(places[4:5], SIZE, 4.0, 3.0, 0.2), pattern(np.delete(places, 4, 0), SIZE, 4.0, 3.0, 0.0)
            data[r, c] = rng.poisson(thickness(r, c) * beam + (1.2 - thickness(r, c)) * disks)
    return in_memory(data, "datacube"), offset


def plane(reach: float):
    return lambda r, c: (reach * (2 * r / (SCAN[0] - 1) - 1), -reach * (2 * c / (SCAN[1] - 1) - 1))


def steps(r: int, c: int) -> float:
    return 1.0 if r < 6 else 0.7


@pytest.mark.parametrize("reach", [3.0, 9.0])
def test_a_detector_that_goes_with_the_beam_sees_the_crystal_and_not_the_descan(reach):
    still, _ = scan_of(lambda r, c: (0, 0), steps)
    cube, offset = scan_of(plane(reach), steps)
    path = measure_path(cube)
    assert path is not None and "plane" in path.how
    np.testing.assert_allclose(path.offset_px, offset - np.median(offset.reshape(-1, 2), axis=0), atol=0.6)
    assert path.middle_px == pytest.approx(CENTRE, abs=0.7)
    bright = Detector.disk(SIZE, CENTRE, 4.8)
    true, fixed, followed = virtual_image(still, bright), virtual_image(cube, bright), virtual_image(cube, bright, path=path)
    error = lambda image: np.sqrt(np.mean((image - true) ** 2)) / true.std()  # noqa: E731
    assert error(followed) < 0.25 < 0.6 < error(fixed)


def test_where_the_beam_rests_nothing_is_moved():
    cube, _ = scan_of(lambda r, c: (0, 0), steps)
    assert measure_path(cube) is None
    assert path_of(np.broadcast_to(CENTRE, (*SCAN, 2))) is None
    assert measure_path(in_memory(np.zeros((*SCAN, *SIZE), np.uint16), "datacube")) is None
    assert measure_path(in_memory(np.asarray(cube.data)[:2, :2], "datacube")) is None


def test_a_reflection_that_outshines_the_beam_in_half_of_the_scan_does_not_pull_the_detector_away():
    cube, _ = scan_of(lambda r, c: (0, 0))
    data = np.array(cube.data)
    place = np.rint(CENTRE + G[0]).astype(int)
    data[:, 7:, place[0] - 3 : place[0] + 4, place[1] - 3 : place[1] + 4] += 60
    assert measure_path(in_memory(data, "datacube")) is None


def test_the_way_of_fitted_lattices_follows_jumps_and_fills_gaps():
    jumps = np.random.default_rng(4).normal(0, 3, (*SCAN, 2))
    cube, offset = scan_of(lambda r, c: jumps[r, c])
    origin = CENTRE + offset
    origin[2, 3] = np.nan
    path = path_of(origin)
    assert path is not None and "lattices" in path.how
    assert path.origin_px[2, 3] == pytest.approx(np.median(origin[np.isfinite(origin).all(-1)], axis=0))
    still, _ = scan_of(lambda r, c: (0, 0))
    bright = Detector.disk(SIZE, path.middle_px, 6.0)
    followed, true = virtual_image(cube, bright, path=path), virtual_image(still, Detector.disk(SIZE, CENTRE, 6.0))
    followed[2, 3] = true[2, 3]
    by_chance = np.sqrt(2 * true.mean())
    assert np.std(followed - true) < 1.2 * by_chance and np.std(virtual_image(cube, bright) - true) > 2 * by_chance
    assert ways_differ(path, None) and not ways_differ(path, path) and not ways_differ(None, None)
    with pytest.raises(EmdlError, match="positions"):
        virtual_image(in_memory(np.asarray(cube.data)[:3], "datacube"), bright, path=path)
    with pytest.raises(EmdlError, match="origins"):
        path_of(origin[0])


def test_a_strain_map_tells_the_way_and_a_still_one_none():
    shift = np.stack(np.meshgrid(np.linspace(-8, 8, 4), np.linspace(-5, 5, 5), indexing="ij"), axis=-1)
    table = table_of(np.tile(np.eye(2), (4, 5, 1, 1)), noise_px=0.02)
    assert path_of_strain(fit_strain(table, fit="peaks")) is None
    moved = table.positions_px() + shift.reshape(-1, 2)[table.flat_index()]
    path = path_of_strain(fit_strain(table.with_columns(row=moved[:, 0], col=moved[:, 1]), fit="peaks"))
    assert path is not None
    np.testing.assert_allclose(path.offset_px, shift - np.median(shift.reshape(-1, 2), axis=0), atol=0.05)


def test_all_but_the_beam_stays_that_wherever_it_moves():
    cube, offset = scan_of(plane(9.0))
    path = path_of(CENTRE + offset)
    assert path is not None
    disk = Detector.disk(SIZE, path.middle_px, 5.0)
    rest = Detector((1 - disk.weights).astype(np.float32))
    inside, outside = virtual_image(cube, [disk, rest], path=path)
    np.testing.assert_allclose(inside + outside, np.asarray(cube.data).sum(axis=(2, 3)), rtol=1e-6)
    assert mean_pattern(cube, path=path).max() > 1.5 * mean_pattern(cube).max()
    image, name = navigation(cube, path=path)
    assert image.shape == SCAN and name


def test_missing_pixels_count_as_nothing_under_a_moving_detector():
    data = np.ones((3, 4, 16, 16), np.float32)
    data[1, 1, 8, 8] = np.nan
    origin = np.full((3, 4, 2), 8.0)
    origin[:, 2:] += 1.0
    image = virtual_image(in_memory(data, "datacube"), Detector.disk((16, 16), (8, 8), 3.0), path=path_of(origin))
    assert image[1, 1] == pytest.approx(image[0, 0] - 1) and image[1, 2] == pytest.approx(image[0, 0], rel=1e-6)
