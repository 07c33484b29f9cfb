"""The contrast network: whether columns are bright or dark, and whether an image is of an annular detector.

    python -m napari_emdl.training.atoms.contrastnet CONFIG.yaml [--restart]

A small convolutional network sees an image at 0.25 A a pixel; a few learned weights of attention choose where it looks, and a
dense layer joins what is seen there with the power spectrum. Every batch is rendered anew by the mixture that column networks
learn from, so "bright" is what `imaging.image_contrast` says of the noise-free image at the projected columns.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from napari_emdl.atoms.find.contrastview import RINGS, view_of
from napari_emdl.training.atoms.conditions import MODES, NEIGHBOURS, SIZE
from napari_emdl.training.atoms.config import ColumnsConfig, _Strict
from napari_emdl.training.atoms.mixture import MixedSampler
from napari_emdl.training.atoms.sampling import Batch
from napari_emdl.training.atoms.train import load_bank, simulate_banks

#: samples are rendered at about half of the pixel size of the view
BINNED = 2
KINDS = ("movie", "single", "stem")


class ContrastConfig(_Strict):
    """A training of the contrast network."""

    name: str = "contrast"
    #: what is rendered: banks of exit waves, mixture and imaging of a column training
    columns: ColumnsConfig
    #: channels at full, half and quarter resolution of the view
    channels: tuple[int, int, int] = (24, 32, 64)
    attention: int = 4
    hidden: int = 64
    #: shares of single frames, frames with neighbours and annular detectors
    shares: dict[str, float] = {"movie": 0.25, "single": 0.55, "stem": 0.2}
    #: sides of fields, pixels of about 0.125 A, one a batch
    sides_px: tuple[int, ...] = (192, 192, 320)
    #: samples of the smallest side a batch, half of them rendered anew, the others among the last `kept` batches
    batch: int = 16
    kept: int = 100
    minutes: float = 40.0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    ema: float = 0.998
    #: chance of a wrong label that the loss allows for
    soft: float = 0.01
    seed: int = 21
    threads: int = 1
    out: str = "runs/contrast"


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features to features."""
        return F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))


class ContrastNet(nn.Module):
    """Logits of bright columns and of an annular detector.

    Parameters
    ----------
    channels
        At full, half and quarter resolution.
    attention
        How many weightings of the field.
    hidden
        Width of the dense layer.
    """

    temperature: torch.Tensor

    def __init__(self, channels: tuple[int, int, int] = (24, 32, 64), attention: int = 4, hidden: int = 64) -> None:
        super().__init__()
        a, b, c = channels

        def step(i: int, o: int, size: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(i, o, size, stride, size // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU())

        self.body = nn.Sequential(
            step(2, a, 5, 1), step(a, b, 3, 2), Residual(b), Residual(b), step(b, c, 3, 2), Residual(c), Residual(c, 2),
        )  # fmt: skip
        self.look = nn.Conv2d(c, attention, 1)
        self.rings = nn.Sequential(nn.Linear(RINGS, 32), nn.ReLU())
        self.dense = nn.Linear((attention + 2) * c + 32, hidden)
        self.head = nn.Linear(hidden, 2)
        self.register_buffer("temperature", torch.ones(2))

    def logits(self, view: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """(B, 2) logits without calibration, of views (B, 2, rows, cols) and spectra (B, RINGS)."""
        x = self.body(view).float()
        mean = x.mean((2, 3))
        spread = (x - mean[:, :, None, None]).square().mean((2, 3)).add(1e-6).sqrt()
        weight = torch.softmax(self.look(x).flatten(2), 2)
        seen = torch.einsum("bap,bcp->bac", weight, x.flatten(2)).flatten(1)
        joined = torch.cat([mean, spread, seen, self.rings(spectrum)], 1)
        return self.head(F.dropout(F.relu(self.dense(joined)), 0.2, self.training))

    def forward(self, view: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        """(B, 2) calibrated logits: columns are bright; the image is of an annular detector."""
        return self.logits(view, spectrum) / self.temperature


@dataclass
class ContrastBatch:
    """Views (B, 2, rows, cols), spectra (B, RINGS), 1 or 0 where columns are bright or dark and NaN where neither is clear,
    and 1 for annular detectors."""

    view: torch.Tensor
    spectrum: torch.Tensor
    bright: torch.Tensor
    stem: torch.Tensor

    @property
    def others(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All but the views."""
        return self.spectrum, self.bright, self.stem


def frame_counts(batch: Batch) -> np.ndarray:
    """Frames (n, 3) behind the channels of a mixed batch."""
    told = batch.conditions[:, SIZE + len(MODES) :].cpu().numpy()
    return np.c_[np.ones(len(told)), np.round(told * np.array(NEIGHBOURS))]


def merged(channels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean (rows, cols) of a frame and its neighbours (3, rows, cols), by the frames behind each."""
    return np.tensordot(counts / counts.sum(), channels, 1)


def views(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Views and spectra of a mixed batch with its counts."""
    assert batch.counts is not None
    made = []
    for channels, counts, s in zip(batch.counts.numpy(), frame_counts(batch), batch.sampling_A, strict=True):
        image = merged(channels, counts)
        n = len(image) // BINNED
        small = image[: n * BINNED, : n * BINNED].reshape(n, BINNED, n, BINNED).mean((1, 3))
        made.append(view_of(small, BINNED * float(s)))
    return torch.as_tensor(np.stack([v for v, _ in made])), torch.as_tensor(np.stack([s for _, s in made]))


class ContrastSampler:
    """Draws batches from banks of exit waves."""

    def __init__(self, config: ContrastConfig, split: str, seed: int | list[int]) -> None:
        self.config = config
        self.rng = np.random.default_rng(seed)
        bank = load_bank(config.columns, split)
        self._kept: dict[int, list[ContrastBatch]] = {side: [] for side in config.sides_px}
        self._samplers = {
            side: MixedSampler(bank, config.columns.model_copy(update={"crop_px": side}), 0) for side in set(config.sides_px)
        }

    def mixed(self, kinds: tuple[str, ...], side_px: int) -> Batch:
        """One mixed batch of the column trainings."""
        sampler = self._samplers[side_px]
        sampler.rng = self.rng
        return sampler.batch(len(kinds), kinds)

    def batch(self) -> ContrastBatch:
        """Rendered samples, and as many from a while ago, turned anew: rendering takes as long as learning from them."""
        c = self.config
        side = int(self.rng.choice(c.sides_px))
        fresh, kept = self._fresh(side, max(2, round(c.batch / 2 * min(1.0, (min(c.sides_px) / side) ** 2)))), self._kept[side]
        before = kept[int(self.rng.integers(len(kept)))] if kept else fresh
        kept.append(fresh)
        del kept[: -c.kept]
        view = before.view.transpose(-1, -2) if self.rng.random() < 0.5 else before.view
        view = torch.rot90(view, int(self.rng.integers(4)), (-2, -1))
        joined = (torch.cat(p) for p in ((fresh.view, view), *zip(fresh.others, before.others, strict=True)))
        return ContrastBatch(*joined)

    def _fresh(self, side: int, count: int) -> ContrastBatch:
        share = np.array([self.config.shares[k] for k in KINDS])
        kinds = tuple(sorted(self.rng.choice(KINDS, count, p=share / share.sum()), key=KINDS.index))
        b = self.mixed(kinds, side)
        bright = np.where(b.contrast == 0, np.nan, b.contrast > 0)
        return ContrastBatch(*views(b), torch.as_tensor(bright).float(), torch.tensor([float(k == "stem") for k in kinds]))


def loss_of(logits: torch.Tensor, batch: ContrastBatch, soft: float) -> tuple[torch.Tensor, dict[str, float]]:
    """Cross-entropies of both questions, and the share that is right."""
    clear = torch.isfinite(batch.bright)
    truth = batch.bright[clear]
    bright = F.binary_cross_entropy_with_logits(logits[clear, 0], soft + (1 - 2 * soft) * truth)
    stem = F.binary_cross_entropy_with_logits(logits[:, 1], soft + (1 - 2 * soft) * batch.stem)
    right = ((logits[clear, 0] > 0) == (truth > 0.5)).float().mean()
    kind = ((logits[:, 1] > 0) == (batch.stem > 0.5)).float().mean()
    terms = {"bright": float(bright.detach()), "stem": float(stem.detach()), "right": float(right), "kind": float(kind)}
    return bright + 0.5 * stem, terms


class ContrastTrainer:
    """One training with its state on disk: `checkpoint.pt` and `loss.csv` in ``out``."""

    def __init__(self, config: ContrastConfig, split: str = "train") -> None:
        torch.manual_seed(config.seed)
        self.config, self.out = config, Path(config.out)
        self.sampler = ContrastSampler(config, split, [config.seed, 7])
        self.net = ContrastNet(config.channels, config.attention, config.hidden)
        self.net = self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.net).eval()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        self.step, self.seconds, self.images = 0, 0.0, 0

    def train_step(self) -> dict[str, float]:
        """One optimiser step."""
        c, began = self.config, time.monotonic()
        progress = min(1.0, self.seconds / (60 * c.minutes))
        rate = c.learning_rate * min(1.0, (self.step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = self.sampler.batch()
        self.net.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.net.logits(batch.view.contiguous(memory_format=torch.channels_last), batch.spectrum)
        loss, terms = loss_of(logits.float(), batch, c.soft)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        self.optimiser.step()
        keep = min(c.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, new in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
                mean.lerp_(new, 1 - keep) if mean.dtype.is_floating_point else mean.copy_(new)
        self.step, self.images = self.step + 1, self.images + len(batch.view)
        self.seconds += time.monotonic() - began
        return terms | {"loss": float(loss.detach()), "rate": rate}

    def save(self) -> None:
        """Write the checkpoint; an interrupted write leaves the old one."""
        state: dict[str, Any] = {
            "config": self.config.model_dump_json(), "net": self.net.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(), "rng": self.sampler.rng.bit_generator.state, "step": self.step,
            "seconds": self.seconds, "images": self.images,
        }  # fmt: skip
        torch.save(state, self.out / "checkpoint.part")
        os.replace(self.out / "checkpoint.part", self.out / "checkpoint.pt")

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not (self.out / "checkpoint.pt").exists():
            return
        state = torch.load(self.out / "checkpoint.pt", weights_only=False)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.sampler.rng.bit_generator.state = state["rng"]
        self.step, self.seconds, self.images = state["step"], state["seconds"], state["images"]

    def run(self) -> None:
        """Train until the minutes are over."""
        self.out.mkdir(parents=True, exist_ok=True)
        sums: dict[str, float] = {}
        saved = time.monotonic()
        while self.seconds < 60 * self.config.minutes:
            for key, value in self.train_step().items():
                sums[key] = sums.get(key, 0.0) + value / 50
            if self.step % 50 == 0:
                row = {"step": self.step, "seconds": round(self.seconds, 1), "images": self.images}
                _append(self.out / "loss.csv", row | {k: round(v, 5) for k, v in sums.items()})
                sums = {}
            if time.monotonic() - saved > 90:
                self.save()
                saved = time.monotonic()
        self.save()


def _append(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as f:
        writer = csv.DictWriter(f, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def read_config(path: str | Path) -> ContrastConfig:
    """Read a training's YAML file."""
    with open(path, encoding="utf-8") as f:
        return ContrastConfig.model_validate(yaml.safe_load(f))


def load_trained(config: ContrastConfig) -> ContrastNet:
    """Averaged weights of a training, in evaluation mode."""
    state = torch.load(Path(config.out) / "checkpoint.pt", weights_only=False)
    net = ContrastNet(config.channels, config.attention, config.hidden)
    net.load_state_dict(state["average"])
    return net.eval()


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--restart", action="store_true", help="ignore an existing checkpoint")
    args = parser.parse_args()
    config = read_config(args.config)
    torch.set_num_threads(config.threads)
    simulate_banks(config.columns)
    trainer = ContrastTrainer(config)
    if not args.restart:
        trainer.load()
    trainer.run()


if __name__ == "__main__":
    main()
