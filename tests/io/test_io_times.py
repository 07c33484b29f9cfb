"""When frames were taken: time stamps of every format that has them, numbers of files, and gaps in both."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

import helpers.io_writers as writers
from napari_emdl import io
from napari_emdl.base.signals import Movie
from napari_emdl.base.timing import by_numbers, by_stamps, spread_frames, whole_steps

FRAMES = np.arange(30 * 16 * 12, dtype="u2").reshape(30, 16, 12)
#: Frames every 0.25 s, ten of them missing after frame 11.
TIMES_S = np.r_[np.arange(12), np.arange(22, 40)] * 0.25


def write_seq(path: Path, times_s: np.ndarray) -> None:
    writers.write_seq(path, FRAMES, interval_s=0.25)
    raw = bytearray(path.read_bytes())
    record = (len(raw) - 8192) // len(FRAMES)
    for i, time in enumerate(times_s):
        whole, rest = divmod(float(time), 1.0)
        struct.pack_into(
            "<iHH", raw, 8192 + i * record + FRAMES[0].nbytes, 1_700_000_000 + int(whole), int(round(rest * 1e3)), 0
        )
    path.write_bytes(bytes(raw))


def write_mib(path: Path, times_s: np.ndarray) -> None:
    writers.write_mib(path, FRAMES, np.diff(times_s, prepend=-0.25))


def write_tvips(path: Path, times_s: np.ndarray, mode: int = 1, scan: np.ndarray | None = None, pixel: int = 15600) -> None:
    head = struct.pack("<13I", 256, 2, 12, 16, 16, 0, 0, 1, 1, pixel, 300, 50_000, 64).ljust(256, b"T")
    with path.open("wb") as file:
        file.write(head)
        for i, (frame, time) in enumerate(zip(FRAMES, times_s, strict=True)):
            fields = [i, 1_700_000_000 + int(time), int(round(time % 1 * 1e3)), 0, 0, 0, mode, 0, 0, 0, 0, 0]
            fields.append(0 if scan is None else int(scan[i]))
            file.write(struct.pack("<13I", *fields).ljust(64, b"\0") + frame.tobytes())


def write_fei_mrc(path: Path, times_s: np.ndarray, pixel_m: float = 2e-11, projection: int = 2) -> None:
    writers.write_mrc(path, FRAMES, pixel_A=3.0)
    raw = path.read_bytes()
    blocks = b""
    for time in times_s:
        block = bytearray(768)
        struct.pack_into("<i", block, 0, 768)
        struct.pack_into("<I", block, 8, 1 | 1 << 5 | 1 << 14 | 1 << 15 | 1 << 26)
        struct.pack_into("<d", block, 12, 45_000 + time / 86400)
        struct.pack_into("<d", block, 84, 300_000.0)
        struct.pack_into("<2d", block, 156, pixel_m, pixel_m)
        struct.pack_into("<i", block, 248, projection)
        blocks += bytes(block)
    head = bytearray(raw[:1024])
    struct.pack_into("<i", head, 92, len(blocks))
    head[104:108] = b"FEI2"
    path.write_bytes(bytes(head) + blocks + raw[1024:])


def write_ome(path: Path, times_s: np.ndarray) -> None:
    planes = {"DeltaT": [1e3 * float(t) for t in times_s], "DeltaTUnit": ["ms"] * len(times_s)}
    tifffile.imwrite(path, FRAMES, ome=True, metadata={"axes": "TYX", "Plane": planes})


def write_h5(path: Path, times_s: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("entry/data")
        group.attrs.update(NX_class="NXdata", signal="counts", axes=["t", "y", "x"])
        file["entry"].attrs["NX_class"] = "NXentry"
        group["counts"] = FRAMES
        for name, values, unit in (
            ("t", 1e3 * times_s, "ms"),
            ("y", np.arange(16) * 0.02, "nm"),
            ("x", np.arange(12) * 0.02, "nm"),
        ):
            group[name] = values
            group[name].attrs["units"] = unit


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "seq": write_seq, "mib": write_mib, "tvips": write_tvips, "mrc": write_fei_mrc, "ome.tif": write_ome, "h5": write_h5,
}  # fmt: skip


def _movie(path: Path) -> Movie:
    opened = io.open(path, "movie")
    assert isinstance(opened, Movie)
    return opened


@pytest.mark.parametrize("ending", WRITERS)
def test_times_follow_the_stamps(tmp_path: Path, ending: str) -> None:
    WRITERS[ending](tmp_path / f"even.{ending}", np.arange(30) * 0.25)
    even = _movie(tmp_path / f"even.{ending}")
    assert even.calibration.frame_interval_s == pytest.approx(0.25, rel=1e-3)
    assert even.calibration.source["frame_interval_s"] == "file"
    assert even.frame_steps is None and not any("gap" in note for note in even.notes)
    WRITERS[ending](tmp_path / f"gap.{ending}", TIMES_S)
    gap = _movie(tmp_path / f"gap.{ending}")
    assert gap.calibration.frame_interval_s == pytest.approx(0.25, rel=1e-3)  # not the mean over the pause
    assert gap.frame_times_s is not None
    np.testing.assert_allclose(gap.frame_times_s, TIMES_S, atol=2e-3)
    assert any("1 gap, the longest 2.75 s after frame 11" in note for note in gap.notes)
    np.testing.assert_array_equal(np.asarray(gap.data[...]), FRAMES)
    part = io.open(tmp_path / f"gap.{ending}", "movie", frames=(10, 14))
    assert isinstance(part, Movie) and part.frame_times_s is not None
    np.testing.assert_allclose(part.frame_times_s, TIMES_S[10:14] - TIMES_S[10], atol=2e-3)


def test_tia_stamps_are_whole_seconds(tmp_path: Path) -> None:
    writers.write_ser(tmp_path / "a.ser", FRAMES)
    raw = bytearray((tmp_path / "a.ser").read_bytes())
    times = np.arange(30) * 1.7
    times[20:] += 60
    for i, at in enumerate(_tags(raw)):
        struct.pack_into("<I", raw, at + 4, 1_700_000_000 + int(times[i]))
    (tmp_path / "a.ser").write_bytes(bytes(raw))
    movie = _movie(tmp_path / "a.ser")
    assert movie.calibration.frame_interval_s == pytest.approx(1.7, rel=0.03)
    assert "1 gap" in movie.notes[0] and "after frame 19" in movie.notes[0]
    for i, at in enumerate(_tags(raw)):  # within two seconds a clock of seconds tells nothing
        struct.pack_into("<I", raw, at + 4, 1_700_000_000 + i // 15)
    (tmp_path / "a.ser").write_bytes(bytes(raw))
    assert _movie(tmp_path / "a.ser").calibration.frame_interval_s is None


def _tags(raw: bytearray) -> list[int]:
    """Places of the tags of a series as `write_ser` writes it: behind each image."""
    size = 50 + FRAMES[0].nbytes
    first = len(raw) - 30 * (size + 8)
    return [first + i * (size + 8) + size for i in range(30)]


def test_stamps_over_midnight(tmp_path: Path) -> None:
    writers.write_mib(tmp_path / "a.mib", FRAMES[:6], 2.0)
    raw = (tmp_path / "a.mib").read_bytes()
    for i, hour in enumerate([23, 23, 23, 0, 0, 0]):
        clock = f"T{hour:02d}:{59 if hour else 0:02d}:{(54 + 2 * i) % 60:012.9f}Z".encode()
        before = f"T14:00:{2.0 * (i + 1):012.9f}Z".encode()
        assert raw.count(before) == 1
        raw = raw.replace(before, clock)
    (tmp_path / "a.mib").write_bytes(raw)
    assert _movie(tmp_path / "a.mib").calibration.frame_interval_s == pytest.approx(2.0)


def test_numbers_of_the_files_tell_gaps(tmp_path: Path) -> None:
    for number in [*range(1, 9), *range(12, 20)]:
        tifffile.imwrite(tmp_path / f"run_0.5V_{number:04d}.tif", FRAMES[0])
    movie = _movie(tmp_path)
    assert movie.frame_steps is not None
    assert movie.frame_steps.tolist() == [*range(8), *range(11, 19)]
    assert "leave out 3 frames, the first after number 8" in movie.notes[0]
    assert movie.calibration.frame_interval_s is None
    timed = io.open(tmp_path, frame_interval_s=0.5)
    assert isinstance(timed, Movie) and timed.frame_times_s is not None and timed.frame_times_s[-1] == 9.0


@pytest.mark.parametrize("numbers", [[0, 10, 20, 30], [100, 250, 300, 900], [3, 2, 1, 0], [1, 2, 3, 4]])
def test_numbers_that_are_no_frames_leave_out_nothing(numbers: list[int]) -> None:
    timing = by_numbers(numbers)
    assert timing.steps is None and timing.notes == ()


def test_insitu_tree_with_a_second_that_was_lost(tmp_path: Path) -> None:
    writers.write_insitu(tmp_path, np.repeat(FRAMES[:1], 20, axis=0), per_second=4)
    for file in (tmp_path / "Hour_00/Minute_00/Second_02").iterdir():
        file.unlink()
    movie = _movie(tmp_path)
    assert movie.calibration.frame_interval_s == 0.25
    assert movie.frame_times_s is not None
    np.testing.assert_allclose(movie.frame_times_s, np.r_[np.arange(8), np.arange(12, 20)] * 0.25)


def test_frames_of_another_magnification_are_told(tmp_path: Path) -> None:
    for i, pixel in enumerate([0.02, 0.02, 0.05]):
        writers.write_dm4(tmp_path / f"f{i}.dm4", FRAMES[0], pixel_nm=pixel)
    assert "f2.dm4 has another pixel size than f0.dm4 (0.05 and 0.02 nm)" in io.open(tmp_path).notes[0]


def test_camera_pixels_of_tvips_are_no_calibration(tmp_path: Path) -> None:
    scan = np.r_[np.zeros(4), np.arange(1, 25), np.zeros(2)]
    write_tvips(tmp_path / "a_000.tvips", np.arange(30) * 0.01, mode=2, scan=scan)
    cube = io.open(tmp_path / "a_000.tvips")
    assert (cube.kind, cube.shape) == ("datacube", (1, 30, 16, 12))
    assert cube.calibration.q_pixel_invA is None and cube.calibration.energy_keV == 300
    assert "`frames=(4, 28)` leaves out" in cube.notes[0]
    part = io.open(tmp_path / "a_000.tvips", shape=(4, 6), frames=(4, 28))
    np.testing.assert_array_equal(np.asarray(part.data[...]).reshape(-1, 16, 12), FRAMES[4:28])
    (tmp_path / "a_000.tvips").rename(tmp_path / "renamed.tvips")  # a name of one's own
    assert io.open(tmp_path / "renamed.tvips").shape == (1, 30, 16, 12)
    write_tvips(tmp_path / "b.tvips", np.arange(30) * 0.01)
    assert io.open(tmp_path / "b.tvips").calibration.pixel_nm is None


def test_fei_headers_of_mrc(tmp_path: Path) -> None:
    write_fei_mrc(tmp_path / "a.mrc", np.arange(30) * 0.1)
    movie = io.open(tmp_path / "a.mrc")
    assert movie.calibration.pixel_nm == pytest.approx((0.02, 0.02)) and movie.calibration.energy_keV == 300
    write_fei_mrc(tmp_path / "b.mrc", np.arange(30) * 0.1, pixel_m=2e8, projection=1)
    pattern = io.open(tmp_path / "b.mrc")
    assert pattern.kind == "datacube" and pattern.calibration.q_pixel_invA == pytest.approx((0.02, 0.02))
    assert pattern.calibration.pixel_nm is None


def test_uneven_frames_keep_their_own_times() -> None:
    rng = np.random.default_rng(0)
    stamps = np.cumsum(rng.uniform(0.1, 5.0, 50))
    timing = by_stamps(stamps)
    assert timing.interval_s is not None and timing.steps is not None
    np.testing.assert_allclose(timing.interval_s * timing.steps, stamps - stamps[0])
    assert "unevenly spaced" in timing.notes[0]
    assert by_stamps([5.0, 4.0, 3.0, 6.0]).notes == ("the time stamps of the frames run backwards and are not used",)
    assert by_stamps([1.0, 1.0, 1.0]).interval_s is None


def test_missing_frames_are_put_in() -> None:
    rows = whole_steps([0, 1, 2, 5, 6], 5)
    assert rows is not None and rows.tolist() == [0, 1, 2, 5, 6]
    spread = spread_frames(np.arange(5.0), rows, np.nan)
    assert np.isnan(spread[3:5]).all() and spread[rows].tolist() == [0, 1, 2, 3, 4]
    assert whole_steps(None, 5) is None and whole_steps([0, 1, 2], 3) is None
    long = whole_steps([0, 1, 2, 100_000], 4)  # a pause of a day does not fill the memory
    assert long is not None and long[-1] <= 4 + 4 * 4
