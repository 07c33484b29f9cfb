"""What each network is trained on: batches, losses and validation metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from napari_emdl.training.diffraction.config import TrainConfig
from napari_emdl.training.diffraction.crops import CANONICAL_RADIUS_PX, canonical_crops
from napari_emdl.training.diffraction.library import Run
from napari_emdl.training.diffraction.networks import DiskRefiner
from napari_emdl.training.diffraction.probes import PROBE_SHIFT_PX, known_probe
from napari_emdl.training.diffraction.proposals import CAPTURE_RADII, assign, draw_proposals
from napari_emdl.training.diffraction.render import Pattern, draw_pattern
from napari_emdl.training.diffraction.scene import RenderConfig
from napari_emdl.training.diffraction.strainfit import fit_basis, strain_error


class Task(Protocol):
    """One kind of training."""

    def build(self) -> nn.Module:
        """A new network."""
        ...

    def batch(self, runs: list[Run], rng: np.random.Generator, generator: torch.Generator) -> object:
        """Fresh samples of one step."""
        ...

    def loss(self, model: nn.Module, batch: object) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss to minimise and its parts for the log."""
        ...

    def validate(self, model: nn.Module, runs: list[Run]) -> dict[str, float]:
        """Metrics on held-out crystals."""
        ...


def make_task(config: TrainConfig) -> Task:
    """Task of the network a configuration names."""
    from napari_emdl.training.diffraction.proposer_task import ProposerTask

    if config.network == "refiner":
        return RefinerTask(config)
    return ProposerTask(config)


def validation_patterns(runs: list[Run], render: RenderConfig, count: int, seed: int = 77) -> list[Pattern]:
    """Fixed patterns of held-out crystals under common conditions: 4-10 px disks, 1e4-1e6 electrons."""
    common = render.model_copy(
        update={"radius_px": (4.0, 10.0), "log10_dose": (4.3, 5.0, 5.7), "sampling_invA": (0.010, 0.020)}
    )
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    return [draw_pattern(runs, common, rng, generator) for _ in range(count)]


@dataclass
class RefinerBatch:
    """Network input and truth of proposals on several patterns, offsets in canonical pixels."""

    images: torch.Tensor
    scalars: torch.Tensor
    offset: torch.Tensor
    visible: torch.Tensor


class RefinerTask:
    """Train the disk refiner on crops."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def build(self) -> DiskRefiner:
        m = self.config.refiner
        self.network = DiskRefiner(m.widths, m.blocks, m.hidden)
        return self.network

    def batch(self, runs: list[Run], rng: np.random.Generator, generator: torch.Generator) -> RefinerBatch:
        parts: list[tuple[torch.Tensor, ...]] = []
        for _ in range(self.config.loop.patterns_per_step):
            pattern = draw_pattern(runs, self.config.render, rng, generator)
            proposals = draw_proposals(pattern, self.config.proposals_per_pattern, rng)
            radius = torch.tensor(pattern.radius_px * float(np.exp(rng.normal(0, 0.015))), dtype=torch.float32)
            shift = torch.tensor(rng.uniform(-PROBE_SHIFT_PX, PROBE_SHIFT_PX, (1, 2)), dtype=torch.float32)
            probe = self.network.probe_map(known_probe(pattern, rng), radius, shift)
            position = proposals.position_px
            # Later passes start from the network's own results, whose errors follow the noise: train on those too.
            for again in self.config.own_proposals:
                position[: round(again * len(position))] = self._own(
                    pattern, position[: round(again * len(position))], radius, probe
                )
            reached = (proposals.target_px - position).norm(dim=1) < CAPTURE_RADII * pattern.radius_px
            images, scalars = self._features(pattern, position, radius, probe)
            offset = (proposals.target_px - position) * (CANONICAL_RADIUS_PX / radius)
            parts.append((images, scalars, offset, proposals.visible * reached))
        images, scalars, offset, visible = (torch.cat(x).to(self.config.device) for x in zip(*parts, strict=True))
        if self.config.device == "cpu":
            images = images.to(memory_format=torch.channels_last)
        return RefinerBatch(images, scalars, offset, visible)

    def _features(
        self, pattern: Pattern, position: torch.Tensor, radius: torch.Tensor, probe: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.zeros(len(position), dtype=torch.int64)
        crop, valid = canonical_crops(pattern.counts[None], index, position, radius)
        return self.network.features(crop, valid, radius, probe)

    def _own(self, pattern: Pattern, position: torch.Tensor, radius: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
        """Positions after one pass of the network as it is now."""
        device = self.config.device
        self.network.eval()
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=self.config.loop.bf16):
            images, scalars = self._features(pattern, position, radius, probe)
            offset = self.network.raw(images, scalars)[:, :2].float()
        return position + offset * (radius / CANONICAL_RADIUS_PX)

    def loss(self, model: nn.Module, batch: object) -> tuple[torch.Tensor, dict[str, float]]:
        assert isinstance(batch, RefinerBatch) and isinstance(model, DiskRefiner)
        out = model.raw(batch.images, batch.scalars).float()
        error = torch.sqrt((out[:, :2] - batch.offset).square().sum(1) + 1e-6)
        # Laplace-like in 2D: large errors count linearly, and sigma is learned with the position.
        position = error * torch.exp(-out[:, 2]) + 2 * out[:, 2]
        weight = batch.visible
        located = (position * weight).sum() / weight.sum().clamp(min=1.0)
        score = F.binary_cross_entropy_with_logits(out[:, 3], batch.visible)
        with torch.no_grad():
            px = float((error * weight).sum() / weight.sum().clamp(min=1.0))
        return located + 2 * score, {"position": float(located.detach()), "score": float(score.detach()), "error_px": px}

    def validate(self, model: nn.Module, runs: list[Run]) -> dict[str, float]:
        assert isinstance(model, DiskRefiner)
        patterns = validation_patterns(runs, self.config.render, self.config.loop.validation_patterns)
        return refiner_metrics(model.eval(), patterns)


def refine(model: DiskRefiner, pattern: Pattern, position: torch.Tensor, passes: int) -> torch.Tensor:
    """Refine proposals on one pattern; returns the output of the last pass, (n, 5)."""
    device = next(model.parameters()).device
    index = torch.zeros(len(position), dtype=torch.int64, device=device)
    radius = torch.tensor(pattern.radius_px, dtype=torch.float32, device=device)
    counts, position, probe = pattern.counts.to(device)[None], position.to(device), pattern.probe.to(device)
    out = torch.empty(0)
    with torch.no_grad():
        for _ in range(passes):
            out = model(counts, index, position, radius, probe)
            position = out[:, :2]
    return out.cpu()


def refiner_metrics(model: DiskRefiner, patterns: list[Pattern], passes: int = 2) -> dict[str, float]:
    """Errors of refined proposals around the visible disks of patterns, and of the strain fitted to them."""
    rng = np.random.default_rng(5)
    errors, z, strain, scores, labels = [], [], [], [], []
    for pattern in patterns:
        visible = pattern.visibility > 0.3
        size = pattern.counts.shape[-1]
        r = pattern.radius_px
        inside = ((pattern.centre_px > r) & (pattern.centre_px < size - 1 - r)).all(1)
        keep = (visible & inside).numpy()
        centre = pattern.centre_px[torch.from_numpy(keep)]
        false = torch.tensor(rng.uniform(r, size - 1 - r, (10, 2)), dtype=torch.float32)
        start = centre + torch.tensor(rng.normal(0, 0.12 * r, centre.shape), dtype=torch.float32)
        out = refine(model, pattern, torch.cat([start, false]), passes).numpy().astype(np.float64)
        n = len(centre)
        error = np.linalg.norm(out[:n, :2] - centre.numpy(), axis=1)
        errors.append(error)
        z.append(error / out[:n, 2])
        reached = assign(out[:, :2], pattern.centre_px.numpy(), pattern.visibility.numpy(), 0.45 * r)[1]
        scores.append(out[:, 3])
        labels.append(reached > 0.5)
        good = out[:n, 3] > 0.4
        fitted = fit_basis(pattern.hk[keep][good], out[:n][good, :2], out[:n][good, 2])
        if fitted is not None:
            strain.append(strain_error(pattern.basis_px, fitted))
    e, zz, s = np.concatenate(errors), np.concatenate(z), 100 * np.abs(np.array(strain))
    score, label = np.concatenate(scores) > 0.5, np.concatenate(labels)
    rms = np.sqrt(np.square(s).mean(1))
    return {
        "strain_rms_pct": float(np.sqrt(np.mean(np.sort(rms)[: int(0.95 * len(rms))] ** 2))),
        "strain_median_pct": float(np.median(s)),
        "error_median_px": float(np.median(e)),
        "error_rms_px": float(np.sqrt(np.mean(np.minimum(e, 3.0) ** 2))),
        "z_rms_axis": float(np.sqrt(np.mean(np.minimum(zz, 20) ** 2) / 2)),
        "precision": float(label[score].mean()) if score.any() else 0.0,
        "recall": float(score[label].mean()) if label.any() else 0.0,
        "fitted": float(len(strain) / len(patterns)),
    }
