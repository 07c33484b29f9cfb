"""A column network in 8 bit, for CPUs.

    python -m napari_emdl.training.atoms.quantise FOLDER OUT [--specimens 24] [--batches 12] [--seed 61]

Reads an exported model folder (single precision) and writes another with the same inputs and outputs. Convolutions of the
lower levels become 8 bit; the first level, the last two of the decoder, the head and what finds the peaks stay. Ranges come
from simulated specimens and images of the kinds that the network was trained on. Nothing is trained; biases are corrected so
that scores mean what they did.
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

from napari_emdl.models.card import sha256_of
from napari_emdl.training.atoms.config import ColumnsConfig
from napari_emdl.training.atoms.export import WEIGHTS_NAME, load_weights
from napari_emdl.training.atoms.lattices import BOX_A
from napari_emdl.training.atoms.mixture import Bank, MixedSampler
from napari_emdl.training.atoms.multislice import Multislice
from napari_emdl.training.atoms.structures import CarbonBank
from napari_emdl.training.atoms.waves import GRID, Mixture, draw_pair, draw_structure, simulate
from napari_emdl.training.common.eightbit import PRECISION, correct_biases, folded, level_scores, to_eight_bit

_OPERATORS = {"Conv", "Relu", "Add"}
#: Modules that become 8 bit. The highest level sees the image itself; with the last decoder but one in single precision
#: positions are a fifth nearer to those of the whole network in single precision.
_PARTS = {"encode.1", "encode.2", "down.1", "down.2", "deep.0", "deep.1", "deep.2", "up.2", "decode.2"}
#: The layer whose first channels are the logits.
_HEAD = "/head/Conv"


def calibration_feeds(config: ColumnsConfig, specimens: int, batches: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs of a column network: images of all kinds of its training, of `specimens` of each kind of specimen.

    Raises
    ------
    ValueError
        For a network that was not trained on the mixture.
    """
    if not config.neighbours:
        raise ValueError("only column networks that take neighbouring frames can be quantised")
    solver, rng = Multislice(box_A=BOX_A, grid=GRID), np.random.default_rng(seed)
    carbon = CarbonBank(np.random.default_rng([seed, 1]), 3)
    waves = []
    for data in (config.data, *config.mix.others):
        mixture = Mixture(data.shares, data.materials, data.sheet_keV)
        waves.append(simulate([draw_structure(rng, carbon, mixture, "train") for _ in range(specimens)], solver))
    pairs = simulate([one for _ in range(specimens // 2) for one in draw_pair(rng, carbon, "train")], solver)
    sampler = MixedSampler(Bank(waves, pairs), config, [seed, 2])
    feeds = []
    for _ in range(batches):
        batch = sampler.batch(8)
        for image, told in zip(batch.image.numpy(), batch.conditions.numpy(), strict=True):
            feeds.append({"image": image[None], "conditions": told[None].astype(np.float32)})
    return feeds


def layers_of(graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes that become 8 bit."""
    named = [(node.name, *node.name.split("/")[1:2], node.op_type) for node in graph.graph.node if "/" in node.name]
    return [name for name, part, operator in named if part in _PARTS and operator in _OPERATORS]


def quantise(
    source: str | Path, target: str | Path, specimens: int = 24, batches: int = 12, seed: int = 61, version: str | None = None
) -> Path:
    """Write the model folder `target` from `source`.

    Parameters
    ----------
    source
        Folder of an exported column network in single precision, with its ``weights.npz``.
    target
        Folder to write; may be `source`.
    specimens, batches, seed
        Simulated specimens of each kind and batches of eight images that the ranges of the activations are taken from.
    version
        For the card; that of `source` when None.
    """
    source, target = Path(source), Path(target)
    card: dict[str, Any] = yaml.safe_load((source / "rdf.yaml").read_text("utf-8"))
    network = source / card["weights"]["onnx"]["source"]
    before = sha256_of(network)
    feeds = calibration_feeds(load_weights(source / WEIGHTS_NAME)[1], specimens, batches, seed)
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and source.resolve() != target.resolve():
            shutil.copy(path, target / path.name)
    with tempfile.TemporaryDirectory() as scratch:
        plain, small = Path(scratch) / "plain.onnx", Path(scratch) / "small.onnx"
        folded(network, plain)
        to_eight_bit(plain, small, feeds, layers_of(onnx.load(plain)))
        correct_biases(plain, small, feeds[::3])
        level_scores(plain, small, feeds, "logit", _HEAD)
        shutil.move(small, target / network.name)
    card["version"] = version or card["version"]
    card["weights"]["onnx"]["sha256"] = sha256_of(target / network.name)
    card["config"]["emdl"]["training"]["quantised"] = {
        "from_sha256": before,
        "recipe": f"python -m napari_emdl.training.atoms.quantise --specimens {specimens} --batches {batches} --seed {seed}",
        "precision": PRECISION,
    }
    _write_outputs(target, card)
    (target / "rdf.yaml").write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True), "utf-8")
    return target


def _write_outputs(folder: Path, card: dict[str, Any]) -> None:
    """What the network gives for the card's test inputs, as the new test outputs."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(folder / card["weights"]["onnx"]["source"]), providers=["CPUExecutionProvider"])
    feeds = {item["id"]: np.load(folder / item["test_tensor"]["source"]) for item in card["inputs"]}
    for item in card["outputs"]:
        path = folder / item["test_tensor"]["source"]
        np.save(path, session.run([item["id"]], feeds)[0])
        item["test_tensor"]["sha256"] = sha256_of(path)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("--specimens", type=int, default=24, help="simulated specimens of each kind")
    parser.add_argument("--batches", type=int, default=12, help="batches of eight images")
    parser.add_argument("--seed", type=int, default=61)
    parser.add_argument("--version", help="version for the card, by default the old one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(quantise(args.folder, args.out, args.specimens, args.batches, args.seed, args.version))


if __name__ == "__main__":
    main()
