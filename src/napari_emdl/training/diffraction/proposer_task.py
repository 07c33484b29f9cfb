"""Training of the proposers (FCU-Net and the light network): soft visibility maps."""

from __future__ import annotations

from napari_emdl.training.diffraction.config import TrainConfig


class ProposerTask:
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
