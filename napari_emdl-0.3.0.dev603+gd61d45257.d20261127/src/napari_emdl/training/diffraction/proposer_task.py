"""Training of the proposers: soft visibility maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from napari_emdl.training.diffraction.config import TrainConfig
from napari_emdl.training.diffraction.fcunet import FCUNet, peaks
from napari_emdl.training.diffraction.library import Run
from napari_emdl.training.diffraction.probes import known_probe
from napari_emdl.training.diffraction.render import Pattern, draw_patterns
from napari_emdl.training.diffraction.validation import validation_patterns

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
    return target_maps([pattern])[0]


def target_maps(patterns: list[Pattern]) -> torch.Tensor:
    """Soft visibility maps of patterns of one size, (B, H, W), where their counts are."""
    n, device = patterns[0].counts.shape[-1], patterns[0].counts.device
    which = torch.tensor(np.repeat(np.arange(len(patterns)), [len(p.centre_px) for p in patterns]))
    visibility = torch.cat([p.visibility for p in patterns])
    centres = torch.cat([p.centre_px for p in patterns])
    keep = (visibility > 0.02) & (centres > -1).all(1) & (centres < n).all(1)
    centre, height, which = centres[keep].to(device), visibility[keep].to(device), which[keep].to(device)
    offset = torch.arange(-5, 6, device=device)
    row = centre[:, :1].round().long() + offset
    col = centre[:, 1:].round().long() + offset
    gr = torch.exp(-0.5 * ((row - centre[:, :1]) / SPOT_SIGMA_PX) ** 2) * ((row >= 0) & (row < n))
    gc = torch.exp(-0.5 * ((col - centre[:, 1:]) / SPOT_SIGMA_PX) ** 2) * ((col >= 0) & (col < n))
    spots = height[:, None, None] * gr[:, :, None] * gc[:, None, :]
    index = (which[:, None, None] * n + row.clamp(0, n - 1)[:, :, None]) * n + col.clamp(0, n - 1)[:, None, :]
    target = torch.zeros(len(patterns) * n * n, device=device)
    return target.scatter_reduce_(0, index.reshape(-1), spots.reshape(-1), "amax").view(-1, n, n)


def probe_spectra(probes: torch.Tensor) -> torch.Tensor:
    """`napari_emdl.diffraction.find.spectrum.probe_spectrum` of probes (B, n, n) on any device, complex."""
    total = probes.sum((1, 2), keepdim=True).clamp_min(1e-12)
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(probes / total, (1, 2))), (1, 2)).conj().resolve_conj()


class ProposerTask:
    """Train FCU-Net."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def build(self) -> nn.Module:
        m = self.config.fcunet
        return FCUNet(m.channels, m.depth, m.real_channels, m.candidates)

    def batch(self, runs: list[Run], rng: np.random.Generator, generator: torch.Generator) -> ProposerBatch:
        config = self.config
        drawn = draw_patterns(runs, config.render, config.loop.patterns_per_step, rng, generator, config.device)
        return self.collate(drawn, rng)

    def collate(self, patterns: list[Pattern], rng: np.random.Generator | None = None) -> ProposerBatch:
        """Batch of patterns with their probes' spectra and targets; with `rng` the probes are such as a user knows them."""
        probes = [p.probe if rng is None else known_probe(p, rng, self.config.probe_from_radius) for p in patterns]
        spectra = probe_spectra(torch.stack(probes))
        on = lambda x: x.to(self.config.device)  # noqa: E731
        counts = torch.stack([p.counts for p in patterns])
        return ProposerBatch(on(counts), on(spectra.real), on(spectra.imag), on(target_maps(patterns)))

    def loss(self, model: nn.Module, batch: object) -> tuple[torch.Tensor, dict[str, float]]:
        assert isinstance(batch, ProposerBatch) and isinstance(model, FCUNet)
        logits = model.logits(batch.pattern, batch.probe_re, batch.probe_im)
        total = F.binary_cross_entropy_with_logits(logits, batch.target, reduction="sum")
        loss = total / (batch.target.sum() + 10.0)
        return loss, {"bce": float(loss.detach())}

    def validate(self, model: nn.Module, runs: list[Run]) -> dict[str, float]:
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
