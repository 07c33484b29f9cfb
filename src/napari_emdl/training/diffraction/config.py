"""Training configurations of the disk networks: YAML files checked by pydantic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_emdl.base.errors import EmdlError
from napari_emdl.training.diffraction.scene import RenderConfig


class LoopConfig(BaseModel):
    """Optimiser and schedule: warm-up, a constant stretch, then a cosine decay to zero."""

    model_config = ConfigDict(extra="forbid")

    steps: int = 8000
    patterns_per_step: int = 8
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    decay_fraction: float = Field(default=0.4, ge=0, le=1)
    weight_decay: float = 1e-4
    ema: float = 0.998
    clip_norm: float = 5.0
    bf16: bool = True
    checkpoint_every: int = 250
    validate_every: int = 500
    validation_patterns: int = 100


class RefinerModel(BaseModel):
    """Size of the disk refiner, and side of the crops it sees."""

    model_config = ConfigDict(extra="forbid")

    widths: tuple[int, int, int] = (16, 32, 64)
    blocks: tuple[int, int] = (1, 2)
    hidden: int = 128
    crop_px: Literal[16, 32] = 32


class FcunetModel(BaseModel):
    """Size of FCU-Net: channels of each level of the Fourier-space U-Net, convolutions a block, channels of the real block."""

    model_config = ConfigDict(extra="forbid")

    channels: tuple[int, ...] = (8, 12, 16, 24)
    depth: int = 1
    real_channels: int = 24
    candidates: int = 96


class ScaleModel(BaseModel):
    """Size of the scale network, and the share of its samples that show no crystal."""

    model_config = ConfigDict(extra="forbid")

    channels: tuple[int, int] = (16, 32)
    hidden: int = 128
    nothing: float = Field(default=0.2, ge=0, lt=1)


class TrainConfig(BaseModel):
    """One training: data, ranges of the rendering, network and loop.

    Attributes
    ----------
    library
        Beam library files (`napari_emdl.training.diffraction.library` makes them).
    output
        Folder of checkpoints, loss curve and validation metrics.
    seed
        Seed of weights and of every sample: step n always sees the same patterns.
    start_from
        Model folder whose weights the training starts from, such as that of a shipped network; None: random weights.
    glance
        Refiner: model folder of the network that looks at candidates first; most of the proposals are where it puts them.
    own_proposals
        Refiner: parts of the proposals that are replaced by the network's own result, once for each entry (0.5, 0.2: half of
        them after one pass, a fifth after two).
    probe_from_radius
        Part of the probes that are disks of about the right radius, as where the user gives no probe.
    pattern_weight
        Refiner: weight of the loss on each pattern's strain beside that on its disks.
    """

    model_config = ConfigDict(extra="forbid")

    network: Literal["fcunet", "refiner", "scale"]
    library: list[str]
    output: str
    start_from: str | None = None
    seed: int = 1
    threads: int = 1
    device: str = "cpu"
    render: RenderConfig = RenderConfig()
    loop: LoopConfig = LoopConfig()
    refiner: RefinerModel = RefinerModel()
    fcunet: FcunetModel = FcunetModel()
    scale: ScaleModel = ScaleModel()
    proposals_per_pattern: int = 32
    glance: str | None = None
    own_proposals: tuple[float, ...] = ()
    probe_from_radius: float = Field(default=0.10, ge=0, le=1)
    pattern_weight: float = Field(default=0.0, ge=0)


def load_config(path: str | Path) -> TrainConfig:
    """Read and check a training configuration.

    Raises
    ------
    EmdlError
        When the file is missing or a field is wrong.
    """
    try:
        return TrainConfig.model_validate(yaml.safe_load(Path(path).read_text("utf-8")))
    except OSError as error:
        raise EmdlError(f"cannot read the training configuration {path}: {error.strerror}") from error
    except (ValidationError, yaml.YAMLError) as error:
        first = str(error).replace("\n", " ")
        raise EmdlError(f"training configuration {path} is not valid: {first}") from error
