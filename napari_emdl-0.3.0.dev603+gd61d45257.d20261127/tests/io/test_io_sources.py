"""Lazy arrays: indexing equals numpy, from threads, after pickling, and without reading the whole."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_emdl.base.errors import OpenError
from napari_emdl.io.hdf5source import Hdf5Source
from napari_emdl.io.sources import (
    ArraySource,
    FramesSource,
    RawSource,
    RecordSource,
    Source,
    full_index,
)
from napari_emdl.io.views import FlatSource, StackSource, TransposedSource

SHAPE = (3, 4, 5, 6)
ARRAY = np.arange(np.prod(SHAPE), dtype="<i4").reshape(SHAPE)


def raw(folder: Path, array: np.ndarray = ARRAY, **options: object) -> RawSource:
    path = folder / f"array{array.size}.bin"
    path.write_bytes(b"xy" + array.tobytes())
    return RawSource(path, array.shape, array.dtype, offset=2, **options)  # type: ignore[arg-type]


def hdf5(folder: Path) -> Hdf5Source:
    path = folder / "array.h5"
    if not path.exists():
        with h5py.File(path, "w") as file:
            file.create_dataset("a/data", data=ARRAY, chunks=(1, 2, 5, 6), compression="gzip")
    return Hdf5Source(path, "a/data")


def frame_of(index: int) -> np.ndarray:
    return ARRAY.reshape(-1, 5, 6)[index]


def array_of() -> np.ndarray:
    return ARRAY


def frames() -> FramesSource:
    return FramesSource(frame_of, SHAPE[:2], SHAPE[2:], ARRAY.dtype, "frames")


def records(folder: Path) -> RecordSource:
    path = folder / "records.bin"
    if not path.exists():
        frames = b"".join(b"head!" + frame[::-1].astype(">i4").tobytes() for frame in ARRAY.reshape(-1, 5, 6))
        path.write_bytes(b"file" + frames)
    return RecordSource(path, SHAPE[:2], SHAPE[2:], ">i4", header=5, offset=4, flip=True)


def sources(folder: Path) -> dict[str, tuple[Source, np.ndarray]]:
    flat = FlatSource(raw(folder))
    return {
        "raw": (raw(folder), ARRAY),
        "records": (records(folder), ARRAY),
        "hdf5": (hdf5(folder), ARRAY),
        "frames": (frames(), ARRAY),
        "array": (ArraySource(array_of, "array"), ARRAY),
        "transposed": (TransposedSource(raw(folder), (2, 0, 3, 1)), ARRAY.transpose(2, 0, 3, 1)),
        "flat": (flat, ARRAY.reshape(12, 5, 6)),
        "stack": (StackSource(flat, (2, 6)), ARRAY.reshape(2, 6, 5, 6)),
        "single": (StackSource(TransposedSource(raw(folder, ARRAY[:1, :1].copy()), (2, 3)), (1, 1)), ARRAY[:1, :1]),
    }


NAMES = ["raw", "records", "hdf5", "frames", "array", "transposed", "flat", "stack", "single"]


def index_of(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[object, ...]:
    parts: list[object] = []
    for size in shape:
        if draw(st.booleans()):
            parts.append(draw(st.integers(-size, size - 1)))
        else:
            bound = st.none() | st.integers(-size - 1, size + 1)
            parts.append(slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2, 3, -1, -2]))))
    return tuple(parts[: draw(st.integers(0, len(parts)))])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_indexing_is_numpy_indexing(tmp_path: Path, name: str, data: st.DataObject) -> None:
    source, expected = sources(tmp_path)[name]
    index = data.draw(st.composite(lambda draw: index_of(draw, expected.shape))())
    got = source[index]
    assert isinstance(got, np.ndarray)
    assert not isinstance(got, np.memmap)
    np.testing.assert_array_equal(got, expected[index])


@pytest.mark.parametrize("name", NAMES)
def test_shape_dtype_and_conversion(tmp_path: Path, name: str) -> None:
    source, expected = sources(tmp_path)[name]
    assert (source.shape, source.ndim, source.size, len(source)) == (
        expected.shape,
        expected.ndim,
        expected.size,
        len(expected),
    )
    assert source.nbytes == expected.nbytes
    np.testing.assert_array_equal(np.asarray(source), expected)
    np.testing.assert_array_equal(source[..., 0], expected[..., 0])


@pytest.mark.parametrize("name", NAMES)
def test_pickled_source_reads_again(tmp_path: Path, name: str) -> None:
    source, expected = sources(tmp_path)[name]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[0], expected[0])


@pytest.mark.parametrize("name", ["raw", "records", "hdf5", "frames", "stack"])
def test_reading_from_threads(tmp_path: Path, name: str) -> None:
    source, expected = sources(tmp_path)[name]
    places = [tuple(np.unravel_index(i % 12, expected.shape[:2])) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda p: source[p], places))
    for place, frame in zip(places, got, strict=True):
        np.testing.assert_array_equal(frame, expected[place])


@pytest.mark.parametrize("index", [(5,), (0, 0, 0, 0, 0), ("a",), ([0, 1],), (..., ...), (True,)])
def test_bad_index(index: tuple[object, ...]) -> None:
    with pytest.raises(IndexError):
        full_index(index, SHAPE)


def test_big_endian_and_fortran_order(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(ARRAY.astype(">i4").tobytes(order="F"))
    source = RawSource(path, SHAPE, ">i4", order="F")
    np.testing.assert_array_equal(source[1], ARRAY[1])
    assert source[1].dtype.isnative


def test_too_short_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.bin"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(OpenError, match="too short"):
        RawSource(path, (10, 10, 10), "u2")


def test_file_removed_or_shortened_while_open(tmp_path: Path) -> None:
    source = raw(tmp_path)
    source.path.write_bytes(b"xy")
    with pytest.raises(OpenError, match="too short"):
        source[0]
    source.path.unlink()
    with pytest.raises(OpenError, match="removed"):
        source[0]


def test_frame_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    def broken(index: int) -> np.ndarray:
        raise ValueError("bad\nzlib")

    source = FramesSource(broken, (4,), (5, 6), "u1", "movie.tif")
    with pytest.raises(OpenError, match=r"movie.tif: frame 2 cannot be read \(bad\)") as caught:
        source[2]
    assert "\n" not in str(caught.value)


def test_reading_a_big_cube_takes_no_more_memory_than_the_part(tmp_path: Path) -> None:

    import psutil

    path = tmp_path / "big.npy"
    shape = (256, 256, 512, 512)  # 32 GB of uint16, sparse
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": shape})
        offset = file.tell()
        file.truncate(offset + int(np.prod(shape, dtype=np.int64)) * 2)
    from napari_emdl.io import open_datacube

    process = psutil.Process()
    before = process.memory_info().rss
    opened = open_datacube(path)
    first = opened.patterns(0, 4)
    for row in range(0, 256, 32):
        opened.data[row, 0:32]
    grown = process.memory_info().rss - before
    assert opened.nbytes == 32 * 2**30
    assert first.shape == (4, 512, 512)
    assert grown < 150e6, f"{grown / 1e6:.0f} MB"
