"""Recordings of which parts, scans or times lay elsewhere than readers look, each as users of other programs reported it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import helpers.io_writers as writers
from napari_emdl import io
from napari_emdl.io.formats.velox import velox_timing

FRAMES = np.arange(12 * 16 * 16, dtype="u2").reshape(12, 16, 16)


def renumbered(path: Path, first: int) -> None:
    """Let the frame numbers of a Merlin file begin at `first`."""
    raw = path.read_bytes()
    for number in range(len(FRAMES), 0, -1):
        raw = raw.replace(b"MQ1,%06d," % number, b"MQ1,%06d," % (number + first - 1))
    path.write_bytes(raw)


def test_merlin_recordings_in_several_files(tmp_path: Path) -> None:
    """LiberTEM reads NAME1.mib, NAME2.mib, ... as one recording; the first alone would be a part of it, unsaid."""
    for part, first in ((1, 1), (2, 5), (3, 9)):
        writers.write_mib(tmp_path / f"scan{part}.mib", FRAMES[first - 1 : first + 3])
        renumbered(tmp_path / f"scan{part}.mib", first)
    writers.write_mib(tmp_path / "scan4.mib", FRAMES[:4])  # a recording of its own: its numbers begin at 1
    writers.write_hdr(tmp_path / "scan.hdr", 12, 4)
    cube = io.open(tmp_path / "scan1.mib")
    assert cube.shape == (3, 4, 16, 16)
    np.testing.assert_array_equal(np.asarray(cube.data[...]).reshape(FRAMES.shape), FRAMES)
    assert "goes on in scan2.mib, scan3.mib: 12 frames in all" in cube.notes[0]
    assert int(np.prod(io.open(tmp_path / "scan4.mib").shape[:2])) == 4


def test_titanx_scans_are_stacks_with_tags(tmp_path: Path) -> None:
    """py4DSTEM #273."""
    tags: dict[str, object] = {"4D STEM Tags": {"Scan shape X": 4, "Scan shape Y": 3}}
    writers.write_dm4_scan(tmp_path / "titan.dm4", FRAMES, ("", "", ""), {}, tags)
    cube = io.open(tmp_path / "titan.dm4")
    assert (cube.kind, cube.shape) == ("datacube", (3, 4, 16, 16))
    np.testing.assert_array_equal(np.asarray(cube.data[1, 2]), FRAMES[6])
    assert "TitanX" in cube.notes[0]
    writers.write_dm4_scan(tmp_path / "movie.dm4", FRAMES, ("", "nm", "nm"), {})
    assert io.open(tmp_path / "movie.dm4").kind == "movie"


@pytest.mark.parametrize("mode", ["acquire", "search"])
def test_empad_scans_that_only_the_parameters_tell(tmp_path: Path, mode: str) -> None:
    """LiberTEM #1617: neither pix_x nor the name of the raw file has the scan, which is not square."""
    np.zeros((12, 130, 128), "<f4").tofile(tmp_path / "any.raw")
    other = '<scan_parameters mode="focus"><scan_resolution_x>64</scan_resolution_x><scan_resolution_y>64</scan_resolution_y>'
    (tmp_path / "any.xml").write_text(
        f'<root><raw_file filename="any.raw"/>{other}</scan_parameters><scan_parameters mode="{mode}">'
        "<scan_resolution_x>4</scan_resolution_x><scan_resolution_y>3</scan_resolution_y></scan_parameters></root>"
    )
    assert io.open(tmp_path / "any.xml").shape == (3, 4, 128, 128)


def test_direct_electron_info_files_of_any_name(tmp_path: Path) -> None:
    """RosettaSciIO #311: NAME_movie.mrc with NAME_info.txt, without the date that the server puts in front."""
    writers.write_mrc(tmp_path / "gold_movie.mrc", FRAMES)
    writers.write_de_info(tmp_path / "gold_info.txt", (3, 4), 0.12, 0.25)
    cube = io.open(tmp_path / "gold_movie.mrc")
    assert (cube.kind, cube.shape) == ("datacube", (3, 4, 16, 16))
    assert cube.calibration.q_pixel_invA == pytest.approx((0.025, 0.025))


def test_velox_frames_have_stamps_of_their_own(tmp_path: Path) -> None:
    times_s = np.r_[np.arange(6), np.arange(10, 16)] * 0.4
    with h5py.File(tmp_path / "a.emd", "w") as file:
        group = file.create_group("Data/Image/abc")
        group["Data"] = FRAMES.transpose(1, 2, 0)
        table = np.zeros((400, 12), "u1")
        for i, time in enumerate(times_s):
            facts = {
                "CustomProperties": {"Detectors[BM-Ceta].TimeStamp": {"type": "double", "value": f"{1.6e15 + 1e6 * time}"}}
            }
            raw = json.dumps(facts).encode()
            table[: len(raw), i] = np.frombuffer(raw, "u1")
        group["Metadata"] = table
    timing = velox_timing(tmp_path / "a.emd", FRAMES.shape)
    assert timing.interval_s == pytest.approx(0.4, rel=1e-4) and timing.steps is not None
    np.testing.assert_allclose(timing.interval_s * timing.steps, times_s, atol=1e-3)
    assert velox_timing(tmp_path / "a.emd", (5, 16, 16)).interval_s is None
