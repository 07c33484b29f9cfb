"""Batches for the scale network from other processes, each with beams of its own: for a machine with many cores and a GPU.

Rendering and the pyramid are the CPU's work and take far longer than a step of this small network on a GPU.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_emdl.training.diffraction.config import TrainConfig
from napari_emdl.training.diffraction.library import Run, beam_run
from napari_emdl.training.diffraction.scalenet import ScaleBatch, ScaleTask

#: Batches that wait for the network, for each process.
_AHEAD = 4
_OWN: dict[str, Any] = {}


def begin(counter: Any, processes: int, seconds: float, most: int, seed: int, config: str) -> None:
    """Start of a process: every `processes`-th run of a library for some seconds, `most` of them at most, one at least."""
    with counter.get_lock():
        index = counter.value
        counter.value += 1
    end = time.monotonic() + seconds
    runs: list[Run] = []
    while len(runs) < most and (not runs or time.monotonic() < end):
        run = beam_run(index, seed)
        index += processes
        if not run.meta["validation"]:
            runs.append(run)
    _OWN.update(task=ScaleTask(TrainConfig.model_validate_json(config)), runs=runs)


def make_batch(step: int) -> tuple[int, list[Any]]:
    """Runs that the process has, and the fields of the batch of a step as arrays."""
    task: ScaleTask = _OWN["task"]
    batch = task.batch(
        _OWN["runs"], np.random.default_rng([task.config.seed, step]), torch.Generator().manual_seed(task.config.seed + step)
    )
    values = (getattr(batch, one.name) for one in fields(batch))
    return len(_OWN["runs"]), [[v.numpy() for v in value] if isinstance(value, list) else value.numpy() for value in values]


class FedTask(ScaleTask):
    """The task with its batches from processes; the network may be on a GPU.

    Parameters
    ----------
    config
        What to train.
    made
        Batches as :func:`make_batch` returns them.
    """

    def __init__(self, config: TrainConfig, made: Iterator[tuple[int, list[Any]]]) -> None:
        super().__init__(config)
        self.made = made
        self.runs_a_process = 0

    def batch(self, runs: list[Run], rng: np.random.Generator, generator: torch.Generator) -> ScaleBatch:
        self.runs_a_process, values = next(self.made)
        device = self.config.device
        moved: list[Any] = [
            [torch.from_numpy(v).to(device) for v in value] if isinstance(value, list) else torch.from_numpy(value).to(device)
            for value in values
        ]
        return ScaleBatch(*moved)

    def validate(self, model: nn.Module, runs: list[Run]) -> dict[str, float]:
        return super().validate(copy.deepcopy(model).cpu(), runs)


@contextmanager
def fed(config: TrainConfig, processes: int, seconds: float, most: int, seed: int) -> Iterator[FedTask]:
    """A task whose batches `processes` make, each after simulating beams of a library for some seconds."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes
    spawn = multiprocessing.get_context("spawn")  # one forked from a process that uses the GPU may hang
    own = config.model_copy(update={"device": "cpu"}).model_dump_json()
    start = (spawn.Value("i", 0), processes, seconds, most, seed, own)
    with spawn.Pool(processes, initializer=begin, initargs=start) as pool:
        waiting = [pool.apply_async(make_batch, (step,)) for step in range(_AHEAD * processes)]

        def made() -> Iterator[tuple[int, list[Any]]]:
            step = len(waiting)
            while True:
                yield waiting.pop(0).get()
                waiting.append(pool.apply_async(make_batch, (step,)))
                step += 1

        yield FedTask(config, made())
        pool.terminate()
