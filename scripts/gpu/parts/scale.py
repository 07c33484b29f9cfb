"""The scale network from the shipped weights or an earlier run, on harder patterns; all CPUs render, the GPU learns.

Leaves scale.npz and its loss curve. The configuration is training/configs/scale_continued.yaml.
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from napari_emdl.training.diffraction.config import TrainConfig, load_config
from napari_emdl.training.diffraction.nothingset import held_out_runs
from napari_emdl.training.diffraction.scalefeed import FedTask, fed
from napari_emdl.training.diffraction.train import Trainer, train_for
from napari_emdl.training.diffraction.weights import save_weights

SHARE = 2.0
#: Beams of this seed; the shipped network saw others. Held-out crystals are drawn from another.
LIBRARY_SEED, HELD_OUT_SEED = 53, 54
#: Parts of the time: beams, and what may go into training after them.
_BEAMS, _TRAINING = 0.15, 0.8


def run(context: Any) -> dict[str, Any]:
    """Train for the part's time, and score before and after on held-out crystals."""
    begin = time.monotonic()
    held_out = held_out_runs(2 if context.tiny else 40, HELD_OUT_SEED)
    processes = 1 if context.tiny else max(1, (os.cpu_count() or 2) - 1)
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(context, Path(folder))
        most = 2 if context.tiny else 400
        with fed(config, processes, _BEAMS * context.seconds, most, LIBRARY_SEED) as task:
            trainer = Trainer(config, [], held_out)
            trainer.task = task
            before = task.validate(trainer.ema, held_out)
            rows = train_for(trainer, begin, _TRAINING * context.seconds, context.tiny)
        shutil.copy(save_weights(trainer.ema, Path(folder)), context.file("scale.npz"))
        after = task.validate(trainer.ema, held_out)
    with context.file("scale_loss.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return _report(trainer, task, processes, time.monotonic() - begin) | {"held_out": after, "held_out_before": before}


def configuration(context: Any, folder: Path) -> TrainConfig:
    """The configuration in training/configs, going on from shipped or earlier weights, with batches for a GPU."""
    package = context.root / "src" / "napari_emdl"
    config = load_config(package / "training" / "configs" / "scale_continued.yaml")
    earlier = None if context.start is None else context.start / "scale.npz"
    start = package / "models" / "shipped" / "disk_scale"
    if earlier is not None and earlier.exists():
        shutil.copy(earlier, folder / "weights.npz")
        start = folder
    update = {
        "steps": 2 if context.tiny else 10**6,  # set once the speed is known
        "patterns_per_step": 2 if context.tiny else 24,
        "validation_patterns": 4 if context.tiny else 120,
    }
    loop = config.loop.model_copy(update=update)
    known = {"loop": loop, "device": context.device, "output": str(folder), "library": [], "start_from": str(start)}
    return config.model_copy(update=known)


def _report(trainer: Trainer, task: FedTask, processes: int, spent_s: float) -> dict[str, Any]:
    seen = trainer.step * trainer.config.loop.patterns_per_step
    return {
        "steps": trainer.step,
        "patterns_seen": seen,
        "patterns_per_s": round(seen / spent_s, 1),
        "processes": processes,
        "runs_a_process": task.runs_a_process,
    }
