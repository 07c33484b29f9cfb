"""Streams that unpack to more than they say are refused before they fill the memory; small readers keep their limits."""

from __future__ import annotations

import io
import json
import lzma
import resource
import sys
import zlib
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from napari_emdl.base.errors import OpenError
from napari_emdl.base.reading import read_json, read_npz
from napari_emdl.base.unpacking import check_unpacks
from napari_emdl.io.hdf5source import Hdf5Source
from napari_emdl.io.opening import open_movie
from napari_emdl.io.results import load

MANY = 400 * 2**20


@cache
def packed_zeros(nbytes: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(nbytes // 2**20)) + packer.flush()


@pytest.mark.parametrize(("pack", "method"), [(zlib.compress, "deflate"), (lzma.compress, "lzma")])
def test_a_stream_may_hold_what_it_says_and_no_more(pack, method):
    packed = pack(bytes(3 * 2**20))
    check_unpacks(packed, 3 * 2**20, "a piece", method)
    with pytest.raises(OpenError, match=f"a piece unpacks to more than the {3 * 2**20 - 1} bytes it says"):
        check_unpacks(packed, 3 * 2**20 - 1, "a piece", method)
    check_unpacks(b"damaged" + packed, 10, "a piece", method)  # whoever reads it says so


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_piece_of_hdf5_that_unpacks_to_far_more_is_refused(tmp_path, shuffle):
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        made = file.create_dataset("data", (3, 64, 64), "u2", chunks=(1, 64, 64), compression="gzip", shuffle=shuffle)
        made[:] = np.arange(64 * 64).reshape(64, 64)
        made.id.write_direct_chunk((1, 0, 0), packed_zeros(MANY))
        made.id.write_direct_chunk((2, 0, 0), packed_zeros(4 * 2**20))  # so little that no harm is done
    source = Hdf5Source(tmp_path / "bomb.h5", "data")
    np.testing.assert_array_equal(source[0], np.arange(64 * 64).reshape(64, 64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in (1, slice(0, 2), slice(0, 3, 1)):
        with pytest.raises(OpenError, match=r"larger packed than unpacked|made to fill memory"):
            source[index]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 150 * 2**20


def test_a_large_piece_of_hdf5_that_unpacks_to_more_is_refused_and_an_honest_one_is_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2**16, (1, 1500, 1500), np.uint16)
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        made = file.create_dataset("data", (2, 1500, 1500), "u2", chunks=(1, 1500, 1500), compression="gzip")
        made[0] = noise[0]
        made.id.write_direct_chunk((1, 0, 0), packed_zeros(MANY))
    source = Hdf5Source(tmp_path / "bomb.h5", "data")
    np.testing.assert_array_equal(source[0], noise[0])
    with pytest.raises(OpenError, match="made to fill memory"):
        source[1]


def test_a_page_of_tiff_that_unpacks_to_far_more_is_refused(tmp_path):
    frames = np.random.default_rng(1).integers(0, 200, (2, 32, 32), np.uint8)
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, frames, compression="zlib", photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        page = file.pages[1]
        place, offset, count = len(path.read_bytes()), page.tags["StripOffsets"], page.tags["StripByteCounts"]
        at = [(offset.valueoffset, place), (count.valueoffset, len(packed_zeros(MANY)))]
        widths = [tag.dtype for tag in (offset, count)]
    raw = bytearray(path.read_bytes())
    for (where, value), width in zip(at, widths, strict=True):
        size = 2 if int(width) == 3 else 4
        raw[where : where + size] = value.to_bytes(size, "little")
    path.write_bytes(bytes(raw) + packed_zeros(MANY))
    movie = open_movie(path, kind="movie")
    np.testing.assert_array_equal(movie.frame(0), frames[0])
    with pytest.raises(OpenError, match="made to fill memory"):
        movie.frame(1)


def test_arrays_of_npz_have_a_limit_together(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.zeros(1000), b=np.arange(5))
    whole = read_npz(io.BytesIO(buffer.getvalue()))
    assert whole["a"].shape == (1000,) and list(whole["b"]) == [0, 1, 2, 3, 4]
    with pytest.raises(OpenError, match="more than belong there"):
        read_npz(io.BytesIO(buffer.getvalue()), "kept.npz", 8000)
    (tmp_path / "kept.npz").write_bytes(b"nothing")
    with pytest.raises(OpenError, match=r"kept\.npz is not a readable \.npz file"):
        read_npz(tmp_path / "kept.npz")


def test_json_has_a_limit(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": 1e-7}))
    assert read_json(tmp_path / "a.json") == {"a": 1e-7}
    (tmp_path / "b.json").write_text("[" * 200_000)
    with pytest.raises(OpenError, match=r"b\.json"):
        read_json(tmp_path / "b.json")
    (tmp_path / "c.json").write_text(" " * (5 * 2**20))
    with pytest.raises(OpenError, match="more than napari-emdl writes"):
        read_json(tmp_path / "c.json")


def test_a_result_whose_tables_would_fill_memory_is_refused(tmp_path: Path) -> None:
    """Found by the fuzz run: an evidence of 2 GB that was never written."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update(emdl_result="occupancy", emdl_format=1)
        file.create_dataset("occupancy/evidence", (45_000, 45_000), "u1", chunks=(45_000, 45_000), compression="gzip")
    with pytest.raises(OpenError, match="names 2,025 MB but the file does not hold them"):
        load(path)
