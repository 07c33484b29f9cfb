"""Read, process, merge: a long computation over patterns or frames, cut into blocks that fit the memory limit.

Whatever goes through here shows progress, can be cancelled, goes on after a crash and runs on threads or a Dask cluster.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RunParams
from napari_emdl.jobs.blocks import Block, block_size, make_blocks
from napari_emdl.jobs.checkpoint import BlockResult, Checkpoint, length_of, merge_arrays
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.executor import Executor, ThreadExecutor, make_executor

Read = Callable[[int, int], NDArray[Any]]
Work = Callable[[NDArray[Any], Block], BlockResult]
Blocks = Callable[[], Iterator[tuple[Block, Any]]]
T = TypeVar("T")


class _Task:
    """Read a block (unless it is handed over) and work on it; picklable when `read` and `work` are."""

    def __init__(self, read: Read | None, work: Work, lock: threading.Lock | None) -> None:
        self.read, self.work, self.lock = read, work, lock

    def __call__(self, block: Block, items: NDArray[Any] | None = None) -> BlockResult:
        if items is None:
            assert self.read is not None
            items = self.read(block.start, block.stop)
        if len(items) != block.size:
            raise EmdlError(f"items {block.start} to {block.stop} were asked for, {len(items)} were read; is the file cut off?")
        with self.lock or nullcontext():
            result = self.work(items, block)
        if length_of(result) != block.size:
            raise RuntimeError(f"the work gave {length_of(result)} results for {block.size} items")
        release_pages(items)
        release_pages(getattr(getattr(self.read, "__self__", None), "data", None))
        return result


def run_block_job(
    *,
    total: int,
    read: Read,
    work: Work,
    merge: Callable[[Blocks], T],
    bytes_per_item: float,
    run: RunParams,
    output: str | Path | None = None,
    fingerprint: str = "",
    control: Control | None = None,
    on_block: Callable[[Block, Any], None] | None = None,
    parallel: bool = True,
    message: str = "",
) -> T:
    """Work on `total` items in blocks and merge what comes out.

    Parameters
    ----------
    read
        ``read(start, stop)`` gives the items of that range in scan order; called from several threads. Best a bound method
        of the signal (``cube.patterns``), so that the pages of a memory-mapped file can be let go of.
    work
        ``work(items, block)`` gives a :class:`~napari_emdl.base.peaks.PeakTable` over the items, or arrays whose first axis
        runs along them.
    merge
        Called with a function that gives (block, result) in scan order, as often as it is asked.
    bytes_per_item
        Memory one item takes while it is worked on; with `run.max_memory` it sets the size of a block.
    run
        Memory, workers or scheduler, and whether to resume.
    output
        Result file; finished blocks are kept in ``<output>.part`` until :func:`~napari_emdl.jobs.checkpoint.discard_part`
        is called, which whoever writes the result does afterwards. None keeps them in memory only.
    fingerprint
        Identifies the job, see :func:`napari_emdl.jobs.provenance.fingerprint`.
    control
        Progress and cancel.
    on_block
        Called in this thread as blocks are finished, also for those found in a partial file.
    parallel
        False for work that fills the device on its own (networks): one block is computed at a time while the next is being
        read. On a Dask cluster every worker computes its own block either way.
    message
        What is done, shown with the progress.

    Raises
    ------
    Cancelled
        When cancelled; finished blocks stay in the partial file.
    EmdlError
        For a partial file in the way, a full disk, or what `read` and `work` raise.
    """
    control = control or Control()
    control.check()
    checkpoint = Checkpoint(output, fingerprint, run.resume) if output is not None else None
    try:
        executor = make_executor(run)
        if not parallel and not executor.remote:
            executor = ThreadExecutor(2)
        try:
            kept = _Kept(checkpoint)
            _compute(total, read, work, bytes_per_item, run, kept, executor, control, on_block, parallel, message)
        finally:
            executor.close()
        control.check()
        return merge(kept.blocks)
    finally:
        if checkpoint is not None:
            checkpoint.close()


class _Kept:
    """Finished blocks, in the journal or in memory."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self.checkpoint = checkpoint
        self._results: dict[int, tuple[Block, BlockResult]] = {}

    def missing(self, total: int, size: int) -> list[Block]:
        return make_blocks(total, size) if self.checkpoint is None else self.checkpoint.missing(total, size)

    def put(self, block: Block, result: BlockResult) -> None:
        if self.checkpoint is not None:
            self.checkpoint.write(block, result)
        else:
            self._results[block.start] = block, result

    def blocks(self) -> Iterator[tuple[Block, Any]]:
        if self.checkpoint is not None:
            yield from self.checkpoint.blocks()
        else:
            yield from (self._results[start] for start in sorted(self._results))


def _compute(
    total: int,
    read: Read,
    work: Work,
    bytes_per_item: float,
    run: RunParams,
    kept: _Kept,
    executor: Executor,
    control: Control,
    on_block: Callable[[Block, Any], None] | None,
    parallel: bool,
    message: str,
) -> None:
    size = block_size(bytes_per_item, run, executor.workers)
    size = min(size, max(1, -(-total // (4 * executor.workers))))  # small jobs: let every worker have some, and show progress
    blocks = kept.missing(total, size)
    done = total - sum(block.size for block in blocks)
    if on_block is not None:
        for block, result in kept.blocks():
            on_block(block, result)
    control.report(done, total, message)
    feed = None
    if executor.remote and not _picklable(read):
        feed = _Feed(read)  # only this process can read the data: it reads, the cluster computes
    lock = threading.Lock() if not (parallel or executor.remote) else None
    task = _Task(read if feed is None else None, work, lock)
    with _one_thread_each() if parallel and executor.workers > 1 and not executor.remote else nullcontext():
        for block, result in executor.map(task, blocks, control, feed):
            kept.put(block, result)
            done += block.size
            if on_block is not None:
                on_block(block, result)
            control.report(done, total, message)


def arrays(total: int) -> Callable[[Blocks], dict[str, NDArray[Any]]]:
    """`merge` for work that gives arrays: each over all items."""
    return lambda blocks: merge_arrays(blocks, total)


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
