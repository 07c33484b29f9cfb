"""Blocks cover everything within the memory limit; executors compute them all, stop when told, and pass errors on."""

from __future__ import annotations

import pickle
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_emdl.base.errors import Cancelled, EmdlError
from napari_emdl.base.params import RunParams
from napari_emdl.jobs import executor as executors
from napari_emdl.jobs.blocks import MAX_ITEMS, MEMORY_SHARE, Block, block_size, make_blocks
from napari_emdl.jobs.control import Control, Progress
from napari_emdl.jobs.executor import DaskExecutor, ThreadExecutor, make_executor


@given(st.integers(0, 5000), st.integers(1, 700))
def test_blocks_cover_every_item_once(total: int, size: int) -> None:
    blocks = make_blocks(total, size)
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(total))
    assert all(0 < block.size <= size for block in blocks)


@given(st.integers(1, 10**9), st.integers(1, 64), st.integers(1, 64))
def test_block_size_keeps_the_memory_limit(bytes_per_item: int, workers: int, megabytes: int) -> None:
    run = RunParams(max_memory=f"{megabytes}MB")
    size = block_size(bytes_per_item, run, workers)
    assert 1 <= size <= MAX_ITEMS
    if size > 1:  # one item is worked on even if it alone is over the limit
        assert size * workers * bytes_per_item <= MEMORY_SHARE * megabytes * 1e6


def square(block: Block) -> int:
    return block.start**2


def plus(block: Block, fed: int) -> int:
    return block.start + fed


def test_threads_compute_all_blocks_with_few_in_flight() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(block: Block) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return block.start**2

    found = dict(ThreadExecutor(3).map(work, make_blocks(40, 2), Control()))
    assert {block.start: value for block, value in found.items()} == {i: i * i for i in range(0, 40, 2)}
    assert most == 3


def test_feed_runs_before_the_function() -> None:
    found = dict(ThreadExecutor(2).map(plus, make_blocks(4, 1), Control(), feed=lambda block: 100))
    assert sorted(found.values()) == [100, 101, 102, 103]


def test_an_error_in_a_block_reaches_the_caller() -> None:
    def work(block: Block) -> None:
        raise EmdlError("no such disk")

    with pytest.raises(EmdlError, match="no such disk"):
        list(ThreadExecutor(2).map(work, make_blocks(4, 1), Control()))


def test_cancel_acts_before_the_block_ends_and_starts_no_other() -> None:
    control, release, started = Control(), threading.Event(), []

    def work(block: Block) -> None:
        started.append(block.start)
        if len(started) == 2:
            control.cancel()
        release.wait(60)

    try:
        with pytest.raises(Cancelled):
            list(ThreadExecutor(2).map(work, make_blocks(20, 1), control))
        assert not release.is_set() and len(started) == 2
    finally:
        release.set()


def test_control_travels_to_another_process_without_its_listeners() -> None:
    control = Control(on_progress=lambda progress: None)
    assert not pickle.loads(pickle.dumps(control)).cancelled


def test_make_executor_takes_threads_or_says_that_no_scheduler_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_emdl.jobs.executor.ANSWER_S", 0.5)
    assert isinstance(make_executor(RunParams(workers=5)), ThreadExecutor)
    assert make_executor(RunParams(workers=5)).workers == 5
    pytest.importorskip("distributed")
    with pytest.raises(EmdlError, match="no Dask scheduler answers"):
        DaskExecutor("tcp://127.0.0.1:9")


@pytest.mark.slow
def test_dask_gives_what_threads_give() -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        executor = make_executor(RunParams(scheduler=cluster.scheduler_address))
        assert executor.remote
        try:
            found = dict(executor.map(square, make_blocks(7, 2), Control()))
            fed = dict(executor.map(plus, make_blocks(3, 1), Control(), feed=lambda block: 10))
        finally:
            executor.close()
    assert {block.start: value for block, value in found.items()} == {0: 0, 2: 4, 4: 16, 6: 36}
    assert sorted(fed.values()) == [10, 11, 12]


class OpensANetwork:
    """Counts how often it is unpickled."""

    opened = 0

    def __setstate__(self, state: object) -> None:
        type(self).opened += 1

    def __getstate__(self) -> dict[str, int]:
        return {"a network": 1}

    def __call__(self, block: Block) -> int:
        return block.start


@pytest.mark.slow
def test_a_worker_opens_a_network_once_whatever_the_number_of_blocks() -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        executor = DaskExecutor(cluster.scheduler_address, workers=3)
        try:
            found = dict(executor.map(OpensANetwork(), make_blocks(6, 1), Control()))
        finally:
            executor.close()
    assert sorted(found.values()) == [0, 1, 2, 3, 4, 5] and OpensANetwork.opened == 1


@pytest.mark.slow
def test_a_cluster_without_workers_is_said_and_the_job_goes_on_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "PATIENCE_S", 0.3)
    monkeypatch.setattr(executors, "LOOK_S", 0.1)
    heard: list[str] = []
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:

        def listen(progress: Progress) -> None:
            if progress.message:
                heard.append(progress.message)
                if "no workers left" in progress.message:
                    cluster.scale(1)

        executor = DaskExecutor(cluster.scheduler_address, workers=1)
        try:
            found = {}
            for block, value in executor.map(square, make_blocks(4, 1), Control(listen)):
                found[block.start] = value
                if len(found) == 1:
                    cluster.scale(0)
                    cluster.sync(cluster._correct_state)
        finally:
            executor.close()
    assert found == {0: 0, 1: 1, 2: 4, 3: 9}
    assert any("no workers left" in text for text in heard)


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_emdl.jobs.executor.PATIENCE_S", 0.5)
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
    executor = DaskExecutor(cluster.scheduler_address, workers=1)
    try:
        with pytest.raises(EmdlError, match="the Dask scheduler is gone; finished blocks are kept"):
            for _ in executor.map(square, make_blocks(4, 1), Control()):
                cluster.close()
    finally:
        executor.close()
