"""Bright or dark? A linear probe on the features of a trained network, run without telling it the contrast."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from napari_emdl.training.hrtem.conditions import encode
from napari_emdl.training.hrtem.network import ColumnNet
from napari_emdl.training.hrtem.sampling import Sampler

#: background weight beside the map's, so that empty frames stay defined
FLOOR = 0.01
RIDGE = 3e-3


def pooled_features(out: dict[str, torch.Tensor], features: list[torch.Tensor]) -> torch.Tensor:
    """Features averaged where columns are seen, and over all, (batch, n)."""
    p = torch.sigmoid(out["logit"]).amax(1, keepdim=True)
    pooled = []
    for level, f in enumerate(features):
        factor = 2 ** (len(features) - 1 - level)
        w = F.avg_pool2d(p, factor) + FLOOR if factor > 1 else p + FLOOR
        pooled += [(f * w).sum((2, 3)) / w.sum((2, 3)), f.mean((2, 3))]
    return torch.cat(pooled, 1)


def fit_contrast(net: ColumnNet, sampler: Sampler, batches: int, batch: int = 8) -> float:
    """Fit the network's `contrast_probe` (positive: bright) by ridge logistic regression; returns its accuracy on the
    last fifth."""
    x, y = [], []
    net.eval()
    for _ in range(batches):
        b = sampler.batch(batch)
        clear = torch.as_tensor(b.contrast != 0)
        told = np.stack([encode(None, sampling_A=float(s)) for s in b.sampling_A])
        with torch.no_grad():
            out, features = net.with_features(b.image, torch.as_tensor(told))
            x.append(pooled_features(out, features)[clear])
        y.append(torch.as_tensor(b.contrast > 0)[clear].float())
    data, truth = torch.cat(x), torch.cat(y)
    n = int(0.8 * len(data))
    mean, width = data[:n].mean(0), data[:n].std(0) + 1e-3
    z = (data - mean) / width
    w = torch.zeros(z.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([w], max_iter=300)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(z[:n] @ w[1:] + w[0], truth[:n]) + RIDGE * (w[1:] ** 2).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        net.contrast_probe.weight.copy_((w[1:] / width)[None])
        net.contrast_probe.bias.copy_((w[0] - (w[1:] * mean / width).sum())[None])
        right = (z[n:] @ w[1:] + w[0] > 0) == (truth[n:] > 0.5)
    return float(right.float().mean())
