"""What a column training is: read from YAML, checked by pydantic, written into the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from napari_emdl.training.atoms.conditions import FULL_SIZE, SIZE

Range = tuple[float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Imaging(_Strict):
    """Ranges of the random microscope. None means the broad default prior of `sampling.draw_microscope`."""

    dose_e_per_A2: Range = (10.0, 1e4)
    #: this share of samples has a dose from `dose_focus_e_per_A2`, log-uniform as well
    dose_focus_share: float = 0.6
    dose_focus_e_per_A2: Range = (30.0, 400.0)
    sampling_A: Range = (0.06, 0.14)
    #: frames within are used as they are, others are rescaled to `nominal_sampling_A`
    native_sampling_A: Range = (0.08, 0.125)
    nominal_sampling_A: float = 0.1
    #: frames within are used as they are once the network is trained; None: those of `native_sampling_A`
    used_sampling_A: Range | None = None
    contrast: Literal["both", "bright", "dark"] = "both"
    C10_A: Range | None = None
    Cs_A: Range | None = None
    C12_A: Range | None = None
    focal_spread_A: Range | None = None
    #: coma and three-fold astigmatism of the three samples in five that have any
    C21_A: Range = (0.0, 500.0)
    C23_A: Range = (0.0, 800.0)
    #: share of samples from a typical aberration-corrected session: 300 kV, metal on [110], Cs -60 to -110 um, near the
    #: best defocus
    session_share: float = 0.0
    #: defocus step of a focal series, A; 0 for single images
    focal_step_A: Range = (0.0, 0.0)
    #: share of samples whose contrast, and each other condition, is not told to the network
    contrast_unknown: float = 0.2
    conditions_unknown: float = 0.6

    @field_validator(
        "dose_e_per_A2", "sampling_A", "native_sampling_A", "C12_A", "focal_spread_A", "C10_A", "Cs_A", "dose_focus_e_per_A2",
        "C21_A", "C23_A",
    )  # fmt: skip
    @classmethod
    def _ordered(cls, v: Range | None) -> Range | None:
        if v is not None and v[0] > v[1]:
            raise ValueError(f"a range must be (low, high), got {v}")
        return v


class Data(_Strict):
    """The bank of exit waves."""

    folder: str = "waves"
    train_waves: int = 10240
    val_waves: int = 256
    seed: int = 2026
    shares: dict[str, float] = Field(default_factory=lambda: {"metal": 0.78, "oxide": 0.1, "monolayer": 0.07, "graphene": 0.05})
    #: relative shares of the monolayers' materials and of the beam energies of sheets; None: those of the simulator
    materials: dict[str, float] | None = None
    sheet_keV: dict[float, float] | None = None


class Mix(_Strict):
    """Shares of the samples of a mixed training, and the banks of waves beside that of `Data`."""

    movie: float = 0.25
    single: float = 0.38
    stem: float = 0.27
    negative: float = 0.1
    #: banks of pairs with and without blinking columns, and of further single specimens
    pairs: Data = Field(default_factory=lambda: Data(folder="pairs", train_waves=3072, seed=2041, shares={"blinking": 1.0}))
    others: list[Data] = Field(default_factory=list)
    #: share of HRTEM samples that went through 8 bit, clipping, gamma, blur or added noise
    filmlike: float = 0.4
    #: pixel sizes of incoherent images and of rescaled HRTEM, A
    stem_sampling_A: Range = (0.04, 0.4)
    #: share of incoherent images that show a honeycomb sheet
    stem_sheets: float = 0.08
    #: share of incoherent images that went through 8 bit and the like, and of these the share that is smoothed
    filmlike_stem: float = 0.4
    blurred_stem: float = 0.3
    #: shares of incoherent images in annular bright field, and of phase images
    stem_dark: float = 0.12
    stem_phase: float = 0.0
    coarse_A: Range = (0.15, 0.34)
    fine_A: Range = (0.06, 0.1)
    #: shares of HRTEM samples (coarse: of sheets) with pixels in these two ranges; the others are drawn at native sizes
    coarse_share: float = 0.25
    coarse_share_sheets: float = 0.4
    fine_share: float = 0.06

    @field_validator("pairs", "others", mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        """A folder's name stands for a bank that is there already."""
        if isinstance(value, str):
            return {"folder": value}
        return [{"folder": v} if isinstance(v, str) else v for v in value] if isinstance(value, list) else value


class ColumnsConfig(_Strict):
    """A column training."""

    name: str = "columns"
    description: str = ""
    #: whether the network is asked only where another one is in doubt, and what its card says of that
    second_opinion: bool = False
    limits: str = ""
    species: list[str] = ["column"]
    images: int = 1
    #: a frame with the means of its neighbours as second and third channel, conditions that tell the mode (HRTEM or
    #: incoherent), and training on the mixture of `mixture.MixedSampler`
    neighbours: bool = False
    mix: Mix = Field(default_factory=lambda: Mix())
    #: weight of the contrast's cross-entropy, where the contrast is not told
    contrast_weight: float = 0.0
    #: model folder whose weights training starts from; None: from random weights
    start_from: str | None = None
    #: model folder of a network whose map is this share of the target in the images that it teaches; None: the truth alone.
    #: What it has learned from more specimens is kept while other images are learned (Li and Hoiem 2016)
    teacher: str | None = None
    teacher_share: float = 0.7
    #: what it teaches: HRTEM images, scanned images, those of dark columns alone
    teaches: list[Literal["hrtem", "scanned", "scanned_dark"]] = ["hrtem"]
    architecture: Literal["conditioned", "published"] = "conditioned"
    widths: list[int] = [24, 48, 96, 128]
    #: whether the mean of the deepest features over the field joins the conditions
    context: bool = False
    data: Data = Field(default_factory=Data)
    imaging: Imaging = Field(default_factory=Imaging)
    crop_px: int = 256
    batch: int = 8
    steps: int = 12000
    minutes: float | None = None
    learning_rate: float = 2e-3
    #: "constant" falls to 1 % over the second half, "cosine" falls from the warm-up on, to zero
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 200
    weight_decay: float = 1e-3
    ema: float = 0.998
    label_sigma_A: float = 0.38
    #: weight of the cross-entropy between species at the columns
    species_weight: float = 0.0
    seed: int = 1
    device: str = "auto"
    threads: int | None = None
    bf16: bool = True
    out: str = "runs/columns"
    checkpoint_minutes: float = 3.0

    @property
    def channels(self) -> int:
        """Image channels of the network."""
        return 3 if self.neighbours else self.images

    @property
    def conditions(self) -> int:
        """Length of the vector of conditions."""
        return FULL_SIZE if self.neighbours else SIZE

    @field_validator("crop_px")
    @classmethod
    def _multiple(cls, v: int) -> int:
        if v % 16:
            raise ValueError("crop_px must be a multiple of 16")
        return v


def read_config(path: str | Path) -> ColumnsConfig:
    """Read a training's YAML file."""
    with open(path, encoding="utf-8") as f:
        return ColumnsConfig.model_validate(yaml.safe_load(f) or {})
