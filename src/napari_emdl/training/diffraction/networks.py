"""The disk refiner.

Every proposed disk is measured on a crop resampled to a canonical disk radius, so one small network serves all probes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from napari_emdl.training.diffraction.crops import CANONICAL_RADIUS_PX, CROP_PX, canonical_crops


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))


def _step(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class DiskRefiner(nn.Module):
    """Measures a disk on a crop of canonical radius: offset, its uncertainty, and whether there is a disk.

    It sees the vacuum probe beside the crop, resampled alike: how soft and how round the edge of a disk is, one faint disk
    cannot tell.

    Parameters
    ----------
    widths
        Channels at 32, 16 and 8 canonical pixels.
    blocks
        Residual blocks at 16 and 8.
    hidden
        Width of the dense layer.
    """

    distance: torch.Tensor
    temperature: torch.Tensor

    def __init__(
        self, widths: tuple[int, int, int] = (16, 32, 64), blocks: tuple[int, int] = (1, 2), hidden: int = 128
    ) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(_step(4, a, 1), _step(a, b, 2), *(Residual(b) for _ in range(blocks[0])))
        self.body = nn.Sequential(_step(b, c, 2), *(Residual(c) for _ in range(blocks[1])))
        self.squeeze = nn.Conv2d(c, 24, 1)
        self.dense = nn.Linear(24 * (CROP_PX // 4) ** 2 + 3, hidden)
        self.dense2 = nn.Linear(hidden, hidden // 2)
        self.head = nn.Linear(hidden // 2, 4)
        axis = (torch.arange(CROP_PX) - (CROP_PX - 1) / 2) / CANONICAL_RADIUS_PX
        self.register_buffer("distance", torch.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2), persistent=False)
        self.register_buffer("temperature", torch.ones(()))

    def probe_map(self, probe: torch.Tensor, radius_px: torch.Tensor, shift_px: torch.Tensor | None = None) -> torch.Tensor:
        """Vacuum probe (H, W), centred at (H // 2, W // 2) + shift_px, as the network sees it: (32, 32)."""
        shape = torch._shape_as_tensor(probe)
        centre = torch.div(shape, 2, rounding_mode="floor").to(probe)[None]
        index = torch.zeros(1, dtype=torch.int64, device=probe.device)
        crop, valid = canonical_crops(probe[None], index, centre if shift_px is None else centre + shift_px, radius_px)
        inside = (self.distance < 0.95).to(crop.dtype) * valid[0]
        level = (crop[0] * inside).sum() / inside.sum().clamp(min=1.0)
        return torch.sqrt(crop[0].clamp(min=0) / level.clamp(min=1e-6)).clamp(max=3.0) - 0.7

    def features(
        self, crop: torch.Tensor, valid: torch.Tensor, radius_px: torch.Tensor, probe: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Network input from crops and the map of the probe: images (M, 4, 32, 32) and scalars (M, 3)."""
        crop = crop.clamp(min=0)
        inside = (self.distance < 0.95).to(crop.dtype) * valid
        ring = ((self.distance > 1.2) & (self.distance < 1.9)).to(crop.dtype) * valid
        mean_in = (crop * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1.0)
        mean_ring = (crop * ring).sum((1, 2)) / ring.sum((1, 2)).clamp(min=1.0)
        level = (mean_in + 0.02)[:, None, None]
        image = torch.sqrt(crop / level).clamp(max=6.0) - 0.7
        # Noise of one canonical pixel at this level tells how far the picture can be trusted.
        noise = torch.rsqrt(4 * level).expand_as(image)
        radius_map = (self.distance - 1.0).clamp(max=1.2).expand_as(image)
        scalars = torch.stack(
            [
                torch.log(mean_in + 0.02),
                torch.log(mean_ring + 0.02),
                torch.log(radius_px / CANONICAL_RADIUS_PX).expand_as(mean_in),
            ],
            1,
        )
        channels = [image * valid, radius_map, noise.clamp(max=4.0) * valid, probe.expand_as(image)]
        return torch.stack(channels, 1), 0.5 * scalars

    def raw(self, images: torch.Tensor, scalars: torch.Tensor) -> torch.Tensor:
        """(M, 4): offset row, col in canonical pixels, log sigma, logit of the score."""
        x = self.squeeze(self.body(self.stem(images)))
        x = torch.cat([F.relu(x).flatten(1).float(), scalars], 1)
        with torch.autocast(images.device.type, enabled=False):
            x = F.relu(self.dense2(F.relu(self.dense(x.float()))))
            out = self.head(x)
        return torch.cat([out[:, :2] * 4.0, out[:, 2:3].clamp(-6.0, 3.0), out[:, 3:]], 1)

    def forward(
        self,
        pattern: torch.Tensor,
        pattern_index: torch.Tensor,
        position_px: torch.Tensor,
        radius_px: torch.Tensor,
        probe: torch.Tensor,
    ) -> torch.Tensor:
        """(M, 5): row, col, sigma_px, score, intensity. Inputs as `crops.canonical_crops`, and the vacuum probe (H, W)."""
        crop, valid = canonical_crops(pattern, pattern_index, position_px, radius_px)
        out = self.raw(*self.features(crop, valid, radius_px, self.probe_map(probe, radius_px)))
        scale = radius_px / CANONICAL_RADIUS_PX
        position = position_px + out[:, :2] * scale
        sigma = torch.exp(out[:, 2]) * self.temperature * scale
        intensity = self._intensity(crop.clamp(min=0), valid, out[:, :2], scale)
        return torch.cat([position, sigma[:, None], torch.sigmoid(out[:, 3:]), intensity[:, None]], 1)

    def _intensity(self, crop: torch.Tensor, valid: torch.Tensor, offset: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Counts inside the measured disk above the mean of a ring around it."""
        axis = torch.arange(CROP_PX, device=crop.device, dtype=crop.dtype) - (CROP_PX - 1) / 2
        dy, dx = axis[None, :, None] - offset[:, :1, None], axis[None, None, :] - offset[:, 1:, None]
        distance = torch.sqrt(dy * dy + dx * dx + 1e-6)
        disk = (CANONICAL_RADIUS_PX + 0.5 - distance).clamp(0, 1) * valid
        ring = ((distance > 1.15 * CANONICAL_RADIUS_PX) & (distance < 1.6 * CANONICAL_RADIUS_PX)).to(crop.dtype) * valid
        background = (crop * ring).sum((1, 2)) / ring.sum((1, 2)).clamp(min=1.0)
        mean = (crop * disk).sum((1, 2)) / disk.sum((1, 2)).clamp(min=1.0)
        return (mean - background).clamp(min=0) * math.pi * (CANONICAL_RADIUS_PX * scale) ** 2
