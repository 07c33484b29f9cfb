"""Targets of column networks on the map's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from napari_emdl.training.atoms.lattices import WEAK
from napari_emdl.training.atoms.network import STRIDE

#: half width of the stamp around a column, map pixels
REACH = 5
#: radius around weak columns (oxygen, single metal atoms) left out of the loss, A
IGNORE_A = 0.55


@dataclass
class Targets:
    """Targets of a batch: `heat` (batch, species, h, w) in 0..1, `offset` (batch, 2, h, w) in image pixels to the
    nearest column,
    `weight` (batch, 1, h, w) of the map's loss. With `taught` the map learns that instead of `heat`."""

    heat: torch.Tensor
    offset: torch.Tensor
    weight: torch.Tensor
    taught: torch.Tensor | None = None


def make_targets(
    columns: list[tuple[np.ndarray, np.ndarray]], shape: tuple[int, int], sampling_A: np.ndarray, sigma_A: float, species: int
) -> Targets:
    """Gaussian labels, peak 1, at the columns' mean positions.

    Parameters
    ----------
    columns
        For each image positions (m, 2) in image pixels and species (m,), `WEAK` for columns that are left out.
    shape
        Image shape.
    sampling_A
        (batch,) pixel sizes.
    """
    h, w = shape[0] // STRIDE, shape[1] // STRIDE
    n = len(columns)
    heat = torch.zeros(n * species * h * w)
    nearest = torch.zeros(n * h * w)
    offset = torch.zeros(2, n * h * w)
    weight = torch.ones(n * h * w)
    image = np.repeat(np.arange(n), [len(p) for p, _ in columns])
    if len(image):
        position = torch.as_tensor(np.concatenate([p for p, _ in columns]), dtype=torch.float32)
        kind = torch.as_tensor(np.concatenate([k for _, k in columns]).astype(np.int64))
        pixel_A = torch.as_tensor(np.asarray(sampling_A, np.float32)[image])
        b = torch.as_tensor(image)
        centre = torch.round((position - (STRIDE - 1) / 2) / STRIDE).long()
        step = torch.arange(-REACH, REACH + 1)
        r = (centre[:, 0, None, None] + step[:, None]).expand(-1, -1, len(step))
        c = (centre[:, 1, None, None] + step[None]).expand(-1, len(step), -1)
        dr = position[:, 0, None, None] - (STRIDE * r + (STRIDE - 1) / 2)
        dc = position[:, 1, None, None] - (STRIDE * c + (STRIDE - 1) / 2)
        d2 = (dr**2 + dc**2) * pixel_A[:, None, None] ** 2
        value = torch.exp(-0.5 * d2 / sigma_A**2)
        inside = (r >= 0) & (r < h) & (c >= 0) & (c < w)
        flat = (b[:, None, None] * h + r) * w + c
        real = inside & (kind != WEAK)[:, None, None]
        every = ((b * species + kind.clamp(max=species - 1))[:, None, None] * h + r) * w + c
        heat.scatter_reduce_(0, every[real], value[real], "amax")
        nearest.scatter_reduce_(0, flat[real], value[real], "amax")
        best = real.clone()
        best[real] = value[real] >= nearest[flat[real]]
        offset[0, flat[best]], offset[1, flat[best]] = dr[best], dc[best]
        drop = inside & (kind == WEAK)[:, None, None] & (d2 < IGNORE_A**2)
        weight[flat[drop]] = 0
        weight[nearest > 0.2] = 1
    return Targets(heat.view(n, species, h, w), offset.view(2, n, h, w).transpose(0, 1), weight.view(n, 1, h, w))


def column_loss(out: dict[str, torch.Tensor], t: Targets, species_weight: float = 0.0) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of a batch: binary cross-entropy of the map, and a Gaussian likelihood of offset and sigma near columns; with
    `species_weight` also the cross-entropy between the species near columns.

    The likelihood is weighted with sigma (Seitzer et al. 2022, beta = 0.5), which keeps hard columns from being given up.
    """
    logit = out["logit"]
    heat = t.heat if t.taught is None else t.taught
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logit, heat, reduction="none")
    # the entropy of soft labels is no error: leave it out, so that the curve shows what is left to learn
    q = heat.clamp(1e-6, 1 - 1e-6)
    excess = bce + q * torch.log(q) + (1 - q) * torch.log1p(-q)
    map_loss = (excess * t.weight).sum() / t.weight.sum()
    near = t.heat.amax(1, keepdim=True)
    near = torch.where(near > 0.3, near, torch.zeros_like(near)) * t.weight
    s = out["log_sigma"]
    d2 = ((out["offset"] - t.offset) ** 2).sum(1, keepdim=True)
    nll = 0.5 * d2 * torch.exp(-2 * s) + 2 * s
    position = (nll * torch.exp(s.detach()) * near).sum() / near.sum().clamp_min(1)
    loss = 20 * map_loss + 0.25 * position
    rms = torch.sqrt((0.5 * d2 * near).sum() / near.sum().clamp_min(1))
    terms = {"map": float(map_loss.detach()), "position": float(position.detach()), "rms_px": float(rms.detach())}
    if species_weight:
        each = torch.nn.functional.cross_entropy(logit, t.heat.argmax(1), reduction="none")[:, None]
        species = (each * near).sum() / near.sum().clamp_min(1)
        loss = loss + species_weight * species
        terms["species"] = float(species.detach())
    return loss, terms
