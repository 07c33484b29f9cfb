"""Training of the disk networks: seeds, checkpoints, resume after a cut, loss curve and validation by crystal.

    python -m napari_emdl.training.diffraction.train CONFIG.yaml [--restart]

Every step draws its patterns from (seed, step), so a resumed training continues exactly as an uncut one.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from napari_emdl.training.diffraction.config import TrainConfig, load_config
from napari_emdl.training.diffraction.library import Run, read_library
from napari_emdl.training.diffraction.tasks import Task, make_task
from napari_emdl.training.diffraction.weights import load_weights


class Trainer:
    """One training with its state on disk.

    Parameters
    ----------
    config
        What to train.
    train_runs, validation_runs
        Beam library of the two sides of the split.
    """

    def __init__(self, config: TrainConfig, train_runs: list[Run], validation_runs: list[Run]) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.runs, self.validation_runs = train_runs, validation_runs
        self.task: Task = make_task(config)
        self.model: nn.Module = self.task.build()
        if config.start_from is not None:
            load_weights(self.model, Path(config.start_from))
        self.model = self.model.to(config.device)
        if config.device == "cpu":
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).eval()
        loop = config.loop
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=loop.learning_rate, weight_decay=loop.weight_decay)
        self.step = 0
        self.seconds = 0.0
        self.skipped = 0
        self.folder = Path(config.output)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        loop = self.config.loop
        start = loop.steps * (1 - loop.decay_fraction)
        warm = min(1.0, (step + 1) / max(1, loop.warmup_steps))
        decay = 1.0 if step < start else 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / (loop.steps - start))))
        return loop.learning_rate * warm * decay

    def train_step(self, step: int | None = None) -> dict[str, float]:
        """One optimiser step; `step` fixes the batch (for tests)."""
        seed_step = self.step if step is None else step
        rng = np.random.default_rng([self.config.seed, seed_step])
        # Patterns are rendered where the network is: a GPU would starve on patterns from the CPU.
        generator = torch.Generator(self.config.device).manual_seed(self.config.seed * 1_000_003 + seed_step)
        batch = self.task.batch(self.runs, rng, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self.model.train()
        with torch.autocast(self.config.device, torch.bfloat16, enabled=self.config.loop.bf16):
            loss, parts = self.task.loss(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.loop.clip_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.skipped = 0
        else:
            self.skipped += 1
            if self.skipped >= 20:
                raise FloatingPointError(
                    "20 steps in a row had gradients that are not finite; lower the rate or set bf16: false"
                )
        self._update_ema()
        self.step += 1
        return parts | {"loss": float(loss.detach()), "grad_norm": float(norm)}

    def _update_ema(self) -> None:
        decay = min(self.config.loop.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, new in zip(self.ema.state_dict().values(), self.model.state_dict().values(), strict=True):
                if mean.dtype.is_floating_point:
                    mean.lerp_(new, 1 - decay)
                else:
                    mean.copy_(new)

    def save(self) -> None:
        """Write the checkpoint; an interrupted write leaves the old one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / "checkpoint.pt.part"
        state = {"model": self.model.state_dict(), "ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"step": self.step, "seconds": self.seconds, "config": self.config.model_dump()}, part)
        part.replace(self.folder / "checkpoint.pt")

    def load(self) -> bool:
        """Continue from the checkpoint, if there is one."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.config.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        return True

    def run(self, report: Callable[[dict], None] | None = None) -> None:
        """Train to the last step, writing loss curve, validation metrics and checkpoints on the way."""
        loop = self.config.loop
        self.folder.mkdir(parents=True, exist_ok=True)
        sums: dict[str, float] = {}
        count, start, before = 0, time.monotonic(), self.seconds
        while self.step < loop.steps:
            for key, value in self.train_step().items():
                sums[key] = sums.get(key, 0.0) + value
            count += 1
            self.seconds = before + time.monotonic() - start
            if self.step % 50 == 0 or self.step == loop.steps:
                row = {"step": self.step, "seconds": round(self.seconds, 1), "rate": self.rate(self.step)}
                row |= {k: round(v / count, 5) for k, v in sums.items()}
                _append_row(self.folder / "loss.csv", row)
                (report or _print)(row)
                sums, count = {}, 0
            if self.step % loop.validate_every == 0 or self.step == loop.steps:
                metrics = {"step": self.step} | self.task.validate(self.ema, self.validation_runs)
                _append_row(self.folder / "validation.csv", metrics)
                (report or _print)(metrics)
            if self.step % loop.checkpoint_every == 0 or self.step == loop.steps:
                self.save()


def _print(row: dict) -> None:
    print(json.dumps(row), flush=True)


def _append_row(path: Path, row: dict) -> None:
    new = not path.exists()
    with path.open("a", newline="") as f:
        writer = csv.DictWriter(f, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def train_for(trainer: Trainer, begin: float, seconds: float, tiny: bool = False) -> list[dict[str, float]]:
    """Steps until some seconds after `begin` (of ``time.monotonic``); the schedule's length follows from the first ones' speed.

    `tiny` takes the configuration's steps whatever the time. Returns rows of the loss curve.
    """
    rows: list[dict[str, float]] = []
    probe = 2 if tiny else 30
    started = time.monotonic()
    while trainer.step < trainer.config.loop.steps and (tiny or time.monotonic() - begin < seconds):
        parts = trainer.train_step()
        if trainer.step % (1 if tiny else 20) == 0:
            rows.append({"step": float(trainer.step), **{k: float(v) for k, v in parts.items()}})
        if trainer.step == probe // 3:
            started = time.monotonic()  # the first steps warm up the GPU
        if trainer.step == probe and not tiny:
            pace = (time.monotonic() - started) / (probe - probe // 3)
            steps = probe + max(1, int(0.95 * (seconds - (time.monotonic() - begin)) / pace))
            loop = trainer.config.loop.model_copy(update={"steps": steps})
            trainer.config = trainer.config.model_copy(update={"loop": loop})
    return rows or [{"step": float(trainer.step)}]


def plot_curves(folder: str | Path, out: str | Path) -> None:
    """Draw loss and validation curves of a training into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4))
    for axis, name in zip(figure.subplots(1, 2), ("loss.csv", "validation.csv"), strict=True):
        with (Path(folder) / name).open() as f:
            rows = list(csv.DictReader(f))
        for key in rows[0]:
            if key not in ("step", "seconds", "rate", "grad_norm"):
                axis.plot([int(r["step"]) for r in rows], [float(r[key]) for r in rows], label=key)
        axis.set_xlabel("step")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out)


def train(config_path: str | Path, resume: bool = True, network: str | None = None) -> Trainer:
    """Train the network a configuration names, going on from its checkpoint unless `resume` is false."""
    config = load_config(config_path)
    if network is not None and config.network != network:
        from napari_emdl.base.errors import EmdlError

        raise EmdlError(f"{config_path} configures {config.network!r}, not {network!r}; give the configuration of {network!r}")
    torch.set_num_threads(config.threads)
    paths: list[str | Path] = list(config.library)
    trainer = Trainer(config, read_library(paths, validation=False), read_library(paths, validation=True))
    if resume:
        trainer.load()
    trainer.run()
    return trainer


def train_fcunet(config_path: str | Path, resume: bool = True) -> Trainer:
    """Train FCU-Net."""
    return train(config_path, resume, "fcunet")


def train_refiner(config_path: str | Path, resume: bool = True) -> Trainer:
    """Train the disk refiner."""
    return train(config_path, resume, "refiner")


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--restart", action="store_true", help="ignore an existing checkpoint")
    args = parser.parse_args()
    train(args.config, resume=not args.restart)


if __name__ == "__main__":
    main()
