"""Every other kind of file that other programs write: EMPAD, Direct Electron, SEQ, films, npz, DM4, TIFF, raw binary, units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from helpers import io_writers as writers
from napari_emdl import io
from napari_emdl.base.errors import OpenError
from napari_emdl.base.units import parse_unit

FRAMES = np.random.default_rng(0).integers(0, 900, (6, 16, 24)).astype(np.uint16)


@pytest.mark.parametrize("indent", ["", "\n  ", "\n\t\n"])
def test_empad_with_its_xml(tmp_path: Path, indent: str) -> None:
    data = np.random.default_rng(0).random((2, 3, 128, 128)).astype("f4")
    writers.write_empad(tmp_path, data, indent=indent)
    cube = io.open(tmp_path / "scan.xml")
    np.testing.assert_array_equal(np.asarray(cube.data[...]), data)
    assert cube.calibration.q_pixel_invA == pytest.approx((0.02, 0.02))


def test_empad_raw_alone(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((2, 3, 128, 128)).astype("f4")
    writers.write_empad(tmp_path, data)
    np.testing.assert_array_equal(np.asarray(io.open(tmp_path / "scan_x3_y2.raw").data[...]), data)
    (tmp_path / "scan_x3_y2.raw").rename(tmp_path / "frames.raw")
    line = io.open(tmp_path / "frames.raw")
    assert line.shape == (1, 6, 128, 128) and "scan shape is not known" in line.notes[0]
    np.testing.assert_array_equal(io.open(tmp_path / "frames.raw", shape=(2, 3)).data[1, 2], data[1, 2])


def test_empad_xml_without_its_raw_file(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<root><raw_file filename="C:\\data\\b.raw"/></root>')
    with pytest.raises(OpenError, match=r"describes b\.raw, which is not beside it"):
        io.open(tmp_path / "a.xml")


@pytest.mark.parametrize("known", [True, False])
def test_direct_electron_scan(tmp_path: Path, known: bool) -> None:
    writers.write_mrc(tmp_path / "20240919_00001_movie.mrc", FRAMES)
    step, q = (0.12, 0.25) if known else (-1, -1)
    writers.write_de_info(tmp_path / "20240919_00001_info.txt", (2, 3), step, q)
    cube = io.open(tmp_path / "20240919_00001_movie.mrc")
    assert cube.shape == (2, 3, 16, 24)
    np.testing.assert_array_equal(np.asarray(cube.data[...]).reshape(FRAMES.shape), FRAMES)
    if known:
        assert cube.calibration.pixel_nm == pytest.approx((0.12, 0.12))
        assert cube.calibration.q_pixel_invA == pytest.approx((0.025, 0.025))
    else:
        assert cube.calibration.pixel_nm is None and cube.calibration.q_pixel_invA is None


def test_direct_electron_movie(tmp_path: Path) -> None:
    writers.write_mrc(tmp_path / "20240919_00001_movie.mrc", FRAMES)
    writers.write_de_info(tmp_path / "20240919_00001_info.txt", None, 0.05, -1)
    movie = io.open(tmp_path / "20240919_00001_movie.mrc")
    assert movie.kind == "movie" and movie.calibration.pixel_nm == pytest.approx((0.05, 0.05))
    assert movie.calibration.frame_interval_s == pytest.approx(0.01)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "int8"])
def test_mrc_pixel_size_and_its_absence(tmp_path: Path, dtype: str) -> None:
    writers.write_mrc(tmp_path / "a.mrc", (FRAMES % 100).astype(dtype), 0.85)
    movie = io.open(tmp_path / "a.mrc")
    assert movie.calibration.pixel_nm == pytest.approx((0.085, 0.085)) and movie.dtype == dtype
    np.testing.assert_array_equal(np.asarray(movie.data[...]), (FRAMES % 100).astype(dtype))
    writers.write_mrc(tmp_path / "b.mrc", (FRAMES % 100).astype(dtype))
    unknown = io.open(tmp_path / "b.mrc")
    assert unknown.calibration.pixel_nm is None and "exactly 1 Å" in unknown.notes[0]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_norpix_seq(tmp_path: Path, version: int, dtype: str) -> None:
    frames = (FRAMES % 200).astype(dtype)
    writers.write_seq(tmp_path / "a.seq", frames, version=version)
    movie = io.open(tmp_path / "a.seq")
    assert movie.kind == "movie" and movie.calibration.frame_interval_s == pytest.approx(0.25)
    np.testing.assert_array_equal(np.asarray(movie.data[...]), frames)
    assert io.open_datacube(tmp_path / "a.seq", shape=(2, 3)).shape == (2, 3, 16, 24)


@pytest.mark.parametrize("ending", ["mp4", "avi"])
def test_films(tmp_path: Path, ending: str) -> None:
    import imageio

    frames = np.zeros((5, 48, 64), np.uint8)
    for i in range(5):
        frames[i, 8 * i : 8 * i + 8] = 200
    imageio.mimwrite(tmp_path / f"a.{ending}", list(frames), fps=10)
    movie = io.open(tmp_path / f"a.{ending}")
    assert movie.shape == (5, 48, 64) and movie.calibration.frame_interval_s == pytest.approx(0.1)
    for i in (4, 0, 2):
        assert abs(np.asarray(movie.frame(i), float) - frames[i]).mean() < 6
    assert "loss" in movie.notes[0]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_one_array(tmp_path: Path, save: object) -> None:
    save(tmp_path / "a.npz", movie=FRAMES, scale=np.float64(3))  # type: ignore[operator]
    np.testing.assert_array_equal(np.asarray(io.open(tmp_path / "a.npz").data[...]), FRAMES)
    save(tmp_path / "b.npz", one=FRAMES, two=FRAMES + 1)  # type: ignore[operator]
    with pytest.raises(OpenError, match=r"several arrays.*one, two"):
        io.open(tmp_path / "b.npz")
    np.testing.assert_array_equal(io.open(f"{tmp_path / 'b.npz'}::two").data[3], FRAMES[3] + 1)


SCAN = np.random.default_rng(1).integers(0, 900, (4, 5, 16, 14)).astype("<u2")


@pytest.mark.parametrize(
    ("order", "units", "meta"),
    [
        ((2, 3, 0, 1), ("", "", "", ""), {"Format": "Diffraction image"}),
        ((0, 1, 2, 3), ("", "", "", ""), {"Format": "Diffraction image", "Data Order Swapped": True}),
        ((2, 3, 0, 1), ("", "", "nm", "nm"), {}),
        ((2, 3, 0, 1), ("1/nm", "1/nm", "", ""), {}),
        ((0, 1, 2, 3), ("nm", "nm", "", ""), {"Format": "Diffraction image"}),
        ((0, 1, 2, 3), ("nm", "nm", "mrad", "mrad"), {}),
    ],
)
def test_dm4_scans_in_either_order(
    tmp_path: Path, order: tuple[int, ...], units: tuple[str, ...], meta: dict[str, object]
) -> None:
    writers.write_dm4_scan(tmp_path / "a.dm4", np.ascontiguousarray(SCAN.transpose(order)), units, meta)  # type: ignore[arg-type]
    cube = io.open(tmp_path / "a.dm4")
    assert cube.kind == "datacube" and cube.shape == SCAN.shape
    np.testing.assert_array_equal(cube.data[2, 3], SCAN[2, 3])


def test_dm4_that_does_not_tell_its_scan_says_so(tmp_path: Path) -> None:
    writers.write_dm4_scan(tmp_path / "a.dm4", SCAN, ("", "", "", ""), {})
    assert "axes='QKRC'" in io.open(tmp_path / "a.dm4").notes[0]


# TIFF


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_planes_written_in_one_go(tmp_path: Path, count: int, dtype: str, compression: str | None) -> None:
    data = np.random.default_rng(0).integers(0, 900, (count, 32, 40)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", data, compression=compression)
    np.testing.assert_array_equal(np.asarray(io.open(tmp_path / "a.tif").data[...]), data)


def test_a_picture_beside_the_image(tmp_path: Path) -> None:
    image = np.arange(5120, dtype="u2").reshape(64, 80)
    with tifffile.TiffWriter(tmp_path / "jem.tif") as file:
        file.write(np.zeros((88, 80, 3), "u1"), photometric="rgb")
        file.write(image)
    opened = io.open(tmp_path / "jem.tif")
    np.testing.assert_array_equal(np.asarray(opened.data[...]), image)
    assert "jem.tif::1" in opened.notes[0]
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(image)
        file.write(image.astype("f4"))
    with tifffile.TiffWriter(tmp_path / "grey.tif") as file:
        file.write(np.zeros((88, 80), "u1"))
        file.write(image)
    for name in ("two", "grey"):
        with pytest.raises(OpenError, match=rf"choose one of {name}\.tif::0 .*{name}\.tif::1"):
            io.open(tmp_path / f"{name}.tif")


@pytest.mark.parametrize(
    ("unit", "value"), [("CENTIMETER", 28.35), ("INCH", 72), ("CENTIMETER", 118.11), ("INCH", 300), ("INCH", 1)]
)
def test_resolutions_of_printers_say_nothing(tmp_path: Path, unit: str, value: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FRAMES, resolution=(value, value), resolutionunit=unit)
    assert io.open(tmp_path / "a.tif").calibration.pixel_nm is None


def test_resolution_in_cm_that_is_no_printers(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FRAMES, resolution=(1e8, 1e8), resolutionunit="CENTIMETER")
    assert io.open(tmp_path / "a.tif").calibration.pixel_nm == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("unit", "per"), [("\\u00B5m", 1e4), ("um", 1e4), ("micron", 1e4), ("nm", 10), ("\\u00C5", 1), ("cm", 1e8)]
)
def test_units_of_fiji(tmp_path: Path, unit: str, per: float) -> None:
    metadata = {"unit": unit, "axes": "TYX"}
    tifffile.imwrite(tmp_path / "a.tif", FRAMES, imagej=True, resolution=(per, per), metadata=metadata)
    expected = 0.1
    assert io.open(tmp_path / "a.tif").calibration.pixel_nm == pytest.approx((expected, expected))


@pytest.mark.parametrize(("size", "unit"), [(1e-4, "µm"), (0.1, "nm"), (1.0, "Å"), (100, "pm")])
def test_units_of_ome(tmp_path: Path, size: float, unit: str) -> None:
    metadata = {
        "axes": "TYX",
        "PhysicalSizeX": size,
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": size,
        "PhysicalSizeYUnit": unit,
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", FRAMES, metadata=metadata)
    assert io.open(tmp_path / "a.ome.tif").calibration.pixel_nm == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("text", "dimension", "factor"),
    [
        ("$\\AA^{-1}$", "reciprocal", 1.0),
        ("$A^{-1}$", "reciprocal", 1.0),
        ("k_A^-1", "reciprocal", 1.0),
        ("k_$\\AA^{-1}$", "reciprocal", 1.0),
        ("k_nm^-1", "reciprocal", 0.1),
        ("1/Å", "reciprocal", 1.0),
        ("1/\u212b", "reciprocal", 1.0),
        ("1 / nm", "reciprocal", 0.1),
        ("nm⁻¹", "reciprocal", 0.1),
        ("[Å^-1]", "reciprocal", 1.0),
        ("\\u00B5m", "length", 1e3),
        ("µm", "length", 1e3),
        ("μm", "length", 1e3),
        ("A\u030a", "length", 0.1),
        ("mrad", "angle", 1.0),
        ("rad", "angle", 1e3),
        ("ms", "time", 1e-3),
    ],
)
def test_units_as_programs_write_them(text: str, dimension: str, factor: float) -> None:
    found = parse_unit(text)
    assert found is not None and found[0] == dimension and found[1] == pytest.approx(factor)


@pytest.mark.parametrize("text", ["px", "pixel", "<undefined>", "", "1/px", "counts", "percent", "reference frame"])
def test_units_that_say_nothing(text: str) -> None:
    assert parse_unit(text) is None


def test_mrad_with_and_without_the_beam_energy(tmp_path: Path) -> None:
    writers.write_dm4_scan(tmp_path / "a.dm4", SCAN, ("nm", "nm", "mrad", "mrad"), {})
    unknown = io.open(tmp_path / "a.dm4")
    assert unknown.calibration.q_pixel_invA is None
    assert "0.5 mrad; give the beam energy" in unknown.notes[0]
    known = io.open(tmp_path / "a.dm4", energy_keV=200)
    assert known.calibration.q_pixel_invA == pytest.approx((0.5e-3 / 0.0250793,) * 2, rel=1e-5)
    assert known.notes == ()


def test_implausible_pixels_get_a_line(tmp_path: Path) -> None:
    from napari_emdl.atoms.find.columns import find_columns
    from napari_emdl.base.errors import EmdlError

    metadata = {"unit": "mm", "axes": "TYX"}
    tifffile.imwrite(tmp_path / "a.tif", FRAMES, imagej=True, resolution=(10, 10), metadata=metadata)
    assert "hardly meant" in io.open(tmp_path / "a.tif").notes[0]
    with pytest.raises(EmdlError, match="shows no atomic columns"):
        find_columns(io.open_movie(tmp_path / "a.tif"))


# raw binary


def raw_file(path: Path, header: int = 0, footer_rows: int = 0, between: int = 0, trailer: int = 0) -> Path:
    rows = np.full((footer_rows, 24), 7, "u2").tobytes()
    frames = b"".join(b"h" * between + frame.tobytes() + rows for frame in FRAMES)
    path.write_bytes(b"x" * header + frames + b"t" * trailer)
    return path


def test_raw_longer_than_declared_names_the_readings_that_fit(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "a.raw", footer_rows=2)
    with pytest.raises(OpenError, match=r"2 rows after each frame.*footer_rows=2.*576 bytes before the array \(`offset=576`\)"):
        io.open(path, "movie", shape=FRAMES.shape, dtype="u2")
    np.testing.assert_array_equal(
        np.asarray(io.open(path, "movie", shape=FRAMES.shape, dtype="u2", footer_rows=2).data[...]), FRAMES
    )
    assert io.open(path, "movie", shape=(-1, 16, 24), dtype="u2", footer_rows=2).shape == FRAMES.shape


def test_raw_with_what_surrounds_its_frames(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "a.raw", header=100, between=10, trailer=33)
    with pytest.raises(OpenError, match=r"offset=193.*trailer=193"):
        io.open(path, "movie", shape=FRAMES.shape, dtype="u2")
    opened = io.open(path, "movie", shape=FRAMES.shape, dtype="u2", offset=100, frame_header=10, trailer=33)
    np.testing.assert_array_equal(np.asarray(opened.data[...]), FRAMES)
    rows = raw_file(tmp_path / "b.raw", footer_rows=1)
    whole = io.open(rows, "datacube", shape=(2, 3, 16, 24), dtype="u2", footer_rows=1)
    np.testing.assert_array_equal(np.asarray(whole.data[...]).reshape(FRAMES.shape), FRAMES)
    part = io.open(rows, "datacube", shape=(2, 3, 16, 24), dtype="u2", header_rows=1, footer_rows=0)
    np.testing.assert_array_equal(part.data[0, 0, :-1], FRAMES[0, 1:])
