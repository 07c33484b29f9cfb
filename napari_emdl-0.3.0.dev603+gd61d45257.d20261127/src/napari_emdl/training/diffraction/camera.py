"""From expected electrons to what is in a file: noise, faults of the detector, exports with gamma or in 8 bit.

All functions take batches of images (B, n, n) and one scene for each, on any device.
"""

from __future__ import annotations

import math

import torch

from napari_emdl.training.diffraction.background import column
from napari_emdl.training.diffraction.scene import Scene


def detect(
    expected: torch.Tensor, open_part: torch.Tensor, scenes: list[Scene], generator: torch.Generator | None
) -> torch.Tensor:
    """Counts with Poisson noise and everything that camera and export did to them.

    Parameters
    ----------
    expected
        Expected electrons, (B, n, n).
    open_part
        What gaps and margins leave, (B, n, n); dead lines stay dead.
    """
    device = expected.device
    ripple = column([s.gain_ripple for s in scenes], device)
    if any(s.gain_ripple for s in scenes):
        noise = torch.randn(expected.shape, generator=generator, device=device)
        expected = expected * (1 + ripple * noise).clamp_min(0.1)
    counts = column([s.gain for s in scenes], device) * torch.poisson(expected, generator)
    if any(s.readout_e for s in scenes):
        noise = torch.randn(counts.shape, generator=generator, device=device)
        counts = counts + column([s.readout_e for s in scenes], device) * noise
    bright = white_level(expected, scenes)
    for i, scene in enumerate(scenes):
        _faults(counts[i], scene, generator)
        if scene.camera.blooming[0]:
            counts[i] = _bloom(counts[i], float(bright[i]), scene.camera.blooming)
        if scene.camera.pedestal:
            level = scene.camera.pedestal * float(counts[i].mean())
            counts[i] = torch.where(open_part[i] > 0, (counts[i] + level).clamp_min(0), 0.0)
    return _export(counts, bright, scenes)


def white_level(expected: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
    """Counts above which nothing is kept, (B, 1, 1); infinite where nothing is cut."""
    top = expected.amax((1, 2), keepdim=True) * column([s.gain for s in scenes], expected.device)
    white = column([s.camera.white for s in scenes], expected.device)
    return torch.where(white > 0, (white * top).clamp_min(1.0), math.inf)


def _faults(counts: torch.Tensor, scene: Scene, generator: torch.Generator | None) -> None:
    """Hot and dead pixels, in place."""
    flat, device = counts.view(-1), counts.device
    if scene.hot:
        where = torch.randint(flat.numel(), (scene.hot,), generator=generator, device=device)
        flat[where] = counts.max() * (0.2 + 1.8 * torch.rand(scene.hot, generator=generator, device=device))
    if scene.dead:
        flat[torch.randint(flat.numel(), (scene.dead,), generator=generator, device=device)] = 0.0


def _bloom(counts: torch.Tensor, full_well: float, blooming: tuple[float, float, int]) -> torch.Tensor:
    """What lies above the full well flows on along one axis."""
    part, length, axis = blooming
    n = counts.shape[axis]
    frequency = torch.fft.rfftfreq(n, device=counts.device)
    tail = 1 / (1 + (2 * math.pi * length * frequency) ** 2)  # transform of exp(-|x|/length)
    spectrum = torch.fft.rfft((counts - full_well).clamp_min(0), dim=axis)
    streak = torch.fft.irfft(spectrum * (tail[:, None] if axis == 0 else tail[None, :]), n=n, dim=axis)
    return counts + part * streak.clamp_min(0)


def response(relative: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
    """Curve of an export, 0..1 to 0..1, for values (B, ...) relative to the white level."""
    shape = (len(scenes), *([1] * (relative.dim() - 1)))
    gamma = column([s.camera.gamma for s in scenes], relative.device).view(shape)
    strength = column([s.camera.log_strength for s in scenes], relative.device).view(shape)
    curved = relative.clamp_min(1e-9) ** gamma
    logarithmic = torch.log1p(strength * relative) / torch.log1p(strength.clamp_min(1e-6))
    return torch.where(strength > 0, logarithmic, torch.where(relative > 0, curved, 0.0))


def _export(counts: torch.Tensor, bright: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
    """Cut at the white level, bent, scaled, rounded; then counts again, as the program estimates them."""
    device = counts.device
    counts = torch.minimum(counts, bright)
    bent = [i for i, s in enumerate(scenes) if s.camera.bent]
    if bent:
        index = torch.tensor(bent, device=device)
        some = [scenes[i] for i in bent]
        unit = column([s.camera.unit for s in some], device)
        top = torch.where(torch.isinf(bright[index]), counts[index].amax((1, 2), keepdim=True).clamp_min(1), bright[index])
        value = response((counts[index] / top).clamp(0, 1), some)
        levels = column([float(s.camera.levels) for s in some], device)
        rounded = (value * levels).round() / levels.clamp_min(1)
        counts = counts.index_copy(0, index, torch.where(levels > 0, rounded, value) * unit)
    for i, scene in enumerate(scenes):
        if not scene.camera.bent and scene.camera.unit != 1:
            counts[i] *= scene.camera.unit
        if scene.camera.resampled_px:
            counts[i] = _smooth(counts[i], scene.camera.resampled_px)
    changed = [i for i, s in enumerate(scenes) if s.camera.normalised and _in_other_units(s)]
    if changed:
        index = torch.tensor(changed, device=device)
        whole = torch.tensor([_whole_numbers(scenes[i]) for i in changed], device=device)
        part = counts[index]
        counts = counts.index_copy(0, index, part / estimate_gain(part, whole)[:, None, None])
    return counts


def _in_other_units(scene: Scene) -> bool:
    camera = scene.camera
    return camera.bent or camera.unit != 1 or scene.gain != 1 or camera.pedestal != 0 or camera.resampled_px > 0


def _whole_numbers(scene: Scene) -> bool:
    camera = scene.camera
    if camera.bent:
        return camera.levels > 0 and not camera.resampled_px
    return camera.unit == 1 and scene.gain == 1 and not (camera.pedestal or camera.resampled_px or scene.readout_e)


def _smooth(image: torch.Tensor, sigma_px: float) -> torch.Tensor:
    half = math.ceil(3 * sigma_px)
    x = torch.arange(-half, half + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (x / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    padded = torch.nn.functional.pad(image[None, None], (half, half, half, half), mode="reflect")
    return torch.nn.functional.conv2d(torch.nn.functional.conv2d(padded, kernel), kernel.transpose(2, 3))[0, 0]


def estimate_gain(patterns: torch.Tensor, whole_numbers: torch.Tensor) -> torch.Tensor:
    """`napari_emdl.diffraction.find.patterns.estimate_gain` for tensors (B, n, n) on any device, (B,).

    Parameters
    ----------
    whole_numbers
        (B,) bool: which patterns are integers in the file.
    """
    sample = patterns[:, ::4]
    width = sample.shape[2] // 16 * 16
    left, right = sample[:, :, 0:width:2], sample[:, :, 1:width:2]
    square = (left - right).square().reshape(len(sample), -1, 8).sum(2)
    total = (left + right).reshape(len(sample), -1, 8).sum(2)
    ratio = torch.where(total > 0, square / torch.where(total > 0, total, 1.0), math.nan)
    gain = _median(ratio) / 0.92
    enough = (total > 0).sum(1) >= 16
    gain = torch.where(enough, gain, 1.0)
    gain = torch.where(whole_numbers & (gain < 3) & (gain > 0.2), 1.0, gain)
    return torch.where(gain > 0, gain, 1.0)


def _median(values: torch.Tensor) -> torch.Tensor:
    """Median along the last axis without NaN, the mean of the middle two where their number is even."""
    known = (~values.isnan()).sum(1, keepdim=True)
    ordered = torch.where(values.isnan(), math.inf, values).sort(1).values
    low = torch.gather(ordered, 1, ((known - 1).clamp_min(0)) // 2)
    high = torch.gather(ordered, 1, (known // 2).clamp_max(values.shape[1] - 1))
    return torch.where(known > 0, 0.5 * (low + high), 1.0)[:, 0]


def seen_fraction(signal: torch.Tensor, level: torch.Tensor, bright: torch.Tensor, which: torch.Tensor, scenes: list[Scene]):
    """How much of disks survives saturation and rounding, 0..1.

    Parameters
    ----------
    signal, level
        (N,) expected counts of a pixel inside each disk that are its own, and all others there, in detector units before the
        export.
    bright
        White level, (B, 1, 1).
    which
        (N,) scene of each disk.
    """
    white = bright[:, 0, 0][which]
    kept = (torch.minimum(level + signal, white) - torch.minimum(level, white)) / signal.clamp_min(1e-12)
    levels = torch.tensor([float(s.camera.levels) for s in scenes], device=signal.device)[which]
    if not bool((levels > 0).any()):
        return kept
    noise = (level + signal).clamp_min(0).sqrt()
    top = torch.where(torch.isinf(white), level + signal, white).clamp_min(1e-6)
    many = [scenes[i] for i in which.tolist()]
    step = response(((level + signal + noise) / top).clamp(0, 1), many) - response((level / top).clamp(0, 1), many)
    # A step of less than half a grey level, noise included, is rounded away.
    rounding = (2 * step * levels).clamp(0, 1).square()
    return kept * torch.where(levels > 0, rounding, 1.0)
