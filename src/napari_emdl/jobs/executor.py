"""Where blocks are computed: on threads of this computer, or on a Dask cluster."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

from napari_emdl.base.errors import EmdlError
from napari_emdl.base.params import RunParams
from napari_emdl.jobs.blocks import Block
from napari_emdl.jobs.control import Control

#: How often a waiting job looks whether it was cancelled.
POLL_S = 0.1
#: How long a cancelled job waits for blocks that are still being worked on.
GRACE_S = 0.5
#: How long a scheduler may take to answer.
ANSWER_S = 10.0
#: How often a job looks after its cluster, and how long it waits in silence for one that is not there.
LOOK_S, PATIENCE_S = 0.5, 10.0
SCHEDULER_GONE = "the Dask scheduler is gone; finished blocks are kept: start one again and go on with `resume=True`"

Feed = Callable[[Block], Any]


class Executor(Protocol):
    """Computes blocks; the science does not know where."""

    #: Blocks worked on at the same time.
    workers: int
    #: True when blocks are computed in other processes, so that functions and results are pickled.
    remote: bool

    def map(
        self, fn: Callable[..., Any], blocks: Iterable[Block], control: Control, feed: Feed | None = None
    ) -> Iterator[tuple[Block, Any]]:
        """Give ``(block, fn(block))`` as blocks are finished, with a bounded number of them in flight.

        Parameters
        ----------
        fn
            Called with the block, and with ``feed(block)`` as second argument when `feed` is given.
        blocks
            Blocks to compute.
        control
            Checked at least ten times a second; a cancelled job raises :class:`~napari_emdl.base.errors.Cancelled`.
        feed
            Runs on this computer even if `fn` does not, for data that only this process can read.
        """
        ...

    def close(self) -> None:
        """Give threads or connections back."""
        ...


class ThreadExecutor:
    """Threads of this process: numpy, FFT and onnxruntime let go of the interpreter while they work.

    Parameters
    ----------
    workers
        Number of threads; all cores when None.
    """

    remote = False

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or available_cores()

    def map(
        self, fn: Callable[..., Any], blocks: Iterable[Block], control: Control, feed: Feed | None = None
    ) -> Iterator[tuple[Block, Any]]:
        """See :class:`Executor`."""
        call = fn if feed is None else lambda block: fn(block, feed(block))
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="emdl-job")
        pending: dict[Future[Any], Block] = {}
        waiting = iter(blocks)
        try:
            while True:
                control.check()
                while len(pending) < self.workers and (block := next(waiting, None)) is not None:
                    pending[pool.submit(call, block)] = block
                if not pending:
                    return
                done, _ = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            wait(pending, timeout=GRACE_S)

    def close(self) -> None:
        """Nothing is held between calls."""


class DaskExecutor:
    """Workers of a Dask cluster; they need this package, and the same path to the data to read it themselves.

    Parameters
    ----------
    address
        Scheduler such as ``tcp://host:8786``, or an existing ``distributed.Client``.
    workers
        Blocks in flight; twice the cluster's threads when None, so that no worker waits for the next block.

    Raises
    ------
    EmdlError
        When dask.distributed is not installed or the scheduler does not answer.
    """

    remote = True

    def __init__(self, address: Any, workers: int | None = None) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise EmdlError("a Dask scheduler needs dask.distributed: pip install 'napari-emdl[cluster]'") from None
        self._own = isinstance(address, str)
        try:
            self._client = Client(address, timeout=ANSWER_S, set_as_default=False) if self._own else address
        except (OSError, ValueError) as error:
            raise EmdlError(f"no Dask scheduler answers at {address}: start one with 'dask scheduler' ({error})") from error
        threads = sum(self._client.nthreads().values())
        if not threads:
            self.close()
            raise EmdlError(f"the Dask scheduler at {address} has no workers: start some with 'dask worker {address}'")
        self.workers = workers or 2 * threads

    def map(
        self, fn: Callable[..., Any], blocks: Iterable[Block], control: Control, feed: Feed | None = None
    ) -> Iterator[tuple[Block, Any]]:
        """See :class:`Executor`.

        Raises
        ------
        EmdlError
            When the scheduler is gone, or a block ends the workers that compute it.
        """
        pending: dict[Any, Block] = {}
        waiting = iter(blocks)
        packed = _Packed(fn)
        watch = _ClusterWatch(self._client, control)
        try:
            while True:
                control.check()
                watch.look()
                while len(pending) < self.workers and (block := next(waiting, None)) is not None:
                    given = (block,) if feed is None else (block, feed(block))
                    pending[self._client.submit(packed, *given, pure=False)] = block
                if not pending:
                    return
                done = [future for future in pending if future.done()]
                if not done:
                    time.sleep(POLL_S / 4)
                for future in done:
                    yield pending.pop(future), _result_of(future)
        finally:
            if pending and self._client.status == "running":
                self._client.cancel(list(pending))

    def close(self) -> None:
        """Leave the cluster as it was."""
        if self._own:
            self._client.close()


class _Packed:
    """A function pickled once for all blocks; a worker unpacks it once, so that it opens a network once."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        import cloudpickle

        self.packed: bytes = cloudpickle.dumps(fn)

    def __call__(self, *arguments: Any) -> Any:
        return _unpacked(self.packed)(*arguments)


@functools.lru_cache(maxsize=2)  # two jobs may take turns on a worker; more would hold on to memory
def _unpacked(packed: bytes) -> Callable[..., Any]:
    import cloudpickle

    function: Callable[..., Any] = cloudpickle.loads(packed)
    return function


class _ClusterWatch:
    """Looks now and then whether scheduler and workers are still there."""

    def __init__(self, client: Any, control: Control) -> None:
        self._client, self._control = client, control
        self._next_s = time.monotonic() + LOOK_S
        self._lost_s: float | None = None
        self._said = False

    def look(self) -> None:
        """Say when no worker has been there for ten seconds; give up when the scheduler has not.

        Raises
        ------
        EmdlError
            When the scheduler does not answer any more.
        """
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + LOOK_S
        running = self._client.status == "running"
        if running and self._n_workers():
            if self._said:
                self._control.say("a Dask worker is there again; going on")
            self._lost_s, self._said = None, False
            return
        self._lost_s = self._lost_s or now
        if now - self._lost_s < PATIENCE_S:
            return
        if not running:
            raise EmdlError(SCHEDULER_GONE)
        if not self._said:
            self._control.say("the Dask cluster has no workers left: the job waits; start one with 'dask worker', or cancel")
            self._said = True

    def _n_workers(self) -> int:
        try:
            return len(self._client.scheduler_info(n_workers=-1)["workers"])
        except (OSError, KeyError, TypeError):
            return 0


def _result_of(future: Any) -> Any:
    """Result of a block; what goes wrong in the cluster itself is one line."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise EmdlError(
            "a block ended several Dask workers one after the other (out of memory?): give workers more memory, or "
            "less `max_memory`; finished blocks are kept, go on with `resume=True`"
        ) from error
    except (CancelledError, OSError) as error:
        raise EmdlError(SCHEDULER_GONE) from error


def available_cores() -> int:
    """Cores this process may use (fewer than the machine has under a batch system)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def make_executor(run: RunParams) -> Executor:
    """Executor that `run` asks for: a Dask scheduler by address, else threads."""
    if run.scheduler:
        return DaskExecutor(run.scheduler, run.workers)
    return ThreadExecutor(run.workers)


class _Call:
    """Call a function with the arguments of a block; picklable when they are."""

    def __init__(self, function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
        self.function, self.keywords = function, keywords

    def __call__(self, _block: Block, arguments: tuple[Any, ...]) -> Any:
        return self.function(*arguments, **self.keywords)


def call_there(function: Callable[..., Any], run: RunParams, control: Control, /, *arguments: Any, **keywords: Any) -> Any:
    """Call one function where `run` says: on the Dask cluster as one task, else here with at most `run.workers` threads.

    Parameters
    ----------
    function
        Takes `control` as keyword when it runs here.
    """
    if not run.scheduler:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(run.workers):
            return function(*arguments, control=control, **keywords)
    executor = make_executor(run)
    try:
        done = executor.map(_Call(function, keywords), [Block(0, 0, 1)], control, lambda _block: arguments)
        return next(done)[1]
    finally:
        executor.close()
