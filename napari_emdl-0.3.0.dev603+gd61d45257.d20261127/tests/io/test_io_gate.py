"""The gate of HDF5: filters, user blocks, links, virtual datasets, external storage, bombs, masters, named objects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers import io_writers as writers
from napari_emdl import io
from napari_emdl.base.errors import EmdlError, OpenError

CUBE = writers.cube()
STACK = np.random.default_rng(0).integers(1, 900, (12, 20, 24)).astype("u2")
STACK[:, 2, 3] = 0


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "packing", ["Bitshuffle(cname='lz4')", "Bitshuffle(cname='zstd')", "LZ4()", "Zstd()", "Blosc()", "Blosc2()"]
)
def test_plugin_filters_are_read(tmp_path: Path, packing: str) -> None:
    path = tmp_path / "packed.h5"
    source = tmp_path / "x.npy"
    np.save(source, CUBE)
    code = (
        f"import h5py, hdf5plugin, numpy as np\nwith h5py.File({str(path)!r}, 'w') as f:\n"
        f"    f.create_dataset('a/data', data=np.load({str(source)!r}), chunks=(1, 1, 6, 5), **hdf5plugin.{packing})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    read = f"import numpy as np; from napari_emdl import io; print(np.asarray(io.open({str(path)!r}).data[...]).sum())"
    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert int(done.stdout) == CUBE.sum()


@pytest.mark.parametrize("block", [512, 4096])
def test_files_behind_a_user_block(tmp_path: Path, block: int) -> None:
    path = tmp_path / "cube.mat"
    with h5py.File(path, "w", userblock_size=block) as file:
        file["cube"] = CUBE
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(block - 1, b" "))
    np.testing.assert_array_equal(np.asarray(io.open(path).data[...]), CUBE)


def test_matlab_counts_the_first_index_fastest(tmp_path: Path) -> None:
    path = tmp_path / "cube.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["cube"] = CUBE.T
        file["cube"].attrs["MATLAB_class"] = np.bytes_(b"uint16")
    opened = io.open(path)
    np.testing.assert_array_equal(np.asarray(opened.data[...]), CUBE)
    assert "MATLAB" in opened.notes[0]


def test_old_matlab_files_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: PCWIN64".ljust(1024, b" "))
    with pytest.raises(OpenError, match=r"-v7\.3"):
        io.open(tmp_path / "old.mat")


@pytest.mark.parametrize("where", ["", "data"])
@pytest.mark.parametrize("files", [1, 3])
def test_dectris_master(tmp_path: Path, where: str, files: int) -> None:
    master = writers.write_dectris(tmp_path, STACK, files, where)
    cube = io.open(master)
    assert cube.shape == (1, 12, 20, 24) and "scan shape is not known" in cube.notes[0] and "3 x 4" in cube.notes[0]
    scan = io.open_datacube(master, shape=(3, 4))
    np.testing.assert_array_equal(np.asarray(scan.data[...]).reshape(STACK.shape), STACK)
    np.testing.assert_array_equal(scan.data[2, 1:4, 3:9:2, 4], STACK.reshape(3, 4, 20, 24)[2, 1:4, 3:9:2, 4])
    assert scan.metadata["count_time_s"] == 0.01
    assert scan.mask is not None and np.argwhere(scan.mask).tolist() == [[2, 3]]
    named = io.open(f"{master}::entry/data/data_000001")
    np.testing.assert_array_equal(np.asarray(named.data[...]), np.array_split(STACK, files)[0])


def test_dectris_triggers_are_scan_rows(tmp_path: Path) -> None:
    cube = io.open(writers.write_dectris(tmp_path, STACK, nimages=4, ntrigger=3))
    assert cube.shape[:2] == (3, 4) and "triggers" in cube.notes[0]


def test_a_master_without_its_data_never_shows_the_flat_field(tmp_path: Path) -> None:
    master = writers.write_dectris(tmp_path, STACK, 2)
    (tmp_path / "scan_data_000002.h5").unlink()
    with pytest.raises(OpenError, match=r"scan_data_000002\.h5, which is not there"):
        io.open(master)
    with h5py.File(master, "a") as file:
        del file["entry/data"]
    with pytest.raises(OpenError, match="no frames, only what corrects them"):
        io.open(master)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("kind", ["link", "virtual"])
def test_files_elsewhere_are_refused_in_one_line(tmp_path: Path, kind: str, absolute: bool) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "here").mkdir()
    with h5py.File(tmp_path / "other/secret.h5", "w") as file:
        file["data"] = CUBE
    name = str(tmp_path / "other/secret.h5") if absolute else "../other/secret.h5"
    path = tmp_path / "here/a.h5"
    with h5py.File(path, "w") as file:
        if kind == "link":
            file["data"] = h5py.ExternalLink(name, "/data")
        else:
            layout = h5py.VirtualLayout(CUBE.shape, CUBE.dtype)
            layout[...] = h5py.VirtualSource(name, "data", CUBE.shape)
            file.create_virtual_dataset("data", layout)
    for target in (path, f"{path}::data"):
        with pytest.raises(OpenError, match="secret") as caught:
            io.open(target)
        assert "folder" in one_line(caught)


@pytest.mark.parametrize("below", ["", "parts"])
def test_virtual_datasets_of_files_beside_are_read(tmp_path: Path, below: str) -> None:
    (tmp_path / below).mkdir(exist_ok=True)
    layout = h5py.VirtualLayout(STACK.shape, STACK.dtype)
    for i, part in enumerate(np.array_split(STACK, 3)):
        name = str(Path(below) / f"part{i}.h5")
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = part
        layout[4 * i : 4 * i + 4] = h5py.VirtualSource(name, "x", part.shape)
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    np.testing.assert_array_equal(np.asarray(io.open(tmp_path / "whole.h5").data[...]), STACK)
    (tmp_path / below / "part1.h5").unlink()
    with pytest.raises(OpenError, match="not there"):
        io.open(tmp_path / "whole.h5")


@pytest.mark.parametrize("absolute", [True, False])
def test_external_raw_storage_is_never_read(tmp_path: Path, absolute: bool) -> None:
    (tmp_path / "other.bin").write_bytes(b"TOPSECRET" * 1000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        where = str(tmp_path / "other.bin") if absolute else "other.bin"
        file.create_dataset("data", (4, 4, 16, 16), "u1", external=[(where, 0, 4096)])
        file.create_dataset("dim1", (4,), "f8", external=[(where, 0, 4096)])
    with pytest.raises(OpenError, match=r"other\.bin.*external raw storage") as caught:
        io.open(tmp_path / "a.h5")
    one_line(caught)


def test_external_storage_behind_a_virtual_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(b"TOPSECRET" * 1000)
    with h5py.File(tmp_path / "inner.h5", "w") as file:
        file.create_dataset("x", (4, 16, 16), "u1", external=[("other.bin", 0, 4096)])
    layout = h5py.VirtualLayout((4, 16, 16), "u1")
    layout[...] = h5py.VirtualSource("inner.h5", "x", (4, 16, 16))
    with h5py.File(tmp_path / "outer.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    with pytest.raises(OpenError, match="external raw storage"):
        io.open(tmp_path / "outer.h5")


def test_results_name_no_other_files(tmp_path: Path) -> None:
    from helpers.results_made import disks

    io.save(disks(), tmp_path / "disks.h5")
    with h5py.File(tmp_path / "disks.h5", "a") as file:
        file.move("peaks", "moved")
        file["peaks"] = h5py.ExternalLink(str(tmp_path / "x.h5"), "/peaks")
    with pytest.raises(EmdlError, match="links to another file"):
        io.load(tmp_path / "disks.h5")


def test_pieces_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("data", (2, 40000, 40000), "u1", chunks=(2, 40000, 40000), compression="gzip")
    assert os.path.getsize(tmp_path / "bomb.h5") < 10_000
    with pytest.raises(OpenError, match="packed in pieces of 3052 MB"):
        io.open(tmp_path / "bomb.h5")


def test_filters_twice_over_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 16, 16))
        plist.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
        plist.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple((4, 16, 16)), plist)
    with pytest.raises(OpenError, match="2 times over"):
        io.open(tmp_path / "bomb.h5")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = h5py.SoftLink("/b")
        file["b"] = h5py.SoftLink("/a")
        group = file.create_group("g")
        group["self"] = group
        group["data"] = CUBE
    np.testing.assert_array_equal(np.asarray(io.open(tmp_path / "a.h5").data[...]), CUBE)
    with pytest.raises(OpenError, match="circle"):
        io.open(f"{tmp_path / 'a.h5'}::a")


def test_nexus_default_signal(tmp_path: Path) -> None:
    writers.write_nexus(tmp_path / "a.nxs", CUBE)
    cube = io.open(tmp_path / "a.nxs")
    np.testing.assert_array_equal(np.asarray(cube.data[...]), CUBE)
    assert cube.calibration.pixel_nm == pytest.approx((1.5, 1.5))
    assert cube.calibration.q_pixel_invA == pytest.approx((0.02, 0.02))
    assert io.open(f"{tmp_path / 'a.nxs'}::entry/raw/counts").data[0, 0].max() == 0


def test_topspin(tmp_path: Path) -> None:
    writers.write_app5(tmp_path / "a.app5", CUBE)
    cube = io.open(tmp_path / "a.app5", energy_keV=200.0)
    np.testing.assert_array_equal(np.asarray(cube.data[...]), CUBE)
    assert cube.calibration.pixel_nm == pytest.approx((2.0, 2.0))
    assert cube.calibration.q_pixel_invA == pytest.approx((0.2e-3 / 0.0250793, 0.2e-3 / 0.0250793), rel=1e-3)


def test_an_object_named_is_the_object_read_or_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    writers.write_mib(tmp_path / "a.mib", STACK)
    writers.write_seq(tmp_path / "a.seq", STACK)
    for name in ("a.npy", "a.mib", "a.seq"):
        with pytest.raises(OpenError, match="one array only; there is no 'other'"):
            io.open(f"{tmp_path / name}::other")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["first"], file["group/second"] = CUBE, CUBE + 1
        file["text"] = "abc"
    assert io.open(f"{tmp_path / 'a.h5'}::group/second").data[0, 0, 0, 0] == 1
    assert io.open(f"{tmp_path / 'a.h5'}::group").data[0, 0, 0, 0] == 1
    for wrong in ("third", "text", "group/first"):
        with pytest.raises(OpenError):
            io.open(f"{tmp_path / 'a.h5'}::{wrong}")
