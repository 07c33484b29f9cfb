"""Provenance is JSON, tells inputs apart, and its fingerprint does not depend on when or where the job ran."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from napari_emdl.base.params import DiskParams
from napari_emdl.base.signals import Datacube, in_memory
from napari_emdl.jobs.provenance import fingerprint, provenance


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
    assert provenance({}, cube(path=str(file)))["input"]["sha256_ends"] != first["input"]["sha256_ends"]
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "a.tif").write_bytes(b"a")
    one = provenance({}, cube(path=str(folder)))
    (folder / "b.tif").write_bytes(b"b")
    two = provenance({}, cube(path=str(folder)))
    assert one["input"]["n_files"] == 1 and two["input"]["n_files"] == 2
    assert fingerprint(one) != fingerprint(two)
