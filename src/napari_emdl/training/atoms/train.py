"""Training of column networks: seeds, checkpoints, exact resume, loss curve."""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_emdl.training.atoms.config import ColumnsConfig, Data, read_config
from napari_emdl.training.atoms.contrast import pooled_features
from napari_emdl.training.atoms.labels import Targets, column_loss, make_targets
from napari_emdl.training.atoms.mixture import Bank, MixedSampler
from napari_emdl.training.atoms.network import ColumnNet, build
from napari_emdl.training.atoms.sampling import Batch, Sampler
from napari_emdl.training.atoms.waves import Mixture, Waves, generate, load

#: the learning rate is constant after the warm-up, and falls to 1 % of itself over the last part of the training
DECAY_FROM = 0.5
#: what `loss.csv` holds beside step and seconds; `species` and `contrast` are empty where their weight is 0
LOGGED = ("loss", "map", "position", "rms_px", "rate", "species", "contrast")


def contrast_loss(judged: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, float]:
    """Cross-entropy of the contrast's logit (n,) where the contrast is clear and was not told, and the share that is right."""
    sign = torch.as_tensor(batch.contrast, device=judged.device)
    asked = (sign != 0) & (batch.conditions[:, :2].sum(1) == 0)
    if not bool(asked.any()):
        return 0.0 * judged.sum(), float("nan")
    truth = (sign[asked] > 0).float()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(judged[asked], truth)
    return loss, float(((judged[asked] > 0) == (truth > 0.5)).float().mean())


def pick_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda"."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def learning_rate(progress: float, step: int, config: ColumnsConfig) -> float:
    """Rate at a step, `progress` running from 0 to 1 over the training."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    fall = max(0.0, (progress - DECAY_FROM) / (1 - DECAY_FROM))
    return config.learning_rate * warm * (1 - 0.99 * min(1.0, fall))


def adapted(
    weights: dict[str, torch.Tensor], net: torch.nn.Module, neighbours: bool = False
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Weights of a network for one image and one species, as a start for one with more of either.

    The middle image (with `neighbours` the first one) takes the stem, the others start at zero; every species starts as the one
    there was, and so do conditions that are new.
    """
    result = dict(net.state_dict())
    for name, new in result.items():
        old = weights.get(name)
        if old is None:
            continue
        if old.shape == new.shape:
            result[name] = old
        elif name == "embed.0.weight":
            # conditions that the old network did not know
            result[name] = torch.zeros_like(new)
            result[name][:, : old.shape[1]] = old
        elif name == "stem.weight" and neighbours:
            # the frame comes first, and pixel unshuffling keeps channels together
            result[name] = torch.zeros_like(new)
            result[name][:, : old.shape[1]] = old
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
    sampler: Sampler | MixedSampler
    device: torch.device
    step: int = 0
    seconds: float = 0.0
    teacher: torch.nn.Module | None = None

    @classmethod
    def new(
        cls, config: ColumnsConfig, waves: Waves | Bank, weights: dict[str, torch.Tensor] | None = None,
        teacher: torch.nn.Module | None = None,
    ) -> Trainer:  # fmt: skip
        """A fresh training, from random or given weights; mixed samples (`config.neighbours`) take a `Bank`."""
        torch.manual_seed(config.seed)
        device = pick_device(config.device)
        net = build(config)
        if weights is not None:
            net.load_state_dict(adapted(weights, net, config.neighbours))
        if config.contrast_weight and isinstance(net, ColumnNet):
            # trained with the rest; the scale of the features it standardises stays that of the start
            net.contrast_probe.requires_grad_(True)
        net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decay = [p for p in net.parameters() if p.ndim > 1 and p.requires_grad]
        rest = [p for p in net.parameters() if p.ndim <= 1 and p.requires_grad]
        optimiser = torch.optim.AdamW(
            [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=config.learning_rate,
        )
        seed = [config.seed, 7]
        sampler: Sampler | MixedSampler
        if isinstance(waves, Bank):
            sampler = MixedSampler(waves, config, seed, str(device))
        elif config.neighbours:
            sampler = MixedSampler(Bank([waves], None), config, seed, str(device))
        else:
            sampler = Sampler(waves, config.imaging, config.crop_px, config.images, seed, len(config.species) == 1, str(device))
        if teacher is not None:
            teacher = teacher.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return cls(config, net, copy.deepcopy(net).eval(), optimiser, sampler, device, teacher=teacher)

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
        image = batch.image.contiguous(memory_format=torch.channels_last)
        self._taught(t, image, batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=c.bf16):
            if c.contrast_weight and isinstance(self.net, ColumnNet):
                out, features = self.net.with_features(image, batch.conditions)
                judged = self.net.contrast_probe(pooled_features(out, features))[:, 0].float()
            else:
                out, judged = self.net(image, batch.conditions), None
        loss, terms = column_loss(out, t, c.species_weight)
        if judged is not None:
            contrast, terms["contrast"] = contrast_loss(judged, batch)
            loss = loss + c.contrast_weight * contrast
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        self.optimiser.step()
        self._update_average()
        self.step += 1
        self.seconds += time.monotonic() - began
        return {"loss": float(loss.detach()), **terms, "rate": rate}

    @torch.no_grad()
    def _taught(self, targets: Targets, image: torch.Tensor, batch: Batch) -> None:
        """Let the images that it teaches learn the teacher's map as well."""
        if self.teacher is None:
            return
        hrtem = np.isfinite(batch.dose_e_per_A2)  # scanned images have no dose
        columns = np.asarray(batch.contrast)  # 0 where there are none
        kinds = {"hrtem": hrtem, "scanned": ~hrtem & (columns != 0), "scanned_dark": ~hrtem & (columns < 0)}
        taught = torch.as_tensor(np.any([kinds[name] for name in self.config.teaches], axis=0), device=self.device)
        if not bool(taught.any()):
            return
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            logit = self.teacher(image[taught], batch.conditions[taught])["logit"]
        share = self.config.teacher_share
        targets.taught = targets.heat.clone()
        targets.taught[taught] = torch.lerp(targets.heat[taught], torch.sigmoid(logit.float()), share)

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for a, b in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - keep)
            else:
                a.copy_(b)


def _running(old: float, new: float) -> float:
    """Running mean that passes over what was not measured."""
    return old if new != new else new if old != old else 0.98 * old + 0.02 * new


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
            terms = one if not terms else {k: _running(terms.get(k, v), v) for k, v in one.items()}
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


def load_bank(config: ColumnsConfig, split: str) -> Bank:
    """The banks of a mixed training: that of `data`, the others and the pairs."""

    def read(d: Data) -> Waves:
        return load(Path(d.folder), split, d.train_waves if split == "train" else d.val_waves)

    return Bank([read(d) for d in (config.data, *config.mix.others)], read(config.mix.pairs))


def simulate_banks(config: ColumnsConfig, device: str = "cpu") -> None:
    """Simulate the exit waves that a training's folders lack."""
    for d in (config.data, *((config.mix.pairs, *config.mix.others) if config.neighbours else ())):
        for split, count in (("val", d.val_waves), ("train", d.train_waves)):
            generate(Path(d.folder), count, split, d.seed, Mixture(d.shares, d.materials, d.sheet_keV), device)


def _network_of(folder: str | None) -> torch.nn.Module | None:
    """The network of a model folder."""
    from napari_emdl.training.atoms.export import WEIGHTS_NAME, load_weights

    return None if folder is None else load_weights(Path(folder) / WEIGHTS_NAME)[0]


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
    simulate_banks(c, str(pick_device(c.device)))
    start, teacher = (_network_of(folder) for folder in (c.start_from, c.teacher))
    weights = None if start is None else start.state_dict()
    waves = load_bank(c, "train") if c.neighbours else load(folder, "train", c.data.train_waves)
    trainer = Trainer.new(c, waves, weights, teacher)
    if resume and (out / "checkpoint.pt").exists():
        trainer.restore(torch.load(out / "checkpoint.pt", map_location=trainer.device, weights_only=False))
    run(trainer, out, progress, cancel)
    return out
