"""Whole files to damage: one of each format, and of each file of ours."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import h5py
import numpy as np
import tifffile

from helpers import io_writers as writers
from helpers import results_made as results

FRAMES = np.random.default_rng(0).integers(0, 900, (12, 16, 24)).astype(np.uint16)
CUBE = FRAMES.reshape(3, 4, 16, 24)

JOB = """command: disks
input: cube.npy
output: out.h5
disks: {method: template, probe: {radius_px: 4}}
run: {max_memory: 500MB}
"""


def make_seeds(folder: Path) -> list[Path]:
    """Write all seeds into `folder`; returns the files to damage (companions stay whole beside them)."""
    folder.mkdir(parents=True, exist_ok=True)
    _arrays(folder)
    _tiffs(folder)
    _vendors(folder)
    _hdf5(folder)
    _ours(folder)
    _pictures(folder)
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("companion"))


def _arrays(folder: Path) -> None:
    np.save(folder / "cube.npy", CUBE)
    np.savez(folder / "stored.npz", a=FRAMES)
    np.savez_compressed(folder / "packed.npz", a=FRAMES)
    import zarr

    with zarr.ZipStore(str(folder / "store.zip"), mode="w") as store:
        zarr.open_group(store, mode="w")["data"] = FRAMES


def _tiffs(folder: Path) -> None:
    tifffile.imwrite(folder / "plain.tif", FRAMES)
    tifffile.imwrite(folder / "packed.tif", FRAMES, compression="zlib")
    tifffile.imwrite(folder / "imagej.tif", FRAMES, imagej=True, resolution=(10, 10), metadata={"unit": "nm", "axes": "TYX"})
    tifffile.imwrite(folder / "a.ome.tif", FRAMES, metadata={"axes": "TYX", "PhysicalSizeX": 0.1, "PhysicalSizeXUnit": "nm"})
    tifffile.imwrite(
        folder / "colour.tif", FRAMES[:3].astype("u1"), photometric="rgb", planarconfig="separate", compression="zlib"
    )
    tifffile.imwrite(folder / "big.tif", FRAMES, bigtiff=True)


def _vendors(folder: Path) -> None:
    writers.write_mib(folder / "scan.mib", FRAMES)
    writers.write_hdr(folder / "scan.hdr", 12, 4)
    writers.write_raw_mib(folder / "raw.mib", np.resize(FRAMES, (4, 64, 64)) % 4096, 12)
    writers.write_empad(folder, np.zeros((1, 2, 128, 128), "f4"), "empad")
    writers.write_mrc(folder / "20240919_00001_movie.mrc", FRAMES)
    writers.write_de_info(folder / "20240919_00001_info.txt", (3, 4), 0.1, 0.2)
    writers.write_mrc(folder / "plain.mrc", FRAMES, 0.5)
    writers.write_seq(folder / "a.seq", FRAMES)
    writers.write_ser(folder / "a_1.ser", FRAMES)
    writers.write_dm4(folder / "stack.dm4", FRAMES)
    writers.write_dm4_scan(folder / "scan.dm4", CUBE, ("nm", "nm", "1/nm", "1/nm"), {"Format": "Diffraction image"})
    (folder / "blockfile.blo").write_bytes(_blockfile(CUBE.astype("u1")))


def _blockfile(cube: np.ndarray) -> bytes:
    """ASTAR blockfile: header, virtual bright field, frames of 6 bytes and the pattern each."""
    rows, cols, size = cube.shape[0], cube.shape[1], cube.shape[2]
    head = np.zeros(0x1000, "u1")
    head[:6] = np.frombuffer(b"IMGBLO", "u1")
    fields = np.zeros(
        1,
        [
            ("magic", "<u2"),
            ("o1", "<u4"),
            ("o2", "<u4"),
            ("u1", "<u4"),
            ("dp", "<u2"),
            ("rot", "<u2"),
            ("nx", "<u2"),
            ("ny", "<u2"),
        ],
    )
    fields["magic"], fields["o1"], fields["dp"], fields["nx"], fields["ny"] = 258, 0x1000, size, cols, rows
    fields["o2"] = 0x1000 + rows * cols
    raw = fields.tobytes()
    head[6 : 6 + len(raw)] = np.frombuffer(raw, "u1")
    body = b"".join(
        b"\x55\xaa" + int(i).to_bytes(4, "little") + pattern[:, :size].tobytes()
        for i, pattern in enumerate(cube.reshape(-1, *cube.shape[2:]))
    )
    return head.tobytes() + bytes(rows * cols) + body


def _hdf5(folder: Path) -> None:
    writers.write_py4dstem_012(folder / "v012.h5", CUBE)
    writers.write_py4dstem_013(folder / "v013.h5", CUBE)
    writers.write_prismatic(folder / "prismatic.h5", CUBE)
    writers.write_nexus(folder / "a.nxs", CUBE)
    writers.write_app5(folder / "a.app5", CUBE[:2, :2])
    writers.write_dectris(folder, FRAMES, 1)
    writers.write_netcdf(folder / "scales.nc", FRAMES, [("t", "s", 0.1), ("y", "nm", 1.0), ("x", "nm", 1.0)])
    writers.write_dm5(folder / "a.dm5", FRAMES, [("nm", 1.0), ("nm", 1.0), ("s", 0.1)])
    writers.write_counted(folder / "counted.h5", CUBE % 5, 3)
    writers.write_counted(folder / "counted1.h5", CUBE % 5, 1)
    with h5py.File(folder / "chunked.h5", "w") as file:
        file.create_dataset("data", data=CUBE, chunks=(1, 1, 16, 24), compression="gzip", shuffle=True)
    with h5py.File(folder / "matlab.mat", "w", userblock_size=512) as file:
        file["cube"] = CUBE


def _ours(folder: Path) -> None:
    from napari_emdl import io

    for name in ("disks", "strain", "small_occupancy"):
        io.save(getattr(results, name)(), folder / f"ours_{name}.h5")
    (folder / "job.yaml").write_text(JOB)
    with zipfile.ZipFile(folder / "work.emdl-project", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("project.yaml", "version: 1\ndatacube: cube.npy\nscan_shape: [3, 4]\ndetector_shape: [16, 24]\n")
        archive.write(folder / "ours_disks.h5", "disks.h5")


def _pictures(folder: Path) -> None:
    import imageio.v3 as imageio

    for ending in ("png", "jpg", "bmp", "gif"):
        imageio.imwrite(folder / f"picture.{ending}", FRAMES[0].astype("u1"))
    imageio.imwrite(folder / "film.mp4", np.resize(FRAMES, (4, 48, 64)).astype("u1"), fps=5)
