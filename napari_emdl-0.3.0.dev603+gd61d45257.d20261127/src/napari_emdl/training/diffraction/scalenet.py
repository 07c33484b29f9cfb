"""The scale network: how large the disks of a pattern are, and whether there is a crystal's pattern at all.

One small convolutional network looks at every level of a pyramid of the pattern, so that a disk of 3 px on one level and one of
6 px on the level below look alike; a dense layer compares what the levels show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from napari_emdl.diffraction.find.patterns import fill_gaps
from napari_emdl.diffraction.find.probeshape import without_hot_pixels
from napari_emdl.diffraction.find.scaleview import LEVELS, RADII_PX, on_network_grid, pyramid
from napari_emdl.samples.nothing import KINDS
from napari_emdl.training.diffraction.config import TrainConfig
from napari_emdl.training.diffraction.library import Run
from napari_emdl.training.diffraction.networks import Residual
from napari_emdl.training.diffraction.render import Pattern, draw_patterns, render
from napari_emdl.training.diffraction.scene import draw_scene
from napari_emdl.training.diffraction.validation import validation_patterns

#: Kinds of patterns without a crystal that no training sees; ``bench nothing`` measures them.
HELD_KINDS = ("printed text", "beam stop")
#: Disks inside the detector that make a pattern a crystal's, and fewer than which make it none.
_CRYSTAL, _NONE = 5, 2
#: Width of the target over the classes, in classes.
_BLUR = 0.6
#: Share of patterns that are the sum of several thicknesses, as the mean of a scan; that fill a part of the detector; enlarged.
_SUMMED, _SMALLER, _LARGER = 0.2, 0.12, 0.15
#: Share of patterns whose gaps are filled as the program fills them.
_FILLED = 0.5


class ScaleNet(nn.Module):
    """Probabilities of the radius's classes and of a crystal.

    Parameters
    ----------
    channels
        At half and quarter of each level's pixels.
    hidden
        Width of the dense layer.
    """

    temperature: torch.Tensor

    def __init__(self, channels: tuple[int, int] = (16, 32), hidden: int = 128) -> None:
        super().__init__()
        a, b = channels
        self.stem = nn.Sequential(
            nn.Conv2d(2, a, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(a), nn.ReLU(), Residual(a)
        )
        self.body = nn.Sequential(
            nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), Residual(b), Residual(b)
        )
        self.dense = nn.Linear(LEVELS * 3 * b, hidden)
        self.head = nn.Linear(hidden, len(RADII_PX) + 1)

        self.register_buffer("temperature", torch.ones(2), persistent=False)

    def forward(self, *levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, classes) probabilities of the radius and (B,) of a crystal, from `LEVELS` images (B, 2, rows, cols)."""
        radius, crystal = self.logits(*levels)
        return torch.softmax(radius / self.temperature[0], 1), torch.sigmoid(crystal / self.temperature[1])

    def logits(self, *levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward`, before they become probabilities and without calibration."""
        seen = []
        for level in levels:
            x = self.body(self.stem(level))
            mean = x.mean((2, 3))
            spread = (x - mean[:, :, None, None]).square().mean((2, 3)).add(1e-6).sqrt()
            seen += [mean, spread, x.amax((2, 3)) / 4]
        out = self.head(F.relu(self.dense(torch.cat(seen, 1))))
        return out[:, :-1], out[:, -1]


@dataclass
class ScaleBatch:
    """Levels (B, 2, rows, cols) each, class targets (B, classes), their weights (B,), crystal or not (B,) and weights (B,)."""

    levels: list[torch.Tensor]
    classes: torch.Tensor
    sized: torch.Tensor
    crystal: torch.Tensor
    known: torch.Tensor


@dataclass
class _Sample:
    image: np.ndarray
    radius_px: float
    disks: int
    kind: str = ""


@dataclass
class Told:
    """Samples and the network's logits for them, (n, classes) and (n,)."""

    samples: list[_Sample]
    radius: torch.Tensor
    crystal: torch.Tensor


def class_target(radius_px: float) -> np.ndarray:
    """Target over the classes: a Gaussian about the radius."""
    away = 6 * np.log2(RADII_PX / radius_px)
    target = np.exp(-0.5 * np.square(away / _BLUR))
    return (target / max(target.sum(), 1e-12)).astype(np.float32)


def _disks(pattern: Pattern) -> int:
    """Disks that one sees, the direct beam not counted."""
    r, size = pattern.radius_px, pattern.counts.shape[-1]
    centre = pattern.centre_px
    inside = ((centre > r) & (centre < size - 1 - r)).all(1)
    return int(((pattern.visibility > 0.5) & inside).sum()) - 1


class ScaleTask:
    """Train the scale network."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def build(self) -> nn.Module:
        return ScaleNet(self.config.scale.channels, self.config.scale.hidden)

    def batch(self, runs: list[Run], rng: np.random.Generator, generator: torch.Generator) -> ScaleBatch:
        drawn = [self._draw(runs, rng, generator) for _ in range(self.config.loop.patterns_per_step)]
        # filling takes as long as rendering, and most patterns have no gaps
        return self.collate([replace(s, image=prepared(s.image)) if rng.random() < _FILLED else s for s in drawn])

    def _draw(self, runs: list[Run], rng: np.random.Generator, generator: torch.Generator) -> _Sample:
        if rng.random() < self.config.scale.nothing:
            kinds = [kind for kind in KINDS if kind not in HELD_KINDS]
            image = KINDS[kinds[int(rng.integers(len(kinds)))]](rng)
            return _Sample(image.astype(np.float32), 1.0, 0)
        pattern = self._summed(runs, rng, generator) if rng.random() < _SUMMED else None
        if pattern is None:
            pattern = draw_patterns(runs, self.config.render, 1, rng, generator)[0]
        return _framed(_Sample(pattern.counts.numpy(), pattern.radius_px, _disks(pattern)), rng)

    def _summed(self, runs: list[Run], rng: np.random.Generator, generator: torch.Generator) -> Pattern | None:
        """Sum of one scene at several thicknesses."""
        run = runs[int(rng.integers(len(runs)))]
        scene = draw_scene(run, self.config.render, rng)
        if scene is None:
            return None
        count = run.amplitude.shape[0]
        which = rng.choice(count, min(count, int(rng.integers(2, 6))), replace=False)
        parts = [render(run, replace(scene, thickness_index=int(i)), self.config.render, generator, probe=False) for i in which]
        most = max(parts, key=lambda p: int((p.visibility > 0.5).sum()))
        most.counts = torch.stack([p.counts for p in parts]).mean(0)
        return most

    def collate(self, samples: list[_Sample]) -> ScaleBatch:
        """Batch of patterns, each on a grid of 256 px."""
        levels = [pyramid(_of_size(s.image)) for s in samples]
        tensor = lambda values: torch.tensor(np.array(values, np.float32))  # noqa: E731
        return ScaleBatch(
            [tensor([level[k] for level in levels]) for k in range(LEVELS)],
            tensor([class_target(s.radius_px) for s in samples]),
            tensor([s.disks >= _NONE for s in samples]),
            tensor([s.disks >= _CRYSTAL for s in samples]),
            tensor([s.disks >= _CRYSTAL or s.disks < _NONE for s in samples]),
        )

    def loss(self, model: nn.Module, batch: object) -> tuple[torch.Tensor, dict[str, float]]:
        assert isinstance(batch, ScaleBatch) and isinstance(model, ScaleNet)
        logits, crystal = model.logits(*batch.levels)
        entropy = -(batch.classes * F.log_softmax(logits.float(), 1)).sum(1)
        size = (entropy * batch.sized).sum() / batch.sized.sum().clamp_min(1)
        sure = F.binary_cross_entropy_with_logits(crystal.float(), batch.crystal, reduction="none")
        kind = (sure * batch.known).sum() / batch.known.sum().clamp_min(1)
        return size + kind, {"size": float(size.detach()), "crystal": float(kind.detach())}

    def validate(self, model: nn.Module, runs: list[Run]) -> dict[str, float]:
        """Shares of held-out crystals whose radius is within a tenth, of those seen as crystals, and of others seen as such."""
        told = self.told(model, runs, self.config.loop.validation_patterns)
        sized = np.array([s.disks >= _CRYSTAL for s in told.samples])
        held = np.array([s.kind in HELD_KINDS for s in told.samples])
        radius = np.array([likeliest_radius(p) for p in torch.softmax(told.radius, 1).numpy()])
        off = np.abs(np.log(radius / np.array([s.radius_px for s in told.samples])))[sized]
        seen = told.crystal.numpy() > 0
        return {
            "within_tenth": float((off < 0.1).mean()),
            "within_fifth": float((off < 0.2).mean()),
            "crystal_seen": float(seen[sized].mean()),
            "nothing_seen": float(seen[~sized & ~held].mean()),
            "held_nothing_seen": float(seen[held].mean()),
        }

    def told(self, model: nn.Module, runs: list[Run], count: int, seed: int = 99) -> Told:
        """Logits for patterns of crystals, half of them under common conditions, and for a fifth as many of each other kind."""
        assert isinstance(model, ScaleNet)
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        drawn = validation_patterns(runs, self.config.render, count // 2, seed)
        drawn += draw_patterns(runs, self.config.render, count - count // 2, rng, generator)
        samples = [s for s in (_Sample(p.counts.numpy(), p.radius_px, _disks(p)) for p in drawn) if s.disks >= _CRYSTAL]
        samples += [_Sample(KINDS[k](rng).astype(np.float32), 1.0, 0, k) for k in KINDS for _ in range(max(1, count // 20))]
        model.eval()
        with torch.no_grad():
            batches = [self.collate([replace(s, image=prepared(s.image))]) for s in samples]
            logits = [model.logits(*batch.levels) for batch in batches]
        return Told(samples, torch.cat([a for a, _ in logits]), torch.cat([b for _, b in logits]))


def calibrate_scale(model: ScaleNet, config: TrainConfig, runs: list[Run], count: int = 300) -> dict[str, float]:
    """Set the temperatures that make held-out crystals, and patterns of the other kinds that were trained, likeliest.

    Returns
    -------
    dict
        The metrics of :meth:`ScaleTask.validate` on other patterns, and the temperatures.
    """
    task = ScaleTask(config)
    told = task.told(model, runs, count, seed=123)
    use = [i for i, s in enumerate(told.samples) if s.kind not in HELD_KINDS]
    sized = [i for i in use if told.samples[i].disks >= _CRYSTAL]
    classes = torch.tensor(np.array([class_target(told.samples[i].radius_px) for i in sized]))
    crystal = torch.tensor([float(told.samples[i].disks >= _CRYSTAL) for i in use])
    steps = np.exp(np.linspace(np.log(0.4), np.log(4.0), 47))
    size = [float(-(classes * F.log_softmax(told.radius[sized] / t, 1)).sum(1).mean()) for t in steps]
    kind = [float(F.binary_cross_entropy_with_logits(told.crystal[use] / t, crystal)) for t in steps]
    best = [float(steps[int(np.argmin(values))]) for values in (size, kind)]
    model.temperature.copy_(torch.tensor(best))
    found = task.validate(model, runs) | {"radius_temperature": best[0], "crystal_temperature": best[1]}
    return {name: round(value, 4) for name, value in found.items()}


def likeliest_radius(probability: np.ndarray) -> float:
    """Radius at the top of a distribution over the classes, between them by the mean of the three about it."""
    top = int(np.clip(probability.argmax(), 1, len(probability) - 2))
    near = probability[top - 1 : top + 2]
    return float(np.exp((near * np.log(RADII_PX[top - 1 : top + 2])).sum() / max(near.sum(), 1e-12)))


def prepared(image: np.ndarray) -> np.ndarray:
    """Pattern without hot pixels and with its gaps filled, as the program looks at it."""
    return fill_gaps(without_hot_pixels(image.astype(np.float64))[None])[0][0].astype(np.float32)


def _of_size(image: np.ndarray, size: int = 256) -> np.ndarray:
    """Pattern cut or padded to a square of the size that a batch has."""
    image = on_network_grid(image)[0]
    image = image[:size, :size]
    pad = [(0, size - n) for n in image.shape]
    return np.pad(image, pad, mode="edge") if any(after for _, after in pad) else image


def _framed(sample: _Sample, rng: np.random.Generator) -> _Sample:
    """The pattern on a detector that it fills in part, or enlarged from its middle, now and then."""
    image, n, dice = sample.image, sample.image.shape[0], rng.random()
    if dice < _SMALLER:
        small = image.reshape(n // 2, 2, n // 2, 2).mean((1, 3))
        out = np.full_like(image, np.percentile(small, 5) if rng.random() < 0.5 else 0)
        row, col = rng.integers(0, n // 2 + 1, 2)
        out[row : row + n // 2, col : col + n // 2] = small
        return _Sample(out, sample.radius_px / 2, sample.disks)
    if dice < _SMALLER + _LARGER and sample.radius_px < 20:
        part = image[n // 4 : 3 * n // 4, n // 4 : 3 * n // 4]
        return _Sample(np.repeat(np.repeat(part, 2, 0), 2, 1), 2 * sample.radius_px, _CRYSTAL if sample.disks >= 10 else 3)
    return sample
