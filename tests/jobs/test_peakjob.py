"""A job gives the same table however it is cut, killed, resumed or distributed, and keeps its memory limit."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_emdl.base.errors import Cancelled, EmdlError, OtherJobError
from napari_emdl.base.params import RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs import Block, Control, Progress, discard_part, part_path, run_peak_job
from napari_emdl.jobs.checkpoint import Checkpoint, _pack, merge_attrs


def find(items: np.ndarray) -> PeakTable:
    """As many peaks as the item's number modulo 3, so that empty positions occur."""
    lists = [{"row": np.full(int(i) % 3, i), "col": np.arange(int(i) % 3) + 0.5, "score": np.ones(int(i) % 3)} for i in items]
    table = PeakTable.from_lists(lists)
    table.attrs = {"n_cleaned": len(items), "species": "Au"}
    return table


def read(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop, dtype=float)


def job(total: int = 50, **more: object) -> PeakTable:
    defaults = {"shape": (total,), "read": read, "find": find, "bytes_per_item": 1e6, "run": RunParams(workers=2)}
    return run_peak_job(**(defaults | more))  # type: ignore[arg-type]


def same(a: PeakTable, b: PeakTable) -> bool:
    return (
        a.shape == b.shape
        and np.array_equal(a.offset, b.offset)
        and all(np.array_equal(a.column(name), b.column(name)) for name in a.fields)
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 4), st.booleans())
def test_any_cut_gives_the_whole_table(total: int, megabytes: int, workers: int, parallel: bool) -> None:
    run = RunParams(workers=workers, max_memory=f"{megabytes}MB")
    table = job(total, run=run, parallel=parallel)
    assert same(table, find(read(0, total)))
    assert table.attrs == {"n_cleaned": total, "species": "Au"}


def test_scan_shape_progress_and_blocks() -> None:
    seen: list[Progress] = []
    blocks: list[Block] = []
    table = job(shape=(5, 10), control=Control(seen.append), on_block=lambda block, part: blocks.append(block))
    assert table.shape == (5, 10)
    assert seen[0].done == 0 and seen[-1].done == seen[-1].total == 50
    assert sorted(i for b in blocks for i in range(b.start, b.stop)) == list(range(50))


def test_empty_shape() -> None:
    assert job(shape=(0, 4)).n_positions == 0


def test_sequential_finders_are_never_called_twice_at_once() -> None:
    busy = threading.Lock()

    def alone(items: np.ndarray) -> PeakTable:
        assert busy.acquire(blocking=False)
        time.sleep(0.005)
        busy.release()
        return find(items)

    assert same(job(find=alone, parallel=False), find(read(0, 50)))


def test_short_read_is_an_error() -> None:
    with pytest.raises(EmdlError, match="cut off"):
        job(read=lambda start, stop: np.arange(start, stop - 1))


def test_cancel_keeps_finished_blocks_and_resume_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "disks.h5"
    control = Control()
    with pytest.raises(Cancelled):
        job(output=output, fingerprint="a", control=control, on_block=lambda block, table: control.cancel())
    assert part_path(output).exists()
    with pytest.raises(EmdlError, match="resume=True"):
        job(output=output, fingerprint="a")
    with pytest.raises(EmdlError, match="another job"):
        job(output=output, fingerprint="b", run=RunParams(workers=2, resume=True))
    read_again: list[int] = []

    def counted(start: int, stop: int) -> np.ndarray:
        read_again.extend(range(start, stop))
        return read(start, stop)

    filled: set[int] = set()
    table = job(
        output=output,
        fingerprint="a",
        run=RunParams(workers=2, resume=True, max_memory="3MB"),
        read=counted,
        on_block=lambda block, part: filled.update(range(block.start, block.stop)),
    )
    assert same(table, find(read(0, 50)))
    assert len(read_again) < 50
    assert filled == set(range(50))
    discard_part(output)
    assert not part_path(output).exists()


def test_restart_discards(tmp_path: Path) -> None:
    output = tmp_path / "disks.h5"
    job(output=output, fingerprint="a")
    table = job(10, output=output, fingerprint="b", run=RunParams(workers=1, resume=False))
    assert same(table, find(read(0, 10)))


def test_a_record_cut_off_by_a_crash_is_dropped(tmp_path: Path) -> None:
    output = tmp_path / "disks.h5"
    job(output=output, fingerprint="a")
    whole = part_path(output).read_bytes()
    part_path(output).write_bytes(whole[:-7])
    checkpoint = Checkpoint(output, "a", resume=True)
    assert sum(block.size for block in checkpoint.missing(50, 100)) in range(1, 50)
    checkpoint.close()
    assert same(job(output=output, fingerprint="a", run=RunParams(workers=2, resume=True)), find(read(0, 50)))


@pytest.mark.parametrize("damage", [b"", b"EMDLPART1\n\xff\xff", b"something else entirely"])
def test_damaged_partial_file(tmp_path: Path, damage: bytes) -> None:
    output = tmp_path / "disks.h5"
    part_path(output).write_bytes(damage)
    if damage:
        with pytest.raises(EmdlError, match=r"damaged|not a partial result"):
            job(output=output, fingerprint="a", run=RunParams(resume=True))
    else:
        assert job(output=output, fingerprint="a").n_positions == 50


def test_a_refused_job_leaves_the_journal_as_it_is(tmp_path: Path) -> None:
    output = tmp_path / "disks.h5"
    job(output=output, fingerprint="a")
    cut = part_path(output).read_bytes()[:-7]
    part_path(output).write_bytes(cut)
    for fingerprint, resume, error in (("b", True, OtherJobError), ("a", None, EmdlError)):
        with pytest.raises(error):
            Checkpoint(output, fingerprint, resume=resume)
        assert part_path(output).read_bytes() == cut


def test_a_bit_turned_in_the_head_of_a_record_is_noticed(tmp_path: Path) -> None:
    output = tmp_path / "disks.h5"
    job(output=output, fingerprint="a")
    whole = part_path(output).read_bytes()
    checkpoint = Checkpoint(output, "a", resume=True)
    (_, last_position, _) = max(checkpoint._records.values(), key=lambda record: record[1])
    n_blocks = len(checkpoint.done)
    checkpoint.close()
    for byte in range(last_position - 28, last_position):
        damaged = bytearray(whole)
        damaged[byte] ^= 1
        part_path(output).write_bytes(bytes(damaged))
        checkpoint = Checkpoint(output, "a", resume=True)
        assert len(checkpoint.done) == n_blocks - 1
        checkpoint.close()


def test_a_journal_of_version_0_2_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "disks.h5"
    header = json.dumps({"fingerprint": "a"}).encode()
    payload = _pack(find(read(0, 20)))
    record = struct.pack("<QQQI", 0, 20, len(payload), zlib.crc32(payload)) + payload
    part_path(output).write_bytes(b"EMDLPART1\n" + struct.pack("<I", len(header)) + header + record)
    asked = []
    table = job(
        output=output,
        fingerprint="a",
        read=lambda start, stop: asked.append(start) or read(start, stop),
        run=RunParams(workers=1, resume=True),
    )
    assert min(asked) == 20
    assert same(table, find(read(0, 50)))


def test_two_processes_do_not_write_one_result(tmp_path: Path) -> None:
    output = tmp_path / "disks.h5"
    code = (
        "import sys\nfrom napari_emdl.jobs.checkpoint import Checkpoint\n"
        "c = Checkpoint(sys.argv[1], 'a')\nprint('mine', flush=True)\nsys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "mine\n"
    for resume in (None, True, False):
        with pytest.raises(EmdlError, match="another run is writing"):
            Checkpoint(output, "a", resume=resume)
    other.kill()
    other.wait()
    Checkpoint(output, "a", resume=True).close()  # a killed process holds nothing


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and pipes")
def test_a_link_or_pipe_in_place_of_the_journal_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("important")
    part_path(tmp_path / "a.h5").symlink_to(victim)
    os.mkfifo(part_path(tmp_path / "b.h5"))
    for name in ("a.h5", "b.h5"):
        with pytest.raises(EmdlError, match="cannot write"):
            job(output=tmp_path / name, run=RunParams(resume=False))
    part_path(tmp_path / "c.h5").write_text("important")
    with pytest.raises(EmdlError, match="not a partial result"):
        job(output=tmp_path / "c.h5", run=RunParams(resume=False))
    assert victim.read_text() == part_path(tmp_path / "c.h5").read_text() == "important"


def test_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(EmdlError, match="cannot write"):
        job(output=tmp_path / "no such folder" / "disks.h5")


def test_full_disk_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "disks.h5"
    append, calls = Checkpoint._append, []

    def full_after_three(file: object, data: bytes) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        append(file, data)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoint, "_append", full_after_three)
    with pytest.raises(EmdlError, match=r"No space left on device; free some space, then go on with `resume=True`"):
        job(output=output, fingerprint="a")
    monkeypatch.setattr(Checkpoint, "_append", append)
    assert same(job(output=output, fingerprint="a", run=RunParams(workers=2, resume=True)), find(read(0, 50)))


def test_merge_attrs() -> None:
    assert merge_attrs([{"n": 1, "flag": True}, {"n": 2, "flag": False, "x": "y"}]) == {"n": 3, "flag": True, "x": "y"}


SLOW_JOB = textwrap.dedent("""
    import sys, time
    sys.path.insert(0, {tests!r})
    from test_peakjob import find, read
    from napari_emdl.jobs import run_peak_job
    from napari_emdl.base.params import RunParams
    def slow(items):
        time.sleep(0.05)
        return find(items)
    def tell(block, table):
        print(block.stop, flush=True)
    run_peak_job(shape=(50,), read=read, find=slow, bytes_per_item=1e6, run=RunParams(workers=2, max_memory="3MB"),
                 output={output!r}, fingerprint="a", on_block=tell)
""")


def test_kill_9_and_resume(tmp_path: Path) -> None:
    output = tmp_path / "disks.h5"
    script = SLOW_JOB.format(tests=str(Path(__file__).parent), output=str(output))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    control_done: list[int] = []
    control = Control(lambda progress: control_done.append(progress.done))
    table = job(output=output, fingerprint="a", run=RunParams(workers=2, resume=True), control=control)
    assert control_done[0] >= 5, "finished blocks were lost"
    assert same(table, find(read(0, 50)))


MEMORY_JOB = textwrap.dedent("""
    import numpy as np
    from napari_emdl.base.errors import Cancelled
    from napari_emdl.jobs import Control, run_peak_job
    from napari_emdl.base.params import RunParams
    from napari_emdl.base.peaks import PeakTable
    from napari_emdl.base.signals import in_memory
    data = np.memmap({path!r}, np.uint16, "r", shape=(500, 500, 256, 256))
    cube = in_memory(data, "datacube")
    def find(items):
        work = items.astype(np.float32)
        peak = [dict(row=[1.0], col=[1.0], score=[float(w.sum())]) for w in work]
        return PeakTable.from_lists(peak)
    control = Control()
    def enough(block, table):
        if block.stop * 256 * 256 * 2 > 2.5e9:
            control.cancel()
    try:
        run_peak_job(shape=cube.scan_shape, read=cube.patterns, find=find, bytes_per_item=256 * 256 * 6,
                     run=RunParams(workers=2, max_memory="200MB"), control=control, on_block=enough)
    except Cancelled:
        # not ru_maxrss: that starts from the resident memory of the process that forked this one
        status = dict(line.split(':', 1) for line in open('/proc/self/status'))
        print(int(status['VmHWM'].split()[0]) * 1024)
""")


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is measured in Linux' units")
def test_memory_limit_on_a_32_gb_map(tmp_path: Path) -> None:
    path = tmp_path / "huge.raw"
    with open(path, "wb") as file:
        file.truncate(500 * 500 * 256 * 256 * 2)  # sparse: 32.8 GB that take no room
    out = subprocess.run([sys.executable, "-c", MEMORY_JOB.format(path=str(path))], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 200e6 + 0.5e9
