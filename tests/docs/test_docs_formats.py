"""Every format that docs/files.md names opens: each row of its table stands here with the files that prove it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

import napari_emdl as emdl
from helpers import io_writers as writers
from helpers import results_made as results
from helpers.docs_text import ROOT, table_rows

FRAMES = np.random.default_rng(0).integers(0, 900, (12, 16, 24)).astype(np.uint16)
CUBE = FRAMES.reshape(3, 4, 16, 24)
SQUARE = np.ascontiguousarray(CUBE[..., :16].astype("u1"))

#: A file (or folder) made in a folder, with the options it is opened with and the shape it must have.
Made = tuple[Any, dict[str, Any], tuple[int, ...]]
Maker = Callable[[Path], Made]


def of(write: Callable[..., Any], name: str, *values: Any, shape: tuple[int, ...] = CUBE.shape, **options: Any) -> Maker:
    """Maker of one file that a writer `write(path, *values)` makes."""

    def make(folder: Path) -> Made:
        write(folder / name, *values)
        return folder / name, options, shape

    return make


def hdf5(path: Path, **packing: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("deep/data", data=CUBE, chunks=(1, 1, 16, 24), **packing)


def packed(name: str) -> Maker:
    def make(folder: Path) -> Made:
        import hdf5plugin

        how = {"bitshuffle": hdf5plugin.Bitshuffle, "LZ4": hdf5plugin.LZ4, "zstd": hdf5plugin.Zstd, "Blosc": hdf5plugin.Blosc}
        hdf5(folder / "packed.h5", **how[name]())
        return f"{folder}/packed.h5::deep/data", {"kind": "datacube"}, CUBE.shape

    return make


def zarr_array(folder: Path) -> Made:
    import zarr

    zarr.save_array(str(folder / "cube.zarr"), CUBE)
    return folder / "cube.zarr", {"kind": "datacube"}, CUBE.shape


def matlab(folder: Path) -> Made:
    with h5py.File(folder / "cube.mat", "w", userblock_size=512) as file:
        file["cube"] = CUBE.transpose()
        file["cube"].attrs["MATLAB_class"] = np.bytes_(b"uint16")
    return folder / "cube.mat", {"kind": "datacube"}, CUBE.shape


def dectris(folder: Path) -> Made:
    return writers.write_dectris(folder, FRAMES, 2), {"kind": "stack", "shape": (3, 4)}, CUBE.shape


def merlin(folder: Path) -> Made:
    writers.write_mib(folder / "scan.mib", FRAMES)
    writers.write_hdr(folder / "scan.hdr", 12, 4)
    return folder / "scan.mib", {}, CUBE.shape


def raw_merlin(bits: int) -> Maker:
    def make(folder: Path) -> Made:
        frames = np.resize(FRAMES, (2, 64, 64)).astype(np.uint32) % 2**bits
        writers.write_raw_mib(folder / "raw.mib", frames, bits)
        return folder / "raw.mib", {}, (1, 2, 64, 64)

    return make


def empad(suffix: str) -> Maker:
    def make(folder: Path) -> Made:
        writers.write_empad(folder, np.ones((1, 2, 128, 128), "f4"), "scan")
        if suffix == ".raw":
            (folder / "scan.xml").unlink()
            return next(folder.glob("*.raw")), {}, (1, 2, 128, 128)
        return folder / "scan.xml", {}, (1, 2, 128, 128)

    return make


def direct_electron(folder: Path) -> Made:
    writers.write_mrc(folder / "20240919_00001_movie.mrc", FRAMES)
    writers.write_de_info(folder / "20240919_00001_info.txt", (3, 4), 0.1, 0.2)
    return folder / "20240919_00001_movie.mrc", {}, CUBE.shape


def vendor(plugin: str, name: str, data: np.ndarray = SQUARE) -> Maker:
    """File that RosettaSciIO itself writes."""

    def make(folder: Path) -> Made:
        import rsciio

        units = ["nm", "nm", "1/nm", "1/nm"] if data.ndim == 4 else ["nm", "nm"]
        axes = [
            {"name": n, "size": s, "scale": 0.5, "offset": 0.0, "units": u, "navigate": i < data.ndim - 2, "index_in_array": i}
            for i, (n, s, u) in enumerate(zip("yxba"[: data.ndim], data.shape, units, strict=True))
        ]
        metadata = {"General": {"title": "scan"}, "Signal": {"signal_type": ""}}
        signal = {"data": data, "axes": axes, "metadata": metadata, "original_metadata": {}, "learning_results": {}}
        signal |= {
            "attributes": {"_lazy": False},
            "package_info": {"package": "", "package_version": ""},
            "tmp_parameters": {},
            "models": {},
        }
        __import__(f"rsciio.{plugin}")
        getattr(rsciio, plugin).file_writer(str(folder / name), signal)
        return folder / name, {"kind": "datacube", "shape": data.shape[:2]} if plugin == "tvips" else {}, data.shape

    return make


def shared(name: str, shape: tuple[int, ...]) -> Maker:
    """File that nobody can write but its maker's program; it lies beside the repository on the developers' machines."""

    def make(folder: Path) -> Made:
        path = ROOT.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"no writer exists for this format, and {name} is not on this machine")
        return path, {}, shape

    return make


def film(ending: str) -> Maker:
    def make(folder: Path) -> Made:
        import imageio.v3 as imageio

        imageio.imwrite(folder / f"film.{ending}", np.resize(FRAMES, (4, 48, 64)).astype("u1"), fps=5)
        return folder / f"film.{ending}", {}, (4, 48, 64)

    return make


def picture(ending: str) -> Maker:
    def make(folder: Path) -> Made:
        import imageio.v3 as imageio

        imageio.imwrite(folder / f"picture.{ending}", FRAMES[0].astype("u1"))
        return folder / f"picture.{ending}", {}, FRAMES[0].shape

    return make


def pictures(how: str) -> Maker:
    def make(folder: Path) -> Made:
        import imageio.v3 as imageio

        paths = [folder / f"frame_{i}.png" for i in (2, 9, 10)]
        for path, frame in zip(paths, FRAMES, strict=False):
            imageio.imwrite(path, frame)
        return {"folder": folder, "pattern": f"{folder}/frame_*.png", "list": paths}[how], {"kind": "movie"}, (3, 16, 24)

    return make


def tree(folder: Path) -> Made:
    writers.write_insitu(folder, FRAMES, 4)
    return folder, {}, FRAMES.shape


def stacks(folder: Path) -> Made:
    for i, part in enumerate(np.split(FRAMES, 3)):
        np.save(folder / f"part_{i}.npy", part)
    return folder, {}, FRAMES.shape


def lone_recording(folder: Path) -> Made:
    picture("png")(folder)
    return merlin(folder)[0].parent, {}, CUBE.shape


def npz(folder: Path) -> Made:
    np.savez(folder / "cube.npz", a=CUBE)
    return folder / "cube.npz", {"kind": "datacube"}, CUBE.shape


def raw(folder: Path) -> Made:
    CUBE.tofile(folder / "cube.raw")
    return folder / "cube.raw", {"kind": "datacube", "shape": CUBE.shape, "dtype": "uint16"}, CUBE.shape


def bragg_disks(folder: Path) -> Made:
    emdl.save(results.disks((4, 3)), folder / "disks.h5")
    return folder / "disks.h5", {"kind": "disks"}, (4, 3)


TIFF = {"shape": FRAMES.shape, "kind": "movie"}

#: First words of a row -> files that prove it.
ROWS: dict[str, list[Maker]] = {
    "py4DSTEM": [
        of(writers.write_py4dstem_012, "a.h5", CUBE),
        of(writers.write_py4dstem_013, "a.h5", CUBE),
        shared("formats/py4dstem_2x3x4x5.h5", (2, 3, 4, 5)),
        bragg_disks,
    ],
    "Prismatic": [of(writers.write_prismatic, "a.h5", CUBE), shared("formats/ncem_emd_type1.h5", ())],
    "DECTRIS": [dectris],
    "NeXus": [of(writers.write_nexus, "a.nxs", CUBE)],
    "netCDF-4": [
        of(writers.write_netcdf, "a.nc", FRAMES, [("t", "s", 0.1), ("y", "nm", 1.0), ("x", "nm", 1.0)], shape=FRAMES.shape)
    ],
    "DM5": [of(writers.write_dm5, "a.dm5", FRAMES, [("nm", 1.0), ("nm", 1.0), ("s", 0.1)], shape=FRAMES.shape)],
    "counted electrons": [of(writers.write_counted, "a.h5", CUBE % 5, 3)],
    "Nion Swift": [of(writers.write_nion, "a.npy", FRAMES, shape=FRAMES.shape)],
    "Topspin": [of(writers.write_app5, "a.app5", CUBE)],
    "MATLAB": [matlab],
    "any HDF5 dataset": [packed(name) for name in ("bitshuffle", "LZ4", "zstd", "Blosc")],
    "abTEM zarr": [zarr_array],
    "TIFF": [
        of(tifffile.imwrite, "a.tif", FRAMES, **TIFF),
        of(lambda p, a: tifffile.imwrite(p, a, imagej=True), "a.tif", FRAMES, **TIFF),
        of(lambda p, a: tifffile.imwrite(p, a, metadata={"axes": "TYX"}), "a.ome.tif", FRAMES, **TIFF),
        of(lambda p, a: tifffile.imwrite(p, a, bigtiff=True), "a.tif", FRAMES, **TIFF),
        shared("formats/dm_stack.tif", ()),
    ],
    "TIA": [
        of(writers.write_ser, "a_1.ser", FRAMES, shape=FRAMES.shape),
        shared("formats/64x64x5_TEM_preview.emi", (5, 64, 64)),
    ],
    "`.npy`": [of(np.save, "a.npy", CUBE, kind="datacube"), npz, raw],
    "DM3": [of(writers.write_dm4, "a.dm4", FRAMES, shape=FRAMES.shape), shared("formats/stack_int.dm3", ())],
    "Merlin": [merlin, *(raw_merlin(bits) for bits in (1, 6, 12, 24))],
    "EMPAD": [empad(".xml"), empad(".raw")],
    "MRC": [of(writers.write_mrc, "a.mrc", FRAMES, 0.5, shape=FRAMES.shape), direct_electron],
    "Norpix": [of(writers.write_seq, "a.seq", FRAMES, shape=FRAMES.shape)],
    "TVIPS": [vendor("tvips", "a_000.tvips", SQUARE.astype("u2"))],
    "HyperSpy": [vendor("hspy", "a.hspy"), vendor("zspy", "a.zspy")],
    "blockfile": [vendor("blockfile", "a.blo"), shared("formats/velox_tem_stack.emd", ())],
    "Panta Rhei": [vendor("pantarhei", "a.prz", FRAMES[0])],
    "MP4": [film(ending) for ending in ("mp4", "avi", "mov", "mkv")],
    "PNG": [picture(ending) for ending in ("png", "jpg", "bmp", "gif", "webp", "jp2")],
    "folder of images": [pictures(how) for how in ("folder", "pattern", "list")],
    "folder of stacks": [stacks],
    "folder with one recording": [lone_recording],
    "Gatan in-situ tree": [tree],
}
CASES = [pytest.param(maker, id=f"{row.strip('`')}-{i}") for row, makers in ROWS.items() for i, maker in enumerate(makers)]


def test_every_row_of_the_table_is_proved_here() -> None:
    rows = table_rows((ROOT / "docs" / "files.md").read_text(encoding="utf-8"), "## What can be opened")
    proved = {row[0]: [start for start in ROWS if row[0].startswith(start)] for row in rows}
    assert [row for row, starts in proved.items() if not starts] == [], "a format that no test opens"
    assert {start for starts in proved.values() for start in starts} == set(ROWS), "a test of a format the docs do not name"


@pytest.mark.parametrize("maker", CASES)
def test_a_named_format_opens(maker: Maker, tmp_path: Path) -> None:
    path, options, shape = maker(tmp_path)
    opened = emdl.open(path, **options)
    if shape:
        assert opened.shape == shape
    if isinstance(opened, emdl.PeakTable):
        return
    first = opened.data[(0,) * (len(opened.shape) - 2)] if len(opened.shape) > 2 else opened.data[:, :]
    assert first.shape == opened.shape[-2:] and np.isfinite(first).all()
