"""FCU-Net: complex convolutions on the correlation spectrum of pattern and probe.

After Munshi et al., npj Comput. Mater. 8:254 (2022). Ours differs in three places, for speed and for noisy patterns:
counts are stabilised (Anscombe, then log) before the transform; the network sees the central 128 x 128 frequencies, weighted
by a trainable real gain; a pixel shuffle returns from the 2 px grid to 256 x 256.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

GRID_PX = 256
BAND = 128


class ComplexConv(nn.Module):
    """3 x 3 convolution with complex weights on channels ordered [real parts, imaginary parts]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        scale = 1 / math.sqrt(inputs * 9)
        self.real = nn.Parameter(scale * torch.randn(outputs, inputs, 3, 3))
        self.imag = nn.Parameter(scale * torch.randn(outputs, inputs, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = torch.cat([self.real, -self.imag], 1)
        bottom = torch.cat([self.imag, self.real], 1)
        return F.conv2d(x, torch.cat([top, bottom], 0), padding=1)


class ComplexBlock(nn.Module):
    """`depth` times complex convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [ComplexConv(inputs if i == 0 else outputs, outputs), nn.BatchNorm2d(2 * outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _join(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Concatenate complex tensors: real with real, imaginary with imaginary."""
    (ar, ai), (br, bi) = a.chunk(2, 1), b.chunk(2, 1)
    return torch.cat([ar, br, ai, bi], 1)


class FCUNet(nn.Module):
    """FCU-Net with its Fourier transforms as constant matrices.

    Parameters
    ----------
    channels
        Complex channels of each level of the U-Net in Fourier space.
    depth
        Convolutions a block.
    real_channels
        Channels of the block after the inverse transform.
    candidates
        Peaks returned by `peaks`.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    icos: torch.Tensor
    isin: torch.Tensor

    def __init__(
        self, channels: tuple[int, ...] = (8, 12, 16, 24), depth: int = 1, real_channels: int = 24, candidates: int = 96
    ) -> None:
        super().__init__()
        self.candidates = candidates
        self._fourier_matrices()
        frequency = torch.arange(-BAND // 2, BAND // 2) / (BAND / 2)
        radius = torch.sqrt(frequency[:, None] ** 2 + frequency[None, :] ** 2)
        # The spectrum of disks falls steeply: start from a gain that makes all frequencies about equally loud.
        self.log_gain = nn.Parameter(1.2 * torch.log(radius + 0.02))
        self.encoder = nn.ModuleList(ComplexBlock(1 if i == 0 else channels[i - 1], c, depth) for i, c in enumerate(channels))
        pairs = list(itertools.pairwise(channels))[::-1]
        self.decoder = nn.ModuleList(ComplexBlock(low + high, low, depth) for low, high in pairs)
        self.last = ComplexConv(channels[0], channels[0])
        r = real_channels
        self.real_block = nn.Sequential(
            nn.BatchNorm2d(channels[0]),
            *(nn.Conv2d(channels[0], r, 3, padding=1, bias=False), nn.BatchNorm2d(r), nn.ReLU(inplace=True)),
            *(nn.Conv2d(r, r, 3, padding=1, bias=False), nn.BatchNorm2d(r), nn.ReLU(inplace=True)),
            *(nn.Conv2d(r, r, 3, padding=1, bias=False), nn.BatchNorm2d(r), nn.ReLU(inplace=True)),
        )
        self.head = nn.Conv2d(r, 4, 3, padding=1)
        nn.init.constant_(self.head.bias, -5.0)  # type: ignore[arg-type]

    def _fourier_matrices(self) -> None:
        u = torch.arange(-BAND // 2, BAND // 2, dtype=torch.float64)
        x = torch.arange(GRID_PX, dtype=torch.float64) - GRID_PX // 2
        fine = 2 * math.pi * u[:, None] * x[None, :] / GRID_PX
        y = 2 * torch.arange(BAND, dtype=torch.float64) + 0.5 - GRID_PX // 2
        back = 2 * math.pi * y[:, None] * u[None, :] / GRID_PX
        for name, value in (("cos", fine.cos()), ("sin", fine.sin()), ("icos", back.cos()), ("isin", back.sin())):
            self.register_buffer(name, value.float(), persistent=False)

    def correlation(self, pattern: torch.Tensor, probe_re: torch.Tensor, probe_im: torch.Tensor) -> torch.Tensor:
        """Normalised correlation spectrum, (B, 2, 128, 128)."""
        stable = torch.log1p(2 * (torch.sqrt(pattern.clamp(min=0) + 0.375) - math.sqrt(0.375)))
        c, s = torch.matmul(self.cos, stable), torch.matmul(self.sin, stable)
        ct, st = self.cos.t(), self.sin.t()
        re = torch.matmul(c, ct) - torch.matmul(s, st)
        im = -torch.matmul(c, st) - torch.matmul(s, ct)
        low, high = (GRID_PX - BAND) // 2, (GRID_PX + BAND) // 2
        br, bi = probe_re[..., low:high, low:high], probe_im[..., low:high, low:high]
        gain = torch.exp(self.log_gain)
        xr, xi = (re * br - im * bi) * gain, (re * bi + im * br) * gain
        norm = torch.sqrt((xr * xr + xi * xi).mean((1, 2), keepdim=True) + 1e-12)
        return torch.stack([xr / norm, xi / norm], 1)

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        """Real part of the inverse transform of [real, imaginary] channels."""
        a, b = x.chunk(2, 1)
        tr = torch.matmul(self.icos, a) - torch.matmul(self.isin, b)
        ti = torch.matmul(self.icos, b) + torch.matmul(self.isin, a)
        return (torch.matmul(tr, self.icos.t()) - torch.matmul(ti, self.isin.t())) / BAND

    def logits(self, pattern: torch.Tensor, probe_re: torch.Tensor, probe_im: torch.Tensor) -> torch.Tensor:
        """Logits of the structure-factor image, (B, 256, 256)."""
        device = pattern.device.type
        with torch.autocast(device, enabled=False):
            x = self.correlation(pattern.float(), probe_re, probe_im)
        skips = []
        for i, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for block, skip in zip(self.decoder, skips[-2::-1], strict=True):
            x = block(_join(skip, F.interpolate(x, scale_factor=2.0, mode="nearest")))
        x = self.last(x)
        with torch.autocast(device, enabled=False):
            x = self.inverse(x.float().contiguous())
        x = self.head(self.real_block(x))
        return F.pixel_shuffle(x.float(), 2)[:, 0]

    def forward(
        self, pattern: torch.Tensor, probe_re: torch.Tensor, probe_im: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Structure-factor image (B, 256, 256) and candidates (B, K, 4): row, col, score, intensity."""
        image = torch.sigmoid(self.logits(pattern, probe_re, probe_im))
        return image, peaks(image, pattern, self.candidates)


def peaks(image: torch.Tensor, pattern: torch.Tensor, count: int) -> torch.Tensor:
    """Local maxima of a map with sub-pixel offsets.

    Parameters
    ----------
    image
        (B, H, W), 0..1.
    pattern
        Counts on the same grid.
    count
        Peaks a pattern; where there are fewer the rest have score 0.

    Returns
    -------
    Tensor
        (B, count, 4): row, col by the centroid of 5 x 5 px, score, counts in 5 x 5 px.
    """
    width = image.shape[-1]
    x = image[:, None]
    top = F.max_pool2d(x, 5, stride=1, padding=2)
    score, where = torch.topk(torch.where(x >= top, x, torch.zeros_like(x)).flatten(1), count, dim=1)
    axis = torch.arange(-2.0, 3.0, device=image.device)
    ones = torch.ones(5, device=image.device)
    kernels = torch.stack([ones[:, None] * ones, axis[:, None] * ones, ones[:, None] * axis])[:, None]
    moments = F.conv2d(x, kernels, padding=2).flatten(2)
    counts = F.conv2d(pattern[:, None].clamp(min=0), kernels[:1], padding=2).flatten(1)
    index = where[:, None].expand(-1, 3, -1)
    m = torch.gather(moments, 2, index)
    row = torch.div(where, width, rounding_mode="floor")
    col = where - row * width
    total = m[:, 0].clamp(min=1e-6)
    return torch.stack([row + m[:, 1] / total, col + m[:, 2] / total, score, torch.gather(counts, 1, where)], 2)
