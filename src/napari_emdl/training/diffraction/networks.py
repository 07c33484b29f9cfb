"""The disk refiner.

Every proposed disk is measured on a crop resampled to a canonical disk radius, so one small network serves all probes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from napari_emdl.training.diffraction.crops import CROP_PX, canonical_crops, radius_in


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


#: Numbers beside the images: brightness inside and around, radius, then direction and distance of the direct beam, dose.
SCALARS = 7
#: Outputs: offset (2), log sigma, logit of the score, anisotropy (2).
OUTPUTS = 6
#: Largest logarithm of the ratio of the longer axis of the error ellipse to the mean one.
MAX_ANISOTROPY = 1.5


class DiskRefiner(nn.Module):
    """Measures a disk on a crop of canonical radius: offset, the 2 x 2 covariance of it, and whether there is a disk.

    It sees the vacuum probe beside the crop, resampled alike: how soft and how round the edge of a disk is, one faint disk
    cannot tell. It knows where the direct beam is, whose halo slopes under every disk, and how many counts the pattern has.

    The covariance is exp(2 log sigma) exp(2 M) with the traceless symmetric matrix M = [[a, b], [b, -a]]: positive for any
    output, and the same as one sigma for both axes where a = b = 0.

    Parameters
    ----------
    widths
        Channels at full, half and a quarter of the crop's pixels.
    blocks
        Residual blocks at half and a quarter.
    hidden
        Width of the dense layer.
    crop_px
        Side C of the crops.
    """

    distance: torch.Tensor
    temperature: torch.Tensor

    def __init__(
        self,
        widths: tuple[int, int, int] = (16, 32, 64),
        blocks: tuple[int, int] = (1, 2),
        hidden: int = 128,
        crop_px: int = CROP_PX,
    ) -> None:
        super().__init__()
        self.crop_px, self.canonical_px = crop_px, radius_in(crop_px)
        a, b, c = widths
        self.stem = nn.Sequential(_step(4, a, 1), _step(a, b, 2), *(Residual(b) for _ in range(blocks[0])))
        self.body = nn.Sequential(_step(b, c, 2), *(Residual(c) for _ in range(blocks[1])))
        self.squeeze = nn.Conv2d(c, 24, 1)
        self.dense = nn.Linear(24 * (crop_px // 4) ** 2 + SCALARS, hidden)
        self.dense2 = nn.Linear(hidden, hidden // 2)
        self.head = nn.Linear(hidden // 2, OUTPUTS)
        axis = (torch.arange(crop_px) - (crop_px - 1) / 2) / self.canonical_px
        self.register_buffer("distance", torch.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2), persistent=False)
        self.register_buffer("temperature", torch.ones(()))

    def probe_map(self, probe: torch.Tensor, radius_px: torch.Tensor, shift_px: torch.Tensor | None = None) -> torch.Tensor:
        """Vacuum probes as the network sees them.

        Parameters
        ----------
        probe
            (B, H, W), centred at (H // 2, W // 2) + shift_px.
        radius_px
            Scalar or (B,).
        shift_px
            (B, 2), default 0.

        Returns
        -------
        Tensor
            (B, C, C).
        """
        shape = torch._shape_as_tensor(probe)
        centre = torch.div(shape[1:], 2, rounding_mode="floor").to(probe)[None].expand(shape[0], 2)  # type: ignore[call-overload]
        index = torch.arange(shape[0], device=probe.device)  # type: ignore[call-overload]
        crop, valid = canonical_crops(probe, index, centre if shift_px is None else centre + shift_px, radius_px, self.crop_px)
        inside = (self.distance < 0.95).to(crop.dtype) * valid
        level = (crop * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1.0)
        return torch.sqrt(crop.clamp(min=0) / level.clamp(min=1e-6)[:, None, None]).clamp(max=3.0) - 0.7

    def features(
        self,
        crop: torch.Tensor,
        valid: torch.Tensor,
        radius_px: torch.Tensor,
        probe: torch.Tensor,
        surroundings: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Network input: images (M, 4, C, C) and scalars (M, 7).

        Parameters
        ----------
        crop, valid
            From `crops.canonical_crops`.
        radius_px
            Scalar or (M,).
        probe
            Map of the probe, (1, C, C) or (M, C, C).
        surroundings
            (M, 4) from `surroundings`; None: unknown.
        """
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
        size = torch.log(radius_px / self.canonical_px).expand_as(mean_in)
        scalars = torch.stack([torch.log(mean_in + 0.02), torch.log(mean_ring + 0.02), size], 1)
        if surroundings is None:
            surroundings = torch.zeros((1, SCALARS - 3), dtype=scalars.dtype, device=scalars.device).expand(len(scalars), -1)
        channels = [image * valid, radius_map, noise.clamp(max=4.0) * valid, probe.expand_as(image)]
        return torch.stack(channels, 1), 0.5 * torch.cat([scalars, surroundings], 1)

    def raw(self, images: torch.Tensor, scalars: torch.Tensor) -> torch.Tensor:
        """(M, 6): offset row, col in canonical pixels, log sigma, logit of the score, anisotropy a and b."""
        x = self.squeeze(self.body(self.stem(images)))
        x = torch.cat([F.relu(x).flatten(1).float(), scalars], 1)
        with torch.autocast(images.device.type, enabled=False):
            x = F.relu(self.dense2(F.relu(self.dense(x.float()))))
            out = self.head(x)
        size = torch.sqrt(out[:, 4:].square().sum(1, keepdim=True) + 1e-8)
        anisotropy = out[:, 4:] * (MAX_ANISOTROPY * torch.tanh(size / MAX_ANISOTROPY) / size)
        return torch.cat([out[:, :2] * 4.0, out[:, 2:3].clamp(-6.0, 3.0), out[:, 3:4], anisotropy], 1)

    def forward(
        self,
        pattern: torch.Tensor,
        pattern_index: torch.Tensor,
        position_px: torch.Tensor,
        radius_px: torch.Tensor,
        probe: torch.Tensor,
        beam_px: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Measure disks.

        Parameters
        ----------
        pattern, pattern_index, position_px, radius_px
            As `crops.canonical_crops`.
        probe
            Vacuum probe (H, W).
        beam_px
            (row, col) of each pattern's direct beam, (B, 2); None: unknown, and so is the dose.

        Returns
        -------
        measured, covariance
            (M, 5): row, col, sigma_px, score, intensity; (M, 3): sigma_row_px, sigma_col_px, rho.
        """
        crop, valid = canonical_crops(pattern, pattern_index, position_px, radius_px, self.crop_px)
        around = None
        if beam_px is not None:
            level = pattern.clamp(min=0).mean((1, 2))[pattern_index]
            around = surroundings(position_px, beam_px[pattern_index], radius_px, level)
        out = self.raw(*self.features(crop, valid, radius_px, self.probe_map(probe[None], radius_px), around))
        scale = radius_px / self.canonical_px
        position = position_px + out[:, :2] * scale
        row, col, rho = error_ellipse(out)
        unit = self.temperature * scale
        sigma = torch.sqrt(0.5 * (row * row + col * col))
        intensity = self._intensity(crop.clamp(min=0), valid, out[:, :2], scale)
        measured = torch.cat([position, (sigma * unit)[:, None], torch.sigmoid(out[:, 3:4]), intensity[:, None]], 1)
        return measured, torch.stack([row * unit, col * unit, rho], 1)

    def _intensity(self, crop: torch.Tensor, valid: torch.Tensor, offset: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Counts inside the measured disk above the mean of a ring around it."""
        axis = torch.arange(self.crop_px, device=crop.device, dtype=crop.dtype) - (self.crop_px - 1) / 2
        dy, dx = axis[None, :, None] - offset[:, :1, None], axis[None, None, :] - offset[:, 1:, None]
        distance = torch.sqrt(dy * dy + dx * dx + 1e-6)
        radius = self.canonical_px
        disk = (radius + 0.5 - distance).clamp(0, 1) * valid
        ring = ((distance > 1.15 * radius) & (distance < 1.6 * radius)).to(crop.dtype) * valid
        background = (crop * ring).sum((1, 2)) / ring.sum((1, 2)).clamp(min=1.0)
        mean = (crop * disk).sum((1, 2)) / disk.sum((1, 2)).clamp(min=1.0)
        return (mean - background).clamp(min=0) * math.pi * (radius * scale) ** 2


def surroundings(
    position_px: torch.Tensor, beam_px: torch.Tensor, radius_px: torch.Tensor, mean_counts: torch.Tensor
) -> torch.Tensor:
    """Direction (row, col) and distance of the direct beam and the pattern's dose as the refiner takes them, (M, 4).

    Parameters
    ----------
    position_px, beam_px
        (M, 2).
    radius_px
        Scalar or (M,).
    mean_counts
        Counts a pixel of the whole pattern, (M,).
    """
    away = (beam_px - position_px) / radius_px.reshape(-1, 1)
    distance = torch.sqrt(away.square().sum(1) + 1e-6)
    # On the direct beam itself there is no direction.
    direction = away * (torch.tanh(0.5 * distance) / distance)[:, None]
    return torch.cat([direction, torch.log1p(distance)[:, None], torch.log(mean_counts + 0.02)[:, None]], 1)


def _ellipse_parts(out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """exp(2 log sigma), cosh(2 m), and a, b times sinh(2 m) / m of raw outputs (..., 6); m is the size of (a, b)."""
    size = torch.sqrt(out[..., 4:].square().sum(-1) + 1e-8)
    up, down = torch.exp(2 * size), torch.exp(-2 * size)
    slope = 0.5 * (up - down) / size
    return torch.exp(2 * out[..., 2]), 0.5 * (up + down), out[..., 4] * slope, out[..., 5] * slope


def error_ellipse(out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Standard deviations along rows and columns in canonical pixels and their correlation, each (...), of raw outputs."""
    variance, even, a, b = _ellipse_parts(out)
    row, col = torch.sqrt(variance * (even + a)), torch.sqrt(variance * (even - a))
    return row, col, variance * b / (row * col)


def precision(out: torch.Tensor) -> torch.Tensor:
    """Inverse covariance (..., 2, 2) in canonical pixels of raw outputs (..., 6)."""
    variance, even, a, b = _ellipse_parts(out)
    rows = torch.stack([torch.stack([even - a, -b], -1), torch.stack([-b, even + a], -1)], -2)
    return rows / variance[..., None, None]
