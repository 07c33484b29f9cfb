"""The vacuum probe as a user may know it: measured, taken from the direct beam of the data, or only its radius."""

from __future__ import annotations

import numpy as np
import torch

from napari_emdl.training.diffraction.render import Pattern

#: Probes are moved by up to this, so that no network learns to trust the centre of a probe to a fraction of a pixel.
PROBE_SHIFT_PX = 0.25
_FROM_THE_DATA, _RADIUS_ALONE = 0.15, 0.10
#: Relative error of a radius that was found in the data.
_RADIUS_ERROR = 0.04


def known_probe(pattern: Pattern, rng: np.random.Generator, radius_alone: float = _RADIUS_ALONE) -> torch.Tensor:
    """Probe of a pattern, (H, W) centred at (H // 2, W // 2): mostly the measured one.

    Of the others some have the uneven filling of a direct beam that went through a crystal, and a share of `radius_alone` are
    disks with a sharp edge, as are made where nothing but the radius is known, and that within a few per cent.
    """
    kind = rng.random()
    radius = pattern.radius_px * float(np.exp(rng.normal(0, _RADIUS_ERROR)))
    n = pattern.probe.shape[-1]
    offset = torch.arange(n, device=pattern.probe.device) - n // 2
    y, x = torch.meshgrid(offset / pattern.radius_px, offset / pattern.radius_px, indexing="ij")
    if kind < radius_alone:
        return (radius - torch.hypot(y, x) * pattern.radius_px + 0.5).clamp(0, 1)
    if kind < radius_alone + _FROM_THE_DATA * (1 - radius_alone):
        a, b, c = (float(v) for v in rng.normal(0, 0.2, 3))
        return pattern.probe * (1 + a * x + b * y + c * (x * x + y * y)).clamp(0.3, 3.0)
    return pattern.probe
