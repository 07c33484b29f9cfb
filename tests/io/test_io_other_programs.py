"""Files of programs that were met in the wild after the first formats: kind, order of the axes, units and values."""

from __future__ import annotations

import gzip
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.helpers.io_writers import cube, write_counted, write_dm5, write_mib, write_netcdf

import napari_emdl as emdl
from napari_emdl.base.errors import OpenError

RNG = np.random.default_rng(3)
MOVIE = RNG.integers(0, 60000, (6, 40, 48)).astype(np.uint16)
CUBE = cube()
NM, S = ("nm", 0.02), ("s", 0.5)


def same(opened: emdl.Movie | emdl.Datacube, values: np.ndarray, kind: str = "movie") -> None:
    assert opened.kind == kind
    assert opened.shape == values.shape
    np.testing.assert_array_equal(np.asarray(opened.data[...]), values)
    np.testing.assert_array_equal(np.asarray(opened.data[-1]), values[-1])


# ---- axes that nobody names ----


@pytest.mark.parametrize(
    "save", [np.save, lambda path, array: tifffile.imwrite(path.with_suffix(".tif"), array, photometric="minisblack")]
)
@pytest.mark.parametrize(
    ("array", "values", "kind", "note"),
    [
        (MOVIE[0][..., None], MOVIE[0], "image", None),
        (np.moveaxis(MOVIE, 0, -1), MOVIE, "movie", "taken for 6 frames of 40 x 48"),
        (MOVIE, MOVIE, "movie", None),
    ],
    ids=["column of one", "frames last", "frames first"],
)
def test_the_order_of_axes_without_names(tmp_path, save, array, values, kind, note):
    save(tmp_path / "a.npy", np.ascontiguousarray(array))
    (path,) = tmp_path.iterdir()
    opened = emdl.open(path)
    same(opened, values, kind)
    assert note is None if not opened.notes else note in opened.notes[0]


def test_the_order_that_is_given_stands(tmp_path):
    np.save(tmp_path / "a.npy", np.moveaxis(MOVIE, 0, -1))
    assert emdl.open(tmp_path / "a.npy", axes="TYX").shape == (40, 48, 6)
    same(emdl.open(tmp_path / "a.npy", frames=(2, 4)), MOVIE[2:4])


def test_colours_at_the_end_of_an_array():
    grey = (MOVIE >> 8).astype(np.uint8)
    opened = emdl.open(np.repeat(grey[..., None], 3, -1))
    same(opened, grey)
    assert not opened.notes
    assert opened.data[1, 2, 3] == grey[1, 2, 3]
    tinted = np.repeat(grey[..., None], 3, -1) // np.array([1, 2, 3], np.uint8)
    assert "luminance" in emdl.open(tinted[0]).notes[0]
    assert emdl.open(np.repeat(grey[..., None], 3, -1), "datacube").shape == (6, 40, 48, 3)


def test_one_image_and_a_table_of_positions():
    assert emdl.open(MOVIE[:1]).kind == "image"
    assert emdl.open(MOVIE[:1], "movie").shape == (1, 40, 48)
    with pytest.raises(OpenError, match="a table of 465 x 2 values"):
        emdl.open(np.zeros((465, 2)))


def test_a_scan_that_may_lie_last_is_said():
    notes = emdl.open(np.zeros((64, 64, 5, 6), np.uint16)).notes
    assert "give `axes='QKRC'`" in notes[0]
    assert not emdl.open(CUBE).notes


def test_samples_of_a_pixel_beyond_colours_are_frames(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(MOVIE, 0, -1), photometric="minisblack", planarconfig="contig")
    same(emdl.open(tmp_path / "a.tif"), MOVIE)


def test_images_written_one_by_one_are_frames(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for frame in MOVIE:
            file.write(frame)
        file.write(MOVIE[0, ::4, ::4])
    opened = emdl.open(tmp_path / "a.tif")
    same(opened, MOVIE)
    assert "6 images of one size are taken for the frames of a movie; left out are a.tif::6" in opened.notes
    same(emdl.open(f"{tmp_path / 'a.tif'}::2"), MOVIE[2], "image")


def test_a_picture_in_inverse_lengths_is_a_pattern(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", MOVIE[0], imagej=True, metadata={"unit": "1/nm"}, resolution=(20, 20))
    opened = emdl.open(tmp_path / "a.tif")
    assert opened.shape == (1, 1, 40, 48)
    assert opened.calibration.q_pixel_invA == pytest.approx((0.005, 0.005))


def test_channels_are_not_focus_without_a_word(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([MOVIE, MOVIE], 1), imagej=True, metadata={"axes": "TCYX"})
    assert "channels" in emdl.open(tmp_path / "a.tif").notes[0]


# ---- pictures ----


@pytest.mark.parametrize(("name", "options"), [("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True})])
def test_animations_are_movies_with_their_interval(tmp_path, name, options):
    frames = [Image.fromarray((frame >> 8).astype(np.uint8)) for frame in MOVIE]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=200, **options)
    opened = emdl.open(tmp_path / name)
    same(opened, (MOVIE >> 8).astype(np.uint8))
    assert opened.calibration.frame_interval_s == pytest.approx(0.2)
    assert any("is that of playing" in note for note in opened.notes)


@pytest.mark.parametrize(
    ("name", "options"), [("a.webp", {"lossless": True}), ("a.jp2", {"irreversible": False}), ("a.jpg", {"quality": 100})]
)
def test_single_pictures(tmp_path, name, options):
    image = Image.fromarray((MOVIE[0] >> 8).astype(np.uint8))
    (image.convert("RGB").convert("CMYK") if name == "a.jpg" else image).save(tmp_path / name, **options)
    values = np.asarray(emdl.open(tmp_path / name).data[...], int)
    assert np.abs(values - np.asarray(image, int)).max() <= (12 if name == "a.jpg" else 0)


# ---- HDF5 and zarr of other programs ----


def test_dimension_scales_of_netcdf_and_nsid(tmp_path):
    write_netcdf(tmp_path / "a.nc", MOVIE, [("time", *S), ("y", *NM), ("x", *NM)])
    opened = emdl.open(tmp_path / "a.nc")
    same(opened, MOVIE)
    assert opened.calibration.pixel_nm == pytest.approx((0.02, 0.02))
    assert opened.calibration.frame_interval_s == pytest.approx(0.5)


@pytest.mark.parametrize("writer", ["hyperspy", "ncem"])
def test_axes_of_emd_files(tmp_path, writer):
    """HyperSpy stores its axes backwards, which its ``signal_type`` tells; others name time where it lies."""
    named = [("time", *S), ("y", "nm", 0.04), ("x", *NM)]
    for kind, data in (("movie", MOVIE), ("datacube", CUBE)):
        axes = named if kind == "movie" else [("y", "nm", 3.0), ("x", "nm", 2.0), ("ky", "1/Å", 0.02), ("kx", "1/Å", 0.01)]
        if writer == "ncem":
            axes, data = (axes[1:] + axes[:1], np.moveaxis(data, 0, -1)) if kind == "movie" else (axes, data)
        path = tmp_path / f"{kind}.emd"
        with h5py.File(path, "w") as file:
            group = file.create_group("signals/title" if writer == "hyperspy" else "data/raw")
            group.attrs["emd_group_type"] = 1
            if writer == "hyperspy":
                group.attrs["signal_type"], axes, data = "", axes[::-1], data.T
            group["data"] = data
            for i, (name, unit, step) in enumerate(axes):
                group[f"dim{i + 1}"] = [0.0, step]
                group[f"dim{i + 1}"].attrs.update(name=name, units=f"[{unit.replace('nm', 'n_m')}]")
        opened = emdl.open(path)
        same(opened, MOVIE if kind == "movie" else CUBE, kind)
        assert opened.calibration.pixel_nm == pytest.approx((0.04, 0.02) if kind == "movie" else (3.0, 2.0))


@pytest.mark.parametrize("shown", [None, 1, 2])
def test_dm5(tmp_path, shown):
    write_dm5(tmp_path / "a.dm5", MOVIE, [NM, ("nm", 0.04), S])
    with h5py.File(tmp_path / "a.dm5", "a") as file:
        file.create_group("ImageList/[1]/ImageTags/Microscope Info").attrs["Voltage"] = 300000.0
        if shown is not None:  # what the document shows stands above the order of the list
            file.create_group("DocumentObjectList/[0]").attrs["ImageSource"] = 0
            file.create_group("ImageSourceList/[0]").attrs["ImageRef"] = shown
            file["ImageList/[2]/ImageData/Data"] = MOVIE[0]
    if shown == 2:
        same(emdl.open(tmp_path / "a.dm5"), MOVIE[0], "image")
    opened = emdl.open(tmp_path / "a.dm5" if shown != 2 else f"{tmp_path / 'a.dm5'}::1")
    same(opened, MOVIE)
    assert opened.calibration.pixel_nm == pytest.approx((0.04, 0.02))
    assert opened.calibration.frame_interval_s == pytest.approx(0.5)
    assert opened.calibration.energy_keV == 300


@pytest.mark.parametrize("version", [1, 3])
def test_counted_electrons(tmp_path, version):
    counts = RNG.poisson(1.5, (3, 4, 16, 18)).astype(np.uint16)
    write_counted(tmp_path / "a.h5", counts, version)
    same(emdl.open(tmp_path / "a.h5"), counts, "datacube")


def test_usid_is_refused_in_one_line(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("Measurement_000/Channel_000/Raw_Data", data=CUBE.reshape(12, -1))
        data.attrs["Position_Indices"] = file.create_dataset("p", data=np.zeros((12, 2), np.uint32)).ref
    with pytest.raises(OpenError, match="table of positions and values"):
        emdl.open(tmp_path / "a.h5")


def nion(shape, units, **how) -> dict:
    steps = [{"offset": 0.0, "scale": step, "units": unit} for unit, step in units]
    metadata = {"hardware_source": {"autostem": {"high_tension": 1e5}}}
    return {"data_shape": list(shape), "spatial_calibrations": steps, "metadata": metadata, **how}


@pytest.mark.parametrize("store", ["npy", "ndata1", "h5"])
@pytest.mark.parametrize("kind", ["datacube", "movie"])
def test_nion_swift(tmp_path, store, kind):
    scan = kind == "datacube"
    data = CUBE if scan else MOVIE
    units = [("nm", 2.0)] * 2 + [("mrad", 0.5)] * 2 if scan else [S, NM, NM]
    how = {"is_sequence": not scan, "collection_dimension_count": 2 if scan else 0, "datum_dimension_count": 2}
    properties = nion(data.shape, units, **how)
    path = tmp_path / f"a.{store}"
    np.save(tmp_path / "a.npy", data)
    if store == "npy":
        (tmp_path / "a.json").write_text(json.dumps(properties))
    elif store == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=data).attrs["properties"] = json.dumps({"data_sources": [properties]})
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "a.npy", "data.npy")
            archive.writestr("metadata.json", json.dumps(properties))
    opened = emdl.open(path)
    same(opened, data, kind)
    known = opened.calibration
    assert known.energy_keV == 100
    assert known.pixel_nm == pytest.approx((2.0, 2.0) if scan else (0.02, 0.02))
    assert (known.q_pixel_invA[0] if scan else known.frame_interval_s) == pytest.approx(0.5e-3 / 0.0370144 if scan else 0.5)


def test_a_json_file_of_others_beside_an_array_says_nothing(tmp_path):
    np.save(tmp_path / "a.npy", MOVIE)
    for text in ("[1, 2]", "{broken", json.dumps({"spatial_calibrations": [1, 2, 3]}), json.dumps(nion((2, 2), [NM, NM]))):
        (tmp_path / "a.json").write_text(text)
        same(emdl.open(tmp_path / "a.npy"), MOVIE)


def test_ome_zarr_and_xarray(tmp_path):
    zarr = pytest.importorskip("zarr")
    store = zarr.open_group(str(tmp_path / "a.zarr"), "w")
    store.create_dataset("0", data=MOVIE[:, None, None])
    store.create_dataset("1", data=MOVIE[:, None, None, ::2, ::2])
    named = [("t", "second"), ("c", None), ("z", "nanometer"), ("y", "nanometer"), ("x", "nanometer")]
    levels = [
        {"path": path, "coordinateTransformations": [{"type": "scale", "scale": [0.5, 1, 1, step, step]}]}
        for path, step in (("0", 0.02), ("1", 0.04))
    ]
    store.attrs["multiscales"] = [{"axes": [{"name": n, "unit": u} for n, u in named], "datasets": levels}]
    other = zarr.open_group(str(tmp_path / "b.zarr"), "w")
    other.create_dataset("frames", data=MOVIE).attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    for i, (name, (unit, step)) in enumerate([("time", S), ("y", NM), ("x", NM)]):
        other.create_dataset(name, data=np.arange(MOVIE.shape[i]) * step).attrs["units"] = unit
    for name in ("a.zarr", "b.zarr"):
        opened = emdl.open(tmp_path / name)
        same(opened, MOVIE)
        assert opened.calibration.pixel_nm == pytest.approx((0.02, 0.02))
        assert opened.calibration.frame_interval_s == pytest.approx(0.5)


# ---- folders and packed files ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    return made


def test_strays_and_second_series_in_a_folder(folder):
    for i, frame in enumerate(MOVIE):
        tifffile.imwrite(folder / f"a_{i}.tif", frame)
    tifffile.imwrite(folder / "mean.tif", MOVIE[0])
    opened = emdl.open(folder)
    same(opened, MOVIE)
    assert "mean.tif is not of the series a_*.tif and left out" in opened.notes
    for i in range(5):
        shutil.copy(folder / f"a_{i}.tif", folder / f"b_{i}.tif")
    with pytest.raises(OpenError, match=r"several series: a_\*.tif \(6\), b_\*.tif \(5\)"):
        emdl.open(folder)
    same(emdl.open(folder / "a_*.tif"), MOVIE)


def test_a_recording_cut_into_stacks(folder):
    for i in range(3):
        tifffile.imwrite(folder / f"m_{i}.tif", MOVIE[2 * i : 2 * i + 2], photometric="minisblack")
    opened = emdl.open(folder)
    same(opened, MOVIE)
    assert "the stacks of 3 files are joined, m_0.tif first and m_2.tif last" in opened.notes


def test_the_only_recording_of_a_folder(folder):
    tifffile.imwrite(folder / "movie.tif", MOVIE, photometric="minisblack")
    same(emdl.open(folder), MOVIE)
    write_mib(folder / "scan.mib", MOVIE)
    opened = emdl.open(folder, shape=(2, 3))
    same(opened, MOVIE.reshape(2, 3, 40, 48), "datacube")
    assert "scan.mib is the file of this folder that was opened" in opened.notes
    (folder / "below").mkdir()
    (folder / "scan.mib").write_bytes(b"no recording")
    same(emdl.open(folder), MOVIE)  # what cannot be opened beside an image stack is not in its way
    write_mib(folder / "scan.mib", MOVIE)
    write_mib(folder / "scan2x.mib", MOVIE)
    (folder / "movie.tif").unlink()
    with pytest.raises(OpenError, match="but 2 recordings, such as scan"):
        emdl.open(folder)


def test_frames_of_another_type_do_not_lose_values(folder):
    imageio.imwrite(folder / "f_0.tif", MOVIE[0])
    imageio.imwrite(folder / "f_1.tif", MOVIE[1].astype(np.float32) / 7)
    with pytest.raises(OpenError, match=r"f_1\.tif holds float32, f_0\.tif uint16"):
        emdl.open(folder).data[1]


def test_packed_files_and_those_of_other_programs_say_what_to_do(tmp_path):
    imageio.imwrite(tmp_path / "f.png", MOVIE[0])
    (tmp_path / "f.tif.gz").write_bytes(gzip.compress(b"x" * 2000))
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.write(tmp_path / "f.png", "f/f.png")
    (tmp_path / "f.tpx3").write_bytes(b"TPX3" + bytes(2000))
    (tmp_path / "f.gtg").write_bytes(b"\0\0\0\4" + bytes(2000))
    (tmp_path / "f.csv").write_text("1,2\n")
    lines = {
        "f.tif.gz": "unpack it first",
        "f.zip": "packs a file of images",
        "f.tpx3": "Timepix3",
        "f.gtg": "K2",
        "f.csv": "text",
    }
    for name, line in lines.items():
        with pytest.raises(OpenError, match=line):
            emdl.open(tmp_path / name)
