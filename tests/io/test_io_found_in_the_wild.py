"""Faults met on public files of other programs: RosettaSciIO's own test files, demos of pyxem, Atomap and TEMUL."""

from __future__ import annotations

import bz2
import lzma
import resource
import zipfile
import zlib
from pathlib import Path

import h5py
import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile
from rsciio import hspy, pantarhei, zspy

import helpers.io_writers as writers
from napari_emdl import io
from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.missing import find_missing

FRAMES = np.arange(5 * 16 * 12, dtype="u2").reshape(5, 16, 12)


def _signal(data: np.ndarray, scale: float, units: str | None, signal_axes: int = 2) -> dict:
    count = data.ndim
    axes = [
        {"name": f"a{i}", "size": n, "scale": scale, "offset": 0.0, "units": units, "navigate": i < count - signal_axes,
         "index_in_array": i, "_type": "UniformDataAxis"}
        for i, n in enumerate(data.shape)
    ]  # fmt: skip
    metadata = {"General": {"title": "t"}, "Signal": {"signal_type": ""}}
    return {
        "data": data, "axes": axes, "metadata": metadata, "original_metadata": {}, "package_info": {},
        "attributes": {"_lazy": False, "ragged": False}, "learning_results": {}, "models": {}, "tmp_parameters": {},
    }  # fmt: skip


@pytest.mark.parametrize(("mode", "pixel"), [("STEM Diffraction", 2.1e-8), ("TEM Diffraction", 3.8e-10)])
def test_images_taken_with_the_projector_in_diffraction_mode_stay_images(tmp_path: Path, mode: str, pixel: float) -> None:
    writers.write_ser(tmp_path / "a_1.ser", FRAMES, pixel_m=pixel)
    (tmp_path / "a.emi").write_bytes(
        b"<ObjectInfo><ExperimentalDescription><Root><Data><Label>Mode</Label><Value>" + mode.encode() + b"</Value></Data>"
        b"</Root></ExperimentalDescription><AcquireInfo><CameraNamePath>c</CameraNamePath></AcquireInfo></ObjectInfo>"
    )
    opened = io.open(tmp_path / "a_1.ser")
    assert opened.kind == "movie"
    assert opened.calibration.pixel_nm == pytest.approx((1e9 * pixel,) * 2)
    writers.write_ser(tmp_path / "b_1.ser", FRAMES, pixel_m=1.7e8)  # pixels in 1/m, and no .emi file that says so
    pattern = io.open(tmp_path / "b_1.ser")
    assert pattern.kind == "datacube"
    assert pattern.calibration.q_pixel_invA == pytest.approx((0.017,) * 2)


def test_a_detector_pixel_that_no_camera_length_gives_is_left_out(tmp_path: Path) -> None:
    hspy.file_writer(str(tmp_path / "a.hspy"), _signal(FRAMES[0], 7.8e-20, "1/nm"))
    opened = io.open(tmp_path / "a.hspy")
    assert opened.calibration.q_pixel_invA is None
    assert "q_pixel_invA" not in opened.calibration.source
    assert "cannot be meant" in opened.notes[0]
    assert io.open(tmp_path / "a.hspy", q_pixel_invA=0.01).calibration.q_pixel_invA == (0.01, 0.01)


def test_a_pixel_that_shows_no_columns_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    from napari_emdl.atoms.find.columns import find_columns

    hspy.file_writer(str(tmp_path / "a.hspy"), _signal(np.zeros((64, 64), "f4"), 1.0, "nm"))
    with pytest.raises(EmdlError, match="10 Å shows no atomic columns"):
        find_columns(io.open(tmp_path / "a.hspy"))


def test_one_signal_axis_is_a_spectrum(tmp_path: Path) -> None:
    hspy.file_writer(str(tmp_path / "a.hspy"), _signal(FRAMES[0], 1.0, None, signal_axes=1))
    with pytest.raises(OpenError, match="only spectra"):
        io.open(tmp_path / "a.hspy")


@pytest.mark.parametrize("writer", [zspy, pantarhei], ids=["zspy", "prz"])
def test_hyperspy_zip_stores_and_ceos_files_open(tmp_path: Path, writer: object) -> None:
    ending = "zspy" if writer is zspy else "prz"
    path = tmp_path / f"a.{ending}"
    writer.file_writer(str(path), _signal(FRAMES[0], 0.02, "nm"))  # type: ignore[attr-defined]
    if path.is_dir():  # HyperSpy writes a folder or, asked for, one zip file
        packed = tmp_path / "packed.zspy"
        with zipfile.ZipFile(packed, "w") as archive:
            for part in sorted(path.rglob("*")):
                if part.is_file():
                    archive.write(part, part.relative_to(path).as_posix())
        path = packed
    opened = io.open(path)
    np.testing.assert_array_equal(np.asarray(opened.data[...]), FRAMES[0])
    if writer is zspy:
        assert opened.calibration.pixel_nm == pytest.approx((0.02, 0.02))


def test_a_single_picture_is_an_image(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (20, 30)).astype("u1")
    imageio.imwrite(tmp_path / "a.png", picture)
    opened = io.open(tmp_path / "a.png")
    assert (opened.kind, opened.shape) == ("image", (20, 30))
    np.testing.assert_array_equal(np.asarray(opened.data[...]), picture)
    assert io.open(tmp_path / "a.png", kind="pattern").shape == (1, 1, 20, 30)


def test_noise_that_is_clipped_at_zero_makes_no_dead_pixels() -> None:
    rng = np.random.default_rng(1)
    clean = 60 + 40 * np.sin(np.arange(128) / 3)[:, None] * np.sin(np.arange(128) / 3)
    noisy = np.clip(clean + rng.normal(0, 30, clean.shape), 0, 255).astype("u1")
    assert find_missing(noisy[None], diffraction=False).pixels is None
    counted = rng.poisson(200, (128, 128)).astype("u2")
    counted[40, 50] = 0
    pixels = find_missing(counted[None], diffraction=False).pixels
    assert pixels is not None and np.argwhere(pixels).tolist() == [[40, 50]]


def test_names_that_no_file_can_have_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop.npy").symlink_to(tmp_path / "loop.npy")
    (tmp_path / "gone.npy").symlink_to(tmp_path / "nowhere.npy")
    for name in (tmp_path / ("n" * 300 + ".npy"), "a\0b.npy", tmp_path / "loop.npy", tmp_path / "gone.npy"):
        with pytest.raises(OpenError, match=r"cannot be opened|does not exist"):
            io.open(name)
    np.save(tmp_path / "five.npy", np.zeros((2, 3, 4, 8, 8), "u2"))
    with pytest.raises(OpenError, match=r"5 axes .*one by one"):
        io.open(tmp_path / "five.npy")


def test_tiffs_that_viewers_show_otherwise(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30)).astype("u1")
    tifffile.imwrite(tmp_path / "white.tif", image, photometric="miniswhite")
    assert "white as zero" in io.open(tmp_path / "white.tif").notes[0]
    tifffile.imwrite(tmp_path / "turned.tif", image, extratags=[(274, "H", 1, 6, True)])
    assert "orientation 6" in io.open(tmp_path / "turned.tif").notes[0]
    ramp = np.tile(np.arange(256, dtype="u2") * 257, (3, 1))
    for name, colours in (
        ("grey", ramp),
        ("falling", ramp[:, ::-1]),
        ("colour", np.stack([ramp[0], ramp[0][::-1], ramp[0] * 0])),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", image, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(np.asarray(io.open(tmp_path / "grey.tif").data[...]), image)
    falling = io.open(tmp_path / "falling.tif")
    np.testing.assert_array_equal(np.asarray(falling.data[...]), ramp[0][::-1][image])
    assert falling.notes == ()
    assert "luminance" in io.open(tmp_path / "colour.tif").notes[0]


def test_each_image_of_an_ome_file_has_its_own_pixel(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        for i, size in enumerate((0.05, 0.02)):
            facts = {"axes": "TYX", "PhysicalSizeX": size, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": size}
            file.write(FRAMES[:, : 16 - i], metadata=facts | {"PhysicalSizeYUnit": "nm"})
    for i, size in enumerate((0.05, 0.02)):
        assert io.open(tmp_path / f"a.ome.tif::{i}").calibration.pixel_nm == pytest.approx((size, size))


@pytest.mark.parametrize("cols", [512, 1024, 2048])
def test_zeiss_pixel_is_that_of_a_display_of_1024(cols: int) -> None:
    from types import SimpleNamespace

    from napari_emdl.io.formats.tiffscales import _vendor_scales

    numbers = (0, 0, 0, 5e-9, 50000.0)
    page = SimpleNamespace(tags={34118: SimpleNamespace(value={"": numbers})}, shape=(cols * 3 // 4, cols))
    assert _vendor_scales(page)["X"][0] == pytest.approx(5e-9 * 1024 / cols)


def test_hyperspy_files_with_ragged_markers_open(tmp_path: Path) -> None:
    import zarr

    signal = _signal(FRAMES, 0.02, "nm")
    zspy.file_writer(str(tmp_path / "a.zspy"), signal)
    store = zarr.open(str(tmp_path / "a.zspy"), mode="a")
    kwargs = next(iter(store["Experiments"].groups()))[1].create_group("metadata/Markers/Points/kwargs")
    kwargs.create_dataset("offsets", shape=(5,), dtype=object, object_codec=zarr.codecs.VLenArray("f8"))
    kwargs.create_dataset("_ragged_shapes_offsets", shape=(5,), dtype=object, object_codec=zarr.codecs.VLenArray("i8"))
    with zipfile.ZipFile(tmp_path / "packed.zspy", "w") as archive:
        for part in sorted((tmp_path / "a.zspy").rglob("*")):
            if part.is_file():
                archive.write(part, part.relative_to(tmp_path / "a.zspy").as_posix())
    for name in ("a.zspy", "packed.zspy"):
        opened = io.open(tmp_path / name)
        assert opened.kind == "movie" and opened.calibration.pixel_nm == pytest.approx((0.02, 0.02))
        np.testing.assert_array_equal(np.asarray(opened.data[...]), FRAMES)


@pytest.mark.parametrize("kind", ["zlib", "gzip", "lzma", "bz2", "blosc", "lz4", "zstd", "hspy", "zip"])
def test_pieces_that_unpack_to_more_than_they_say(tmp_path: Path, kind: str) -> None:
    import numcodecs

    zeros = bytes(2**20)
    piece = np.zeros((64, 64), "u2")
    if kind == "hspy":
        hspy.file_writer(str(tmp_path / "a.hspy"), _signal(FRAMES, 0.02, "nm"))
        with h5py.File(tmp_path / "a.hspy", "a") as file:
            group = file["Experiments"][next(iter(file["Experiments"]))]
            del group["data"]
            data = group.create_dataset("data", FRAMES.shape, "u2", chunks=FRAMES.shape, compression="gzip")
            packer = zlib.compressobj(9)
            data.id.write_direct_chunk((0, 0, 0), b"".join([*(packer.compress(zeros) for _ in range(600)), packer.flush()]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(OpenError, match=r"unpacks to more|larger packed"):
            io.open(tmp_path / "a.hspy")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
        return
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(".zarray", "{}")
            with archive.open("0.0", "w") as member:
                for _ in range(300):
                    member.write(zeros)
        with pytest.raises(OpenError, match=r"0\.0 unpacks to 300 MB"):
            io.open(tmp_path / "a.zip")
        return
    else:
        codec = numcodecs.get_codec({"id": kind})
        store = zarr_of(tmp_path / "a.zarr", piece, codec)
        np.testing.assert_array_equal(np.asarray(io.open(tmp_path / "a.zarr").data[...]), piece)
        store.write_bytes(bomb_of(kind, zeros))
        opened = io.open(tmp_path / "a.zarr")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OpenError, match=r"unpacks to more|cannot be read|larger packed"):
        opened.data[...]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB: the bombs hold 600 MB and more


def zarr_of(path: Path, piece: np.ndarray, codec: object) -> Path:
    """Store of one piece; returns the piece's file."""
    import zarr

    store = zarr.open(str(path), mode="w", shape=piece.shape, chunks=piece.shape, dtype=piece.dtype, compressor=codec)
    store[:] = piece + 1
    store[:] = piece
    store[0, 0] = 1
    piece[0, 0] = 1
    return path / "0.0"


def bomb_of(kind: str, zeros: bytes, count: int = 600) -> bytes:
    """Packed bytes that become `count` MB."""
    if kind in ("zlib", "gzip"):
        packer = zlib.compressobj(9, wbits=15 if kind == "zlib" else 31)
        return b"".join([*(packer.compress(zeros) for _ in range(count)), packer.flush()])
    if kind in ("lzma", "bz2"):
        count = 280  # more than the least size that is looked at
        stream = lzma.LZMACompressor(preset=0) if kind == "lzma" else bz2.BZ2Compressor(9)
        return b"".join([*(stream.compress(zeros) for _ in range(count)), stream.flush()])
    if kind == "zstd":  # a frame without its size, blocks that repeat one byte
        block = (2**17 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
        return b"\x28\xb5\x2f\xfd" + bytes([0, 0x58]) + block * (8 * count) + (1).to_bytes(3, "little")
    size = (count * 2**20).to_bytes(4, "little")
    return size + bytes(64) if kind == "lz4" else bytes([2, 1, 1, 2]) + size + (2**16).to_bytes(4, "little") + bytes(200)


def test_stores_of_zarr_3_open(tmp_path: Path) -> None:
    import json

    import numcodecs

    data = np.random.default_rng(0).integers(0, 900, (3, 5, 33, 20)).astype("u2")
    group = tmp_path / "a.zarr"
    (group / "cube").mkdir(parents=True)
    (group / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    codecs = [
        {"name": "transpose", "configuration": {"order": [1, 0, 2, 3]}},
        {"name": "bytes", "configuration": {"endian": "big"}},
        {"name": "zstd", "configuration": {"level": 0, "checksum": False}},
    ]
    facts = {
        "zarr_format": 3, "node_type": "array", "shape": data.shape, "data_type": "uint16", "fill_value": 0, "codecs": codecs,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2, 16, 20]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    }  # fmt: skip
    for corner in np.ndindex(3, 3, 3, 1):
        whole = np.zeros((1, 2, 16, 20), "u2")
        part = data[tuple(slice(i * c, (i + 1) * c) for i, c in zip(corner, whole.shape, strict=True))]
        whole[tuple(slice(0, n) for n in part.shape)] = part
        file = group.joinpath("cube", "c", *map(str, corner))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(numcodecs.Zstd().encode(whole.transpose(1, 0, 2, 3).astype(">u2").tobytes()))
    (group / "cube" / "zarr.json").write_text(json.dumps(facts))
    opened = io.open(group)
    np.testing.assert_array_equal(np.asarray(opened.data[...]), data)
    np.testing.assert_array_equal(opened.data[1, ::2, 3:30, ::-1], data[1, ::2, 3:30, ::-1])
    facts["codecs"] = [{"name": "sharding_indexed", "configuration": {}}]
    (group / "cube" / "zarr.json").write_text(json.dumps(facts))
    with pytest.raises(OpenError, match="packed by sharding_indexed"):
        io.open(group)
