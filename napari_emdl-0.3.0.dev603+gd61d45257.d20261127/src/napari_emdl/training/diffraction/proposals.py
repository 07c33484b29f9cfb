"""Proposals for training the refiner: jittered disks as detectors deliver them, second-pass jitter, and false ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from napari_emdl.training.diffraction.render import Pattern

CAPTURE_RADII = 0.75


@dataclass
class Proposals:
    """Proposals on one pattern with their truth.

    Attributes
    ----------
    position_px
        (n, 2).
    target_px
        Centre of the disk each belongs to, (n, 2).
    visible
        Soft visibility of that disk; 0 where no disk is within reach.
    hk
        Its indices, (n, 2).
    """

    position_px: torch.Tensor
    target_px: torch.Tensor
    visible: torch.Tensor
    hk: torch.Tensor


def draw_proposals(pattern: Pattern, count: int, rng: np.random.Generator) -> Proposals:
    """Draw proposals on a pattern: two thirds near disks, the others false."""
    size = pattern.counts.shape[-1]
    radius = pattern.radius_px
    centre = pattern.centre_px.cpu().numpy().astype(np.float64)
    visibility = pattern.visibility.cpu().numpy().astype(np.float64)
    inside = np.all((centre > -0.3 * radius) & (centre < size - 1 + 0.3 * radius), axis=1)
    weight = np.where(inside, np.clip(visibility, 0.02, 1.0), 0.0)
    near = round(0.68 * count) if weight.sum() > 0 else 0
    picked = rng.choice(len(centre), near, p=weight / weight.sum()) if near else np.zeros(0, int)
    kind = rng.choice(3, near, p=(0.5, 0.35, 0.15))
    spread = np.where(kind == 0, 0.01 + 0.08 * rng.random(near), 0.06 + 0.16 * rng.random(near)) * radius + 0.05
    jitter = rng.normal(size=(near, 2)) * spread[:, None]
    far = kind == 2
    angle, reach = rng.uniform(0, 2 * np.pi, near), 0.6 * radius * np.sqrt(rng.random(near))
    jitter[far] = (np.stack([np.sin(angle), np.cos(angle)], 1) * reach[:, None])[far]
    positives = centre[picked] + jitter
    rest = count - near
    anywhere = rng.uniform(0, size - 1, (rest, 2))
    if near:
        beside = rng.random(rest) < 0.45
        host = centre[rng.choice(len(centre), rest, p=weight / weight.sum())]
        angle, reach = rng.uniform(0, 2 * np.pi, rest), rng.uniform(0.6, 2.2, rest) * radius
        anywhere[beside] = (host + np.stack([np.sin(angle), np.cos(angle)], 1) * reach[:, None])[beside]
    position = np.concatenate([positives, anywhere])
    position = position[rng.permutation(count)]
    target, visible = assign(position, centre, visibility, radius)
    # A target is the centre of exactly one disk, or the position itself where none is in reach.
    which = np.square(target[:, None] - centre[None]).sum(-1).argmin(1) if len(centre) else np.zeros(count, int)
    hk = pattern.hk[which] if len(centre) else np.zeros((count, 2))
    as_tensor = lambda x: torch.tensor(x, dtype=torch.float32)  # noqa: E731
    return Proposals(as_tensor(position), as_tensor(target), as_tensor(visible), as_tensor(hk))


def assign(position: np.ndarray, centre: np.ndarray, visibility: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The disk each position belongs to (near and visible beats near and faint), and its visibility, 0 out of reach."""
    if not len(centre):
        return position.copy(), np.zeros(len(position))
    distance = np.linalg.norm(position[:, None] - centre[None], axis=-1)
    claim = np.log(np.clip(visibility, 1e-3, 1)) - np.square(distance / (0.3 * radius))
    best = claim.argmax(1)
    row = np.arange(len(position))
    reached = distance[row, best] < CAPTURE_RADII * radius
    return np.where(reached[:, None], centre[best], position), np.where(reached, visibility[best], 0.0)
