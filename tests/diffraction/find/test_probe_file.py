"""The vacuum probe from a file: which image is taken, and the line where none can be."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import ProbeParams
from napari_emdl.base.signals import in_memory
from napari_emdl.diffraction.find.probe import make_probe, read_probe_file

IMAGE = np.arange(48, dtype=np.float32).reshape(6, 8)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "several.h5"
    with h5py.File(path, "w") as file:
        file["a/probe_image"] = IMAGE
        file["a/other"] = IMAGE + 1
        file["a/cube"] = np.zeros((2, 2, 6, 8), np.float32)
    return path


def test_the_image_is_that_of_the_file_or_of_the_named_dataset(tmp_path: Path, store: Path) -> None:
    np.save(tmp_path / "probe.npy", IMAGE)
    tifffile.imwrite(tmp_path / "probe.tif", IMAGE)
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["image"] = IMAGE
    for text in ("probe.npy", "probe.tif", "one.h5", "several.h5", "several.h5::a/probe_image"):
        np.testing.assert_array_equal(read_probe_file(str(tmp_path / text)), IMAGE)
    np.testing.assert_array_equal(read_probe_file(f"{store}::a/other"), IMAGE + 1)


def test_a_probe_that_cannot_be_read_is_one_line(tmp_path: Path, store: Path) -> None:
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00" + b"x" * 20)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["left"], file["right"] = IMAGE, IMAGE
    for text, line in (
        ("none.npy", "does not exist"),
        ("broken.npy", "broken.npy"),
        ("several.h5::a", "has no dataset 'a'"),
        ("several.h5::nothing", "has no dataset 'nothing'"),
        ("two.h5", "two.h5 holds 2 images that may be the probe; name one as FILE::DATASET"),
    ):
        with pytest.raises(EmdlError, match=line) as caught:
            read_probe_file(str(tmp_path / text))
        assert "\n" not in str(caught.value)


def test_what_a_probe_needs_is_said() -> None:
    with pytest.raises(EmdlError, match="a vacuum region needs the datacube"):
        make_probe(None, ProbeParams(region=(0, 1, 0, 1)), (6, 8))
    with pytest.raises(EmdlError, match="give a probe file, a vacuum region or a probe radius"):
        make_probe(None, ProbeParams(), (6, 8))
    cube = in_memory(np.zeros((2, 3, 6, 8)), "datacube")
    with pytest.raises(EmdlError, match="vacuum region 0:3,0:1 does not lie in the scan of 2 x 3"):
        make_probe(cube, ProbeParams(region=(0, 3, 0, 1)), (6, 8))
