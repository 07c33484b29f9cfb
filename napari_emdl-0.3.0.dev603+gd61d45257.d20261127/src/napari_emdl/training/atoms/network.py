"""Column networks: a residual U-Net at half resolution, conditioned on what is known of the microscope, and the
published plain one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from napari_emdl.training.atoms.conditions import SIZE
from napari_emdl.training.atoms.config import ColumnsConfig

#: maps come out at this many image pixels a pixel; pixel (i, j) of a map is centred on image pixel (2 i + 0.5, 2 j + 0.5)
STRIDE = 2
#: image sides must be multiples of this
MULTIPLE = 16


def start_empty(head: nn.Conv2d, species: int) -> None:
    """Let a new network's map be low everywhere: most of it is."""
    assert head.bias is not None
    nn.init.constant_(head.bias[:species], -3.0)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a skip; the first one's output is scaled and shifted by the conditions (FiLM)."""

    def __init__(self, channels: int, embedding: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.film = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        """Features (batch, channels, h, w) and embedding (batch, embedding) to features."""
        scale, shift = self.film(e)[:, :, None, None].chunk(2, dim=1)
        y = F.relu(torch.addcmul(shift.to(x.dtype), self.norm1(self.conv1(x)), (1 + scale).to(x.dtype)))
        return F.relu(x + self.norm2(self.conv2(y)))


class ContrastProbe(nn.Module):
    """Logit of bright against dark contrast (batch, 1) from pooled features (batch, n), which are standardised first."""

    mean: torch.Tensor
    width: torch.Tensor

    def __init__(self, features: int, hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("width", torch.ones(features))
        self.hidden, self.out = nn.Linear(features, hidden), nn.Linear(hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits; dropout while it is fitted."""
        hidden = F.relu(self.hidden((features - self.mean) / self.width))
        return self.out(F.dropout(hidden, 0.5, self.training))


class ColumnNet(nn.Module):
    """Conditioned residual U-Net.

    Input: normalised image (batch, channels, H, W), sides multiples of 16, and conditions (batch, `conditions`). Output: a dict
    with `logit`
    (batch, species, H/2, W/2), `offset` (batch, 2, H/2, W/2) in image pixels from the map pixel's centre, and `log_sigma`
    (batch, 1, H/2, W/2), the log of the position's standard deviation along an axis in image pixels.

    With `context`, the mean of the deepest features over the whole field joins the conditions after the first deep block:
    the optics are the same everywhere in a field, so what they are is best read off all of it.
    """

    def __init__(
        self,
        channels: int = 1,
        species: int = 1,
        widths: Sequence[int] = (24, 48, 96, 128),
        deep_blocks: int = 3,
        embedding: int = 48,
        context: bool = False,
        conditions: int = SIZE,
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": channels,
            "species": species,
            "widths": list(widths),
            "deep_blocks": deep_blocks,
            "embedding": embedding,
            "context": context,
            "conditions": conditions,
        }
        self.species = species
        self.embed = nn.Sequential(nn.Linear(conditions, embedding), nn.ReLU(), nn.Linear(embedding, embedding), nn.ReLU())
        self.stem = nn.Conv2d(channels * STRIDE**2, widths[0], 3, padding=1)
        self.encode = nn.ModuleList(ResidualBlock(w, embedding) for w in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.deep = nn.ModuleList(ResidualBlock(widths[-1], embedding) for _ in range(deep_blocks))
        self.context = None
        if context:
            last = nn.Linear(embedding, embedding)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.context = nn.Sequential(nn.Linear(widths[-1], embedding), nn.ReLU(), last)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(ResidualBlock(w, embedding) for w in widths[:-1])
        self.head = nn.Conv2d(widths[0], species + 3, 3, padding=1)
        start_empty(self.head, species)
        # fitted when all else is trained (see `contrast.fit_contrast`)
        self.contrast_probe: ContrastProbe = ContrastProbe(2 * sum(widths)).requires_grad_(False)

    def forward(self, image: torch.Tensor, conditions: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps of a batch."""
        return self.with_features(image, conditions)[0]

    def with_features(
        self, image: torch.Tensor, conditions: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """Maps, and the features of the deepest level and of every decoder level."""
        e = self.embed(conditions)
        x = F.relu(self.stem(F.pixel_unshuffle(image, STRIDE)))
        skips = []
        for block, down in zip(self.encode, self.down, strict=True):
            x = block(x, e)
            skips.append(x)
            x = F.relu(down(x))
        for i, block in enumerate(self.deep):
            x = block(x, e)
            if i == 0 and self.context is not None:
                e = e + self.context(x.mean((2, 3)))
        features = [x]
        for block, up, skip in zip(reversed(self.decode), reversed(self.up), reversed(skips), strict=True):
            x = block(skip + F.interpolate(up(x), scale_factor=2.0, mode="nearest"), e)
            features.append(x)
        y = self.head(x).float()
        s = self.species
        out = {"logit": y[:, :s], "offset": 2 * y[:, s : s + 2], "log_sigma": y[:, s + 2 :].clamp(-4, 1.5)}
        return out, features


class PublishedNet(nn.Module):
    """The unconditioned residual U-Net of the seed work (Madsen et al. 2018), its map averaged to half resolution.

    Full-resolution convolutions, 3 max-pools, blocks conv - residual (3 conv) - conv with PReLU and batch norm, bilinear
    up. Same interface
    as `ColumnNet`; conditions are ignored.
    """

    def __init__(self, channels: int = 1, species: int = 1, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.settings = {"channels": channels, "species": species, "widths": list(widths)}
        self.species = species
        inputs = [channels, *widths[:-1]]
        self.encode = nn.ModuleList(_PublishedBlock(a, b) for a, b in zip(inputs, widths, strict=True))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(_PublishedBlock(w, w) for w in widths[:-1])
        self.head = nn.Conv2d(widths[0], species + 3, 1)
        start_empty(self.head, species)

    def forward(self, image: torch.Tensor, conditions: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps of a batch."""
        del conditions
        x, skips = image, []
        for i, block in enumerate(self.encode):
            x = block(x)
            if i < len(self.encode) - 1:
                skips.append(x)
                x = F.max_pool2d(x, 2)
        for block, up, skip in zip(reversed(self.decode), reversed(self.up), reversed(skips), strict=True):
            x = block(skip + F.interpolate(up(x), scale_factor=2.0, mode="bilinear", align_corners=False))
        y = F.avg_pool2d(self.head(x), STRIDE).float()
        s = self.species
        return {"logit": y[:, :s], "offset": 2 * y[:, s : s + 2], "log_sigma": y[:, s + 2 :].clamp(-4, 1.5)}


class _PublishedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()

        def conv(a: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, outputs, 3, padding=1), nn.PReLU(), nn.BatchNorm2d(outputs))

        self.first = conv(inputs)
        self.middle = nn.Sequential(conv(outputs), conv(outputs), conv(outputs))
        self.last = conv(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(x + self.middle(x))


def build(config: ColumnsConfig) -> nn.Module:
    """The network of a training: "conditioned" (with or without field-wide `context`) or "published"."""
    species = len(config.species)
    if config.architecture == "conditioned":
        return ColumnNet(config.channels, species, config.widths, context=config.context, conditions=config.conditions)
    return PublishedNet(config.channels, species, config.widths)
