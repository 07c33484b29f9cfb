"""Weights of disk networks beside the exported graph, so that a training can start from a shipped network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from napari_emdl.base.errors import EmdlError
from napari_emdl.training.diffraction.crops import CROP_PX
from napari_emdl.training.diffraction.networks import OUTPUTS, SCALARS, DiskRefiner, Residual

WEIGHTS_NAME = "weights.npz"


def save_weights(model: nn.Module, folder: Path) -> Path:
    """Write the weights of `model` in half precision into a model folder.

    Moments of batch normalisation stay in single precision: their range is larger than that of half precision.
    """
    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    half = {n: a.astype(np.float16) if a.dtype == np.float32 and "running" not in n else a for n, a in arrays.items()}
    path = folder / WEIGHTS_NAME
    np.savez_compressed(path, **half)  # type: ignore[arg-type]
    return path


def _may_grow(name: str, old: torch.Tensor, new: torch.Tensor) -> bool:
    """Whether a layer of a refiner only has inputs or outputs more than an older one's."""
    if name.startswith("stem.0.") and new.ndim == 4:
        return new.shape[1] > old.shape[1] and new.shape[0] == old.shape[0]
    if name == "dense.weight":
        return 0 < new.shape[1] - old.shape[1] < SCALARS and new.shape[0] == old.shape[0]
    return name in ("head.weight", "head.bias") and 0 < new.shape[0] - old.shape[0] < OUTPUTS and new.shape[1:] == old.shape[1:]


def load_weights(model: nn.Module, folder: Path) -> None:
    """Put the weights of a model folder into `model`.

    Residual blocks that `model` has on top of the folder's network start as the identity, and the weights of inputs and outputs
    that the other had not as zero, so that the larger network begins where the other ended.

    Raises
    ------
    EmdlError
        When the folder has no weights or they are those of a network of another size.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise EmdlError(f"{folder} has no {WEIGHTS_NAME} to start from; train from random weights or name another model folder")
    with np.load(path, allow_pickle=False) as z:
        state = {name: torch.as_tensor(z[name]) for name in z.files}
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    for name, block in model.named_modules():
        own = {f"{name}.{key}": value for key, value in block.state_dict().items()}
        if isinstance(block, Residual) and not own.keys() & state.keys():
            nn.init.zeros_(block.norm2.weight)
            state |= own
    for name, value in model.state_dict().items():
        if name in state and _may_grow(name, state[name], value):
            grown = torch.zeros_like(value)
            grown[tuple(slice(n) for n in state[name].shape)] = state[name]
            state[name] = grown
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise EmdlError(f"the weights in {folder} do not fit the network of the configuration: {first}") from error


def load_refiner(folder: Path) -> DiskRefiner:
    """Refiner of a model folder, as large as the recipe in its card says, in evaluation mode.

    Raises
    ------
    EmdlError
        When the folder has no weights, or no card that says how large the network is.
    """
    try:
        card = yaml.safe_load((folder / "rdf.yaml").read_text("utf-8"))
        size = card["config"]["emdl"]["training"]["recipe"]["refiner"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise EmdlError(f"{folder} has no card with the recipe of a disk refiner") from error
    model = DiskRefiner(tuple(size["widths"]), tuple(size["blocks"]), size["hidden"], size.get("crop_px", CROP_PX))
    load_weights(model, folder)
    return model.eval()
