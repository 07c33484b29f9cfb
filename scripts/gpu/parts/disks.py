"""A larger disk refiner and FCU-Net, trained on patterns rendered on the GPU from beams that are simulated on the machine.

Leaves refiner.npz and fcunet.npz (averaged weights in half precision; `--start` goes on from them) and the loss curves. Bring
them home with `napari_emdl.training.diffraction.weights.load_weights` and `export`, as docs/training.md says.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from napari_emdl.training.diffraction.config import FcunetModel, LoopConfig, RefinerModel, TrainConfig, load_config
from napari_emdl.training.diffraction.library import Run, beam_run
from napari_emdl.training.diffraction.tasks import make_task
from napari_emdl.training.diffraction.train import Trainer, train_for
from napari_emdl.training.diffraction.weights import WEIGHTS_NAME, load_weights, save_weights

SHARE = 8.0
#: Beams of this seed; the shipped networks saw others.
LIBRARY_SEED = 51
#: Parts of the time: beams, then refiner and FCU-Net alike.
_BEAMS = 0.16
_LARGE = {
    "refiner": RefinerModel(widths=(32, 64, 128), blocks=(2, 4), hidden=256),
    "fcunet": FcunetModel(channels=(16, 32, 48, 64, 64), real_channels=32),
}
_TINY = {
    "refiner": RefinerModel(widths=(4, 8, 8), blocks=(1, 1), hidden=16),
    "fcunet": FcunetModel(channels=(2, 3), real_channels=4),
}
_PATTERNS_PER_STEP = {"refiner": 48, "fcunet": 96}
_RATE = {"refiner": 2e-3, "fcunet": 2.5e-3}


def run(context: Any) -> dict[str, Any]:
    """Simulate beams, train both networks, score them on held-out crystals."""
    begin = time.monotonic()
    runs = simulate_beams(6 if context.tiny else 6000, _BEAMS * context.seconds, context.tiny)
    report: dict[str, Any] = {"runs": len(runs), "beams_seconds": round(time.monotonic() - begin, 1)}
    names = ("refiner", "fcunet")
    for k, name in enumerate(names):
        left = context.seconds - (time.monotonic() - begin)
        report[name] = train_one(name, runs, 0.9 * left / (len(names) - k), context)
    return report


def simulate_beams(count: int, seconds: float, tiny: bool) -> list[Run]:
    """As many runs as the CPUs manage in a time; always run 0, 1, ... of the same library."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes of the pool
    runs: list[Run] = []
    # Fresh processes: one forked from a process that uses the GPU, or many threads, may hang.
    with multiprocessing.get_context("spawn").Pool(1 if tiny else os.cpu_count()) as pool:
        end = time.monotonic() + seconds
        for made in pool.imap(partial(beam_run, seed=LIBRARY_SEED), range(count), chunksize=1 if tiny else 4):
            runs.append(made)
            if time.monotonic() > end and not tiny:
                break
        pool.terminate()
    return runs


def configuration(name: str, context: Any, output: Path) -> TrainConfig:
    """The configuration in training/configs with a larger network and batches for a GPU."""
    source = context.root / "src" / "napari_emdl" / "training" / "configs" / f"{name}.yaml"
    config = load_config(source)
    loop = LoopConfig(
        steps=2 if context.tiny else 10**6,  # set once the speed is known
        patterns_per_step=2 if context.tiny else _PATTERNS_PER_STEP[name],
        learning_rate=_RATE[name],
        decay_fraction=0.7,
        validation_patterns=3 if context.tiny else 150,
        bf16=context.device == "cuda",
    )
    sizes = _TINY if context.tiny else _LARGE
    update: dict[str, Any] = {"loop": loop, "device": context.device, "output": str(output), name: sizes[name], "library": []}
    if context.tiny:
        update["proposals_per_pattern"] = 12
    started = context.start / f"{name}.npz" if context.start is not None else None
    if started is not None and started.exists():
        output.mkdir(parents=True, exist_ok=True)
        shutil.copy(started, output / WEIGHTS_NAME)
        update["start_from"] = str(output)
    return config.model_copy(update=update)


def train_one(name: str, runs: list[Run], seconds: float, context: Any) -> dict[str, Any]:
    """Train one network for some time, ending with the learning rate at zero; returns metrics on held-out crystals."""
    begin = time.monotonic()
    held_out = [r for r in runs if r.meta["validation"]] or runs[:1]
    rest = [r for r in runs if not r.meta["validation"]] or runs
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(name, context, Path(folder))
        trainer = Trainer(config, rest, held_out)
        rows = train_for(trainer, begin, 0.85 * seconds, context.tiny)
        weights = save_weights(trainer.ema, Path(folder))
        shutil.copy(weights, context.file(f"{name}.npz"))
    with context.file(f"{name}_loss.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    spent = time.monotonic() - begin
    report = {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": trainer.step,
        "patterns_seen": trainer.step * config.loop.patterns_per_step,
        "patterns_per_s": round(trainer.step * config.loop.patterns_per_step / spent, 1),
        "config": yaml.safe_dump(config.model_dump(mode="json", include={"loop", "refiner", "fcunet", "seed"})),
    }
    report["held_out"] = trainer.task.validate(trainer.ema, held_out)
    return report | {"held_out_shipped": _shipped(name, config, held_out, context)}


def _shipped(name: str, config: TrainConfig, held_out: list[Run], context: Any) -> dict[str, float]:
    """Metrics of the shipped network on the same patterns."""
    package = context.root / "src" / "napari_emdl"
    sizes = load_config(package / "training" / "configs" / f"{name}.yaml")
    task = make_task(config.model_copy(update={"refiner": sizes.refiner, "fcunet": sizes.fcunet}))
    model = task.build()
    load_weights(model, package / "models" / "shipped" / ("disk_refiner" if name == "refiner" else name))
    return task.validate(model.to(context.device).eval(), held_out)
