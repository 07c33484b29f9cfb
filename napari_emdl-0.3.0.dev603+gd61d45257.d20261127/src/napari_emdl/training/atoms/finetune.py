"""Tune to my microscope: a short fine-tune of a column network to a narrow range of conditions, checked against the
original."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from napari_emdl.base.errors import EmdlError
from napari_emdl.training.atoms.conditions import FULL_SIZE, encode, encode_full
from napari_emdl.training.atoms.config import ColumnsConfig, Range
from napari_emdl.training.atoms.evaluate import Score, TestImage
from napari_emdl.training.atoms.export import WEIGHTS_NAME, export_model, load_weights
from napari_emdl.training.atoms.lattices import BOX_A, FCC_A, Structure
from napari_emdl.training.atoms.mixture import Bank, MixedSampler
from napari_emdl.training.atoms.multislice import Multislice
from napari_emdl.training.atoms.peaks import candidates
from napari_emdl.training.atoms.sampling import Batch, Sampler
from napari_emdl.training.atoms.specimens import random_structure
from napari_emdl.training.atoms.structures import CarbonBank, metal_particle, monolayer
from napari_emdl.training.atoms.train import Trainer, run
from napari_emdl.training.atoms.waves import GRID, U_RMS_A, Waves, simulate

#: share of the time that goes into simulating exit waves
SIMULATION_SHARE = 0.25
HELD_WAVES = 24
#: what a network of mixed training is tuned on
TUNED_SHARES = {"movie": 0.0, "single": 0.9, "stem": 0.0, "negative": 0.1}
#: contrast logit of a network that knows one contrast only
SETTLED_LOGIT = 8.0
COMMAND = "napari-emdl train columns --from MODEL --conditions FILE"
THRESHOLDS = np.arange(0.2, 0.71, 0.05)


class TuneConditions(BaseModel):
    """What is known of a microscope session. Ranges are (low, high); what is None stays as broad as in the base model.

    C10 is positive for overfocus. `elements` are fcc metals, `zone` 110, 100 or 111, `specimen` the kind of specimen. A single
    number is a range of no width, a text "Au,Pt" a list of elements.
    """

    model_config = ConfigDict(extra="forbid")

    contrast: Literal["both", "bright", "dark"] = "both"
    energy_keV: float = Field(300.0, gt=0)
    dose_e_per_A2: Range | None = None
    sampling_A: Range | None = None
    C10_A: Range | None = None
    Cs_A: Range | None = None
    C12_A: Range | None = None
    focal_spread_A: Range | None = None
    specimen: Literal["metal", "oxide", "monolayer", "graphene", "any"] = "metal"
    elements: list[str] | None = None
    zone: Literal["110", "100", "111"] | None = None
    carbon_A: Range = (0.0, 40.0)

    @field_validator("dose_e_per_A2", "sampling_A", "C10_A", "Cs_A", "C12_A", "focal_spread_A", "carbon_A", mode="before")
    @classmethod
    def _single(cls, v: Any) -> Any:
        return (v, v) if isinstance(v, int | float) else v

    @field_validator("dose_e_per_A2", "sampling_A", "C10_A", "Cs_A", "C12_A", "focal_spread_A", "carbon_A")
    @classmethod
    def _ordered(cls, v: Range | None) -> Range | None:
        if v is not None and v[0] > v[1]:
            raise ValueError(f"the range {v[0]:g} to {v[1]:g} runs backwards; write the smaller value first")
        return v

    @field_validator("dose_e_per_A2", "sampling_A")
    @classmethod
    def _positive(cls, v: Range | None) -> Range | None:
        if v is not None and v[0] <= 0:
            raise ValueError("must be more than zero")
        return v

    @field_validator("zone", mode="before")
    @classmethod
    def _zone(cls, v: Any) -> Any:
        return f"{v:g}" if isinstance(v, int | float) else v

    @field_validator("elements", mode="before")
    @classmethod
    def _elements(cls, v: Any) -> Any:
        return [e.strip().capitalize() for e in v.split(",") if e.strip()] if isinstance(v, str) else v

    @field_validator("elements")
    @classmethod
    def _known_elements(cls, v: list[str] | None) -> list[str] | None:
        unknown = sorted(set(v or ()) - set(FCC_A))
        if unknown:
            raise ValueError(f"no such metal: {', '.join(unknown)}; there are {', '.join(FCC_A)}")
        return v or None


def read_tune_conditions(values: dict[str, Any]) -> TuneConditions:
    """Conditions as typed by a user.

    Raises
    ------
    EmdlError
        One line that names what cannot be understood.
    """
    unknown = set(values) - set(TuneConditions.model_fields)
    if unknown:
        raise EmdlError(f"no such condition: {', '.join(sorted(unknown))}; there are {', '.join(TuneConditions.model_fields)}")
    try:
        return TuneConditions.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise EmdlError(f"condition {first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None


def draw(rng: np.random.Generator, carbon: CarbonBank, c: TuneConditions) -> tuple[Structure, float, float]:
    """A specimen of the session, its beam energy and thermal amplitude."""
    if c.specimen == "metal":
        s = metal_particle(rng, carbon, c.elements or tuple(FCC_A), c.zone, carbon_A=float(rng.uniform(*c.carbon_A)))
    elif c.specimen == "monolayer":
        s = monolayer(rng)
    else:
        shares: dict[str, float] = (
            {"metal": 0.78, "oxide": 0.1, "monolayer": 0.07, "graphene": 0.05} if c.specimen == "any" else {c.specimen: 1.0}
        )
        s = random_structure(rng, carbon, shares)
    return s, c.energy_keV, float(rng.choice(U_RMS_A))


def narrowed(config: ColumnsConfig, c: TuneConditions) -> ColumnsConfig:
    """The base model's training with the session's ranges."""
    given = {
        k: getattr(c, k)
        for k in ("dose_e_per_A2", "sampling_A", "C10_A", "Cs_A", "C12_A", "focal_spread_A")
        if getattr(c, k) is not None
    }
    imaging = config.imaging.model_copy(update={**given, "contrast": c.contrast, "session_share": 0.0})
    if c.dose_e_per_A2 is not None:
        imaging.dose_focus_share = 0.0
    if not config.neighbours:
        return config.model_copy(update={"imaging": imaging})
    mix = config.mix.model_copy(update=TUNED_SHARES)
    if c.sampling_A is not None:
        native, (low, high) = imaging.native_sampling_A, c.sampling_A
        inside = native[0] <= low and high <= native[1]
        coarse = float(not inside)
        mix = mix.model_copy(
            update={
                "coarse_A": (low, high),
                "fine_share": 0.0,
                "coarse_share": coarse,
                "coarse_share_sheets": coarse,
            }
        )
        if inside:
            imaging = imaging.model_copy(update={"native_sampling_A": (low, high)})
    return config.model_copy(update={"imaging": imaging, "mix": mix, "contrast_weight": 0.0})


def _sampler(waves: Waves, config: ColumnsConfig, seed: list[int]) -> Sampler | MixedSampler:
    """Single images of a session's specimens."""
    if config.neighbours:
        return MixedSampler(Bank([waves], None), config, seed)
    return Sampler(waves, config.imaging, config.crop_px, 1, seed, True)


def _held_batches(held: Waves, config: ColumnsConfig, seed: list[int]) -> list[Batch]:
    """Two images of every held-out specimen; four at a time: Cancel is looked at between batches."""
    sampler = _sampler(held, config, seed)
    if isinstance(sampler, MixedSampler):
        return [sampler.batch(4, ("single",) * 4) for _ in range(0, 2 * len(held), 4)]
    return [sampler.batch(4, np.arange(i, i + 4) % len(held)) for i in range(0, 2 * len(held), 4)]


def _simulate_for(
    seconds: float, c: TuneConditions, seed: int, least: int, tell: Callable[[float], None], cancel: Callable[[], bool]
) -> Waves | None:
    rng = np.random.default_rng([seed, 4])
    carbon, solver = CarbonBank(rng, 3), Multislice(box_A=BOX_A, grid=GRID)
    made: list[Waves] = []
    began = time.monotonic()
    while len(made) < least or time.monotonic() - began < seconds:
        if cancel():
            return None
        made.append(simulate([draw(rng, carbon, c)], solver))
        tell(min(1.0, (time.monotonic() - began) / max(seconds, 1e-9)))
    return join(made)


def join(parts: list[Waves]) -> Waves:
    """One bank from several."""
    offset = np.cumsum([0] + [len(p.column_A) for p in parts[:-1]])
    start = np.concatenate(
        [p.start[:-1] + o for p, o in zip(parts, offset, strict=True)] + [[offset[-1] + len(parts[-1].column_A)]]
    )
    return Waves(
        np.concatenate([p.half for p in parts]), np.concatenate([p.energy_keV for p in parts]), start.astype(int),
        np.concatenate([p.column_A for p in parts]), np.concatenate([p.column_class for p in parts]),
        np.concatenate([p.column_surface for p in parts]), [m for p in parts for m in p.meta],
    )  # fmt: skip


def settle_contrast(net: torch.nn.Module, contrast: str) -> None:
    """Let the contrast probe always give the one contrast the network knows: its features are not those it was fitted to."""
    with torch.no_grad():
        net.contrast_probe.out.weight.zero_()  # type: ignore[union-attr,operator]
        net.contrast_probe.out.bias.fill_(SETTLED_LOGIT if contrast == "bright" else -SETTLED_LOGIT)  # type: ignore[union-attr,operator]


def score_batches(
    net: torch.nn.Module, batches: list[Batch], cancel: Callable[[], bool]
) -> tuple[dict[str, float], float] | None:
    """Scores at the best of `THRESHOLDS`, and that threshold, with the contrast told and nothing else; None when cancelled."""
    scores = [Score() for _ in THRESHOLDS]
    for b in batches:
        if cancel():
            return None
        sign = {1: "bright", -1: "dark", 0: None}
        write = encode_full if b.conditions.shape[1] == FULL_SIZE else encode
        told = np.stack([write(sign[int(c)], sampling_A=float(s)) for c, s in zip(b.contrast, b.sampling_A, strict=True)])
        with torch.no_grad():
            conditions = torch.as_tensor(told)
            found = candidates(net(b.image.cpu(), conditions), conditions).numpy()
        size = b.image.shape[-1]
        for k, f in enumerate(found):
            f = f[(f[:, 2] > 0.05) & np.all((f[:, :2] > 0) & (f[:, :2] < size - 1), axis=1)]
            xy, cls = b.columns[k]
            inside = np.all((xy > 0) & (xy < size - 1), axis=1)
            test = TestImage(np.zeros(0), float(b.sampling_A[k]), "", xy[inside], cls[inside], b.surface[k][inside])
            for score, threshold in zip(scores, THRESHOLDS, strict=True):
                score.add(f[f[:, 2] >= threshold, :2], test)
    best = int(np.argmax([s.summary()["f1"] for s in scores]))
    return scores[best].summary(), float(THRESHOLDS[best])


def finetune(
    base_model_dir: str | Path,
    conditions: TuneConditions | dict[str, Any],
    out_dir: str | Path,
    minutes: float = 6.0,
    progress: Callable[[float, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    seed: int = 1,
    name: str | None = None,
) -> dict[str, Any] | None:
    """Fine-tune a shipped column network to one microscope session and write it as a model of its own.

    Exit waves are simulated first (a quarter of the time), then the network trains on images in the session's range, and
    both networks are
    compared on held-out simulated specimens in that range.

    Parameters
    ----------
    base_model_dir
        Model folder with half-precision weights beside the ONNX file.
    conditions
        See `TuneConditions`.
    out_dir
        New model folder.
    minutes
        Wall-clock time for simulation and training together.
    progress
        Called with a share in 0..1 and a line of text.
    cancel
        Asked often; when it says True, training stops and nothing is written.
    name
        Name on the card; that of the folder if not given.

    Returns
    -------
    dict with `original` and `tuned` scores (F1, recall, ...) and `better`; None when cancelled.

    Raises
    ------
    EmdlError
        The base model takes a focal series, or the conditions cannot be understood.
    """
    c = conditions if isinstance(conditions, TuneConditions) else read_tune_conditions(conditions)
    net, config = load_weights(Path(base_model_dir) / WEIGHTS_NAME)
    if config.images != 1:
        raise EmdlError(
            f"{Path(base_model_dir).name} takes {config.images} images; only networks for single images can be tuned"
        )
    stop = cancel or (lambda: False)
    tell = progress or (lambda share, text: None)
    began = time.monotonic()
    held = _simulate_for(0, c, seed + 1000, HELD_WAVES, lambda f: tell(0.02, "simulating held-out specimens"), stop)
    waves = None if held is None else _simulate_for(
        SIMULATION_SHARE * 60 * minutes, c, seed, 16, lambda f: tell(SIMULATION_SHARE * f, "simulating specimens"), stop
    )  # fmt: skip
    if waves is None or held is None:
        return None
    left = max(0.05, minutes - (time.monotonic() - began) / 60)
    tuned_config = narrowed(config, c).model_copy(update={
        "minutes": left, "learning_rate": 4e-4, "warmup_steps": 20, "ema": 0.99, "seed": seed, "device": "auto",
        "threads": None,
        "name": Path(out_dir).name,
    })  # fmt: skip
    trainer = Trainer.new(tuned_config, waves, net.state_dict())
    if not run(
        trainer,
        Path(out_dir) / "training",
        lambda f, text: tell(SIMULATION_SHARE + (0.97 - SIMULATION_SHARE) * min(1.0, f), text),
        stop,
    ):
        return None
    tell(0.97, "comparing with the original on held-out specimens")
    batches = _held_batches(held, tuned_config, [seed, 8])
    tuned = trainer.average.cpu().float().eval()
    if c.contrast != "both":
        settle_contrast(tuned, c.contrast)
    before, after = score_batches(net, batches, stop), score_batches(tuned, batches, stop)
    if before is None or after is None:
        return None
    (original_score, _), (tuned_score, threshold) = before, after
    report = {"original": original_score, "tuned": tuned_score, "better": tuned_score["f1"] > original_score["f1"]}
    first = batches[0]
    export_model(
        tuned, tuned_config, Path(out_dir), (first.image[:1].numpy(), first.conditions[:1].numpy()),
        f"{config.name}, tuned to one microscope session",
        default_min_score={"bright": threshold, "dark": threshold, "auto": threshold},
        metrics={"held-out specimens in the tuned range": report},
        limits="Tuned to a narrow range of conditions: use it for that microscope session, and the original elsewhere.",
        training={"base": Path(base_model_dir).name, "conditions": c.model_dump(mode="json"), "minutes": minutes, "seed": seed,
                  "waves": len(waves), "steps": trainer.step, "command": COMMAND},
    )  # fmt: skip
    tell(1.0, f"F1 {original_score['f1']:.3f} -> {tuned_score['f1']:.3f} on held-out specimens")
    return report
