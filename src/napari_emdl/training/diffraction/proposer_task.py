"""Training of the proposers: soft visibility maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from napari_emdl.diffraction.find.spectrum import probe_spectrum
from napari_emdl.training.diffraction.config import TrainConfig
from napari_emdl.training.diffraction.fcunet import FCUNet, peaks
from napari_emdl.training.diffraction.library import Run
from napari_emdl.training.diffraction.render import Pattern, draw_pattern

SPOT_SIGMA_PX = 1.5


@dataclass
class ProposerBatch:
    """Patterns (B, 256, 256), probe spectra and target maps."""

    pattern: torch.Tensor
    probe_re: torch.Tensor
    probe_im: torch.Tensor
    target: torch.Tensor


def target_map(pattern: Pattern) -> torch.Tensor:
    """Soft visibility map: a Gaussian spot as high as the disk is visible at each centre, (H, W)."""
    n = pattern.counts.shape[-1]
    target = torch.zeros(n * n)
    visibility = pattern.visibility
    keep = (visibility > 0.02) & (pattern.centre_px > -1).all(1) & (pattern.centre_px < n).all(1)
    centre, height = pattern.centre_px[keep], visibility[keep]
    offset = torch.arange(-5, 6)
    row = centre[:, :1].round().long() + offset
    col = centre[:, 1:].round().long() + offset
    gr = torch.exp(-0.5 * ((row - centre[:, :1]) / SPOT_SIGMA_PX) ** 2) * ((row >= 0) & (row < n))
    gc = torch.exp(-0.5 * ((col - centre[:, 1:]) / SPOT_SIGMA_PX) ** 2) * ((col >= 0) & (col < n))
    spots = height[:, None, None] * gr[:, :, None] * gc[:, None, :]
    index = row.clamp(0, n - 1)[:, :, None] * n + col.clamp(0, n - 1)[:, None, :]
    return target.scatter_reduce_(0, index.reshape(-1), spots.reshape(-1), "amax").view(n, n)


class ProposerTask:
    """Train FCU-Net."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def build(self) -> nn.Module:
        m = self.config.fcunet
        return FCUNet(m.channels, m.depth, m.real_channels, m.candidates)

    def batch(self, runs: list[Run], rng: np.random.Generator, generator: torch.Generator) -> ProposerBatch:
        drawn = [draw_pattern(runs, self.config.render, rng, generator) for _ in range(self.config.loop.patterns_per_step)]
        return self.collate(drawn)

    def collate(self, patterns: list[Pattern]) -> ProposerBatch:
        """Batch of patterns with their probes' spectra and targets."""
        spectra = [probe_spectrum(p.probe.cpu().numpy()) for p in patterns]
        stack = lambda parts: torch.stack(parts).to(self.config.device)  # noqa: E731
        return ProposerBatch(
            stack([p.counts for p in patterns]),
            stack([torch.as_tensor(s[0]) for s in spectra]),
            stack([torch.as_tensor(s[1]) for s in spectra]),
            stack([target_map(p) for p in patterns]),
        )

    def loss(self, model: nn.Module, batch: object) -> tuple[torch.Tensor, dict[str, float]]:
        assert isinstance(batch, ProposerBatch) and isinstance(model, FCUNet)
        logits = model.logits(batch.pattern, batch.probe_re, batch.probe_im)
        total = F.binary_cross_entropy_with_logits(logits, batch.target, reduction="sum")
        loss = total / (batch.target.sum() + 10.0)
        return loss, {"bce": float(loss.detach())}

    def validate(self, model: nn.Module, runs: list[Run]) -> dict[str, float]:
        from napari_emdl.training.diffraction.tasks import validation_patterns

        assert isinstance(model, FCUNet)
        patterns = validation_patterns(runs, self.config.render, self.config.loop.validation_patterns)
        model.eval()
        found, losses = [], []
        with torch.no_grad():
            for start in range(0, len(patterns), 4):
                batch = self.collate(patterns[start : start + 4])
                losses.append(self.loss(model, batch)[1]["bce"])
                image = torch.sigmoid(model.logits(batch.pattern, batch.probe_re, batch.probe_im))
                found += list(peaks(image, batch.pattern, model.candidates).cpu().numpy())
        return {"bce": float(np.mean(losses))} | detection_metrics(patterns, found)


def detection_metrics(
    patterns: list[Pattern], found: list[np.ndarray], thresholds: tuple[float, ...] = (0.15, 0.3)
) -> dict[str, float]:
    """Precision and recall of candidates (n, 4) at some thresholds; a hit lies within 0.4 radii of a disk's centre."""
    out: dict[str, float] = {}
    for threshold in thresholds:
        hit = total = seen = wanted = 0
        for pattern, candidates in zip(patterns, found, strict=True):
            radius, size = pattern.radius_px, pattern.counts.shape[-1]
            c = candidates[candidates[:, 2] >= threshold, :2]
            c = c[((c > radius) & (c < size - 1 - radius)).all(1)]
            centre = pattern.centre_px.numpy()
            visible = (pattern.visibility.numpy() > 0.5) & ((centre > radius) & (centre < size - 1 - radius)).all(1)
            distance = np.linalg.norm(c[:, None] - centre[None], axis=-1) if len(c) else np.empty((0, len(centre)))
            near = distance < 0.4 * radius
            hit, total = hit + int(near.any(1).sum()), total + len(c)
            seen, wanted = seen + int((near.any(0) & visible).sum()), wanted + int(visible.sum())
        name = f"{threshold:.2f}"
        out |= {f"precision_{name}": hit / max(1, total), f"recall_{name}": seen / max(1, wanted)}
    return out
