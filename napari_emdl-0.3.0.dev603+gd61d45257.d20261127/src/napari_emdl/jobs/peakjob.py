"""Run a peak finder over all patterns or frames: a block job whose blocks are peak tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.params import RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs.blockjob import Read, run_block_job
from napari_emdl.jobs.blocks import Block
from napari_emdl.jobs.checkpoint import merge_peaks
from napari_emdl.jobs.control import Control

Find = Callable[[NDArray[Any]], PeakTable]
OnBlock = Callable[[Block, PeakTable], None]


class _Find:
    """Peaks of a block, without those a view hides; picklable when `find` is."""

    def __init__(self, find: Find) -> None:
        self.find = find

    def __call__(self, items: NDArray[Any], _block: Block) -> PeakTable:
        return self.find(items).compact()


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
    find
        Items -> table of shape (n,). Integer attributes of the tables are added up over the blocks, others are taken from
        the first.
    read, bytes_per_item, run, output, fingerprint, control, on_block, parallel
        See :func:`napari_emdl.jobs.blockjob.run_block_job`.

    Raises
    ------
    Cancelled
        When cancelled; finished blocks stay in the partial file.
    EmdlError
        For a partial file in the way, a full disk, or what `read` and `find` raise.
    """
    total = int(np.prod(tuple(shape), dtype=np.int64))
    if total == 0:
        (control or Control()).check()
        return PeakTable.empty(shape)
    return run_block_job(
        total=total,
        read=read,
        work=_Find(find),
        merge=lambda blocks: merge_peaks(blocks, shape),
        bytes_per_item=bytes_per_item,
        run=run,
        output=output,
        fingerprint=fingerprint,
        control=control,
        on_block=on_block,
        parallel=parallel,
    )
