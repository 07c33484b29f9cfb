"""The vacuum probe as a user may know it: measured, taken from the direct beam of the data, or only its radius."""

from __future__ import annotations

import numpy as np
import torch

from napari_emdl.training.diffraction.render import Pattern

#: Probes are moved by up to this, so that no network learns to trust the centre of a probe to a fraction of a pixel.
PROBE_SHIFT_PX = 0.25
_FROM_THE_DATA, _RADIUS_ALONE = 0.15, 0.10


def known_probe(pattern: Pattern, rng: np.random.Generator) -> torch.Tensor:
    """Probe of a pattern, (H, W) centred at (H // 2, W // 2): mostly the measured one.

    Of the others some have the uneven filling of a direct beam that went through a crystal, some are disks of the right radius
    with a sharp edge, as are made where nothing but the radius is known.
    """
    kind = rng.random()
    n = pattern.probe.shape[-1]
    offset = torch.arange(n) - n // 2
    y, x = torch.meshgrid(offset / pattern.radius_px, offset / pattern.radius_px, indexing="ij")
    if kind < _RADIUS_ALONE:
        return ((1 - torch.hypot(y, x)) * pattern.radius_px + 0.5).clamp(0, 1)
    if kind < _RADIUS_ALONE + _FROM_THE_DATA:
        a, b, c = (float(v) for v in rng.normal(0, 0.2, 3))
        return pattern.probe * (1 + a * x + b * y + c * (x * x + y * y)).clamp(0.3, 3.0)
    return pattern.probe
