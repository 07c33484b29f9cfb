"""Networks of others: an image -> heat map network, in the layouts of AtomAI and Keras, becomes a column finder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import napari_emdl as emdl
from napari_emdl.base.errors import EmdlError, ModelError
from napari_emdl.base.params import ColumnParams
from napari_emdl.base.signals import in_memory
from napari_emdl.models.add import add_model
from napari_emdl.models.registry import find_model

SPACING = 20


@pytest.fixture(autouse=True)
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_emdl.models.registry.user_folder", lambda: tmp_path / "models")


def blob_network(
    path: Path,
    *,
    channels_last: bool = False,
    logits: bool = True,
    classes: int = 1,
    size: int | str = "h",
    steepness: float = 1.0,
) -> Path:
    """Network that correlates with a Gaussian of 2 px, as a trained heat map does; classes beyond one are background.

    A `steepness` of 1000 makes the maps masks: flat disks of nothing but 0 and 1, as a network trained on labels paints them.
    """
    y, x = np.mgrid[-6:7, -6:7]
    kernel = np.exp(-(x**2 + y**2) / 8.0)
    kernel = (kernel - kernel.mean()) / np.square(kernel - kernel.mean()).sum()
    weight = np.concatenate([kernel[None, None], *[np.zeros((classes - 1, 1, 13, 13))]]).astype(np.float32)
    bias = np.full(classes, -4.0 * steepness, np.float32)
    bias[1:] = 0.0
    other = "w" if size == "h" else size
    nchw, nhwc = ["n", 1, size, other], ["n", size, other, 1]
    nodes = []
    if channels_last:
        nodes.append(helper.make_node("Transpose", ["image_in"], ["image"], perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("Mul", ["image" if channels_last else "image_in", "gain"], ["scaled"]))
    nodes.append(helper.make_node("Conv", ["scaled", "weight", "bias"], ["raw"], pads=[6, 6, 6, 6]))
    last = "raw"
    if not logits:
        nodes.append(helper.make_node("Sigmoid", ["raw"], ["probability"]))
        last = "probability"
    if channels_last:
        nodes.append(helper.make_node("Transpose", [last], ["map"], perm=[0, 2, 3, 1]))
    else:
        nodes.append(helper.make_node("Identity", [last], ["map"]))
    out = ["n", size, other, classes] if channels_last else ["n", classes, size, other]
    graph = helper.make_graph(
        nodes,
        "blobs",
        [helper.make_tensor_value_info("image_in", TensorProto.FLOAT, nhwc if channels_last else nchw)],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, out)],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(bias, "bias"),
            numpy_helper.from_array(np.float32(10 * steepness), "gain"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def movie(shape: tuple[int, int] = (600, 560), sign: float = 1.0) -> tuple[emdl.Movie, np.ndarray]:
    rng = np.random.default_rng(3)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    places = np.stack(np.meshgrid(*(np.arange(SPACING, n - SPACING, SPACING) for n in shape), indexing="ij"), -1).reshape(-1, 2)
    places = places + rng.uniform(-0.5, 0.5, places.shape)
    image = np.zeros(shape)
    for r, c in places:
        near = (slice(int(r) - 9, int(r) + 11), slice(int(c) - 9, int(c) + 11))
        image[near] += np.exp(-((rows[near] - r) ** 2 + (cols[near] - c) ** 2) / 8)
    frames = (50 + sign * 20 * image + rng.normal(0, 0.5, shape)).astype(np.float32)
    made = in_memory(frames[None], "movie", emdl.Calibration().override("user", pixel_nm=(0.01, 0.01)))
    assert isinstance(made, emdl.Movie)
    return made, places


def found_all(table: emdl.PeakTable, places: np.ndarray) -> bool:
    shown = table.filter(min_score=table.attrs["default_min_score"])[0]
    got = np.stack([shown["row"], shown["col"]], -1).astype(float)
    if len(got) != len(places):
        return False
    distance = np.linalg.norm(got[:, None] - places[None], axis=-1)
    return bool(distance.min(axis=1).max() < 0.5 and len(np.unique(distance.argmin(axis=1))) == len(places))


@pytest.mark.parametrize(
    "build",
    [
        lambda path: blob_network(path),  # AtomAI: channels first, logits
        lambda path: blob_network(path, logits=False),
        lambda path: blob_network(path, channels_last=True, logits=False),  # Keras: channels last, sigmoid in the graph
        lambda path: blob_network(path, size=256),  # fixed size: tiled
        lambda path: blob_network(path, channels_last=True, size=256),
        lambda path: blob_network(path, steepness=1000),  # masks: flat disks
    ],
    ids=["atomai", "probabilities", "keras", "fixed", "keras-fixed", "masks"],
)
def test_an_image_network_finds_columns_in_images_of_any_size(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    model = add_model(build(tmp_path / "theirs.onnx"), task="columns", pixel_A=0.1)
    assert model.card.emdl.heatmap is not None
    frames, places = movie()
    table = emdl.find_columns(frames, params=ColumnParams(model="theirs", contrast="bright", min_spacing_A=1.0))
    assert found_all(table, places)
    assert table.attrs["method"] == "heatmap" and table.attrs["model_sha256"] == model.sha256


def test_other_contrast_and_other_pixel_size(tmp_path: Path) -> None:
    add_model(blob_network(tmp_path / "theirs.onnx"), task="columns", pixel_A=0.1, contrast="bright")
    dark, places = movie(sign=-1.0)
    options = ColumnParams(model="theirs", contrast="dark", min_spacing_A=1.0)
    assert found_all(emdl.find_columns(dark, params=options), places)
    binned = np.asarray(movie(shape=(640, 640))[0].data[0])
    places = movie(shape=(640, 640))[1]
    half = binned.reshape(320, 2, 320, 2).mean((1, 3))
    coarse = in_memory(half[None], "movie", emdl.Calibration().override("user", pixel_nm=(0.02, 0.02)))
    table = emdl.find_columns(coarse, params=ColumnParams(model="theirs", contrast="bright", min_spacing_A=1.0))
    assert found_all(table, (places - 0.5) / 2)


def test_softmax_with_background(tmp_path: Path) -> None:
    path = blob_network(tmp_path / "two.onnx", classes=2)
    with pytest.raises(ModelError, match="gives 2 maps: say what they are with `channels`, such as species1,background"):
        add_model(path, task="columns", pixel_A=0.1)
    model = add_model(path, task="columns", pixel_A=0.1, channels=["Au", "background"])
    assert model.card.emdl.heatmap is not None and model.card.emdl.heatmap.activation == "softmax"
    frames, places = movie()
    table = emdl.find_columns(frames, params=ColumnParams(model="two", contrast="bright", min_spacing_A=1.0))
    assert table.attrs["species"] == ["Au"] and found_all(table, places)


def test_what_cannot_be_used_is_refused_when_it_is_added(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a disk refiner"):
        add_model(blob_network(tmp_path / "a.onnx"), task="disk-refiner")
    with pytest.raises(ModelError, match="order of its axes with `layout`"):
        add_model(blob_network(tmp_path / "b.onnx", size=1), task="columns")
    with pytest.raises(ModelError, match="bad scaling"):
        add_model(blob_network(tmp_path / "c.onnx"), task="columns", scaling="loud")
    with pytest.raises(EmdlError, match="there is no model"):
        find_model("a")


def test_evidence_at_points(tmp_path: Path) -> None:
    from napari_emdl.atoms.find.making import make_finder

    add_model(blob_network(tmp_path / "theirs.onnx"), task="columns", pixel_A=0.1)
    frames, places = movie()
    finder = make_finder(frames, ColumnParams(model="theirs", contrast="bright"))
    at = np.stack([places[7], places[7] + SPACING / 2, [-5.0, 3.0]])[None]
    logit = finder.sample(np.asarray(frames.data), at)[0]
    assert logit[0] > 2 and logit[1] < -2 and np.isnan(logit[2])


def endless(path: Path) -> Path:
    """Image network with a loop that never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["go"]), helper.make_node("Identity", ["value_in"], ["value"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["", "true", "image"], ["map"], body=body)],
        "endless",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [numpy_helper.from_array(np.array(True), "true")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def test_an_endless_network_is_stopped_when_it_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_emdl.models.session.TRIAL_LIMIT_S", 0.5)
    with pytest.raises(ModelError, match=r"does not finish a small test within 0.5 s and was stopped"):
        add_model(endless(tmp_path / "endless.onnx"), task="columns", pixel_A=0.1)


def test_the_later_of_two_protobuf_fields_counts(tmp_path: Path) -> None:
    from napari_emdl.models.onnxfile import inspect

    network = blob_network(tmp_path / "a.onnx")
    twice = helper.make_node("Identity", ["a"], ["b"], domain="").SerializeToString() + b"\x3a\x04evil"  # field 7: domain
    model = onnx.load(str(network)).SerializeToString()
    graph = b"\x3a" + bytes([len(twice) + 2]) + b"\x0a" + bytes([len(twice)]) + twice  # a second graph message is merged
    (tmp_path / "b.onnx").write_bytes(model + graph)
    assert inspect(tmp_path / "b.onnx").foreign_domains == {"evil"}
