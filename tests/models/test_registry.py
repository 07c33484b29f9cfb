"""Cards and registry: good models are found by name, path and zip; anything suspicious is refused in one line."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from napari_emdl.base.errors import ModelError
from napari_emdl.models.add import add_model
from napari_emdl.models.card import CARD_NAME, read_card
from napari_emdl.models.onnxfile import check_safe, inspect
from napari_emdl.models.registry import find_model, list_models, load_model, user_folder


def edit_card(folder: Path, change: Callable[[dict], None]) -> None:
    entries = yaml.safe_load((folder / CARD_NAME).read_text())
    change(entries)
    (folder / CARD_NAME).write_text(yaml.safe_dump(entries))


def test_card_roundtrip(model_folder: Path) -> None:
    card = read_card(model_folder)
    assert card.emdl.task == "columns"
    assert card.emdl.ranges == {"pixel_A": (0.06, 0.14)}
    assert card.weights.onnx.opset_version == 17
    assert [tensor.id for tensor in card.inputs] == ["x", "shift"]


def test_card_follows_bioimage_io(model_folder: Path) -> None:
    entries = yaml.safe_load((model_folder / CARD_NAME).read_text())
    assert entries["type"] == "model" and entries["format_version"].startswith("0.5")
    assert set(entries["weights"]["onnx"]) >= {"source", "sha256", "opset_version"}
    for tensor in entries["inputs"] + entries["outputs"]:
        assert set(tensor) >= {"id", "axes", "data", "test_tensor"}


@pytest.mark.usefixtures("affine_is_a_column_network")
def test_found_by_path_name_and_zip(model_folder: Path, tmp_path: Path) -> None:
    assert find_model(model_folder, "columns").source == "path"
    assert find_model(model_folder / "model.onnx").folder == model_folder
    added = add_model(model_folder, name="mine")
    assert added.source == "user" and added.folder == user_folder() / "mine"
    assert find_model("mine").sha256 == find_model(model_folder).sha256
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", model_folder)
    assert find_model(archive).card.name == "affine"
    assert "mine" in [entry.name for entry in list_models("columns")]


@pytest.mark.usefixtures("affine_is_a_column_network")
def test_wrong_task_unknown_name_and_taken_name(model_folder: Path) -> None:
    with pytest.raises(ModelError, match="is for columns, not for disk-refiner"):
        find_model(model_folder, "disk-refiner")
    with pytest.raises(ModelError, match="there is no model 'nonesuch'"):
        find_model("nonesuch")
    add_model(model_folder)
    with pytest.raises(ModelError, match="`replace`"):
        add_model(model_folder)
    assert add_model(model_folder, replace=True).name == "affine"


def test_weights_that_are_not_the_cards(model_folder: Path, make_affine: Callable[..., Path]) -> None:
    make_affine(model_folder / "model.onnx", factor=3.0)
    with pytest.raises(ModelError, match="sha256 differs"):
        load_model(model_folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["weights"].pop("onnx"), "weights.onnx"),
        (lambda c: c["config"]["emdl"].update(task="cooking"), "config.emdl.task"),
        (lambda c: c["weights"]["onnx"].update(sha256="zz"), "sha256"),
        (lambda c: c.update(format_version="0.4.10"), "0.5 is needed"),
        (lambda c: c["weights"]["onnx"].update(source="../model.onnx"), "outside its folder"),
        (lambda c: c["weights"]["onnx"].update(source="other.onnx"), "lacks the file"),
    ],
)
def test_bad_cards(model_folder: Path, change: Callable[[dict], None], says: str) -> None:
    edit_card(model_folder, change)
    with pytest.raises(ModelError, match=says) as caught:
        load_model(model_folder)
    assert "\n" not in str(caught.value)


def test_card_that_is_no_yaml(model_folder: Path) -> None:
    (model_folder / CARD_NAME).write_text("a: [b")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(model_folder)
    (model_folder / CARD_NAME).write_text("just text")
    with pytest.raises(ModelError, match="not a model description"):
        load_model(model_folder)


@pytest.mark.usefixtures("affine_is_a_column_network")
def test_a_damaged_model_is_listed_with_its_problem(model_folder: Path) -> None:
    add_model(model_folder, name="good")
    shutil.copytree(model_folder, user_folder() / "bad")
    (user_folder() / "bad" / "model.onnx").write_bytes(b"garbage")
    problems = {entry.name: entry.problem for entry in list_models() if entry.source == "user"}
    assert problems["good"] == "" and "sha256" in problems["bad"]


def test_inspect_reads_what_onnx_says(model_folder: Path) -> None:
    facts = inspect(model_folder / "model.onnx")
    assert facts.opset == {"": 17}
    assert facts.operators == {("", "Mul"), ("", "Add")}
    assert not facts.external_data and not facts.foreign_domains


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x08\x09"])
def test_corrupted_onnx(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"damaged|holds no ONNX"):
        check_safe(path)


def test_truncated_onnx(model_folder: Path) -> None:
    network = model_folder / "model.onnx"
    network.write_bytes(network.read_bytes()[:60])
    with pytest.raises(ModelError, match="damaged"):
        check_safe(network)


def test_custom_operators_are_refused(tmp_path: Path, make_affine: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"custom operators \(evil\.ops\)"):
        check_safe(make_affine(tmp_path / "model.onnx", domain="evil.ops"))


def external(path: Path, location: str) -> Path:
    """Network whose weights lie in another file."""
    import onnx
    from onnx import TensorProto, external_data_helper, helper

    weights = helper.make_tensor("w", TensorProto.FLOAT, [4], np.ones(4, np.float32).tobytes(), raw=True)
    external_data_helper.set_external_data(weights, location=location)
    weights.ClearField("raw_data")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [weights],
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
    assert onnx.load(path, load_external_data=False).graph.initializer[0].external_data
    return path


def test_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 16)
    folder = tmp_path / "model"
    folder.mkdir()
    for location in ("../secret.bin", str(tmp_path / "secret.bin")):
        with pytest.raises(ModelError, match="outside its folder"):
            check_safe(external(folder / "model.onnx", location))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside its folder"):
        check_safe(external(folder / "model.onnx", "link.bin"))
    with pytest.raises(ModelError, match="missing"):
        check_safe(external(folder / "model.onnx", "weights.bin"))


def test_a_described_network_that_cannot_do_its_task_is_refused(model_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"has inputs x, shift and outputs y; columns needs inputs conditions, image"):
        add_model(model_folder, name="mine")
    assert not any(entry.source == "user" for entry in list_models())


@pytest.mark.usefixtures("affine_is_a_column_network")
def test_bare_network_with_data_beside_it_is_added_whole(tmp_path: Path) -> None:
    network = external(tmp_path / "net.onnx", "weights.bin")
    (tmp_path / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
    model = add_model(network, task="columns", pixel_A=0.1)
    assert (model.folder / "weights.bin").is_file()
    assert model.card.emdl.pixel_A == 0.1


@pytest.mark.usefixtures("affine_is_a_column_network")
def test_bare_network_gets_a_card(tmp_path: Path, make_affine: Callable[..., Path]) -> None:
    network = make_affine(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="`task`"):
        add_model(network)
    model = add_model(network, task="columns", name="mine", species=["Au"])
    assert [tensor.id for tensor in model.card.inputs] == ["x", "shift"]
    assert model.card.emdl.species == ["Au"]
    with pytest.raises(ModelError, match=r"cannot be loaded|damaged"):
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(network.read_bytes()[:-20])
        add_model(broken, task="columns")
    assert [entry.name for entry in list_models() if entry.source == "user"] == ["mine"]


def test_zip_that_writes_elsewhere_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../evil.txt", "x")
    with pytest.raises(ModelError, match="outside its folder"):
        find_model(archive)
    assert not (tmp_path.parent / "evil.txt").exists()


def test_cache_without_room(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", model_folder)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(ModelError, match=r"No space left on device.*free some space"):
        find_model(archive)
