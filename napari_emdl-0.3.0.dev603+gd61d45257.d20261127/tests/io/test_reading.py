"""The one reader for small arrays, for YAML and for XML, and the one line for what readers raise."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from napari_emdl.base.errors import EmdlError, OpenError
from napari_emdl.base.reading import check_zip, one_line, parse_xml, read_small_npy, read_small_npz, read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 20000, "nested deeper"),
        ("a: " + "[" * 20000, "nested deeper"),
        ("a: &a [1]\nb: [" + ",".join(["*a"] * 200) + "]", "aliases"),
        ("a: [1, 2", "line"),
        ("a: 2001-99-99", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("x" * (5 << 20), "characters"),
        ("- 1\n" * 210_000, "parts"),
    ],
)
def test_yaml_bombs_are_one_line(text: str, message: str) -> None:
    with pytest.raises(OpenError, match=message) as caught:
        read_yaml(text.encode(), "job.yaml")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("job.yaml")


def test_yaml_of_ours_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: {b: [1, 2.5, x]}\nµ: Å\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": [1, 2.5, "x"]}, "µ": "Å"}
    (tmp_path / "b.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(OpenError, match="UTF-8"):
        read_yaml(tmp_path / "b.yaml")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4", "?"])
def test_small_arrays(tmp_path: Path, dtype: str, order: str) -> None:
    values = np.asarray(np.arange(24).reshape(4, 6), dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", one=values)
    for read in (read_small_npy(tmp_path / "a.npy"), read_small_npz(tmp_path / "a.npz", "one")):
        np.testing.assert_array_equal(read, values)
        assert read.dtype.isnative


def header(shape: object, descr: object = "<f8") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(118).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not a readable"),
        (header((1 << 20, 1 << 20)), "more than belong there"),
        (header((4, 4)), "truncated"),
        (header((-4, 4)), "damaged"),
        (header((2, 2), "|O"), "Python objects"),
        (header("__import__('os')"), "not a readable"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "header of 2147483647 bytes"),
    ],
)
def test_arrays_that_promise_too_much(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "a.npy").write_bytes(raw)
    with pytest.raises(OpenError, match=message):
        read_small_npy(tmp_path / "a.npy")


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("disks.h5", bytes(300 << 20))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, pytest.raises(OpenError, match=r"disks\.h5 unpacks .* to 300 MB"):
        check_zip(archive, "a.zip")


def test_xml_with_entities_is_refused() -> None:
    with pytest.raises(OpenError, match="entities"):
        parse_xml('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "a.xml")
    assert parse_xml(b"<a><b> 1 </b></a>", "a.xml").findtext("b") == " 1 "


@pytest.mark.parametrize("error", [ValueError("a\nb"), MemoryError(), RecursionError(), KeyError("x"), AttributeError("y")])
def test_whatever_a_reader_raises_is_one_line(error: Exception) -> None:
    with pytest.raises(OpenError) as caught, one_line("a.tif", "TIFF"):
        raise error
    assert "\n" not in str(caught.value) and "a.tif" in str(caught.value)
    with pytest.raises(EmdlError, match="mine"), one_line("a.tif"):
        raise EmdlError("mine")
