"""Training of column networks: seeds, checkpoints, exact resume, loss curve."""

from __future__ import annotations

import copy
import csv
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_emdl.training.atoms.config import ColumnsConfig, read_config
from napari_emdl.training.atoms.labels import column_loss, make_targets
from napari_emdl.training.atoms.network import build
from napari_emdl.training.atoms.sampling import Sampler
from napari_emdl.training.atoms.waves import Mixture, Waves, generate, load

#: the learning rate is constant after the warm-up, and falls to 1 % of itself over the last part of the training
DECAY_FROM = 0.5
#: what `loss.csv` holds beside step and seconds; `species` is empty where its weight is 0
LOGGED = ("loss", "map", "position", "rms_px", "rate", "species")


def pick_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda"."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def learning_rate(progress: float, step: int, config: ColumnsConfig) -> float:
    """Rate at a step, `progress` running from 0 to 1 over the training."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = max(0.0, (progress - DECAY_FROM) / (1 - DECAY_FROM))
    return config.learning_rate * warm * (1 - 0.99 * min(1.0, fall))


def adapted(weights: dict[str, torch.Tensor], net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of a network for one image and one species, as a start for one with more of either.

    The middle image takes the stem, the others start at zero; every species starts as the one there was.
    """
    result = dict(net.state_dict())
    for name, new in result.items():
        old = weights.get(name)
        if old is None:
            continue
        if old.shape == new.shape:
            result[name] = old
        elif name == "stem.weight":
            start = (new.shape[1] // old.shape[1] // 2) * old.shape[1]
            result[name] = torch.zeros_like(new)
            result[name][:, start : start + old.shape[1]] = old
        elif name.startswith("head."):
            result[name] = torch.cat([old[:1].expand(len(new) - 3, *old.shape[1:]), old[-3:]])
    return result


@dataclass
class Trainer:
    """State of a training: network, its running average, optimiser, sampler, step and seconds spent."""

    config: ColumnsConfig
    net: torch.nn.Module
    average: torch.nn.Module
    optimiser: torch.optim.Optimizer
    sampler: Sampler
    device: torch.device
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def new(cls, config: ColumnsConfig, waves: Waves, weights: dict[str, torch.Tensor] | None = None) -> Trainer:
        """A fresh training, from random or given weights."""
        torch.manual_seed(config.seed)
        device = pick_device(config.device)
        net = build(config.architecture, config.images, len(config.species), config.widths, config.context)
        if weights is not None:
            net.load_state_dict(adapted(weights, net))
        net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decay = [p for p in net.parameters() if p.ndim > 1 and p.requires_grad]
        rest = [p for p in net.parameters() if p.ndim <= 1 and p.requires_grad]
        optimiser = torch.optim.AdamW(
            [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=config.learning_rate,
        )
        sampler = Sampler(
            waves, config.imaging, config.crop_px, config.images, [config.seed, 7], len(config.species) == 1, str(device)
        )
        return cls(config, net, copy.deepcopy(net).eval(), optimiser, sampler, device)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed training needs to go on exactly as if it had not stopped."""
        return {
            "config": self.config.model_dump_json(), "net": self.net.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(), "rng": self.sampler.rng.bit_generator.state, "step": self.step,
            "seconds": self.seconds,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.sampler.rng.bit_generator.state = state["rng"]
        self.step, self.seconds = state["step"], state["seconds"]

    @property
    def progress(self) -> float:
        """Share of the training that is done: of the minutes if they are set, else of the steps."""
        if self.config.minutes is not None:
            return self.seconds / (60 * self.config.minutes)
        return self.step / self.config.steps

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the loss terms."""
        began, c = time.monotonic(), self.config
        self.net.train()
        batch = self.sampler.batch(c.batch)
        t = make_targets(batch.columns, (c.crop_px, c.crop_px), batch.sampling_A, c.label_sigma_A, len(c.species))
        t.heat, t.offset, t.weight = (x.to(self.device) for x in (t.heat, t.offset, t.weight))
        rate = learning_rate(self.progress, self.step, c)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=c.bf16):
            out = self.net(batch.image.contiguous(memory_format=torch.channels_last), batch.conditions)
        loss, terms = column_loss(out, t, c.species_weight)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        self.optimiser.step()
        self._update_average()
        self.step += 1
        self.seconds += time.monotonic() - began
        return {"loss": float(loss.detach()), **terms, "rate": rate}

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for a, b in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - keep)
            else:
                a.copy_(b)


def _save(state: dict[str, Any], path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def run(
    trainer: Trainer,
    out: Path,
    progress: Callable[[float, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> bool:
    """Train until done; False when cancelled. Writes `checkpoint.pt` and `loss.csv` into `out`."""
    c = trainer.config
    out.mkdir(parents=True, exist_ok=True)
    log, new = out / "loss.csv", not (out / "loss.csv").exists()
    terms: dict[str, float] = {}
    saved, done = time.monotonic(), True
    with open(log, "a", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        if new:
            writer.writerow(["step", "seconds", *LOGGED])
        while trainer.progress < 1:
            if cancel is not None and cancel():
                done = False
                break
            one = trainer.train_step()
            terms = one if not terms else {k: 0.98 * terms[k] + 0.02 * one[k] for k in one}
            if trainer.step % 25 == 0:
                writer.writerow(
                    [
                        trainer.step,
                        round(trainer.seconds, 1),
                        *(f"{terms[k]:.5g}" if k in terms else "" for k in LOGGED),
                    ]
                )
                f.flush()
            if progress is not None:
                progress(trainer.progress, f"step {trainer.step}, loss {terms['loss']:.3f}")
            if time.monotonic() - saved > 60 * c.checkpoint_minutes:
                _save(trainer.state(), out / "checkpoint.pt")
                saved = time.monotonic()
    _save(trainer.state(), out / "checkpoint.pt")
    return done


def train_columns(
    config_path: str | Path | ColumnsConfig,
    resume: bool = False,
    progress: Callable[[float, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Path:
    """Train a column network as a YAML file says; see `ColumnsConfig`.

    Exit waves that the data folder lacks are simulated first. Returns the folder with `checkpoint.pt` and `loss.csv`;
    export it with
    `export.export_model`.
    """
    c = config_path if isinstance(config_path, ColumnsConfig) else read_config(config_path)
    if c.threads:
        torch.set_num_threads(c.threads)
    folder, out = Path(c.data.folder), Path(c.out)
    device = str(pick_device(c.device))
    for split, count in (("val", c.data.val_waves), ("train", c.data.train_waves)):
        mixture = Mixture(c.data.shares, c.data.materials, c.data.sheet_keV)
        generate(folder, count, split, c.data.seed, mixture, device)
    weights = None
    if c.start_from:
        from napari_emdl.training.atoms.export import WEIGHTS_NAME, load_weights

        weights = load_weights(Path(c.start_from) / WEIGHTS_NAME)[0].state_dict()
    trainer = Trainer.new(c, load(folder, "train", c.data.train_waves), weights)
    if resume and (out / "checkpoint.pt").exists():
        trainer.restore(torch.load(out / "checkpoint.pt", map_location=trainer.device, weights_only=False))
    run(trainer, out, progress, cancel)
    return out
