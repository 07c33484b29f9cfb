"""Tune a column network to one microscope: what is known becomes narrow ranges, and training is asked to do the rest.

Training needs torch; it is imported when it is asked for, and what is missing is said in a line.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from napari_emdl.base.errors import Cancelled, EmdlError
from napari_emdl.base.params import ColumnParams
from napari_emdl.jobs.control import Control

INSTALL = "Tuning needs PyTorch: pip install 'napari-emdl[train]', then start again."
#: What is known of defocus and Cs is known to about this much.
C10_WIDTH_A, CS_WIDTH_A, SAMPLING_WIDTH = 30.0, 3e4, 0.05
STEPS = 100
#: weights beside the ONNX file from which training starts
WEIGHTS = "weights.npz"


def missing_for_tuning(model: str | None = None) -> str:
    """What is missing to tune `model` (None: the shipped one), in a line; "" when nothing is."""
    if model == "log":
        return "The Laplacian of Gaussian cannot be tuned; choose a network as model first."
    if find_spec("torch") is None:
        return INSTALL
    try:
        _base_model(model)
    except EmdlError as error:
        return str(error)
    return ""


def default_conditions(params: ColumnParams, pixel_A: float | None) -> dict[str, Any]:
    """Ranges that follow from what is known of the images; keys as the training's conditions."""
    known: dict[str, Any] = {}
    if params.contrast != "auto":
        known["contrast"] = params.contrast
    if params.energy_keV is not None:
        known["energy_keV"] = params.energy_keV
    if params.defocus_nm is not None:
        known["C10_A"] = (10 * params.defocus_nm - C10_WIDTH_A, 10 * params.defocus_nm + C10_WIDTH_A)
    if params.cs_um is not None:
        known["Cs_A"] = (1e4 * params.cs_um - CS_WIDTH_A, 1e4 * params.cs_um + CS_WIDTH_A)
    if pixel_A is not None:
        known["sampling_A"] = (round(pixel_A * (1 - SAMPLING_WIDTH), 4), round(pixel_A * (1 + SAMPLING_WIDTH), 4))
    return known


def read_range(text: str, what: str) -> tuple[float, float]:
    """Range typed as "20 - 80", "20:80" or a single value.

    Raises
    ------
    EmdlError
        When it is neither.
    """
    numbers = re.findall(r"(?<![\d.])-?\d+\.?\d*(?:[eE][-+]?\d+)?", text.strip())
    if len(numbers) not in (1, 2):
        raise EmdlError(f"{what}: cannot read {text!r}; write a range such as 20 - 80")
    low, high = float(numbers[0]), float(numbers[-1])
    if low > high:
        raise EmdlError(f"{what}: the range {text!r} runs backwards; write the smaller value first")
    return low, high


@dataclass(frozen=True)
class Tuned:
    """A network tuned to a microscope: `name`, `folder`, and scores of it and of the `original` on held simulated images."""

    name: str
    folder: Path
    original: dict[str, float]
    tuned: dict[str, float]

    @property
    def said(self) -> str:
        """How it compares with the original, in a line."""
        before, after = self.original["f1"], self.tuned["f1"]
        verdict = "better than" if after > before else "not better than"
        return (
            f"{self.name} is {verdict} the original on simulated images of these conditions: F1 {before:.3f} to {after:.3f}, "
            f"{self.original['rms_pm']:.1f} to {self.tuned['rms_pm']:.1f} pm"
        )


def tune(base: str | None, conditions: dict[str, Any], name: str, minutes: float, control: Control) -> Tuned:
    """Fine-tune a network and add it to the user's models.

    Parameters
    ----------
    base
        Name or folder of the network to start from; None takes the shipped one.
    conditions
        Ranges of the microscope, see ``training.hrtem.finetune.TuneConditions``.
    name
        Name of the new model.
    minutes
        How long to simulate and train.
    control
        Progress and cancel.

    Raises
    ------
    EmdlError
        Torch is missing, the name is taken or the conditions do not fit.
    """
    from napari_emdl.models.registry import load_model, user_folder

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise EmdlError(f"a model name has letters, digits, '.', '_' and '-' only, not {name!r}")
    if find_spec("torch") is None:
        raise EmdlError(INSTALL)
    target = user_folder() / name
    if target.exists():
        raise EmdlError(f"there is a model {name!r} already; choose another name")
    folder = _base_model(base)
    scratch = target.with_name(f".{name}.tuning")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        from napari_emdl.training.atoms import finetune as training

        report = training.finetune(
            folder,
            training.read_tune_conditions(conditions),
            scratch,
            minutes=minutes,
            progress=lambda share, text: control.report(round(STEPS * share), STEPS, text),
            cancel=lambda: control.cancelled,
            name=name,
        )
        control.check()
        if report is None:  # it stops only when cancelled
            raise Cancelled("cancelled by the user")
        shutil.rmtree(scratch / "training", ignore_errors=True)
        load_model(scratch)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Tuned(name, target, report["original"], report["tuned"])


def _base_model(model: str | None) -> Path:
    """Folder of the network to start from.

    Raises
    ------
    EmdlError
        When there is none, or it has no weights to start from.
    """
    from napari_emdl.models.registry import find_model, list_models

    if model is None:
        entries = [entry for entry in list_models("columns") if not entry.problem]
        if not entries:
            raise EmdlError("there is no column network to start from yet; train one with 'napari-emdl train columns'")
        model = str(next((e for e in entries if e.name == "columns"), entries[0]).folder)
    folder = find_model(model, "columns").folder
    if not (folder / WEIGHTS).is_file():
        raise EmdlError(f"model {folder.name} has no weights to train on; choose a shipped one")
    return folder
