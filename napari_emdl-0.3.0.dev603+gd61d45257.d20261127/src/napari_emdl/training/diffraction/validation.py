"""Fixed patterns of held-out crystals on which trainings are scored."""

from __future__ import annotations

import numpy as np
import torch

from napari_emdl.training.diffraction.library import Run
from napari_emdl.training.diffraction.render import Pattern, draw_pattern
from napari_emdl.training.diffraction.scene import Effects, RenderConfig


def validation_patterns(runs: list[Run], render: RenderConfig, count: int, seed: int = 77) -> list[Pattern]:
    """Fixed patterns of held-out crystals under common conditions: 4-10 px disks, 1e4-1e6 electrons."""
    common = render.model_copy(
        update={
            "radius_px": (4.0, 10.0),
            "log10_dose": (4.3, 5.0, 5.7),
            "sampling_invA": (0.010, 0.020),
            "effects": Effects(),
        }
    )
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    return [draw_pattern(runs, common, rng, generator) for _ in range(count)]
