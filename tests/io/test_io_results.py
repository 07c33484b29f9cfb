"""Results: round trips, what py4DSTEM reads of them, atomic writing, damaged files."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.results_made import UNITS, disks, small_occupancy, strain
from napari_emdl import io
from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.peaks import PeakTable
from napari_emdl.diffraction.fit.strain import StrainMap
from napari_emdl.io import outputs
from napari_emdl.io.outputs import check_output
from napari_emdl.io.packing import read_dataclass


def same(a: PeakTable, b: PeakTable) -> None:
    assert (a.shape, a.fields) == (b.shape, b.fields)
    np.testing.assert_array_equal(a.offset, b.offset)
    for name in a.fields:
        np.testing.assert_array_equal(a.column(name), b.column(name))
        assert a.column(name).dtype == b.column(name).dtype


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.tuples(st.integers(1, 5), st.integers(1, 5)), seed=st.integers(0, 99), most=st.sampled_from([1, 2, 9]))
def test_disks_round_trip(tmp_path: Path, shape: tuple[int, int], seed: int, most: int) -> None:
    table = disks(shape, seed, most)
    loaded = io.load(io.save(table, tmp_path / "disks.h5"))
    same(loaded, table)
    assert loaded.attrs["calibration"] == UNITS
    assert loaded.attrs["detector_shape"] == (32, 30)
    assert loaded.attrs["provenance"] == table.attrs["provenance"]
    assert loaded.attrs["default_min_score"] == 0.3
    np.testing.assert_array_equal(loaded.attrs["probe"], table.attrs["probe"])


def test_flat_arrays_as_the_contract_says(tmp_path: Path) -> None:
    table = disks()
    io.save(table, tmp_path / "disks.h5")
    with h5py.File(tmp_path / "disks.h5") as file:
        assert file["peaks/offset"].shape == (7,)
        for name in ("row", "col", "intensity", "score", "sigma_px"):
            np.testing.assert_array_equal(file[f"peaks/{name}"][()], table.column(name))
        assert json.loads(file.attrs["provenance"])["params"]["method"] == "template"


@pytest.mark.referee
def test_py4dstem_reads_bragg_vectors_with_calibration(tmp_path: Path) -> None:
    py4dstem = pytest.importorskip("py4DSTEM")
    table = disks((3, 4))
    table.attrs["origin_px"] = np.full((3, 4, 2), [15.5, 14.5])
    io.save(table, tmp_path / "disks.h5")
    vectors = py4dstem.read(str(tmp_path / "disks.h5"))
    assert isinstance(vectors, py4dstem.BraggVectors)
    assert tuple(vectors.Rshape) == (3, 4)
    assert tuple(vectors.Qshape) == (32, 30)
    assert vectors.calibration.get_Q_pixel_size() == 0.02
    assert vectors.calibration.get_Q_pixel_units() == "A^-1"
    assert vectors.calibration.get_R_pixel_size() == 2.0
    assert vectors.calibration.get_QR_rotation() == pytest.approx(0.2)
    assert vectors.calstate["pixel"] and vectors.calstate["center"]
    strong = table.filter(min_score=0.3)
    for place in np.ndindex(3, 4):
        got, expected = vectors.raw[place], strong[place]
        np.testing.assert_allclose(got.qx, expected["row"])
        np.testing.assert_allclose(got.qy, expected["col"])
        np.testing.assert_allclose(got.I, expected["intensity"])
        np.testing.assert_allclose(
            vectors.cal[place].qx,
            0.02 * (np.cos(0.2) * (expected["row"] - 15.5) - np.sin(0.2) * (expected["col"] - 14.5)),
            atol=1e-7,
        )
    np.testing.assert_allclose(vectors.tree("probe").data[0], table.attrs["probe"])


@pytest.mark.referee
def test_py4dstem_file_is_loaded(tmp_path: Path) -> None:
    py4dstem = pytest.importorskip("py4DSTEM")
    io.save(disks((3, 4)), tmp_path / "a.h5")
    vectors = py4dstem.read(str(tmp_path / "a.h5"))
    py4dstem.save(str(tmp_path / "b.h5"), vectors, mode="o")
    loaded = io.load(tmp_path / "b.h5")
    strong = disks((3, 4)).filter(min_score=0.3)
    np.testing.assert_array_equal(loaded.offset, strong.offset)
    np.testing.assert_allclose(loaded.column("row"), strong.column("row"))
    assert loaded.attrs["detector_shape"] == (32, 30)
    assert loaded.attrs["calibration"].q_pixel_invA == pytest.approx((0.02, 0.02))


def test_strain_round_trip(tmp_path: Path) -> None:
    made = strain()
    loaded = io.load(io.save(made, tmp_path / "strain.h5"))
    assert isinstance(loaded, StrainMap)
    for field in dataclasses.fields(StrainMap):
        value = getattr(made, field.name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(loaded, field.name), value)
            assert getattr(loaded, field.name).dtype == value.dtype
    assert loaded.axis_deg == 15.0
    assert loaded.evidence == made.evidence
    assert loaded.calibration is not None and made.calibration is not None
    assert loaded.calibration.ellipse == made.calibration.ellipse
    assert loaded.calibration.calibration == UNITS
    assert loaded.calibration.warnings == ("be careful",)
    assert loaded.attrs["provenance"] == {"a": [1, 2]}
    np.testing.assert_array_equal(loaded.attrs["basis_g"], np.eye(2))


@pytest.mark.referee
def test_py4dstem_reads_strain_maps(tmp_path: Path) -> None:
    py4dstem = pytest.importorskip("py4DSTEM")
    made = strain()
    io.save(made, tmp_path / "strain.h5")
    maps = py4dstem.read(str(tmp_path / "strain.h5"))
    assert isinstance(maps, py4dstem.RealSlice)
    assert list(maps.slicelabels)[:5] == ["e_xx", "e_yy", "e_xy", "theta", "mask"]
    for label, name in (("e_xx", "exx"), ("e_yy", "eyy"), ("e_xy", "exy"), ("theta", "theta_rad")):
        np.testing.assert_array_equal(maps.get_slice(label).data, np.where(made.mask, getattr(made, name), 0))
    np.testing.assert_array_equal(maps.get_slice("mask").data, made.mask)


def test_columns_round_trip(tmp_path: Path) -> None:
    counts = [3, 0, 2]
    columns = {"row": np.arange(5.0), "col": np.arange(5.0), "score": np.ones(5), "species": np.array([0, 1, 0, 2, 2], np.int8)}
    table = PeakTable(
        (3,), np.r_[0, np.cumsum(counts)], columns, {"species": ["Mo", "S2", "S1"], "pixel_A": 0.1, "contrast": "dark"}
    )
    loaded = io.load(io.save(table, tmp_path / "columns.h5"))
    same(loaded, table)
    assert loaded.attrs == table.attrs
    with h5py.File(tmp_path / "columns.h5") as file:
        assert list(file.attrs["species"]) == ["Mo", "S2", "S1"]
        assert file.attrs["emdl_result"] == "columns"


def test_occupancy_round_trip(tmp_path: Path) -> None:
    occupancy = small_occupancy()
    loaded = io.load(io.save(occupancy, tmp_path / "occupancy.h5", provenance={"who": "test"}))
    np.testing.assert_array_equal(loaded.p_occupied, occupancy.p_occupied)
    np.testing.assert_array_equal(loaded.occupied, occupancy.occupied)
    assert loaded.attrs["provenance"] == {"who": "test"}
    with h5py.File(tmp_path / "occupancy.h5") as file:
        for name in ("sites/position_px", "frames/shift_px", "occupancy/p_occupied", "occupancy/occupied", "occupancy/valid"):
            assert name in file
        assert file["occupancy/occupied"].dtype == bool
        assert "rates" in file


def test_info_of_results(tmp_path: Path) -> None:
    io.save(disks(), tmp_path / "d.h5")
    io.save(strain(), tmp_path / "s.h5")
    for name, kind in (("d", "disks"), ("s", "strain")):
        facts = io.info(tmp_path / f"{name}.h5")
        assert facts["kind"] == kind
        assert facts["provenance"]
        assert json.loads(json.dumps(facts)) == facts
    assert io.is_result(tmp_path / "d.h5")
    assert not io.is_result(tmp_path / "missing.h5")


def test_things_that_are_no_result(tmp_path: Path) -> None:
    with pytest.raises(EmdlError, match="cannot save dict; expected disks, strain, columns or occupancy"):
        io.save({"a": 1}, tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


# Writing goes wrong


@contextmanager
def no_room(n_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond `n_bytes`: the next write fails as on a full disk, in the operating system."""
    resource = pytest.importorskip("resource", reason="needs the file size limit of POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("n_bytes", [0, 600, 4096, 9000])
def test_no_room_gives_one_line_and_the_old_file_stays(tmp_path: Path, n_bytes: int) -> None:
    path = io.save(disks((9, 9)), tmp_path / "disks.h5")
    before = path.read_bytes()
    with no_room(n_bytes), pytest.raises(EmdlError, match=r"cannot write .*; the file that was there is unchanged") as caught:
        io.save(disks((9, 9), seed=5), path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["disks.h5"]


def test_files_of_others_are_not_overwritten(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("important")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["counts"] = np.ones((3, 3))
    for name in ("notes.txt", "raw.h5"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(EmdlError, match="exists and is not a result of napari-emdl"):
            io.save(disks(), tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing" / "x")
    for name, reason in (("pipe", "a device or a pipe"), ("nowhere", "a link that leads nowhere"), ("n" * 300, "cannot write")):
        with pytest.raises(EmdlError, match=reason):
            check_output(tmp_path / name)
    assert check_output(io.save(disks(), tmp_path / "ours.h5")) == tmp_path / "ours.h5"
    (tmp_path / "empty.h5").touch()
    io.save(disks(), tmp_path / "empty.h5")


def test_left_over_temporary_files_go_after_a_day(tmp_path: Path) -> None:
    for name, age_s in ((".emdl-a.tmp", 90_000), (".emdl-b.tmp", 60), ("mine.tmp", 90_000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    io.save(disks(), tmp_path / "disks.h5")
    assert sorted(os.listdir(tmp_path)) == [".emdl-b.tmp", "disks.h5", "mine.tmp"]


def test_array_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = io.save(disks(), tmp_path / "disks.h5")
    with h5py.File(path, "a") as file:
        del file["peaks/row"]
        file["peaks"].create_dataset("row", (1 << 33,), "f4", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(OpenError, match="names 34,360 MB but the file does not hold them"):
        io.load(path)


def test_any_failure_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs.h5py.File, "flush", killed)
    with pytest.raises(KeyboardInterrupt):
        io.save(disks(), tmp_path / "disks.h5")
    assert os.listdir(tmp_path) == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EmdlError, match="cannot write"):
        io.save(disks(), tmp_path / "file" / "disks.h5")


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refused)
    with pytest.raises(EmdlError, match=r"cannot write .*disks.h5: Permission denied"):
        io.save(disks(), tmp_path / "disks.h5")
    with pytest.raises(EmdlError, match="is a folder"):
        io.save(disks(), tmp_path)


def test_damaged_results_are_one_line(tmp_path: Path) -> None:
    path = io.save(disks(), tmp_path / "disks.h5")
    whole = path.read_bytes()
    (tmp_path / "short.h5").write_bytes(whole[: len(whole) // 2])
    with h5py.File(tmp_path / "gap.h5", "w") as file:
        file.attrs["emdl_result"] = "strain"
        file.attrs["emdl_format"] = 1
    with h5py.File(tmp_path / "newer.h5", "w") as file:
        file.attrs["emdl_result"] = "disks"
        file.attrs["emdl_format"] = 99
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = np.zeros((3, 3))
    with h5py.File(tmp_path / "bad_offset.h5", "w") as file:
        group = file.create_group("peaks")
        group["offset"] = np.array([0, 3, 1])
        group["row"] = np.zeros(1)
    for name, message in (
        ("short", "truncated"),
        ("gap", "truncated or damaged"),
        ("newer", "newer napari-emdl"),
        ("other", "no result"),
        ("bad_offset", "offsets must start at 0"),
        ("missing", "does not exist"),
    ):
        with pytest.raises(EmdlError, match=message) as caught:
            io.load(tmp_path / f"{name}.h5")
        assert "\n" not in str(caught.value)
    with pytest.raises(OpenError, match="not a result file"):
        io.load(tmp_path)


def test_result_opened_as_data_says_so(tmp_path: Path) -> None:
    io.save(disks(), tmp_path / "d.h5")
    with pytest.raises(OpenError, match=r"holds a result \(disks\); load it"):
        io.open(tmp_path / "d.h5")


@pytest.mark.parametrize("counts", [[1] * 6, [3] * 6, [0] * 6, [0, 2, 1, 3, 0, 4]])
def test_equal_numbers_of_disks_at_every_position(tmp_path: Path, counts: list[int]) -> None:
    n = sum(counts)
    columns = {name: np.arange(n, dtype=np.float32) + i for i, name in enumerate(("row", "col", "score", "intensity"))}
    table = PeakTable((2, 3), np.r_[0, np.cumsum(counts)], columns, {"detector_shape": (64, 64), "default_min_score": 0.0})
    io.save(table, tmp_path / "disks.h5")
    with h5py.File(tmp_path / "disks.h5") as file:
        found: list[h5py.Dataset] = []
        file.visititems(lambda name, item: found.append(item) if name.endswith("_v_uncal/data") else None)
        lists = found[0][()].ravel()
        assert [len(points) for points in lists] == counts
        np.testing.assert_array_equal(np.concatenate([points["qy"] for points in lists]), columns["col"])
    assert io.load(tmp_path / "disks.h5").n_peaks == n


def test_a_type_of_any_length_is_one_line(tmp_path: Path) -> None:
    path = io.save(disks(), tmp_path / "disks.h5")
    with h5py.File(path, "a") as file:
        file.attrs["emdl_result"] = "x" * 5000
    with pytest.raises(OpenError, match="unknown type") as caught:
        io.load(path)
    assert len(str(caught.value)) < 200
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        group = file.create_group("calibration")
        group.attrs["class"], group.attrs["values"] = "x" * 5000, "{}"
        with pytest.raises(OpenError, match="not known here") as caught:
            read_dataclass(group, {})
    assert len(str(caught.value)) < 200
