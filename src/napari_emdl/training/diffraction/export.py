"""Export of trained disk networks to model folders: ONNX graph, bioimage.io card, test tensors.

    python -m napari_emdl.training.diffraction.export CONFIG.yaml OUT_FOLDER

Contract with the inference side
--------------------------------
``fcunet`` (task disk-proposer). Inputs: `pattern` float32 (batch, 256, 256), counts on the network's grid, direct beam
within 10 px of pixel (128, 128); `probe_re`, `probe_im` float32 (256, 256) from
`napari_emdl.diffraction.find.spectrum.probe_spectrum` of the vacuum probe on the same grid, centred at (128, 128). Outputs:
`structure_factor` float32 (batch, 256, 256), soft visibility 0..1; `candidates` float32 (batch, K, 4): row, col, score, counts
in 5 x 5 px, sorted by falling score; rows of score 0 are padding.

``disk_refiner`` (task disk-refiner). Inputs: `pattern` float32 (batch, H, W), counts as measured, any H and W; `pattern_index`
int64 (M,); `position_px` float32 (M, 2), row and col; `radius_px` float32 scalar, disk radius in pixels of `pattern`; `probe`
float32 (H, W), vacuum probe on the pattern's pixels, centred at (H // 2, W // 2), any scale; `beam_px` float32 (batch, 2), row
and col of each pattern's direct beam, to about a fifth of a disk's radius. Outputs: `measured` float32 (M, 5): row, col,
sigma_px (standard deviation along one axis, the root of the mean variance of both, calibrated), score (probability that a
visible disk lies there), intensity (counts in the disk above a ring around it); `covariance` float32 (M, 3): sigma_row_px,
sigma_col_px, rho (their correlation). Networks of version 0.2.0 and older have neither `beam_px` nor `covariance`. Feed the
measured positions back for a second pass. `radius_px` may differ between calls, not within one.

``disk_scale`` (task disk-scale). Inputs: `level0` to `level4` float32 (batch, 2, rows, cols), the pyramid of
`napari_emdl.diffraction.find.scaleview` of a pattern. Outputs: `probability` float32 (batch, 36) of the radii `RADII_PX` on
that grid; `crystal` float32 (batch,), probability that Bragg disks of a crystal are there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from torch import nn

from napari_emdl.diffraction.find.scaleview import LEVELS, RADII_PX, pyramid
from napari_emdl.training.diffraction.calibrate import calibrate_sigma, plot_reliability
from napari_emdl.training.diffraction.config import TrainConfig, load_config
from napari_emdl.training.diffraction.crops import CROP_PX
from napari_emdl.training.diffraction.fcunet import FCUNet
from napari_emdl.training.diffraction.library import Ranges, read_library
from napari_emdl.training.diffraction.networks import DiskRefiner
from napari_emdl.training.diffraction.scalenet import HELD_KINDS, ScaleNet, calibrate_scale
from napari_emdl.training.diffraction.tasks import make_task
from napari_emdl.training.diffraction.weights import load_weights, save_weights

OPSET = 17
RELIABILITY_PLOT = "reliability.png"
_RECIPE = {
    "loop",
    "render",
    "fcunet",
    "refiner",
    "scale",
    "seed",
    "proposals_per_pattern",
    "own_proposals",
    "probe_from_radius",
    "pattern_weight",
}
_GRAPHS: dict[str, dict[str, Any]] = {
    "fcunet": {
        "inputs": {"pattern": ["batch", 256, 256], "probe_re": [256, 256], "probe_im": [256, 256]},
        "outputs": {"structure_factor": ["batch", 256, 256], "candidates": ["batch", "candidate", 4]},
        "dynamic": {"pattern": {0: "batch"}, "structure_factor": {0: "batch"}, "candidates": {0: "batch"}},
    },
    "disk_scale": {
        "inputs": {f"level{k}": ["batch", 2, f"row{k}", f"col{k}"] for k in range(LEVELS)},
        "outputs": {"probability": ["batch", len(RADII_PX)], "crystal": ["batch"]},
        "dynamic": {f"level{k}": {0: "batch", 2: f"row{k}", 3: f"col{k}"} for k in range(LEVELS)}
        | {"probability": {0: "batch"}, "crystal": {0: "batch"}},
    },
    "disk_refiner": {
        "inputs": {
            "pattern": ["batch", "row", "col"],
            "pattern_index": ["disk"],
            "position_px": ["disk", 2],
            "radius_px": [],
            "probe": ["row", "col"],
            "beam_px": ["batch", 2],
        },
        "outputs": {"measured": ["disk", 5], "covariance": ["disk", 3]},
        "dynamic": {
            "pattern": {0: "batch", 1: "row", 2: "col"},
            "pattern_index": {0: "disk"},
            "position_px": {0: "disk"},
            "probe": {0: "row", 1: "col"},
            "beam_px": {0: "batch"},
            "measured": {0: "disk"},
            "covariance": {0: "disk"},
        },
    },
}


def load_trained(config: TrainConfig) -> nn.Module:
    """Averaged weights of a training, in evaluation mode, on the CPU."""
    model = make_task(config).build()
    model.load_state_dict(_checkpoint(config)["ema"])
    return model.eval()


def _checkpoint(config: TrainConfig) -> dict[str, Any]:
    return torch.load(Path(config.output) / "checkpoint.pt", map_location="cpu", weights_only=True)


def example_inputs(kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Synthetic inputs that exercise a graph: two noisy patterns of disks on a lattice."""
    from napari_emdl.diffraction.find.spectrum import probe_spectrum

    rng = np.random.default_rng(seed)
    radius, n = 6.0, 256
    y, x = np.mgrid[:n, :n]
    sites = 128.0 + 31.3 * np.array([(i, j) for i in range(-3, 4) for j in range(-3, 4)]) + 0.3
    heights = 30.0 / (1 + np.square(sites - 128).sum(1) / 900)
    image = sum(h * np.clip(radius + 0.5 - np.hypot(y - r, x - c), 0, 1) for (r, c), h in zip(sites, heights, strict=True))
    pattern = rng.poisson(np.stack([image, 0.4 * image]) + 0.1).astype(np.float32)
    probe = np.clip(radius + 0.5 - np.hypot(y - 128, x - 128), 0, 1)
    if kind == "disk_refiner":
        position = (sites[12:37] + rng.normal(0, 0.7, (25, 2))).astype(np.float32)
        index = (np.arange(25) % 2).astype(np.int64)
        inputs: dict[str, np.ndarray] = {"pattern": pattern, "pattern_index": index, "position_px": position}
        beam = np.full((2, 2), 128.3, np.float32)
        return inputs | {"radius_px": np.array(radius, np.float32), "probe": probe.astype(np.float32), "beam_px": beam}
    if kind == "disk_scale":
        levels = [pyramid(image) for image in pattern]
        return {f"level{k}": np.stack([level[k] for level in levels]) for k in range(LEVELS)}
    re, im = probe_spectrum(probe)
    return {"pattern": pattern, "probe_re": re, "probe_im": im}


def export_onnx(model: nn.Module, kind: str, path: Path) -> None:
    """Write the ONNX graph of a network (opset 17, dynamic batch, Fourier transforms as MatMul)."""
    graph = _GRAPHS[kind]
    inputs = {k: torch.from_numpy(np.asarray(v)) for k, v in example_inputs(kind).items()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(inputs.values()),
            str(path),
            input_names=list(graph["inputs"]),
            output_names=list(graph["outputs"]),
            dynamic_axes=graph["dynamic"],
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
    _without_identities(path)


def _without_identities(path: Path) -> None:
    """Take out nodes that only name weights again (a network that is used several times): they would go through the CPU."""
    model = onnx.load(path)
    weights = {item.name for item in model.graph.initializer}
    names = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity" and n.input[0] in weights}
    kept = [node for node in model.graph.node if node.output[0] not in names]
    for node in kept:
        node.input[:] = [names.get(name, name) for name in node.input]
    if names:
        del model.graph.node[:]
        model.graph.node.extend(kept)
        onnx.save(model, path)


def sha256(path: Path) -> str:
    """Checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tensor(name: str, axes: list, test_file: str, digest: str) -> dict:
    described: list[dict[str, Any]] = []
    for i, size in enumerate(axes):
        if size in ("batch", "disk"):
            described.append({"type": "batch"} if i == 0 else {"type": "index", "id": str(size)})
        else:
            described.append(
                {"type": "space", "id": f"axis{i}", "size": size if isinstance(size, int) else {"min": 16, "step": 1}}
            )
    return {
        "id": name,
        "axes": described,
        "data": {"type": "int64" if name == "pattern_index" else "float32"},
        "test_tensor": {"source": test_file, "sha256": digest},
    }


def export_folder(
    model: nn.Module,
    kind: str,
    folder: str | Path,
    emdl: dict[str, Any],
    name: str,
    description: str,
    version: str = "0.1.0",
) -> Path:
    """Write a complete model folder.

    Parameters
    ----------
    model
        Trained network in evaluation mode.
    kind
        ``fcunet``, ``disk_refiner`` or ``disk_scale``.
    folder
        Where to; made if absent.
    emdl
        Entries of ``config.emdl``.
    name, description, version
        For the card.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder)
    export_onnx(model, kind, folder / "model.onnx")
    inputs = example_inputs(kind)
    with torch.no_grad():
        out = model(*(torch.from_numpy(np.asarray(v)) for v in inputs.values()))
    outputs_of: dict[str, list] = _GRAPHS[kind]["outputs"]
    described = {k: [getattr(model, "candidates", a) if a == "candidate" else a for a in v] for k, v in outputs_of.items()}
    names = list(described)
    outputs = dict(zip(names, [t.numpy() for t in (out if isinstance(out, tuple) else (out,))], strict=True))
    np.savez_compressed(folder / "test_input.npz", **inputs)  # type: ignore[arg-type]
    np.savez_compressed(folder / "test_output.npz", **outputs)  # type: ignore[arg-type]
    digests = {f: sha256(folder / f) for f in ("model.onnx", "test_input.npz", "test_output.npz")}
    card = {
        "format_version": "0.5.4",
        "type": "model",
        "name": name,
        "version": version,
        "description": description,
        "license": "BSD-3-Clause",
        "authors": [{"name": "napari-emdl developers"}],
        "inputs": [_tensor(n, a, "test_input.npz", digests["test_input.npz"]) for n, a in _GRAPHS[kind]["inputs"].items()],
        "outputs": [_tensor(n, a, "test_output.npz", digests["test_output.npz"]) for n, a in described.items()],
        "weights": {"onnx": {"source": "model.onnx", "sha256": digests["model.onnx"], "opset_version": OPSET}},
        "config": {"emdl": emdl},
    }
    if reliability := emdl["metrics"].get("sigma_reliability"):
        plot_reliability(reliability, folder / RELIABILITY_PLOT)
        card["covers"] = [RELIABILITY_PLOT]
    text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=120)
    (folder / "rdf.yaml").write_text(text, encoding="utf-8")
    return folder


def describe(config: TrainConfig, model: nn.Module, metrics: dict[str, Any], step: int) -> tuple[str, str, str, dict[str, Any]]:
    """Kind, name, description and ``config.emdl`` entries of a network after `step` steps."""
    render, library = config.render, Ranges()
    ranges = {
        "radius_px": list(render.radius_px),
        "semiangle_mrad": list(library.semiangle_mrad),
        "energy_keV": list(library.energy_keV),
        "thickness_nm": list(library.thickness_nm),
        "dose_e": [10 ** render.log10_dose[0], 10 ** render.log10_dose[2]],
        "sampling_invA": list(render.sampling_invA),
        "mistilt_mrad": [0.0, library.tilt_mrad],
    }
    training = {
        "data": "multislice of crystals of 47 structure types, half of the runs on zones that strain is mapped in "
        "(training.diffraction.library), rendered anew every step",
        "patterns_seen": step * config.loop.patterns_per_step,
        "recipe": config.model_dump(mode="json", include=_RECIPE),
        "steps": step,
        "split": "by chemical formula, a tenth of the crystals held out",
        "excluded": "SrTiO3, GaAs, Cu, Al, MgO in any orientation",
        "command": "python -m napari_emdl.training.diffraction.train CONFIG.yaml",
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    limits = [
        "simulated data: no phonon scattering beyond damping, diffuse halo and plasmon tails are empirical",
        "zero-order Laue zone: no HOLZ lines",
        "single crystals only: two phases or twins in one pattern were not trained",
    ]
    emdl: dict[str, Any] = {"ranges": ranges, "training": training, "limits": limits, "metrics": metrics}
    if isinstance(model, FCUNet):
        head = {
            "task": "disk-proposer",
            "kind": "fcunet",
            "grid_px": 256,
            "candidates": model.candidates,
            "default_min_score": 0.3,
            "floor": 0.1,
        }
        about = "Fourier-space complex U-Net: structure-factor image and Bragg disk candidates from pattern and vacuum probe."
        return "fcunet", "FCU-Net", about, head | emdl
    if isinstance(model, ScaleNet):
        emdl["limits"] = [*limits, f"patterns without a crystal: the kinds of bench nothing but {' and '.join(HELD_KINDS)}"]
        about = "Radius of the Bragg disks of a pattern, and whether it is a crystal's, from a pyramid of the pattern alone."
        return "disk_scale", "Disk scale", about, {"task": "disk-scale", "kind": "disk_scale"} | emdl
    assert isinstance(model, DiskRefiner)
    head = {
        "task": "disk-refiner",
        "kind": "disk_refiner",
        "canonical_radius_px": model.canonical_px,
        "default_min_score": 0.5,
        "floor": 0.1,
    }
    head |= {"passes": 2, "sigma_temperature": float(model.temperature)}
    # Crops are resampled to one radius: larger disks than were trained work as well (checked to 38 px).
    emdl["ranges"] = ranges | {"radius_px": [min(2.0, render.radius_px[0]), 40.0]}
    about = (
        "Measures each Bragg disk on a crop of canonical radius: position, calibrated standard deviation, score and intensity."
    )
    if model.crop_px < CROP_PX:
        about = "Looks at candidates of Bragg disks on coarse crops before the disk refiner: which may be disks, and where."
        return "disk_refiner", "Disk glance", about, head | emdl
    return "disk_refiner", "Disk refiner", about, head | emdl


def export(
    config_path: str | Path,
    folder: str | Path,
    metrics_path: str | Path | None = None,
    note: str = "",
    version: str = "0.1.0",
    seen_before: int = 0,
    weights: str | Path | None = None,
    score_shift: float = 0.0,
) -> Path:
    """Export the training of a configuration.

    Parameters
    ----------
    config_path
        Configuration of the training.
    folder
        Where to.
    metrics_path
        Measured metrics for the card (JSON of `evaluate`).
    note
        Remark on the training for the card.
    version
        Version of the network for the card.
    seen_before
        Patterns that the network had seen before this training (`start_from`).
    weights
        Folder with the weights of a training elsewhere (`scripts/gpu`), in place of the configuration's checkpoint; all
        patterns it has seen are then in `seen_before`.
    score_shift
        Of a refiner: added to the logits of its scores, so that the threshold stays where it was. A network that saw more
        damage is less sure of what nothing is wrong with.
    """
    config = load_config(config_path)
    if weights is None:
        model, step = load_trained(config), int(_checkpoint(config)["step"])
    else:
        model, step = make_task(config).build().eval(), 0
        load_weights(model, Path(weights))
    metrics: dict[str, Any] = json.loads(Path(metrics_path).read_text("utf-8")) if metrics_path else {}
    if isinstance(model, DiskRefiner):
        with torch.no_grad():
            model.head.bias[3] += score_shift
        metrics["sigma_reliability"] = calibrate_sigma(model, config)
    elif isinstance(model, ScaleNet):
        metrics |= calibrate_scale(model, config, read_library(list(config.library), validation=True))
    kind, name, description, emdl = describe(config, model, metrics, step)
    emdl["training"]["patterns_seen"] += seen_before
    if score_shift:
        emdl["training"]["score_shift"] = score_shift
    if note:
        emdl["training"]["note"] = note
    return export_folder(model, kind, folder, emdl, name, description, version)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("folder")
    parser.add_argument("--metrics", help="JSON of napari_emdl.training.diffraction.evaluate")
    parser.add_argument("--note", default="", help="remark on the training for the card")
    parser.add_argument("--version", default="0.1.0", help="version of the network for the card")
    parser.add_argument("--seen-before", type=int, default=0, help="patterns seen before, by the network of start_from")
    parser.add_argument("--weights", help="folder with weights.npz of a training elsewhere, in place of the checkpoint")
    parser.add_argument("--score-shift", type=float, default=0.0, help="of a refiner, added to the logits of its scores")
    args = parser.parse_args()
    given = (args.metrics, args.note, args.version, args.seen_before, args.weights, args.score_shift)
    print(export(args.config, args.folder, *given))


if __name__ == "__main__":
    main()
