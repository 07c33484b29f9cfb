"""Networks in 8 bit, for CPUs: what is slow in single precision is done with 8-bit integers.

    python -m napari_emdl.training.diffraction.quantise FOLDER OUT [--runs 48] [--patterns 60] [--seed 61]

Reads an exported model folder (single precision) and writes another with the same inputs and outputs. Static quantisation of
onnxruntime: convolutions with 7-bit weights of a scale per channel, which cannot overflow on CPUs without VNNI, and 8-bit
activations whose ranges are those on simulated patterns of crystals of the training split. Layers that see raw numbers (the
first convolution, the dense layers, the Fourier transforms) stay as they are. Nothing is trained.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml

from napari_emdl.diffraction.find.spectrum import probe_spectrum
from napari_emdl.training.common.eightbit import PRECISION, folded, to_eight_bit
from napari_emdl.training.diffraction.export import sha256
from napari_emdl.training.diffraction.library import beam_run
from napari_emdl.training.diffraction.probes import known_probe
from napari_emdl.training.diffraction.proposals import draw_proposals
from napari_emdl.training.diffraction.render import Pattern, draw_patterns
from napari_emdl.training.diffraction.scene import RenderConfig

#: Parts of each network, by the names of its modules, that become 8 bit.
_PARTS = {"disk_refiner": {"stem", "body", "squeeze"}, "fcunet": {"encoder", "decoder", "last", "real_block", "head"}}
#: Layers of these parts that stay: what they see spans too many orders of magnitude.
_KEPT = {"disk_refiner": ("/stem/stem.0/",), "fcunet": ("/encoder.0/",)}
_OPERATORS = {"Conv", "Relu", "Add"}
#: Operators behind a convolution that only move or clip its numbers.
_MOVING = {"MaxPool", "Resize", "Concat", "Slice", "Relu"}
_PROPOSALS = 24


def calibration_patterns(runs: int, patterns: int, seed: int) -> list[Pattern]:
    """Patterns of training crystals, seen through probes as a user knows them."""
    made = [beam_run(index, seed) for index in range(runs)]
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    found = draw_patterns([run for run in made if not run.meta["validation"]], RenderConfig(), patterns, rng, generator)
    for pattern in found:
        pattern.probe = known_probe(pattern, rng, 0.3)
    return found


def feeds_of(kind: str, patterns: list[Pattern], inputs: set[str], seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs of a network of `kind` for each pattern."""
    rng = np.random.default_rng(seed)
    feeds = []
    for pattern in patterns:
        counts = pattern.counts.numpy()[None]
        if kind == "fcunet":
            re, im = probe_spectrum(pattern.probe.numpy())
            feeds.append({"pattern": counts, "probe_re": re, "probe_im": im})
            continue
        feed = {
            "pattern": counts,
            "pattern_index": np.zeros(_PROPOSALS, np.int64),
            "position_px": draw_proposals(pattern, _PROPOSALS, rng).position_px.numpy(),
            "radius_px": np.array(pattern.radius_px, np.float32),
            "probe": pattern.probe.numpy(),
            "beam_px": np.asarray(pattern.origin_px, np.float32)[None],
        }
        feeds.append({name: value for name, value in feed.items() if name in inputs})
    return feeds


def layers_of(kind: str, graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes that become 8 bit: convolutions with what follows them, and what moves their results on."""
    chosen: list[str] = []
    images: set[str] = set()
    for node in graph.graph.node:
        part = node.name.split("/")[1].split(".")[0] if "/" in node.name else ""
        counted = part in _PARTS[kind] and node.op_type in _OPERATORS
        behind = all(name in images for name in (node.input if node.op_type == "Concat" else node.input[:1]))
        moved = behind and node.op_type in _MOVING
        if not (counted or moved):
            continue
        if part != "last":  # the inverse Fourier transform takes these in single precision
            images.update(node.output)
        if not node.name.startswith(_KEPT[kind]):
            chosen.append(node.name)
    return chosen


def quantise(
    source: str | Path, target: str | Path, runs: int = 48, patterns: int = 60, seed: int = 61, version: str | None = None
) -> Path:
    """Write the model folder `target` from `source`.

    Parameters
    ----------
    source
        Folder of an exported ``fcunet`` or ``disk_refiner`` in single precision.
    target
        Folder to write; may be `source`.
    runs, patterns, seed
        Of the simulated crystals and patterns that the ranges of the activations are taken from.
    version
        For the card; that of `source` when None.
    """
    source, target = Path(source), Path(target)
    card: dict[str, Any] = yaml.safe_load((source / "rdf.yaml").read_text("utf-8"))
    emdl = card["config"]["emdl"]
    network = source / card["weights"]["onnx"]["source"]
    before = sha256(network)
    feeds = feeds_of(emdl["kind"], calibration_patterns(runs, patterns, seed), {item["id"] for item in card["inputs"]}, seed)
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and source.resolve() != target.resolve():
            shutil.copy(path, target / path.name)
    with tempfile.TemporaryDirectory() as scratch:
        plain, small = Path(scratch) / "plain.onnx", Path(scratch) / "small.onnx"
        folded(network, plain)
        to_eight_bit(plain, small, feeds, layers_of(emdl["kind"], onnx.load(plain)))
        shutil.move(small, target / network.name)
    card["version"] = version or card["version"]
    card["weights"]["onnx"]["sha256"] = sha256(target / network.name)
    emdl["training"]["quantised"] = {
        "from_sha256": before,
        "recipe": f"python -m napari_emdl.training.diffraction.quantise --runs {runs} --patterns {patterns} --seed {seed}",
        "precision": PRECISION,
    }
    _write_outputs(target, card)
    (target / "rdf.yaml").write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=120), "utf-8")
    return target


def _write_outputs(folder: Path, card: dict[str, Any]) -> None:
    """What the network gives for the card's test inputs, as the new test outputs."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(folder / card["weights"]["onnx"]["source"]), providers=["CPUExecutionProvider"])
    inputs = {item["id"]: np.load(folder / item["test_tensor"]["source"])[item["id"]] for item in card["inputs"]}
    names = [item["id"] for item in card["outputs"]]
    path = folder / card["outputs"][0]["test_tensor"]["source"]
    np.savez_compressed(path, **dict(zip(names, session.run(names, inputs), strict=True)))
    for item in card["outputs"]:
        item["test_tensor"]["sha256"] = sha256(path)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("--runs", type=int, default=48, help="simulated crystals")
    parser.add_argument("--patterns", type=int, default=60)
    parser.add_argument("--seed", type=int, default=61)
    parser.add_argument("--version", help="version for the card, by default the old one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(quantise(args.folder, args.out, args.runs, args.patterns, args.seed, args.version))


if __name__ == "__main__":
    main()
