"""Small ONNX graphs as stand-ins for networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")


def affine_onnx(path: Path, domain: str = "", factor: float = 2.0) -> Path:
    """Network y = factor * x + shift with inputs x (n, 4) and shift (4,)."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Add" if not domain else "MyAdd", ["scaled", "shift"], ["y"], domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "affine",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("shift", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])],
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.fixture(scope="session")
def make_affine() -> Callable[..., Path]:
    """Writes the affine network to a path."""
    return affine_onnx


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """Described affine model."""
    from napari_emdl.models.card import make_card

    folder = tmp_path / "affine"
    folder.mkdir()
    affine_onnx(folder / "model.onnx")
    x, shift = np.arange(8, dtype=np.float32).reshape(2, 4), np.ones(4, np.float32)
    make_card(
        folder,
        name="affine",
        task="columns",
        inputs={"x": x, "shift": shift},
        outputs={"y": 2 * x + shift},
        pixel_A=0.1,
        ranges={"pixel_A": (0.06, 0.14)},
    )
    return folder


@pytest.fixture(autouse=True)
def own_user_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's real model folder out of the tests."""
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_data_dir", lambda *a, **k: str(tmp_path / "data"))
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *a, **k: str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def affine_is_a_column_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in counts as what its card says."""
    from napari_emdl.models import add

    monkeypatch.setitem(add.CONTRACTS, "columns", ({"x"}, {"y"}))
