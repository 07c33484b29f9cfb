"""Networks of others in the layouts, types and map sizes that are met: each gives the map of the plain one, or one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from napari_emdl.base.errors import ModelError
from napari_emdl.models.add import add_model
from napari_emdl.models.heatmap import HeatmapRunner
from napari_emdl.models.session import Session

node = helper.make_node
Y, X = np.mgrid[-6:7, -6:7]
KERNEL = np.exp(-(X**2 + Y**2) / 8.0)
KERNEL = ((KERNEL - KERNEL.mean()) / np.square(KERNEL - KERNEL.mean()).sum()).astype(np.float32)
#: Class 0 is the background, class 1 columns.
TWO = np.stack([np.zeros((1, 13, 13)), KERNEL[None]]).astype(np.float32)
FLOAT = TensorProto.FLOAT


@pytest.fixture(autouse=True)
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_emdl.models.registry.user_folder", lambda: tmp_path / "models")


def network(
    path: Path,
    *,
    weight: np.ndarray = KERNEL[None, None],
    bias: Sequence[float] = (-4.0,),
    gain: float = 10.0,
    shape: Sequence[Any] = ("n", 1, "h", "w"),
    kinds: tuple[int, int] = (FLOAT, FLOAT),
    before: Sequence[Any] = (),
    after: Sequence[Any] = (),
    last: str = "raw",
    pads: int = 6,
    stride: int = 1,
    constants: dict[str, Any] | None = None,
    opset: int = 17,
    ir: int = 8,
    first_output: str | None = None,
) -> Path:
    """One convolution by a dome, with what stands before and after it."""
    half = np.float16 if kinds[0] == TensorProto.FLOAT16 else np.float32
    values = {"weight": weight.astype(half), "bias": np.asarray(bias, half), "gain": half(gain), **(constants or {})}
    nodes = [
        *before,
        node("Mul", ["x" if before else "image", "gain"], ["scaled"]),
        node("Conv", ["scaled", "weight", "bias"], ["raw"], pads=[pads] * 4, strides=[stride] * 2),
        *after,
        node("Identity", [last], ["map"]),
    ]
    outputs = [helper.make_tensor_value_info("map", kinds[1], None)]
    if first_output:
        outputs.insert(0, helper.make_tensor_value_info(first_output, FLOAT, None))
    graph = helper.make_graph(
        nodes,
        "spots",
        [helper.make_tensor_value_info("image", kinds[0], list(shape))],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir
    onnx.save(model, str(path))
    return path


def spots(shape: tuple[int, int] = (150, 118)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    places = np.stack(np.meshgrid(*(np.arange(14, n - 12, 18) for n in shape), indexing="ij"), -1).reshape(-1, 2)
    places = places + rng.uniform(-0.5, 0.5, places.shape)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    image = sum(np.exp(-((rows - r) ** 2 + (cols - c) ** 2) / 8) for r, c in places)
    return (image + rng.normal(0, 0.02, shape)).astype(np.float32), places


def maps_of(path: Path, **options: Any) -> np.ndarray:
    model = add_model(path, task="columns", pixel_A=0.1, **options)
    runner = HeatmapRunner(Session(model, "cpu"))
    return runner.maps(spots()[0])[runner.heatmap.peak_channels]


def in_front(*nodes: Any, **constants: Any) -> dict[str, Any]:
    return {"before": nodes, "constants": constants}


def behind(*nodes: Any, last: str, **constants: Any) -> dict[str, Any]:
    return {"after": nodes, "last": last, "constants": constants}


CAST = node("Cast", ["image"], ["x"], to=FLOAT)
BYTES = (node("Cast", ["image"], ["cast"], to=FLOAT), node("Mul", ["cast", "level"], ["x"]))
TWO_MAPS = {"weight": TWO, "bias": (0.0, -4.0)}
ALIKE = {
    "three channels": {"weight": np.tile(KERNEL / 3, (1, 3, 1, 1)), "shape": ("n", 3, "h", "w")},
    "batch of four": {"shape": (4, 1, "h", "w")},
    "batch of four, fixed size": {"shape": (4, 1, 128, 128)},
    "no channel axis": {"shape": ("n", "h", "w"), **in_front(node("Unsqueeze", ["image", "one"], ["x"]), one=np.array([1]))},
    "bytes": {"kinds": (TensorProto.UINT8, FLOAT), **in_front(*BYTES, level=np.float32(1 / 255))},
    "half precision": {"kinds": (TensorProto.FLOAT16,) * 2},
    "double precision": {"kinds": (TensorProto.DOUBLE, FLOAT), **in_front(CAST)},
    "a map alone": behind(node("Squeeze", ["raw", "both"], ["flat"]), last="flat", both=np.array([0, 1])),
    "features first": {"first_output": "mean", **behind(node("GlobalAveragePool", ["raw"], ["mean"]), last="raw")},
    "no padding": {"pads": 0},
    "background first": {**TWO_MAPS, "channels": ["background", "atoms"]},
    "maps without batch": {
        **TWO_MAPS,
        **behind(node("Squeeze", ["raw", "none"], ["flat"]), last="flat", none=np.array([0])),
        "channels": ["background", "atoms"],
    },
    "two species, no background": {
        "weight": np.stack([KERNEL, -KERNEL])[:, None],
        "bias": (-4.0, -4.0),
        "channels": ["A", "B"],
    },
}


@pytest.mark.parametrize("case", ALIKE)
def test_other_layouts_give_the_map_of_the_plain_network(tmp_path: Path, case: str) -> None:
    options = dict(ALIKE[case])
    channels = {"channels": options.pop("channels")} if "channels" in options else {}
    plain = maps_of(network(tmp_path / "plain.onnx"))[0]
    other = maps_of(network(tmp_path / "other.onnx", **options), **channels)[0]
    assert plain.max() > 0.8 and plain.min() < 0.05
    inside = slice(8, -8)  # what lies beyond the frame differs where the network itself pads nothing
    np.testing.assert_allclose(other[inside, inside], plain[inside, inside], atol=0.05)


def test_maps_trained_towards_domes_are_no_logits(tmp_path: Path) -> None:
    maps = maps_of(network(tmp_path / "regression.onnx", gain=1.1, bias=(-0.03,)))
    assert maps.min() == 0 and np.median(maps) < 0.1 and maps.max() > 0.8


@pytest.mark.parametrize("how", ["strided", "pooled"])
def test_smaller_maps_lie_where_the_columns_are(tmp_path: Path, how: str) -> None:
    from scipy import ndimage as ndi

    pool = behind(node("AveragePool", ["raw"], ["small"], kernel_shape=[4, 4], strides=[4, 4]), last="small")
    maps = maps_of(network(tmp_path / "small.onnx", **({"stride": 4} if how == "strided" else pool)))
    places = spots()[1]
    found = []
    for row, col in np.rint(places).astype(int):
        dome = maps[0, row - 6 : row + 7, col - 6 : col + 7]
        found.append(np.array(ndi.center_of_mass(dome)) + np.array([row - 6, col - 6]))
    assert np.abs(np.mean(found - places, axis=0)).max() < 0.15


@pytest.mark.parametrize(
    ("options", "more", "line"),
    [
        ({**TWO_MAPS}, {}, r"`channels`, such as background,species1"),
        ({**TWO_MAPS}, {"channels": ["atoms", "background"]}, r"map 1 \(atoms\) is high over .* so it is the background"),
        ({"weight": -KERNEL[None, None], "bias": (4.0,)}, {}, "so it is the background"),
        ({**TWO_MAPS}, {"channels": ["A", "B"], "activation": "softmax"}, "softmax needs a map of the background"),
        (behind(node("Transpose", ["raw"], ["t"], perm=[0, 1, 3, 2]), last="t"), {}, "it exchanges rows and cols"),
        (
            {
                **TWO_MAPS,
                "weight": np.concatenate([TWO, TWO[:1]]),
                "bias": (0.0, -4.0, 1.0),
                "kinds": (FLOAT, TensorProto.INT64),
                **behind(node("ArgMax", ["raw"], ["label"], axis=1, keepdims=0), last="label"),
            },
            {},
            "before the argmax",
        ),
        ({"kinds": (TensorProto.UINT8, FLOAT), **in_front(CAST)}, {"scaling": "standard"}, "takes bytes"),
        ({"opset": 99}, {}, r"it has opset 99, and this onnxruntime reads up to \d+: export it with opset 17"),
        ({"ir": 99}, {}, "it has IR version 99"),
        ({}, {"task": "disk-proposer"}, "is not a disk proposer"),
    ],
)
def test_what_would_be_read_wrong_is_one_line(tmp_path: Path, options: Any, more: Any, line: str) -> None:
    with pytest.raises(ModelError, match=line) as caught:
        add_model(network(tmp_path / "a.onnx", **options), **{"task": "columns", "pixel_A": 0.1, **more})
    assert "\n" not in str(caught.value)
