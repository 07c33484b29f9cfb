"""Run a peak finder over all patterns or frames: in blocks, with progress, cancel, memory limit, checkpoint and resume."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.blocks import Block, block_size, make_blocks
from napari_emdl.jobs.checkpoint import Checkpoint, merge_attrs
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.executor import Executor, ThreadExecutor, make_executor

Read = Callable[[int, int], NDArray[Any]]
Find = Callable[[NDArray[Any]], PeakTable]
OnBlock = Callable[[Block, PeakTable], None]


class _Task:
    """Read a block (unless it is handed over) and find its peaks; picklable when `read` and `find` are."""

    def __init__(self, read: Read | None, find: Find, lock: threading.Lock | None) -> None:
        self.read, self.find, self.lock = read, find, lock

    def __call__(self, block: Block, items: NDArray[Any] | None = None) -> PeakTable:
        if items is None:
            assert self.read is not None
            items = self.read(block.start, block.stop)
        if len(items) != block.size:
            raise EmdlError(f"items {block.start} to {block.stop} were asked for, {len(items)} were read; is the file cut off?")
        with self.lock or nullcontext():
            table = self.find(items)
        if table.n_positions != block.size:
            raise RuntimeError(f"finder gave {table.n_positions} positions for {block.size} items")
        release_pages(items)
        release_pages(getattr(getattr(self.read, "__self__", None), "data", None))
        return table.compact()


def run_peak_job(
    *,
    shape: Sequence[int],
    read: Read,
    find: Find,
    bytes_per_item: float,
    run: RunParams,
    output: str | Path | None = None,
    fingerprint: str = "",
    control: Control | None = None,
    on_block: OnBlock | None = None,
    parallel: bool = True,
) -> PeakTable:
    """Find peaks in every item of `shape`, in blocks.

    Parameters
    ----------
    shape
        Leading shape of the result: (scan rows, scan cols) or (frames,).
    read
        ``read(start, stop)`` gives the items of that range in scan order; called from several threads. Best a bound method
        of the signal (``cube.patterns``), so that the pages of a memory-mapped file can be let go of.
    find
        Items -> table of shape (n,). Integer attributes of the tables are added up over the blocks, others are taken from
        the first.
    bytes_per_item
        Memory one item takes while it is worked on; with `run.max_memory` it sets the size of a block.
    run
        Memory, workers or scheduler, and whether to resume.
    output
        Result file; finished blocks are kept in ``<output>.part`` until :func:`~napari_emdl.jobs.checkpoint.discard_part`
        is called, which whoever writes the result does afterwards.
    fingerprint
        Identifies the job, see :func:`napari_emdl.jobs.provenance.fingerprint`.
    control
        Progress and cancel.
    on_block
        Called in this thread as blocks are finished, also for those found in a partial file.
    parallel
        False for finders that fill the device on their own (networks): one block is computed at a time while the next
        is being read. On a Dask cluster every worker computes its own block either way.

    Raises
    ------
    Cancelled
        When cancelled; finished blocks stay in the partial file.
    EmdlError
        For a partial file in the way, a full disk, or what `read` and `find` raise.
    """
    control = control or Control()
    control.check()
    total = int(np.prod(tuple(shape), dtype=np.int64))
    if total == 0:
        return PeakTable.empty(shape)
    checkpoint = Checkpoint(output, fingerprint, run.resume) if output is not None else None
    executor = make_executor(run)
    if not parallel and not executor.remote:
        executor = ThreadExecutor(2)
    try:
        return _run(shape, total, read, find, bytes_per_item, run, checkpoint, executor, control, on_block, parallel)
    finally:
        executor.close()
        if checkpoint is not None:
            checkpoint.close()


def _run(
    shape: Sequence[int],
    total: int,
    read: Read,
    find: Find,
    bytes_per_item: float,
    run: RunParams,
    checkpoint: Checkpoint | None,
    executor: Executor,
    control: Control,
    on_block: OnBlock | None,
    parallel: bool,
) -> PeakTable:
    size = block_size(bytes_per_item, run, executor.workers)
    size = min(size, max(1, -(-total // (4 * executor.workers))))  # small jobs: let every worker have some, and show progress
    blocks = make_blocks(total, size) if checkpoint is None else checkpoint.missing(total, size)
    kept: dict[int, PeakTable] = {}
    done = total - sum(block.size for block in blocks)
    if checkpoint is not None and on_block is not None:
        for block, table in checkpoint.blocks():
            on_block(block, table)
    control.report(done, total)
    feed = None
    if executor.remote and not _picklable(read):
        feed = _Feed(read)  # only this process can read the data: it reads, the cluster computes
    lock = threading.Lock() if not (parallel or executor.remote) else None
    task = _Task(read if feed is None else None, find, lock)
    with _one_thread_each() if parallel and executor.workers > 1 and not executor.remote else nullcontext():
        for block, table in executor.map(task, blocks, control, feed):
            if checkpoint is not None:
                checkpoint.write(block, table)
            else:
                kept[block.start] = table
            done += block.size
            if on_block is not None:
                on_block(block, table)
            control.report(done, total)
    control.check()
    if checkpoint is not None:
        return checkpoint.table(shape)
    tables = [kept.pop(start) for start in sorted(kept)]
    joined = PeakTable.concatenate(tables, shape)
    joined.attrs = merge_attrs([table.attrs for table in tables])
    return joined


class _Feed:
    def __init__(self, read: Read) -> None:
        self.read = read

    def __call__(self, block: Block) -> NDArray[Any]:
        return self.read(block.start, block.stop)


def _picklable(read: Read) -> bool:
    import cloudpickle

    try:
        return len(cloudpickle.dumps(read)) < 10_000_000  # arrays in memory are sent block by block, not whole to everyone
    except Exception:  # whatever a foreign object raises: it cannot be sent
        return False


def _one_thread_each() -> AbstractContextManager[Any]:
    """Keep BLAS from starting its own threads inside every worker thread."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def release_pages(array: Any) -> None:
    """Let go of the memory that file pages behind a memory-mapped array take; they are read again when touched.

    Without it, going once through a mapped file makes all of it resident. Only maps of files are touched, and none that
    keep changes to themselves (mode "c").
    """
    base = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.mode in ("r", "r+"):
            pages: Any = getattr(base, "_mmap", None)
            if hasattr(pages, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
                pages.madvise(mmap.MADV_DONTNEED)
            return
        base = base.base
