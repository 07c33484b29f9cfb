"""What part of a file is used: crop, bins, fly-back, frames, mask; and what is missing in a signal."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile

from helpers import io_writers as writers
from napari_emdl import io
from napari_emdl.base.errors import OpenError
from napari_emdl.base.signals import Datacube, in_memory
from napari_emdl.io.loading import repaired

CUBE = np.random.default_rng(0).integers(0, 900, (6, 9, 12, 10)).astype(np.uint16)


@pytest.fixture
def cube_file(tmp_path: Path) -> Path:
    np.save(tmp_path / "cube.npy", CUBE)
    return tmp_path / "cube.npy"


def test_crop_fly_back_and_bins_of_scan_and_detector(cube_file: Path) -> None:
    opened = io.open_datacube(
        cube_file,
        drop_cols=(1, 2),
        scan_crop=(1, 5, 0, 6),
        scan_bin=2,
        detector_crop=(2, 12, 0, 9),
        detector_bin=3,
        pixel_nm=0.5,
        q_pixel_invA=(0.01, 0.02),
    )
    part = CUBE[1:5, 1:7, 2:11, 0:9].astype(int)
    expected = part.reshape(2, 2, 3, 2, 3, 3, 3, 3).sum(axis=(1, 3, 5, 7))
    np.testing.assert_array_equal(np.asarray(opened.data[...]), expected)
    np.testing.assert_array_equal(opened.data[1, ::2, 1:, -1], expected[1, ::2, 1:, -1])
    assert opened.calibration.pixel_nm == pytest.approx((1.0, 1.0))
    assert opened.calibration.q_pixel_invA == pytest.approx((0.03, 0.06))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened)).patterns(1, 4), expected.reshape(-1, 3, 3)[1:4])
    again = io.open_datacube(cube_file, **opened.metadata["open_options"])
    np.testing.assert_array_equal(np.asarray(again.data[...]), expected)


def test_frames_and_crop_of_a_movie(tmp_path: Path) -> None:
    frames = CUBE.reshape(-1, 12, 10)
    tifffile.imwrite(tmp_path / "a.tif", frames)
    movie = io.open_movie(tmp_path / "a.tif", frames=(3, 9), detector_crop=(0, 8, 2, 10), detector_bin=2, pixel_nm=0.01)
    expected = frames[3:9, :8, 2:].astype(int).reshape(6, 4, 2, 4, 2).sum(axis=(2, 4))
    np.testing.assert_array_equal(np.asarray(movie.data[...]), expected)
    assert movie.calibration.pixel_nm == pytest.approx((0.02, 0.02))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scan_crop": (0, 9, 0, 2)}, "has 6 scan rows"),
        ({"detector_crop": (0, 2, 0, 20)}, "10 detector columns"),
        ({"drop_cols": (5, 5)}, "scan columns"),
        ({"detector_crop": (3, 3, 0, 1)}, "end must be larger"),
        ({"scan_bin": 0}, "scan_bin"),
        ({"kind": "movie"}, "cannot be a movie"),
        ({"kind": "pattern"}, "54 patterns, not one"),
        ({"kind": "image", "scan_bin": 2}, "cannot be an image"),
        ({"offset": 3}, "raw binary"),
        ({"frames": (0, 2)}, "not a stack"),
        ({"q_pixel_invA": -1}, "positive"),
    ],
)
def test_what_does_not_fit_is_one_line(cube_file: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(OpenError, match=message):
        io.open(cube_file, **options)  # type: ignore[call-overload]


def test_kinds(tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", CUBE.reshape(-1, 12, 10))
    with pytest.raises(OpenError, match=r"stack of 54 patterns; give the scan shape"):
        io.open(tmp_path / "stack.npy", "stack")
    assert io.open(tmp_path / "stack.npy", "stack", shape=(6, -1)).shape == CUBE.shape
    np.save(tmp_path / "one.npy", CUBE[0, 0])
    assert io.open(tmp_path / "one.npy", "pattern").shape == (1, 1, 12, 10)


def test_peak_lists_only(tmp_path: Path) -> None:
    from helpers.results_made import disks

    io.save(disks(), tmp_path / "disks.h5")
    assert io.open(tmp_path / "disks.h5", "disks").n_peaks == disks().n_peaks
    assert io.info(tmp_path / "disks.h5", kind="disks")["kind"] == "disks"
    np.save(tmp_path / "cube.npy", CUBE)
    with pytest.raises(OpenError):
        io.open(tmp_path / "cube.npy", "disks")


def test_a_mask_that_is_given_travels(cube_file: Path, tmp_path: Path) -> None:
    mask = np.zeros((12, 10), np.uint8)
    mask[3, 4:6] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    np.save(tmp_path / "mask.npy", mask)
    for name in ("mask.tif", "mask.npy"):
        opened = io.open_datacube(cube_file, mask=str(tmp_path / name))
        np.testing.assert_array_equal(opened.mask, mask > 0)
    part = io.open_datacube(cube_file, mask=str(tmp_path / "mask.npy"), detector_crop=(2, 12, 0, 10), detector_bin=2)
    assert part.mask is None
    # the bin that lost pixels counts as the mean of the others
    block = CUBE[0, 0, 2:4, 4:6].astype(float)
    assert part.data[0, 0, 0, 2] == pytest.approx(block[0].mean() * 4)
    with pytest.raises(OpenError, match="mask"):
        io.open_datacube(cube_file, mask=str(cube_file))


def poisson(shape: tuple[int, ...], mean: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, shape)


@pytest.mark.parametrize(
    ("dtype", "code"), [("u2", 65535), ("u4", 2**32 - 1), ("i4", -1), ("i2", -32768), ("f4", np.nan), ("f4", -9999.0)]
)
def test_codes_for_no_value_are_found(dtype: str, code: float) -> None:
    data = poisson((3, 4, 40, 40), 30).astype(dtype)
    data[..., 10:12, :] = code
    cube = in_memory(data, "datacube")
    expected = np.zeros((40, 40), bool)
    expected[10:12] = True
    np.testing.assert_array_equal(cube.mask, expected)
    assert cube.values(cube.data[0, 0], fill=-5)[10].tolist() == [-5] * 40


def test_over_subtracted_darks_are_noise_and_no_holes() -> None:
    rng = np.random.default_rng(0)
    floats = rng.normal(-3, 5, (4, 4, 40, 40)).astype("f4")
    assert in_memory(floats, "datacube").missing(floats) is None
    counts = np.rint(rng.normal(-0.5, 1, (4, 4, 40, 40))).astype("i2")
    assert in_memory(counts, "datacube").missing(counts) is None


@pytest.mark.parametrize("mean", [2.0, 5.0, 100.0, 3000.0])
def test_hot_and_dead_pixels_and_nothing_else(mean: float) -> None:
    data = poisson((10, 64, 80), mean).astype("u2")
    assert in_memory(data, "movie").mask is None
    data[:, 20, 31] = poisson((10,), 60 * mean + 3000).astype("u2")
    expected = [[20, 31]]
    if mean >= 5:  # ten frames of two counts cannot tell a dead pixel
        data[:, 40, 50] = 0
        expected.append([40, 50])
    mask = in_memory(data, "movie").mask
    assert mask is not None and np.argwhere(mask).tolist() == expected


@pytest.mark.parametrize("frames, mean", [(1, 0.001), (1, 0.03), (1, 0.2), (6, 0.01)])
def test_single_electrons_are_not_hot(frames: int, mean: float) -> None:
    data = poisson((1, frames, 256, 256), mean).astype("f4")
    assert in_memory(data, "datacube").missing(data) is None
    data[:, :, 100, 120] = 500
    mask = in_memory(data, "datacube").missing(data)
    assert mask is not None and np.argwhere(mask.reshape(-1, 256, 256)[0]).tolist() == [[100, 120]]


@pytest.mark.parametrize("radius", [0.45, 0.8, 2.0])
def test_bragg_disks_however_small_are_not_hot(radius: float) -> None:
    rr, cc = np.mgrid[:64, :64]
    pattern = np.full((64, 64), 0.05)
    for r in range(8, 64, 12):
        for c in range(8, 64, 12):
            pattern += 400 * np.exp(-((rr - r) ** 2 + (cc - c) ** 2) / (2 * radius**2))
    data = np.random.default_rng(0).poisson(np.broadcast_to(pattern, (3, 4, 64, 64))).astype("u2")
    assert in_memory(data, "datacube").mask is None


def test_dead_lines_and_beam_stop() -> None:
    rr, cc = np.mgrid[:96, :96]
    pattern = 40 * np.exp(-((rr - 48) ** 2 + (cc - 48) ** 2) / (2 * 20**2)) + 2
    stop = (np.hypot(rr - 48, cc - 48) < 8) | ((np.abs(cc - 48) < 3) & (rr > 48) & (rr < 80))
    data = np.random.default_rng(0).poisson(np.broadcast_to(pattern, (4, 5, 96, 96))).astype("u2")
    data[..., stop] = 0
    np.testing.assert_array_equal(in_memory(data, "datacube").mask, stop)
    lines = np.random.default_rng(0).poisson(np.broadcast_to(pattern, (4, 5, 96, 96))).astype("u2")
    lines[..., 40] = 0
    mask = in_memory(lines, "datacube").mask
    assert mask is not None and mask[:, 40].all() and mask.sum() == 96


@pytest.mark.parametrize(("fill", "dtype"), [(0, "u2"), (np.nan, "f4"), (0, "f4")])
def test_borders_of_aligned_movies(fill: float, dtype: str) -> None:
    raw = poisson((8, 60, 70), 50).astype(dtype)
    moved = np.full(raw.shape, fill, dtype)
    outside = np.ones(raw.shape, bool)
    for t in range(8):
        moved[t, : 60 - t, 2 * t :] = raw[t, t:, : 70 - 2 * t]
        outside[t, : 60 - t, 2 * t :] = False
    movie = in_memory(moved, "movie")
    found = movie.missing(moved)
    np.testing.assert_array_equal(found, outside)
    assert movie.mask is None
    assert in_memory(raw, "movie").missing(raw) is None


def test_repaired_fills_pixels_from_their_neighbours_when_it_is_read() -> None:
    data = poisson((6, 64, 80), 100).astype("u2")
    true = data.copy()
    data[:, 20, 31] = 60_000
    movie = repaired(in_memory(data, "movie"))
    assert abs(int(movie.frame(3)[20, 31]) - 100) < 30 and movie.dtype == np.uint16
    np.testing.assert_array_equal(np.delete(movie.frame(3).ravel(), 20 * 80 + 31), np.delete(true[3].ravel(), 20 * 80 + 31))
    assert movie.mask is not None and movie.mask.sum() == 1
    assert movie.data[2, 20, 31] == movie.frame(2)[20, 31]


def test_virtual_images_leave_missing_pixels_out() -> None:
    from napari_emdl.diffraction.virtual import navigation_image

    data = poisson((3, 4, 40, 40), 30).astype("u4")
    expected = data.astype(float)
    data[..., 10:12, :] = 2**32 - 1
    expected[..., 10:12, :] = 0
    cube = in_memory(data, "datacube")
    assert isinstance(cube, Datacube)
    np.testing.assert_allclose(navigation_image(cube), expected.sum(axis=(2, 3)))


def test_pixel_mask_of_a_master_file_travels_through_crop(tmp_path: Path) -> None:
    frames = poisson((12, 20, 24), 30).astype("u2")
    master = writers.write_dectris(tmp_path, frames)
    cube = io.open_datacube(master, shape=(3, 4), detector_crop=(1, 11, 2, 12))
    assert cube.mask is not None and np.argwhere(cube.mask).tolist() == [[1, 1]]
