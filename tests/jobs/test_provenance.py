"""Provenance is JSON, tells inputs apart, and its fingerprint does not depend on when or where the job ran."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from napari_emdl.base.params import DiskParams
from napari_emdl.base.signals import Datacube, in_memory
from napari_emdl.jobs.provenance import fingerprint, input_changed, provenance


def cube(value: float = 1.0, path: str = "") -> Datacube:
    made = in_memory(np.full((2, 3, 4, 4), value), "datacube", path=path)
    assert isinstance(made, Datacube)
    return made


def test_is_json_and_names_what_matters() -> None:
    facts = provenance(
        DiskParams().model_dump(), cube(), {"name": "fcunet", "sha256": "ab"}, "CPUExecutionProvider", probe=np.ones((2, 2))
    )
    assert json.loads(json.dumps(facts)) == facts
    assert facts["model"]["sha256"] == "ab"
    assert facts["provider"] == "CPUExecutionProvider"
    assert facts["input"]["shape"] == [2, 3, 4, 4]
    assert {"python", "numpy", "h5py"} <= set(facts["versions"])
    assert facts["params"]["method"] == "fcunet"


def test_fingerprint_ignores_date_device_and_run() -> None:
    one = provenance({"a": 1}, cube(), None, "CPUExecutionProvider", run={"workers": 1})
    two = provenance({"a": 1}, cube(), None, "CUDAExecutionProvider", run={"workers": 8})
    two["date"] = "some other day"
    assert fingerprint(one) == fingerprint(two)


def test_fingerprint_sees_parameters_model_and_input() -> None:
    same = fingerprint(provenance({"a": 1}, cube()))
    others = [
        provenance({"a": 2}, cube()),
        provenance({"a": 1}, cube(2.0)),
        provenance({"a": 1}, cube(), {"sha256": "ab"}),
    ]
    assert len({same, *map(fingerprint, others)}) == 4


def test_file_and_folder_inputs(tmp_path: Path) -> None:
    file = tmp_path / "cube.raw"
    file.write_bytes(b"\0" * 3_000_000)
    first = provenance({}, cube(path=str(file)))
    assert first["input"]["size_bytes"] == 3_000_000
    file.write_bytes(b"\0" * 2_999_999 + b"\1")
    assert provenance({}, cube(path=str(file)))["input"]["sha256_sampled"] != first["input"]["sha256_sampled"]
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "a.tif").write_bytes(b"a")
    one = provenance({}, cube(path=str(folder)))
    (folder / "b.tif").write_bytes(b"b")
    two = provenance({}, cube(path=str(folder)))
    assert one["input"]["n_files"] == 1 and two["input"]["n_files"] == 2
    assert fingerprint(one) != fingerprint(two)


def test_content_decides_not_name_or_time(tmp_path: Path) -> None:
    file, probe = tmp_path / "cube.raw", {"disks": {"probe": {"file": "a.npy", "radius_px": None}}, "probe": "digest"}
    file.write_bytes(os.urandom(40_000_000))
    first = fingerprint(provenance(probe, cube(path=str(file))))
    os.utime(file, (1, 1))
    copy = shutil.copy(file, tmp_path / "copy.raw")
    (tmp_path / "link.raw").symlink_to(file)
    named = {"disks": {"probe": {"file": "/elsewhere/b.npy", "radius_px": None}}, "probe": "digest"}
    for path in (file, copy, tmp_path / "link.raw"):
        assert fingerprint(provenance(named, cube(path=str(path)))) == first
    for at in (0, 2_600_000, 39_999_999):  # a piece at the start, one inside, the last byte
        with open(copy, "r+b") as out:
            out.seek(at)
            byte = out.read(1)
            out.seek(at)
            out.write(bytes([byte[0] ^ 1]))
        assert fingerprint(provenance(probe, cube(path=str(copy)))) != first
        shutil.copy(file, copy)


def test_an_input_that_changes_during_the_run_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "cube.raw"
    file.write_bytes(bytes(1000))
    signal = cube(path=str(file))
    record = provenance({}, signal)
    assert input_changed(record, signal) == ""
    file.write_bytes(bytes(999) + b"\1")
    assert "changed during the run" in input_changed(record, signal)
    file.unlink()
    assert "changed during the run" in input_changed(record, signal) or "could not be read" in input_changed(record, signal)


def test_an_input_that_is_gone_after_the_run_is_said(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    np.save(path, np.ones(3))
    record = provenance({}, cube(path=str(path)))
    assert input_changed(record, cube(path=str(path))) == ""
    np.save(path, np.zeros(3))
    assert input_changed(record, cube(path=str(path))) == f"the input {path} changed during the run; run it again"


def test_values_of_every_kind_become_json() -> None:
    odd = {
        "number": np.float32(0.5),
        "set": {1},
        "path": Path("a") / "b",
        "model": DiskParams(),
        "view": MappingProxyType({"a": 1}),
    }
    params = provenance(odd)["params"]
    assert (params["number"], params["set"], params["path"], params["view"]) == (0.5, [1], str(Path("a") / "b"), {"a": 1})
    assert params["model"]["method"] == "fcunet"
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        provenance({"odd": object()})
