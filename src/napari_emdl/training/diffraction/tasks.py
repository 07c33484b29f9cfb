"""What each network is trained on: batches, losses and validation metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from napari_emdl.training.diffraction.config import TrainConfig
from napari_emdl.training.diffraction.crops import canonical_crops
from napari_emdl.training.diffraction.lattice_loss import Lattices, strain_loss
from napari_emdl.training.diffraction.library import Run
from napari_emdl.training.diffraction.networks import DiskRefiner, precision, surroundings
from napari_emdl.training.diffraction.probes import PROBE_SHIFT_PX, known_probe
from napari_emdl.training.diffraction.proposals import CAPTURE_RADII, assign, draw_proposals
from napari_emdl.training.diffraction.proposer_task import ProposerTask
from napari_emdl.training.diffraction.render import Pattern, draw_patterns
from napari_emdl.training.diffraction.scalenet import ScaleTask
from napari_emdl.training.diffraction.strainfit import fit_basis, strain_error
from napari_emdl.training.diffraction.validation import validation_patterns
from napari_emdl.training.diffraction.weights import load_refiner

#: Part of a refiner's proposals that another network has looked at first, where there is one.
GLANCED = 0.85


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
    if config.network == "refiner":
        return RefinerTask(config)
    return ScaleTask(config) if config.network == "scale" else ProposerTask(config)


@dataclass
class RefinerBatch:
    """Network input and truth of proposals on several patterns, offsets in canonical pixels; disks in order of patterns."""

    images: torch.Tensor
    scalars: torch.Tensor
    offset: torch.Tensor
    visible: torch.Tensor
    lattices: Lattices


@dataclass
class _Views:
    """What the refiner is told of patterns: counts (B, H, W) and their mean, radius, probe and how far it is off centre, direct
    beam (B, 2)."""

    counts: torch.Tensor
    level: torch.Tensor
    radius: torch.Tensor
    probe: torch.Tensor
    shift: torch.Tensor
    beam: torch.Tensor


class RefinerTask:
    """Train the disk refiner on crops."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.glance = None if config.glance is None else load_refiner(Path(config.glance)).to(config.device)

    def build(self) -> DiskRefiner:
        m = self.config.refiner
        self.network = DiskRefiner(m.widths, m.blocks, m.hidden, m.crop_px)
        return self.network

    def batch(self, runs: list[Run], rng: np.random.Generator, generator: torch.Generator) -> RefinerBatch:
        config, device = self.config, self.config.device
        patterns = draw_patterns(runs, config.render, config.loop.patterns_per_step, rng, generator, device)
        proposals = [draw_proposals(p, config.proposals_per_pattern, rng) for p in patterns]
        views = self._views(patterns, rng)
        position, target, visible, hk = (
            torch.stack([getattr(p, name) for p in proposals]).to(device)
            for name in ("position_px", "target_px", "visible", "hk")
        )
        if self.glance is not None:
            part = round(GLANCED * position.shape[1])
            position[:, :part] = self._result(self.glance, views, position[:, :part])
        # Later passes start from the network's own results, whose errors follow the noise: train on those too.
        for again in config.own_proposals:
            part = round(again * position.shape[1])
            position[:, :part] = self._result(self.network, views, position[:, :part])
        reach = CAPTURE_RADII * torch.tensor([p.radius_px for p in patterns], device=device)
        visible = visible * ((target - position).norm(dim=2) < reach[:, None])
        images, scalars = self._features(self.network, views, position)
        if device == "cpu":
            images = images.to(memory_format=torch.channels_last)
        scale = views.radius / self.network.canonical_px
        offset = (target - position) / scale[:, None, None]
        basis = torch.tensor(np.array([p.basis_px for p in patterns]), dtype=torch.float32, device=device)
        lattices = Lattices(hk, target, position, visible, basis, scale)
        return RefinerBatch(images, scalars, offset.flatten(0, 1), visible.flatten(), lattices)

    def _views(self, patterns: list[Pattern], rng: np.random.Generator) -> _Views:
        """Radius, probe and direct beam of patterns as well as a user knows them."""
        device = self.config.device
        on = lambda values: torch.tensor(np.array(values), dtype=torch.float32, device=device)  # noqa: E731
        radius = on([p.radius_px * float(np.exp(rng.normal(0, 0.015))) for p in patterns])
        shift = on(rng.uniform(-PROBE_SHIFT_PX, PROBE_SHIFT_PX, (len(patterns), 2)))
        probes = torch.stack([known_probe(p, rng, self.config.probe_from_radius) for p in patterns])
        beam = on([p.origin_px + rng.normal(0, 0.02 * p.radius_px + 0.2, 2) for p in patterns])
        counts = torch.stack([p.counts for p in patterns])
        return _Views(counts, counts.clamp(min=0).mean((1, 2)), radius, probes, shift, beam)

    def _features(self, network: DiskRefiner, views: _Views, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and scalars of positions (B, P, 2). On the CPU one pattern at a time: the largest disk sets the crops."""
        batch, count = position.shape[:2]
        step = 1 if self.config.device == "cpu" else batch
        parts = []
        for start in range(0, batch, step):
            here = slice(start, start + step)
            probes = network.probe_map(views.probe[here], views.radius[here], views.shift[here])
            which = torch.arange(start, min(start + step, batch), device=position.device).repeat_interleave(count)
            place, radius = position[here].flatten(0, 1), views.radius[which]
            crop, valid = canonical_crops(views.counts, which, place, radius, network.crop_px)
            around = surroundings(place, views.beam[which], radius, views.level[which])
            parts.append(network.features(crop, valid, radius, probes[which - start], around))
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _result(self, network: DiskRefiner, views: _Views, position: torch.Tensor) -> torch.Tensor:
        """Positions after one pass of a network as it is now."""
        device = self.config.device
        network.eval()
        images, scalars = self._features(network, views, position)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=self.config.loop.bf16):
            offset = network.raw(images, scalars)[:, :2].float()
        return position + offset.view_as(position) * (views.radius / network.canonical_px)[:, None, None]

    def loss(self, model: nn.Module, batch: object) -> tuple[torch.Tensor, dict[str, float]]:
        assert isinstance(batch, RefinerBatch) and isinstance(model, DiskRefiner)
        out = model.raw(batch.images, batch.scalars).float()
        # Products of hundredths of a pixel need single precision.
        with torch.autocast(out.device.type, enabled=False):
            return self._loss(out, batch)

    def _loss(self, out: torch.Tensor, batch: RefinerBatch) -> tuple[torch.Tensor, dict[str, float]]:
        inverse = precision(out)
        error = out[:, :2] - batch.offset
        distance = torch.sqrt(torch.einsum("ma,mab,mb->m", error, inverse, error).clamp_min(0) + 1e-6)
        # Laplace-like in 2D: large errors count linearly, and the covariance is learned with the position.
        position = distance + 2 * out[:, 2]
        weight = batch.visible
        located = (position * weight).sum() / weight.sum().clamp(min=1.0)
        score = F.binary_cross_entropy_with_logits(out[:, 3], batch.visible)
        loss = located + 2 * score
        with torch.no_grad():
            px = float((error.norm(dim=1) * weight).sum() / weight.sum().clamp(min=1.0))
        parts = {"position": float(located.detach()), "score": float(score.detach()), "error_px": px}
        if self.config.pattern_weight > 0:
            shape = batch.lattices.hk.shape[:2]
            strain, median = strain_loss(batch.lattices, out[:, :2].view(*shape, 2), inverse.view(*shape, 2, 2))
            loss, parts = loss + self.config.pattern_weight * strain, parts | {"strain_pct": median}
        return loss, parts

    def validate(self, model: nn.Module, runs: list[Run]) -> dict[str, float]:
        assert isinstance(model, DiskRefiner)
        patterns = validation_patterns(runs, self.config.render, self.config.loop.validation_patterns)
        return refiner_metrics(model.eval(), patterns)


def refine(model: DiskRefiner, pattern: Pattern, position: torch.Tensor, passes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Refine proposals on one pattern; returns (measured, covariance) of the last pass as `DiskRefiner.forward`."""
    device = next(model.parameters()).device
    index = torch.zeros(len(position), dtype=torch.int64, device=device)
    radius = torch.tensor(pattern.radius_px, dtype=torch.float32, device=device)
    counts, position, probe = pattern.counts.to(device)[None], position.to(device), pattern.probe.to(device)
    beam = torch.tensor(pattern.origin_px, dtype=torch.float32, device=device)[None]
    out = ellipse = torch.empty(0)
    with torch.no_grad():
        for _ in range(passes):
            out, ellipse = model(counts, index, position, radius, probe, beam)
            position = out[:, :2]
    return out.cpu(), ellipse.cpu()


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
        measured, shape = refine(model, pattern, torch.cat([start, false]), passes)
        out, ellipse = measured.numpy().astype(np.float64), shape.numpy().astype(np.float64)
        n = len(centre)
        error = np.linalg.norm(out[:n, :2] - centre.numpy(), axis=1)
        errors.append(error)
        z.append(error / out[:n, 2])
        reached = assign(out[:, :2], pattern.centre_px.numpy(), pattern.visibility.numpy(), 0.45 * r)[1]
        scores.append(out[:, 3])
        labels.append(reached > 0.5)
        good = np.flatnonzero(out[:n, 3] > 0.4)
        fitted = fit_basis(pattern.hk[keep][good], out[good, :2], out[good, 2], ellipse=ellipse[good])
        if fitted is not None:
            strain.append(strain_error(pattern.basis_px, fitted))
    e, zz, s = np.concatenate(errors), np.concatenate(z), 100 * np.abs(np.array(strain).reshape(-1, 3))
    score, label = np.concatenate(scores) > 0.5, np.concatenate(labels)
    rms = np.sqrt(np.square(s).mean(1)) if len(s) else np.array([np.nan])
    return {
        "strain_rms_pct": float(np.sqrt(np.mean(np.sort(rms)[: max(1, int(0.95 * len(rms)))] ** 2))),
        "strain_median_pct": float(np.median(s)) if len(s) else float("nan"),
        "error_median_px": float(np.median(e)),
        "error_rms_px": float(np.sqrt(np.mean(np.minimum(e, 3.0) ** 2))),
        "z_rms_axis": float(np.sqrt(np.mean(np.minimum(zz, 20) ** 2) / 2)),
        "precision": float(label[score].mean()) if score.any() else 0.0,
        "recall": float(score[label].mean()) if label.any() else 0.0,
        "fitted": float(len(strain) / len(patterns)),
    }
