"""Merlin: scan shapes from headers and time stamps, encodings, upper case, raw modes, stopped recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers import io_writers as writers
from napari_emdl import io
from napari_emdl.base.errors import OpenError

FRAMES = np.arange(48 * 16 * 24, dtype=np.uint16).reshape(48, 16, 24)


@pytest.mark.parametrize("seed", range(4))
def test_no_scan_shape_is_guessed_from_jitter(tmp_path: Path, seed: int) -> None:
    gaps = 1e-3 * (1 + 1e-3 * np.random.default_rng(seed).standard_normal(48))
    writers.write_mib(tmp_path / "free.mib", FRAMES, gaps)
    cube = io.open(tmp_path / "free.mib")
    assert cube.shape[:2] == (1, 48)
    assert "scan shape is not known" in cube.notes[0] and "6 x 8" in cube.notes[0]


@pytest.mark.parametrize(("rows", "cols"), [(6, 8), (2, 24), (12, 4)])
def test_a_pause_after_each_row_suggests_the_scan_and_is_said_to_be_a_guess(tmp_path: Path, rows: int, cols: int) -> None:
    gaps = np.full(48, 1e-3) * (1 + 1e-5 * np.random.default_rng(1).standard_normal(48))
    gaps[cols::cols] += 4e-3
    writers.write_mib(tmp_path / "scan.mib", FRAMES, gaps)
    cube = io.open(tmp_path / "scan.mib")
    assert cube.shape[:2] == (rows, cols) and "guess" in cube.notes[0]
    np.testing.assert_array_equal(np.asarray(cube.data[...]).reshape(FRAMES.shape), FRAMES)
    assert io.open(tmp_path / "scan.mib", shape=(3, 16)).shape[:2] == (3, 16)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("names", [("scan.mib", "scan.hdr"), ("SCAN.MIB", "SCAN.HDR"), ("Scan.mib", "Scan.HDR")])
def test_header_files_of_any_case_and_encoding(tmp_path: Path, names: tuple[str, str], encoding: str) -> None:
    writers.write_mib(tmp_path / names[0], FRAMES)
    writers.write_hdr(tmp_path / names[1], 48, 8, "Sensor Bias (V, µA):\t120\n", encoding)
    for name in names:
        cube = io.open(tmp_path / name)
        assert cube.shape == (6, 8, 16, 24) and cube.notes == ()
        np.testing.assert_array_equal(cube.data[5, 7], FRAMES[47])


def test_the_shape_given_wins_and_no_frame_is_dropped_unsaid(tmp_path: Path) -> None:
    frames = np.concatenate([FRAMES, FRAMES[:6]])
    writers.write_mib(tmp_path / "a.mib", frames)
    writers.write_hdr(tmp_path / "a.hdr", 48, 8)
    cube = io.open(tmp_path / "a.mib")
    assert cube.shape[:2] == (6, 8)
    assert "54 patterns" in cube.notes[0]
    given = io.open(tmp_path / "a.mib", shape=(6, 9))
    np.testing.assert_array_equal(np.asarray(given.data[...]).reshape(frames.shape), frames)
    with pytest.raises(OpenError, match=r"holds 54 patterns; a scan of 5 x 10 needs 50: `frames=\(4, 54\)"):
        io.open(tmp_path / "a.mib", shape=(5, 10))
    assert io.open(tmp_path / "a.mib", shape=(5, 10), frames=(4, 54)).shape[:2] == (5, 10)
    assert io.open(tmp_path / "a.mib", shape=(-1, 9)).shape[:2] == (6, 9)


def test_a_stopped_recording_gives_its_whole_rows(tmp_path: Path) -> None:
    writers.write_mib(tmp_path / "a.mib", FRAMES[:43])
    writers.write_hdr(tmp_path / "a.hdr", 48, 8)
    cube = io.open(tmp_path / "a.mib")
    assert cube.shape[:2] == (5, 8)
    assert any("stopped" in note and "3 frames" in note for note in cube.notes)


@pytest.mark.parametrize("bits", [1, 6, 12, 24])
@pytest.mark.parametrize("quad", [False, True])
def test_raw_mode(tmp_path: Path, bits: int, quad: bool) -> None:
    if bits == 24 and quad:
        pytest.skip("four chips of 24 bit are refused")
    rng = np.random.default_rng(bits)
    shape = (128, 128) if quad else (64, 64)
    frames = rng.integers(0, 2**bits, (4, *shape)).astype("u4")
    writers.write_raw_mib(tmp_path / "raw.mib", frames, bits, quad)
    cube = io.open(tmp_path / "raw.mib", shape=(2, 2))
    np.testing.assert_array_equal(np.asarray(cube.data[...]).reshape(frames.shape), frames)


@pytest.mark.parametrize("dtype", ["u1", "u4"])
def test_other_depths(tmp_path: Path, dtype: str) -> None:
    frames = np.random.default_rng(0).integers(0, 250, (6, 8, 12)).astype(dtype)
    writers.write_mib(tmp_path / "a.mib", frames)
    np.testing.assert_array_equal(np.asarray(io.open(tmp_path / "a.mib", shape=(2, 3)).data[...]).reshape(6, 8, 12), frames)
