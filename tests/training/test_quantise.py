"""Networks in 8 bit give what the exported ones give, through the same card."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from napari_emdl.models.registry import load_model, shipped_folder  # noqa: E402
from napari_emdl.models.session import Session  # noqa: E402
from napari_emdl.training.atoms import quantise as column_quantise  # noqa: E402
from napari_emdl.training.atoms.config import ColumnsConfig  # noqa: E402
from napari_emdl.training.atoms.export import export_model  # noqa: E402
from napari_emdl.training.atoms.network import build  # noqa: E402
from napari_emdl.training.diffraction.config import TrainConfig  # noqa: E402
from napari_emdl.training.diffraction.export import describe, export_folder  # noqa: E402
from napari_emdl.training.diffraction.fcunet import FCUNet  # noqa: E402
from napari_emdl.training.diffraction.networks import DiskRefiner  # noqa: E402
from napari_emdl.training.diffraction.quantise import quantise  # noqa: E402


@pytest.mark.parametrize("kind", ["disk_refiner", "fcunet"])
def test_eight_bits_give_nearly_the_same(kind: str, tmp_path) -> None:
    torch.manual_seed(0)
    model = (DiskRefiner((8, 8, 16), (1, 1), 32) if kind == "disk_refiner" else FCUNet((4, 6), 1, 8)).eval()
    config = TrainConfig(output=str(tmp_path), library=[], network="refiner" if kind == "disk_refiner" else "fcunet")
    name, title, about, emdl = describe(config, model, {}, 0)
    plain = export_folder(model, name, tmp_path / "plain", emdl, title, about)
    small = quantise(plain, tmp_path / "small", runs=4, patterns=6, seed=3, version="9")
    before, after = Session(load_model(plain), "cpu", 1), Session(load_model(small), "cpu", 1)
    assert after.test() is not None  # the card's test tensors are those of the new graph
    assert after.model.card.version == "9" and list(before.inputs) == list(after.inputs) and before.outputs == after.outputs
    kinds = [node.op_type for node in onnx.load(small / "model.onnx").graph.node]
    assert kinds.count("QuantizeLinear") > 5
    feeds = {item.id: np.load(plain / "test_input.npz")[item.id] for item in before.model.card.inputs}
    output = "measured" if kind == "disk_refiner" else "structure_factor"
    one, other = before.run(feeds)[output], after.run(feeds)[output]
    moved = np.abs(one - other)
    assert moved.max() > 0
    assert moved[..., :2].max() < 0.1 if kind == "disk_refiner" else moved.mean() < 0.01


def test_a_column_network_in_eight_bits_promises_as_many_columns(tmp_path, monkeypatch) -> None:
    torch.manual_seed(1)
    config = ColumnsConfig(name="small", widths=(4, 8, 8, 12), neighbours=True)
    random = np.random.default_rng(0)
    feeds = [
        {
            "image": random.normal(0, 1, (1, 3, 64, 64)).astype(np.float32),
            "conditions": np.zeros((1, config.conditions), np.float32),
        }
        for _ in range(6)
    ]
    export_model(
        build(config).eval(), config, tmp_path / "plain", (feeds[0]["image"], feeds[0]["conditions"]), "small", training={}
    )
    monkeypatch.setattr(column_quantise, "calibration_feeds", lambda *_: feeds)
    small = column_quantise.quantise(tmp_path / "plain", tmp_path / "small", version="2")
    before, after = Session(load_model(tmp_path / "plain"), "cpu", 1), Session(load_model(small), "cpu", 1)
    assert after.test() is not None and after.model.card.version == "2"
    kinds = [node.op_type for node in onnx.load(small / "model.onnx").graph.node]
    assert kinds.count("QuantizeLinear") > 5
    one, other = (np.concatenate([s.run(feed, ("logit",))["logit"] for feed in feeds]) for s in (before, after))
    assert 0 < np.abs(one - other).max() < 0.3
    promised = [float((1 / (1 + np.exp(-logits.astype(float)))).sum()) for logits in (one, other)]
    assert promised[1] == pytest.approx(promised[0], rel=1e-3)


def test_what_ships_says_where_it_comes_from() -> None:
    for name in ("disk_refiner", "fcunet"):
        model = load_model(shipped_folder() / name)
        card = model.card.model_dump()["config"]["emdl"]
        graph = onnx.load(model.network)
        assert any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
        assert {entry.domain for entry in graph.opset_import} == {""}
        assert "quantise" in card["training"]["quantised"]["recipe"]
