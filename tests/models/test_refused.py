"""Networks of others that do not fit: zips, shapes, nested graphs, and computers without a working GPU."""

from __future__ import annotations

import ctypes
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from napari_emdl.base.errors import ModelError
from napari_emdl.models import devices, onnxfile, registry
from napari_emdl.models.heatmap import as_channels
from napari_emdl.models.heatmaptrial import try_heatmap
from napari_emdl.models.registry import find_model, install, load_model


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        for name, data in files.items():
            content.writestr(name.replace("__", "/"), data)
    return path


def test_zips_that_are_no_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    broken = zipped(tmp_path / "broken.zip", a=b"a" * 5000)
    broken.write_bytes(broken.read_bytes().replace(b"PK\x01\x02", b"PK\x09\x09"))
    zipped(tmp_path / "empty.zip", readme=b"nothing")
    zipped(tmp_path / "two.zip", **{"a__rdf.yaml": b"x", "b__rdf.yaml": b"y"})
    zipped(tmp_path / "bomb.zip", zeros=bytes(20_000_000))
    zipped(tmp_path / "many.zip", **{f"f{i}": b"" for i in range(12)})
    monkeypatch.setattr(registry, "_MOST_FILES", 10)
    for name, line in (
        ("text", "is not a model folder, zip or .onnx file"),
        ("broken", "broken.zip"),
        ("empty", "empty.zip holds 0 files rdf.yaml; a model zip holds one"),
        ("two", "two.zip holds 2 files rdf.yaml"),
        ("bomb", "bomb.zip unpacks to 20 MB, which is not a model"),
        ("many", "many.zip holds more than 10 files"),
    ):
        with pytest.raises(ModelError, match=line) as caught:
            find_model(tmp_path / f"{name}.zip")
        assert "\n" not in str(caught.value)
    assert not any((tmp_path / "cache").rglob("rdf.yaml"))


def test_a_network_is_found_by_its_file_where_the_card_lies_beside_it(model_folder: Path, tmp_path: Path) -> None:
    assert find_model(model_folder / "model.onnx").folder == model_folder
    (tmp_path / "bare.onnx").write_bytes((model_folder / "model.onnx").read_bytes())
    with pytest.raises(ModelError, match="has no card; describe it once"):
        find_model(tmp_path / "bare.onnx")
    with pytest.raises(ModelError, match="a model name has letters, digits"):
        install(load_model(model_folder), name="../elsewhere")


@pytest.mark.parametrize(
    ("shape", "layout", "found"),
    [((1, 5, 7), "NCHW", (1, 5, 7)), ((2, 3, 5, 7), "NCHW", (3, 5, 7)), ((2, 5, 7, 3), "NHWC", (3, 5, 7))],
)
def test_maps_are_read_in_either_order(shape: tuple[int, ...], layout, found: tuple[int, ...]) -> None:
    value = np.random.default_rng(1).random(shape).astype(np.float32)
    maps = as_channels(value, layout)
    assert maps.shape == found
    first = value[:, 2, 3] if value.ndim == 3 else value[0, :, 2, 3] if layout == "NCHW" else value[0, 2, 3]
    np.testing.assert_array_equal(maps[:, 2, 3], first)
    with pytest.raises(ModelError, match="an array of shape"):
        as_channels(value.ravel(), layout)


def session(shape: list, outputs=None, kind: str = "tensor(float)", n: int = 1):
    """Stand-in for a loaded network with `n` inputs of one shape."""
    inputs = {f"x{i}": SimpleNamespace(name=f"x{i}", type=kind, shape=shape) for i in range(n)}
    return SimpleNamespace(inputs=inputs, outputs=["y"], trial=lambda feed: {"y": outputs(next(iter(feed.values())))})


def test_networks_that_give_no_map_of_the_image_are_refused() -> None:
    plain = ["n", 1, "rows", "cols"]
    for given, line in (
        (session(plain, n=2), "has 2 inputs"),
        (session(["n", 4]), "a float image"),
        (session(plain, kind="tensor(int64)"), "a float image"),
        (session(["n", "a", "b", "c"]), "`layout`: NCHW or NHWC"),
        (session(plain, lambda x: x[:, :, ::2]), "maps of the image's own size"),
        (session(plain, lambda x: np.concatenate([x, x], axis=1)), "gives 2 maps: say what they are with `channels`"),
        (session(plain, lambda x: x * np.nan), "values that are not finite"),
    ):
        with pytest.raises(ModelError, match=line):
            try_heatmap("net", given, {})
    with pytest.raises(ModelError, match="bad scaling"):
        try_heatmap("net", session(plain, lambda x: x), {"scaling": "odd"})
    found = try_heatmap("net", session(["n", "rows", "cols", 1], lambda x: x), {})
    assert found.layout == "NHWC" and found.channels == ["column"] and found.size is None


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    length, head = len(data), bytearray()
    for value in (number << 3 | 2, length):
        while value > 127:
            head.append(value & 127 | 128)
            value >>= 7
        head.append(value)
    return bytes(head) + data


def test_what_lies_deep_in_a_network_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opset = field(8, field(1, b"") + bytes([2 << 3, 17]))
    node = field(4, b"Add")
    outside = field(13, field(1, b"location") + field(2, b"../secret.bin"))  # of a tensor
    path = tmp_path / "net.onnx"

    def refused(graph: bytes, line: str) -> None:
        path.write_bytes(opset + field(7, field(1, node) + graph))
        with pytest.raises(ModelError, match=line):
            onnxfile.check_safe(path)

    refused(field(15, field(1, outside)), "keeps data outside its folder")  # sparse initialiser
    refused(field(1, node + field(5, field(22, field(1, outside)))), "keeps data outside its folder")  # sparse attribute
    refused(field(1, node + field(5, field(10, outside))), "keeps data outside its folder")  # list of tensors
    inner = field(1, field(4, b"Evil") + field(7, b"their.domain"))
    refused(field(1, node + field(5, field(6, inner))), "custom operators \\(their.domain\\)")  # branch of an If
    nested = field(1, node)
    for _ in range(40):
        nested = field(1, node + field(5, field(6, nested)))
    refused(nested, "is damaged or no ONNX file")
    monkeypatch.setattr(onnxfile, "_MOST_NODES", 5)
    refused(field(1, node) * 5, "more than 5 operators")
    with pytest.raises(ModelError, match="cannot read the network"):
        onnxfile.inspect(tmp_path / "none.onnx")


class Driver:
    """Stand-in for the CUDA driver."""

    def __init__(self, code: int = 0, count: int = 1, name: bytes = b"NVIDIA T4", memory: int = 16 << 30) -> None:
        self.code, self.count, self.name, self.memory = code, count, name, memory

    def cuInit(self, flags: int) -> int:
        return self.code

    def cuDeviceGetCount(self, into) -> int:
        into._obj.value = self.count
        return 0

    def cuDeviceGet(self, into, index: int) -> int:
        return 0

    def cuDeviceGetName(self, text, length: int, handle) -> int:
        text.value = self.name
        return 0

    def cuDeviceTotalMem_v2(self, into, handle) -> int:
        into._obj.value = self.memory
        return 0


def test_why_cuda_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    has_cuda = SimpleNamespace(get_available_providers=lambda: [devices.CUDA_PROVIDER])
    monkeypatch.setattr(devices, "ort", lambda: has_cuda)
    monkeypatch.setattr(devices, "_installed", lambda package: package == "onnxruntime-gpu")
    monkeypatch.setattr(devices, "missing_cuda_libraries", lambda: ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for driver, line in (
        (Driver(code=100), "finds no GPU (driver says 100)"),
        (Driver(count=0), "finds no GPU; run nvidia-smi"),
    ):
        monkeypatch.setattr(ctypes, "CDLL", lambda name, driver=driver: driver)
        assert line in devices.cuda_problem()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "(CUDA_VISIBLE_DEVICES='-1' hides GPUs)" in devices.cuda_problem()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert devices.cuda_problem() == "" and devices.gpu_present()
    gpu = devices.devices()[1]
    assert (gpu.label, gpu.available, gpu.memory_bytes) == ("NVIDIA T4", True, 16 << 30)
    monkeypatch.setattr(devices, "missing_cuda_libraries", lambda: ("libcudnn.so.9",))
    assert "CUDA libraries are missing (libcudnn.so.9)" in devices.cuda_problem()
    assert "CUDA libraries are missing" in devices.cpu_note(devices.cuda_problem())
    monkeypatch.setattr(devices, "_installed", lambda package: True)
    assert "hide each other" in devices.cuda_problem()
