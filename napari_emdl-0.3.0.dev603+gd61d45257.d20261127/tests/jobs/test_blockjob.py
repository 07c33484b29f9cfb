"""Any work over blocks resumes, keeps its memory limit and runs on a cluster, not peaks alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_emdl.base.errors import Cancelled, OtherJobError
from napari_emdl.base.params import RunParams
from napari_emdl.jobs import Block, Control, part_path, run_block_job
from napari_emdl.jobs.blockjob import arrays


def read(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop, dtype=float)


def work(items: np.ndarray, block: Block) -> dict[str, np.ndarray]:
    return {"square": np.square(items), "pair": np.stack([items, np.full(block.size, block.start)], axis=1)}


def job(total: int = 40, **more: object) -> dict[str, np.ndarray]:
    defaults = {"read": read, "work": work, "merge": arrays(total), "bytes_per_item": 1e5, "run": RunParams(max_memory="1MB")}
    return run_block_job(total=total, **(defaults | more))  # type: ignore[arg-type]


def test_arrays_over_all_items() -> None:
    made = job(message="squares")
    np.testing.assert_array_equal(made["square"], np.arange(40.0) ** 2)
    assert made["pair"].shape == (40, 2) and len(np.unique(made["pair"][:, 1])) >= 12  # 0.7 MB hold 7 items, two workers 3


def test_cancelled_and_resumed(tmp_path: Path) -> None:
    output = tmp_path / "result.h5"
    control = Control()
    seen = []

    def stop_soon(block: Block, result: object) -> None:
        seen.append(block)
        if len(seen) == 3:
            control.cancel()

    with pytest.raises(Cancelled):
        job(output=output, fingerprint="a", control=control, on_block=stop_soon)
    assert part_path(output).exists()
    with pytest.raises(OtherJobError):
        job(output=output, fingerprint="b", run=RunParams(resume=True))
    worked: list[int] = []

    def counted(items: np.ndarray, block: Block) -> dict[str, np.ndarray]:
        worked.extend(range(block.start, block.stop))
        return work(items, block)

    made = job(output=output, fingerprint="a", run=RunParams(resume=True, workers=1), work=counted)
    np.testing.assert_array_equal(made["square"], np.arange(40.0) ** 2)
    assert len(worked) == 40 - sum(block.size for block in seen)


def test_results_of_the_wrong_length_are_not_taken() -> None:
    with pytest.raises(RuntimeError, match="results for"):
        job(work=lambda items, block: {"short": items[1:]})
