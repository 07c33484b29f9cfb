"""Bright or dark? A small probe on the features of a trained network, run without telling it the contrast."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from napari_emdl.atoms.find.contrast import SURE_CONTRAST
from napari_emdl.training.atoms.conditions import encode
from napari_emdl.training.atoms.network import ColumnNet
from napari_emdl.training.atoms.sampling import Sampler

#: background weight beside the map's, so that empty frames stay defined
FLOOR = 0.01
#: against learning the training images by heart: weight decay, noise in standard deviations, softened truth
DECAY, SHAKE, SOFT, EPOCHS = 0.3, 0.2, 0.02, 60
#: beyond this the contrast counts as sure, as in the program
SURE_LOGIT = math.log(SURE_CONTRAST / (1 - SURE_CONTRAST))


def pooled_features(out: dict[str, torch.Tensor], features: list[torch.Tensor]) -> torch.Tensor:
    """Features averaged where columns are seen, and over all, (batch, n)."""
    p = torch.sigmoid(out["logit"]).amax(1, keepdim=True)
    pooled = []
    for level, f in enumerate(features):
        factor = 2 ** (len(features) - 1 - level)
        w = F.avg_pool2d(p, factor) + FLOOR if factor > 1 else p + FLOOR
        pooled += [(f * w).sum((2, 3)) / w.sum((2, 3)), f.mean((2, 3))]
    return torch.cat(pooled, 1)


def probe_samples(
    net: ColumnNet, sampler: Sampler, batches: int, told: bool, batch: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled features and whether columns are bright, of images with a clear contrast; the contrast itself is not told.

    `told`: other conditions are told as in training, so that a defocus the user gives helps here as well.
    """
    x, y = [], []
    net.eval()
    for _ in range(batches):
        b = sampler.batch(batch)
        clear = torch.as_tensor(b.contrast != 0)
        if told:
            conditions = b.conditions.cpu().clone()
            conditions[:, :2] = 0
        else:
            conditions = torch.as_tensor(np.stack([encode(None, sampling_A=float(s)) for s in b.sampling_A]))
        with torch.no_grad():
            out, features = net.with_features(b.image.cpu(), conditions)
            x.append(pooled_features(out, features)[clear])
        y.append(torch.as_tensor(b.contrast > 0)[clear].float())
    return torch.cat(x), torch.cat(y)


def fit_contrast(net: ColumnNet, x: torch.Tensor, y: torch.Tensor, seed: int = 0) -> None:
    """Fit the network's `contrast_probe` (positive: bright) to pooled features and truth."""
    torch.manual_seed(seed)
    probe = net.contrast_probe
    with torch.no_grad():
        probe.mean.copy_(x.mean(0))
        probe.width.copy_(x.std(0) + 1e-3)
    probe.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(probe.parameters(), 2e-3, weight_decay=DECAY)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(x)).split(64):
            shaken = x[part] + SHAKE * probe.width * torch.randn_like(x[part])
            loss = F.binary_cross_entropy_with_logits(probe(shaken)[:, 0], SOFT + (1 - 2 * SOFT) * y[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    probe.requires_grad_(False).eval()


def judge_contrast(net: ColumnNet, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Accuracy of the probe, share of images it is sure of, and accuracy there."""
    with torch.no_grad():
        logit = net.contrast_probe.eval()(x)[:, 0]
    right, sure = (logit > 0) == (y > 0.5), logit.abs() > SURE_LOGIT
    return {
        "accuracy": float(right.float().mean()), "share it is sure of": float(sure.float().mean()),
        "accuracy there": float(right[sure].float().mean()),
    }  # fmt: skip
