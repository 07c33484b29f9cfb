"""Column networks as ONNX with a card: the contract of a `columns` model.

Inputs
    image       (batch, C, H, W) float32, C = 1 (or the defoci of a focal series, in order of defocus), normalised over
    the whole frame by
                `napari_emdl.atoms.find.normalise.local_normalise`, at a pixel size within `config.emdl.ranges.pixel_A`
                (otherwise rescale
                to `config.emdl.pixel_A`); H and W multiples of 16; batch and size are free. With `config.emdl.neighbours`
                C = 3: the frame, the mean of the two frames next to it and that of the six beyond, moved onto it, each
                normalised by itself and cut off at +-10; a channel without frames is zero.
    conditions  (batch, 20) float32, see `napari_emdl.training.atoms.conditions` and `config.emdl.conditions` of the card:
                0 bright, 1 dark (both 0: unknown), then known flag and scaled value of energy_keV / 300, Cs_A / 1e6,
                C10_A / 100,
                focal_spread_A / 30, sampling_A / 0.1, C12_A / 50, log10_dose_e_per_A2 / 2, then zone 110, 100, 111,
                sheet one-hot. With `neighbours` (batch, 24): behind these hrtem, stem (both 0: unknown), and the numbers
                of frames in the two means, over 2 and over 6.
Outputs (ask only for those you need)
    candidates  (batch, 12288, 6) float32, best first: row, col (input pixels, centres at integers), score (probability),
    sigma_px,
                species (index), logit. Unused rows have score 0 and logit -30. Local maxima of +-3 map pixels, found in
                the graph.
    logit       (batch, n_species, H/2, W/2): map pixel (i, j) is centred on input pixel (2 i + 0.5, 2 j + 0.5).
    offset      (batch, 2, H/2, W/2): row and col from that centre to the column, input pixels.
    sigma       (batch, 1, H/2, W/2): standard deviation of the position along an axis, input pixels.

    contrast    (batch, 1): logit of bright against dark contrast; ask with contrast unknown in `conditions`, average
    over frames.

Each output but `candidates` and `contrast` is local: tiles overlapping by `config.emdl.margin_px` give the same inside
as the whole frame. A network with field context (`context` of the training) also takes a mean over the tile, so tiles are
to be large.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_emdl.training.atoms.conditions import MODES, NEIGHBOURS, NUMERIC, SIZE, ZONES
from napari_emdl.training.atoms.config import ColumnsConfig
from napari_emdl.training.atoms.network import MULTIPLE, STRIDE, build
from napari_emdl.training.atoms.peaks import CANDIDATES, FIELDS, ExportedNet

OPSET = 17
OUTPUTS = ("candidates", "logit", "offset", "sigma", "contrast")
#: weights beside the ONNX file, half precision, from which fine-tuning starts
WEIGHTS_NAME = "weights.npz"
#: of the linear probe that networks once had
OLD_PROBE = ("contrast_probe.weight", "contrast_probe.bias")


def write_onnx(net: nn.Module, channels: int, path: Path, conditions: int = SIZE) -> None:
    """Write network and peak finding as one ONNX file."""
    model = ExportedNet(net.float().cpu().eval())
    image, told = torch.zeros(2, channels, 128, 160), torch.zeros(2, conditions)
    axes = {"image": {0: "batch", 2: "height", 3: "width"}, "conditions": {0: "batch"}, "candidates": {0: "batch"}}
    axes |= {name: {0: "batch", 2: "map_height", 3: "map_width"} for name in OUTPUTS[1:4]}
    axes["contrast"] = {0: "batch"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (image, told), str(path), input_names=["image", "conditions"], output_names=list(OUTPUTS),
            dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip


def save_weights(net: nn.Module, config: ColumnsConfig, path: Path) -> None:
    """Weights in half precision with the training's configuration."""
    arrays = {k: v.detach().cpu().numpy() for k, v in net.state_dict().items()}
    half = {k: v.astype(np.float16) if v.dtype == np.float32 and "running" not in k else v for k, v in arrays.items()}
    start = None if config.start_from is None else Path(config.start_from).name  # where it lay says nothing elsewhere
    told = config.model_copy(update={"start_from": start})
    np.savez_compressed(path, __config__=np.array(told.model_dump_json()), **half)


def load_weights(path: Path) -> tuple[nn.Module, ColumnsConfig]:
    """Network and configuration from `save_weights`."""
    with np.load(path, allow_pickle=False) as z:
        config = ColumnsConfig.model_validate_json(str(z["__config__"]))
        state = {k: torch.as_tensor(z[k]) for k in z.files if k != "__config__"}
    net = build(config)
    _take(net, {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, path)
    return net.eval(), config


def load_checkpoint(path: Path) -> tuple[nn.Module, ColumnsConfig, dict[str, Any]]:
    """Averaged network, configuration and state of a training."""
    state = torch.load(path, map_location="cpu", weights_only=False)
    config = ColumnsConfig.model_validate(json.loads(state["config"]))
    net = build(config)
    _take(net, state["average"], path)
    return net.eval(), config, state


def _take(net: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load weights; the contrast probe may be missing or an older one, for it is fitted afterwards."""
    missing, extra = net.load_state_dict({k: v for k, v in weights.items() if k not in OLD_PROBE}, strict=False)
    if extra or any("contrast_probe" not in name for name in missing):
        raise ValueError(f"{path} holds another network")


def _layout(config: ColumnsConfig) -> dict[str, Any]:
    """Where each condition stands in the vector."""
    numeric = [{"name": n, "known": 2 + 2 * i, "value": 3 + 2 * i, "scale": s} for i, (n, s) in enumerate(NUMERIC)]
    layout: dict[str, Any] = {
        "size": config.conditions,
        # a focal series shows its contrasts itself: being told one changed nothing, being told a wrong one did harm
        "contrast": {} if config.images > 1 else {"bright": 0, "dark": 1},
        "numeric": numeric,
        "zone": {z: 2 + 2 * len(NUMERIC) + i for i, z in enumerate(ZONES)},
    }
    if config.neighbours:
        layout["mode"] = {m: SIZE + i for i, m in enumerate(MODES)}
        layout["frames"] = [{"entry": SIZE + len(MODES) + i, "most": most} for i, most in enumerate(NEIGHBOURS)]
    return layout


def export_model(
    net: nn.Module, config: ColumnsConfig, folder: Path, example: tuple[np.ndarray, np.ndarray], description: str, **card: Any
) -> None:
    """Write a model folder: `model.onnx`, half-precision weights, test tensors and the card.

    Parameters
    ----------
    net, config
        Trained network. Its weights are first rounded to half precision, so that ONNX file and weights are the same network.
    example
        Normalised image and conditions for the test tensors.
    card
        Further entries of `config.emdl`, such as `metrics`, `limits`, `default_min_score`, `training`.
    """
    import onnxruntime

    from napari_emdl.models.card import make_card

    folder.mkdir(parents=True, exist_ok=True)
    save_weights(net, config, folder / WEIGHTS_NAME)
    net, _ = load_weights(folder / WEIGHTS_NAME)
    write_onnx(net, config.channels, folder / "model.onnx", config.conditions)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = {"image": example[0].astype(np.float32), "conditions": example[1].astype(np.float32)}
    outputs = dict(zip(OUTPUTS, session.run(list(OUTPUTS), inputs), strict=True))
    im = config.imaging
    make_card(
        folder,
        name=config.name,
        task="columns",
        inputs=inputs,
        outputs={"logit": outputs["logit"], "offset": outputs["offset"], "sigma": outputs["sigma"]},
        description=description,
        species=list(config.species),
        pixel_A=im.nominal_sampling_A,
        ranges={
            "pixel_A": im.used_sampling_A or im.native_sampling_A,
            "rescaled_pixel_A": im.sampling_A,
            "dose_e_per_A2": im.dose_e_per_A2,
        },
        images=config.images,
        stride=STRIDE,
        multiple=MULTIPLE,
        margin_px=128,
        normalisation="napari_emdl.atoms.find.normalise.local_normalise, sigma 12 A, whole frame",
        candidate_fields=list(FIELDS),
        candidates=CANDIDATES,
        contrast=["unknown"] if config.images > 1 else ["bright", "dark", "unknown"],
        conditions=_layout(config),
        neighbours=config.neighbours,
        weights=WEIGHTS_NAME,
        **card,
    )  # fmt: skip


def provenance(config: ColumnsConfig, state: dict[str, Any]) -> dict[str, Any]:
    """What the network was trained on and how."""
    return {
        "data": "multislice exit waves simulated by napari_emdl.training.hrtem; no measured images",
        "waves": config.data.train_waves,
        "steps": state["step"], "batch": config.batch, "minutes": round(state["seconds"] / 60, 1),
        "seeds": [config.seed, config.data.seed],
        "held out": "other seeds; Pd on [110] never seen in training", "hardware": "1 CPU core",
        "command": f"napari-emdl train columns --config {config.name}.yaml",
    }  # fmt: skip
