"""Opening: kinds, axis order, calibration, overrides and bad input, on files written here."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
import tifffile

from helpers import io_writers as writers
from napari_emdl import io
from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.signals import Datacube, Movie

CUBE = writers.cube()
FRAMES = np.arange(7 * 8 * 9, dtype=np.uint16).reshape(7, 8, 9)


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


# py4DSTEM, EMD, Prismatic, abTEM


@pytest.mark.referee
def test_py4dstem_emd_1(tmp_path: Path) -> None:
    py4dstem = pytest.importorskip("py4DSTEM")
    cube = py4dstem.DataCube(CUBE.astype("f4"))
    cube.calibration.set_Q_pixel_size(0.5)
    cube.calibration.set_Q_pixel_units("A^-1")
    cube.calibration.set_R_pixel_size(20)
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_QR_rotation(0.1)
    cube.calibration.set_QR_flip(True)
    py4dstem.save(str(tmp_path / "cube.h5"), cube, mode="o")
    opened = io.open(tmp_path / "cube.h5")
    assert isinstance(opened, Datacube)
    assert opened.shape == CUBE.shape
    assert opened.calibration.q_pixel_invA == pytest.approx((0.5, 0.5))
    assert opened.calibration.pixel_nm == pytest.approx((2.0, 2.0))
    assert opened.calibration.qr_rotation_rad == pytest.approx(0.1)
    assert opened.calibration.qr_flip is True
    assert opened.calibration.source["q_pixel_invA"] == "file"
    np.testing.assert_array_equal(opened.patterns(3, 7), CUBE.reshape(12, 6, 5)[3:7])


@pytest.mark.parametrize("write", [writers.write_py4dstem_012, writers.write_py4dstem_013])
def test_older_py4dstem(tmp_path: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    write(tmp_path / "old.h5", CUBE)
    opened = io.open_datacube(tmp_path / "old.h5")
    assert opened.calibration.q_pixel_invA == pytest.approx((0.02, 0.02))
    assert opened.calibration.pixel_nm == pytest.approx((1.5, 1.5))
    assert opened.calibration.qr_rotation_rad == pytest.approx(0.25)


@pytest.mark.parametrize("latin", [False, True])
def test_prismatic(tmp_path: Path, latin: bool) -> None:
    writers.write_prismatic(tmp_path / "prism.h5", CUBE, latin)
    opened = io.open(tmp_path / "prism.h5")
    assert isinstance(opened, Datacube)
    assert opened.calibration.pixel_nm == pytest.approx((0.05, 0.025))
    assert opened.calibration.q_pixel_invA == pytest.approx((0.04, 0.05))
    assert opened.calibration.energy_keV == 200
    assert opened.calibration.semiangle_mrad == 21.5
    assert io.open(f"{tmp_path}/prism.h5::4DSTEM_simulation/data/realslices/annular_detector_depth0000").kind == "image"


@pytest.mark.referee
def test_abtem_zarr(tmp_path: Path) -> None:
    pytest.importorskip("abtem")
    from abtem.core.axes import ScanAxis
    from abtem.measurements import DiffractionPatterns, Images

    patterns = DiffractionPatterns(
        CUBE.astype("f4"),
        sampling=(0.1, 0.2),
        ensemble_axes_metadata=[ScanAxis(label="x", sampling=1.5, units="Å"), ScanAxis(label="y", sampling=3.0, units="Å")],
        metadata={"energy": 80e3, "semiangle_cutoff": 12},
        fftshift=True,
    )
    patterns.to_zarr(str(tmp_path / "patterns.zarr"))
    opened = io.open(tmp_path / "patterns.zarr")
    assert isinstance(opened, Datacube)
    assert opened.calibration.pixel_nm == pytest.approx((0.15, 0.3))
    assert opened.calibration.q_pixel_invA == pytest.approx((0.1, 0.2))
    assert (opened.calibration.energy_keV, opened.calibration.semiangle_mrad) == (80, 12)
    np.testing.assert_array_equal(opened.data[1, 2], CUBE[1, 2])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened)).data[1, 2], CUBE[1, 2])

    Images(FRAMES[0].astype("f4"), sampling=0.05).to_zarr(str(tmp_path / "image.zarr"))
    image = io.open(tmp_path / "image.zarr")
    assert image.kind == "image"
    assert image.calibration.pixel_nm == pytest.approx((0.005, 0.005))


def test_plain_zarr_by_path(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    for name in ("first", "second"):
        group[name] = FRAMES
    with pytest.raises(OpenError, match=r"several arrays.*first, second"):
        io.open(tmp_path / "a.zarr")
    with pytest.raises(OpenError, match="no array 'third'"):
        io.open(f"{tmp_path / 'a.zarr'}::third")
    movie = io.open_movie(f"{tmp_path / 'a.zarr'}::second")
    np.testing.assert_array_equal(movie.frame(3), FRAMES[3])


def test_generic_hdf5_by_path_with_loose_attributes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file.attrs.update(kev=300, semiangle_mrad=1.0, step_A=20.0)
        file["run/cube"] = CUBE
        file["run/frames"] = FRAMES
        file["run/other_cube"] = CUBE
    with pytest.raises(OpenError, match="several arrays"):
        io.open(tmp_path / "own.h5")
    cube = io.open(f"{tmp_path}/own.h5::run/cube")
    assert cube.calibration.energy_keV == 300
    assert cube.calibration.pixel_nm == pytest.approx((2.0, 2.0))
    assert cube.path.endswith("own.h5::run/cube")
    assert io.open(f"{tmp_path}/own.h5::run/frames").kind == "movie"
    with pytest.raises(OpenError, match="no dataset 'nothing'"):
        io.open(f"{tmp_path}/own.h5::nothing")


def test_hyperspy_file(tmp_path: Path) -> None:
    from rsciio.hspy import file_writer

    axes = [
        {"name": n, "size": s, "scale": c, "offset": 0.0, "units": u, "navigate": v, "_type": "UniformDataAxis"}
        for n, s, c, u, v in zip("yxvu", CUBE.shape, (2, 2, 0.1, 0.1), ("nm", "nm", "1/nm", "1/nm"), (1, 1, 0, 0), strict=True)
    ]
    signal = {"data": CUBE, "axes": axes, "metadata": {"General": {"title": "t"}, "Signal": {}}, "original_metadata": {}}
    signal |= {
        "learning_results": {},
        "tmp_parameters": {},
        "attributes": {"_lazy": False},
        "models": {},
        "package_info": {"package": "x", "package_version": "1"},
    }
    file_writer(str(tmp_path / "a.hspy"), signal)
    opened = io.open(tmp_path / "a.hspy")
    assert isinstance(opened, Datacube)
    assert opened.calibration.pixel_nm == pytest.approx((2.0, 2.0))
    assert opened.calibration.q_pixel_invA == pytest.approx((0.01, 0.01))


# TIFF


def test_imagej_movie_and_focal_series(tmp_path: Path) -> None:
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, FRAMES, imagej=True, resolution=(20, 10), metadata={"unit": "nm", "axes": "TYX", "finterval": 0.25})
    movie = io.open(path)
    assert movie.kind == "movie"
    assert movie.calibration.pixel_nm == pytest.approx((0.1, 0.05))
    assert movie.calibration.frame_interval_s == pytest.approx(0.25)
    series = np.stack([FRAMES, FRAMES + 1000, FRAMES + 2000], axis=1)
    tifffile.imwrite(path, series, imagej=True, compression="zlib", metadata={"axes": "TZYX", "spacing": 5, "unit": "nm"})
    opened = io.open(path)
    assert isinstance(opened, Movie)
    assert (opened.kind, opened.n_frames, opened.n_foci) == ("focal_series", 7, 3)
    assert opened.calibration.defocus_step_A == pytest.approx(50)
    np.testing.assert_array_equal(opened.frame(4), series[4])


@pytest.mark.parametrize("axis", ["Z", "C", "T", "I"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_stack_without_time_is_a_movie(tmp_path: Path, axis: str, compression: str | None) -> None:
    path = tmp_path / "stack.tif"
    if axis == "I":
        tifffile.imwrite(path, FRAMES, compression=compression, photometric="minisblack", metadata=None)
    else:
        tifffile.imwrite(path, FRAMES, imagej=True, compression=compression, metadata={"axes": f"{axis}YX"})
    movie = io.open_movie(path)
    assert movie.kind == "movie"
    np.testing.assert_array_equal(movie.data[2:5, 1], FRAMES[2:5, 1])


def test_ome_tiff(tmp_path: Path) -> None:
    path = tmp_path / "m.ome.tif"
    metadata = {"axes": "TYX", "PhysicalSizeX": 20, "PhysicalSizeXUnit": "pm", "PhysicalSizeY": 0.3, "PhysicalSizeYUnit": "Å"}
    tifffile.imwrite(path, FRAMES, ome=True, metadata=metadata | {"TimeIncrement": 500, "TimeIncrementUnit": "ms"})
    movie = io.open_movie(path)
    assert movie.calibration.pixel_nm == pytest.approx((0.03, 0.02))
    assert movie.calibration.frame_interval_s == pytest.approx(0.5)


def test_resolution_in_inches_is_no_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FRAMES[0], resolution=(72, 72), resolutionunit="INCH")
    image = io.open(tmp_path / "a.tif")
    assert image.calibration.pixel_nm is None


def test_three_float_images_written_in_one_go_are_a_series_and_no_colours(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(3, 32, 40)).astype(np.float32)
    planes = {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "foci.tif", data, **planes)
    tifffile.imwrite(tmp_path / "colour.tif", data.astype(np.uint8), **planes)
    series = io.open_movie(tmp_path / "foci.tif", kind="focal_series")
    assert series.n_foci == 3 and np.array_equal(np.asarray(series.frame(0)), data)
    colour = io.open(tmp_path / "colour.tif")
    assert colour.shape == (32, 40) and "luminance" in " ".join(colour.notes)
    assert io.open_movie(tmp_path / "colour.tif", kind="movie").shape == (3, 32, 40)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_tiff_gives_its_luminance_and_says_so(tmp_path: Path, planar: str, compression: str | None) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    stored = colours if planar == "contig" else np.moveaxis(colours, -1, 0)
    tifffile.imwrite(tmp_path / "rgb.tif", stored, photometric="rgb", planarconfig=planar, compression=compression)
    image = io.open(tmp_path / "rgb.tif")
    expected = np.rint(colours @ np.array([0.299, 0.587, 0.114]))
    np.testing.assert_array_equal(np.asarray(image.data[...]), expected)
    assert "luminance" in " ".join(image.notes)
    grey = np.repeat(colours[..., :1], 3, axis=-1)
    tifffile.imwrite(tmp_path / "grey.tif", grey, photometric="rgb", compression=compression)
    opened = io.open(tmp_path / "grey.tif")
    np.testing.assert_array_equal(np.asarray(opened.data[...]), grey[..., 0])
    assert opened.notes == ()


def test_compressed_tiff_reads_only_the_frame_asked_for(tmp_path: Path) -> None:
    import psutil

    if not hasattr(psutil.Process().io_counters(), "read_chars"):
        pytest.skip("this system does not count the bytes a process reads")
    path = tmp_path / "big.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 2**16, (30, 128, 128), np.uint16), compression="zlib")
    movie = io.open_movie(path)
    movie.frame(0)
    before = psutil.Process().io_counters().read_chars
    movie.frame(17)
    read = psutil.Process().io_counters().read_chars - before
    assert 128 * 128 < read < 2 * 128 * 128 * 2


# SER, DM, in-situ trees, sequences


@pytest.mark.parametrize("version", [0x0210, 0x0220])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_ser(tmp_path: Path, version: int, dtype: str) -> None:
    writers.write_ser(tmp_path / "s_1.ser", FRAMES.astype(dtype), version=version)
    movie = io.open_movie(tmp_path / "s_1.ser")
    assert movie.shape == FRAMES.shape
    assert movie.calibration.pixel_nm == pytest.approx((0.02, 0.02))
    np.testing.assert_array_equal(np.asarray(movie.data), FRAMES)
    tia = pytest.importorskip("rsciio.tia")
    np.testing.assert_array_equal(tia.file_reader(str(tmp_path / "s_1.ser"))[0]["data"], FRAMES)


def test_truncated_ser(tmp_path: Path) -> None:
    path = tmp_path / "s_1.ser"
    writers.write_ser(path, FRAMES)
    whole = path.read_bytes()
    for size in (3, 20, 60, 150, len(whole) - 20):
        path.write_bytes(whole[:size])
        with pytest.raises(OpenError) as caught:
            io.open(path)
        one_line(caught)


def test_emi_names_its_missing_series(tmp_path: Path) -> None:
    (tmp_path / "x.emi").write_bytes(b"JK\x00\x02" + b"\0" * 60)
    with pytest.raises(OpenError, match=r"x_1\.ser"):
        io.open(tmp_path / "x.emi")


def test_dm4_image(tmp_path: Path) -> None:
    writers.write_dm4(tmp_path / "a.dm4", FRAMES[0])
    image = io.open(tmp_path / "a.dm4")
    assert image.kind == "image"
    assert image.calibration.pixel_nm == pytest.approx((0.02, 0.02))
    np.testing.assert_array_equal(image.data[:, :], FRAMES[0])


def test_gatan_insitu_tree_is_one_movie(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 999, (12, 8, 9)).astype(np.uint16)
    writers.write_insitu(tmp_path / "run", frames, per_second=4)
    movie = io.open_movie(tmp_path / "run")
    assert movie.shape == frames.shape
    assert movie.calibration.pixel_nm == pytest.approx((0.02, 0.02))
    assert movie.calibration.frame_interval_s == pytest.approx(0.25)
    np.testing.assert_array_equal(np.asarray(movie.data), frames)  # frame 2 has longer tags
    assert pickle.loads(pickle.dumps(movie)).frame(5).sum() == frames[5].sum()
    deeper = io.open_movie(tmp_path / "run" / "Hour_00" / "..")
    assert deeper.n_frames == 12


@pytest.mark.parametrize("ending", ["png", "tif", "npy", "bmp", "dm4"])
def test_image_sequence_in_natural_order(tmp_path: Path, ending: str) -> None:
    import imageio.v3 as imageio

    frames = (np.arange(11)[:, None, None] * np.ones((1, 8, 9))).astype(np.uint8 if ending == "bmp" else np.uint16)
    for i, frame in enumerate(frames):
        path = tmp_path / f"frame_{i}.{ending}"
        if ending == "npy":
            np.save(path, frame)
        elif ending == "dm4":
            writers.write_dm4(path, frame)
        elif ending == "tif":
            tifffile.imwrite(path, frame)
        else:
            imageio.imwrite(path, frame)
    (tmp_path / "notes.txt").write_text("hello")
    for where in (tmp_path, f"{tmp_path}/frame_*.{ending}", [tmp_path / f"frame_{i}.{ending}" for i in range(11)]):
        movie = io.open_movie(where)
        assert movie.kind == "movie"
        np.testing.assert_array_equal(np.asarray(movie.data), frames)


def test_sequence_with_a_frame_of_another_size(tmp_path: Path) -> None:
    np.save(tmp_path / "a0.npy", FRAMES[0])
    np.save(tmp_path / "a1.npy", FRAMES[0][:4])
    movie = io.open_movie(tmp_path)
    with pytest.raises(OpenError, match="frame 1 has shape"):
        movie.frame(1)


def test_colour_sequence_gives_its_luminance(tmp_path: Path) -> None:
    import imageio.v3 as imageio

    image = np.zeros((8, 9, 3), np.uint8)
    image[2] = 200
    imageio.imwrite(tmp_path / "a.png", image)
    np.testing.assert_array_equal(io.open_movie(tmp_path).frame(0), image[..., 0])
    image[..., 0] = 7
    imageio.imwrite(tmp_path / "a.png", image)
    movie = io.open_movie(tmp_path)
    assert movie.frame(0)[2, 0] == round(0.299 * 7 + 0.701 * 200) and "luminance" in " ".join(movie.notes)


# Vendor formats through RosettaSciIO, written by it


def blo_signal() -> dict[str, object]:
    axes = [
        {"name": n, "size": s, "scale": c, "offset": 0.0, "units": u, "navigate": v}
        for n, s, c, u, v in zip(
            ("y", "x", "dy", "dx"), (3, 4, 6, 6), (2, 2, 0.1, 0.1), ("nm", "nm", "cm", "cm"), (1, 1, 0, 0), strict=True
        )
    ]
    return {
        "data": writers.cube((3, 4, 6, 6), "uint8"),
        "axes": axes,
        "metadata": {},
        "original_metadata": {},
        "attributes": {"_lazy": False},
    }


def test_blockfile(tmp_path: Path) -> None:
    from rsciio.blockfile import file_writer

    file_writer(str(tmp_path / "a.blo"), blo_signal(), intensity_scaling=None, show_progressbar=False)
    opened = io.open(tmp_path / "a.blo")
    assert isinstance(opened, Datacube)
    assert opened.calibration.pixel_nm == pytest.approx((2.0, 2.0))
    assert opened.calibration.q_pixel_invA is None
    np.testing.assert_array_equal(opened.data[1:, 2], writers.cube((3, 4, 6, 6), "uint8")[1:, 2])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened)).data[1, 1], opened.data[1, 1])


def test_stack_of_patterns_with_the_scan_shape_given(tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", CUBE.reshape(12, 6, 5))
    with pytest.raises(OpenError, match=r"3 axes .* scan shape"):
        io.open_datacube(tmp_path / "stack.npy")
    opened = io.open(tmp_path / "stack.npy", shape=(3, 4))
    assert isinstance(opened, Datacube)
    np.testing.assert_array_equal(np.asarray(opened.data), CUBE)
    with pytest.raises(OpenError, match="12 patterns; a scan of 5 x 4 needs 20"):
        io.open_datacube(tmp_path / "stack.npy", shape=(5, 4))
    np.save(tmp_path / "cube.npy", CUBE)
    other = io.open_datacube(tmp_path / "cube.npy", shape=(2, 6))
    np.testing.assert_array_equal(np.asarray(other.data), CUBE.reshape(2, 6, 6, 5))


# Raw binary, .npy, kinds and overrides


def test_raw_binary(tmp_path: Path) -> None:
    path = tmp_path / "scan.raw"
    path.write_bytes(b"head" + CUBE.astype(">u2").tobytes())
    opened = io.open(path, shape=CUBE.shape, dtype=">u2", offset=4)
    np.testing.assert_array_equal(np.asarray(opened.data), CUBE)
    assert io.open(path, "movie", shape=(-1, 6, 5), dtype=">u2", offset=4).shape == (12, 6, 5)
    for options, message in (
        ({"shape": (9, 9, 9, 9), "dtype": "u2"}, "too short"),
        ({"shape": CUBE.shape, "dtype": "uint17"}, "unknown data type"),
        ({"dtype": "u2"}, "full `shape`"),
        ({"shape": (0, 3, 3, 3), "dtype": "u2"}, "must be positive"),
        ({"shape": (-1, 900, 900), "dtype": "u2"}, "too short"),
        ({}, "give `shape` and `dtype`"),
    ):
        with pytest.raises(OpenError, match=message) as caught:
            io.open(path, **options)  # type: ignore[arg-type]
        one_line(caught)


def test_npy_kinds(tmp_path: Path) -> None:
    for array, kind in ((FRAMES[0], "image"), (FRAMES, "movie"), (CUBE, "datacube")):
        np.save(tmp_path / "a.npy", array)
        opened = io.open(tmp_path / "a.npy")
        assert opened.kind == kind
        np.testing.assert_array_equal(np.asarray(opened.data), array)
    np.save(tmp_path / "f.npy", np.asfortranarray(CUBE))
    np.testing.assert_array_equal(io.open(tmp_path / "f.npy").data[1], CUBE[1])


def test_one_pattern_is_a_cube_of_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FRAMES[0])
    cube = io.open_datacube(tmp_path / "a.npy")
    assert cube.shape == (1, 1, 8, 9)
    np.testing.assert_array_equal(cube.patterns(0, 1)[0], FRAMES[0])
    movie = io.open(tmp_path / "a.npy", "movie")
    assert movie.shape == (1, 8, 9)


@pytest.mark.parametrize("axes", ["RCQK", "KQRC", "CRKQ", "QRKC"])
def test_axis_order_given_by_the_user(tmp_path: Path, axes: str) -> None:
    stored = CUBE.transpose(["RCQK".index(letter) for letter in axes])
    np.save(tmp_path / "a.npy", np.ascontiguousarray(stored))
    opened = io.open(tmp_path / "a.npy", axes=axes)
    assert isinstance(opened, Datacube)
    np.testing.assert_array_equal(np.asarray(opened.data), CUBE)
    np.testing.assert_array_equal(opened.data[2, 1:3, ::-1], CUBE[2, 1:3, ::-1])


def test_axis_order_of_movies(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ascontiguousarray(FRAMES.transpose(1, 2, 0)))
    np.testing.assert_array_equal(np.asarray(io.open(tmp_path / "a.npy", axes="YXT").data), FRAMES)
    np.save(tmp_path / "b.npy", CUBE)
    assert io.open(tmp_path / "b.npy", axes="TFYX").kind == "focal_series"
    assert io.open(tmp_path / "b.npy", "focal_series").kind == "focal_series"
    np.save(tmp_path / "c.npy", FRAMES)
    assert io.open(tmp_path / "c.npy", "focal_series").shape == (1, 7, 8, 9)
    assert io.open(tmp_path / "c.npy", axes="SQK").shape == (1, 7, 8, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": "RC"}, "4 axes, but the axis order 'RC' names 2"),
        ({"axes": "RRQK"}, "one letter"),
        ({"axes": "RCQZ"}, "one letter"),
        ({"axes": "RCYX"}, "not a datacube"),
        ({"axes": "RCQK", "kind": "movie"}, "not a movie"),
        ({"kind": "movie"}, "cannot be a movie"),
        ({"kind": "film"}, "unknown kind"),
        ({"pixel_nm": -1.0}, "must be positive"),
        ({"shape": (3,)}, "give the scan as"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, options: dict[str, object], message: str) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    with pytest.raises(OpenError, match=message) as caught:
        io.open(tmp_path / "a.npy", **options)  # type: ignore[arg-type]
    one_line(caught)


def test_calibration_given_by_the_user(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FRAMES, imagej=True, resolution=(20, 20), metadata={"unit": "nm", "axes": "TYX"})
    movie = io.open_movie(tmp_path / "a.tif", pixel_nm=0.2, frame_interval_s=2, energy_keV=300)
    assert movie.pixel_A == pytest.approx(2.0)
    assert movie.calibration.frame_interval_s == 2
    assert movie.calibration.source == {"pixel_nm": "user", "frame_interval_s": "user", "energy_keV": "user"}


def test_single_row_and_single_position(tmp_path: Path) -> None:
    for shape in ((1, 5, 6, 7), (5, 1, 6, 7), (1, 1, 6, 7)):
        np.save(tmp_path / "a.npy", writers.cube(shape))
        opened = io.open(tmp_path / "a.npy")
        assert opened.shape == shape


def test_open_movie_refuses_a_datacube(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    with pytest.raises(OpenError, match="is a datacube"):
        io.open_movie(tmp_path / "a.npy")


# Bad input


def bad_files(folder: Path) -> dict[str, Path]:
    def write(name: str, content: bytes) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    np.save(folder / "x.npy", CUBE)
    npy = (folder / "x.npy").read_bytes()
    tifffile.imwrite(folder / "x.tif", FRAMES, compression="zlib")
    tif = (folder / "x.tif").read_bytes()
    tifffile.imwrite(folder / "y.tif", FRAMES)
    plain = (folder / "y.tif").read_bytes()
    with h5py.File(folder / "x.h5", "w") as file:
        file["a"] = CUBE
    h5 = (folder / "x.h5").read_bytes()
    writers.write_dm4(folder / "x.dm4", FRAMES[0])
    dm4 = (folder / "x.dm4").read_bytes()
    with h5py.File(folder / "empty.h5", "w"):
        pass
    with h5py.File(folder / "text.h5", "w") as file:
        file["note"] = "hello"
    with h5py.File(folder / "zero.h5", "w") as file:
        file["a"] = np.zeros((3, 3, 0, 4))
    with h5py.File(folder / "complex.h5", "w") as file:
        file["a"] = np.zeros((3, 3), complex)
    with h5py.File(folder / "huge.h5", "w") as file:
        file.create_dataset("a", (4, 4, 10**6, 10**6), "u1", chunks=(1, 1, 512, 512))
    (folder / "nothing").mkdir()
    (folder / "text_only").mkdir()
    (folder / "text_only" / "readme.txt").write_text("hi")
    np.save(folder / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "five.npy", np.zeros((2, 2, 2, 3, 3)))
    np.save(folder / "one.npy", np.zeros(5))
    return {
        "missing": folder / "no.h5",
        "empty": write("empty.tif", b""),
        "short npy": write("a.npy", npy[:-50]),
        "npy head": write("b.npy", npy[:20]),
        "short tiff": write("a.tif", tif[: len(tif) // 2]),
        "short plain tiff": write("b.tif", plain[: len(plain) // 2]),
        "tiff head": write("c.tif", tif[:6]),
        "short h5": write("a.h5", h5[: len(h5) // 2]),
        "short dm4": write("a.dm4", dm4[: len(dm4) // 2]),
        "text as h5": write("t.h5", b"hello world " * 20),
        "text as tif": write("t.tif", b"hello world " * 20),
        "text as dm4": write("t.dm4", b"hello world " * 20),
        "text as mib": write("t.mib", b"hello world " * 20),
        "text as blo": write("t.blo", b"hello world " * 20),
        "text as mrc": write("t.mrc", b"hello world " * 200),
        "text as tvips": write("t.tvips", b"hello world " * 20),
        "text as ser": write("t.ser", b"hello world " * 20),
        "text as emd": write("t.emd", b"hello world " * 20),
        "text as png": write("t.png", b"hello world " * 20),
        "unknown": write("t.xyz", b"hello world " * 20),
        "dm4 named mib": write("m.mib", dm4),
        "no arrays": folder / "empty.h5",
        "only text": folder / "text.h5",
        "zero size": folder / "zero.h5",
        "complex": folder / "complex.h5",
        "huge frames": folder / "huge.h5",
        "empty folder": folder / "nothing",
        "folder without images": folder / "text_only",
        "objects": folder / "object.npy",
        "five axes": folder / "five.npy",
        "one axis": folder / "one.npy",
        "pattern": folder / "no_*.tif",
    }


BAD = [
    "missing", "empty", "short npy", "npy head", "short tiff", "short plain tiff", "tiff head", "short h5", "short dm4",
    "text as h5", "text as tif", "text as dm4", "text as mib", "text as blo", "text as mrc", "text as tvips", "text as ser",
    "text as emd",
    "text as png", "unknown", "dm4 named mib", "no arrays", "only text", "zero size", "complex", "huge frames", "empty folder",
    "folder without images", "objects", "five axes", "one axis", "pattern",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(tmp_path: Path, name: str) -> None:
    path = bad_files(tmp_path)[name]
    with pytest.raises(EmdlError) as caught:
        io.open(path)
    text = one_line(caught)
    assert path.name.split("*")[0] in text or str(path) in text


def test_wrong_ending_is_read_by_content(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    (tmp_path / "a.npy").rename(tmp_path / "a.tif")
    assert io.open(tmp_path / "a.tif").shape == CUBE.shape
    tifffile.imwrite(tmp_path / "b.tif", FRAMES)
    (tmp_path / "b.tif").rename(tmp_path / "b.h5")
    assert io.open(tmp_path / "b.h5").shape == FRAMES.shape


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    (tmp_path / "a.npy").chmod(0)
    with pytest.raises(OpenError, match="cannot be read"):
        io.open(tmp_path / "a.npy")


@pytest.mark.parametrize("ending", ["npy", "tif", "h5", "dm4"])
def test_file_removed_while_open(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, FRAMES)
    elif ending == "tif":
        tifffile.imwrite(path, FRAMES, compression="zlib")
    elif ending == "dm4":
        writers.write_dm4(path, FRAMES[0])
    else:
        with h5py.File(path, "w") as file:
            file["a"] = FRAMES
    opened = io.open(path)
    path.unlink()
    # an open handle may still read it; nothing but one line may come out otherwise
    try:
        assert np.asarray(opened.data).shape == opened.shape
    except OpenError as error:
        assert "removed" in str(error) or "moved" in str(error)


# Everything else


def test_importing_io_pulls_in_nothing_heavy() -> None:
    heavy = ("rsciio", "dask", "matplotlib", "tifffile", "qtpy", "napari", "zarr")
    code = f"import sys, napari_emdl.io; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_info_is_plain(tmp_path: Path) -> None:
    import json

    writers.write_prismatic(tmp_path / "prism.h5", CUBE)
    facts = io.info(tmp_path / "prism.h5")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["kind"] == "datacube"
    assert facts["shape"] == list(CUBE.shape)
    assert facts["calibration"]["energy_keV"] == 200
    assert facts["calibration"]["source"]["pixel_nm"] == "file"


def test_sparse_32_gb_hdf5_opens_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "big.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("cube", (256, 256, 512, 512), "u2", chunks=(1, 1, 512, 512))
    before = psutil.Process().memory_info().rss
    opened = io.open_datacube(path)
    assert opened.patterns(70, 72).sum() == 0
    assert psutil.Process().memory_info().rss - before < 150e6
