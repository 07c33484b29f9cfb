"""Sessions: tested on load, device by name, batches that shrink, cancel inside a call."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from napari_emdl.base.errors import Cancelled, DeviceError, ModelError
from napari_emdl.base.params import RunParams
from napari_emdl.base.peaks import PeakTable
from napari_emdl.jobs import part_path, run_peak_job
from napari_emdl.jobs.control import Control
from napari_emdl.models import devices as devices_module
from napari_emdl.models import session as session_module
from napari_emdl.models.card import make_card, sha256_of
from napari_emdl.models.devices import CPU_PROVIDER, CUDA_PROVIDER, cuda_problem, devices, is_warning
from napari_emdl.models.session import OutOfMemory, Session


def feeds(n: int = 3) -> dict[str, np.ndarray]:
    return {"x": np.arange(4.0 * n).reshape(n, 4), "shift": np.ones(4)}


def test_runs_and_casts(model_folder: Path) -> None:
    session = Session(model_folder, "cpu")
    assert session.provider == CPU_PROVIDER and session.note == ""
    np.testing.assert_allclose(session.run(feeds())["y"], 2 * feeds()["x"] + 1)
    assert session.test() == pytest.approx(0, abs=1e-6)


def test_constants_are_bound_once(model_folder: Path) -> None:
    session = Session(model_folder, "cpu")
    session.set_constant("shift", np.full(4, 5.0))
    for n in (1, 3):
        np.testing.assert_allclose(session.run({"x": feeds(n)["x"]})["y"], 2 * feeds(n)["x"] + 5)
    np.testing.assert_allclose(session.run(feeds())["y"], 2 * feeds()["x"] + 1)  # a fed value wins
    again = pickle.loads(pickle.dumps(session))
    assert again.threads == 1  # a worker of a cluster computes as many blocks at once as it has threads
    np.testing.assert_allclose(again.run({"x": feeds()["x"]})["y"], 2 * feeds()["x"] + 5)


def test_wrong_test_tensor_refuses_the_model(model_folder: Path) -> None:
    path = model_folder / "test_output_y.npy"
    np.save(path, np.load(path) + 1)
    with pytest.raises(ModelError, match="sha256 differs"):
        Session(model_folder, "cpu")
    make_card(
        model_folder,
        name="a",
        task="columns",
        inputs={"x": np.ones((1, 4)), "shift": np.ones(4)},
        outputs={"y": np.ones((1, 4))},
    )
    with pytest.raises(ModelError, match="fails its test"):
        Session(model_folder, "cpu")
    assert Session(model_folder, "cpu", check=False).run(feeds())["y"].shape == (3, 4)


def test_cuda_may_round_a_little_and_no_more(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, run = Session(model_folder, "cpu"), Session.run
    off = 0.0
    monkeypatch.setattr(Session, "run", lambda *args: {name: y * (1 + off) for name, y in run(*args).items()})
    for provider, passes, fails in ((CPU_PROVIDER, 1e-3, 5e-3), (CUDA_PROVIDER, 5e-3, 2e-2)):
        session.provider = provider
        off = passes
        assert session.test() == pytest.approx(passes, rel=0.01)
        off = fails
        with pytest.raises(ModelError, match="fails its test"):
            session.test()


def test_card_and_network_must_match(model_folder: Path) -> None:
    make_card(model_folder, name="a", task="columns", inputs={"picture": np.ones((1, 4))}, outputs={"y": np.ones((1, 4))})
    with pytest.raises(ModelError, match="card and network do not match: inputs are picture in the card but x, shift"):
        Session(model_folder, "cpu")


def test_network_of_another_kind(model_folder: Path) -> None:
    session = Session(model_folder, "cpu")
    with pytest.raises(ModelError, match=r"has inputs x, shift and outputs y; columns needs inputs image"):
        session.require(["image"], ["columns"])
    session.require(["shift", "x"], ["y"])
    with pytest.raises(ModelError, match="has no input 'image'"):
        session.run({"image": np.ones((1, 4))})
    with pytest.raises(ModelError, match="does not run on this input"):
        session.run({"x": np.ones((1, 5)), "shift": np.ones(4)})


def test_network_that_passes_the_card_but_cannot_be_loaded(model_folder: Path) -> None:
    """Well-formed protobuf, known operators, impossible graph."""
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "nowhere"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model_folder / "model.onnx")
    card = model_folder / "rdf.yaml"
    lines = card.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "source: model.onnx" in line)
    lines[at + 1] = lines[at + 1].split(":")[0] + f": {sha256_of(model_folder / 'model.onnx')}"
    card.write_text("\n".join(lines))
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        Session(model_folder, "cpu")
    assert "\n" not in str(caught.value)


def test_cancelled_before_and_inside_a_call(tmp_path: Path) -> None:
    """A long loop inside the graph stops within a second of the cancel."""
    from onnx import TensorProto, helper, save

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("MatMul", ["state_in", "state_in"], ["product"]),
            helper.make_node("Tanh", ["product"], ["state_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_in", TensorProto.FLOAT, [300, 300]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [300, 300]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)],
        "loop",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [300, 300]),
            helper.make_tensor_value_info("times", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [300, 300])],
    )
    folder = tmp_path / "loop"
    folder.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")
    x = np.zeros((300, 300), np.float32)
    make_card(folder, name="loop", task="columns", inputs={"x": x, "times": np.array(1)}, outputs={"y": x})
    session = Session(folder, "cpu", threads=1)
    control = Control()
    threading.Timer(0.3, control.cancel).start()
    with pytest.raises(Cancelled):  # the loop itself would take hours
        session.run({"x": x, "times": np.array(100_000_000)}, control=control)
    with pytest.raises(Cancelled):
        session.run({"x": x, "times": np.array(1)}, control=control)
    assert session.run({"x": x, "times": np.array(1)}, control=Control())["y"].shape == x.shape


def test_out_of_memory_halves_the_batch_and_goes_on(model_folder: Path) -> None:
    session = Session(model_folder, "cpu")
    done: list[tuple[int, int]] = []

    def call(start: int, stop: int) -> None:
        if stop - start > 3:
            raise OutOfMemory("Failed to allocate memory")
        done.append((start, stop))

    session.in_batches(11, 8, call)
    assert [i for start, stop in done for i in range(start, stop)] == list(range(11))
    assert "batch reduced to 2" in session.note
    with pytest.raises(DeviceError, match="not even one item"):
        session.in_batches(1, 8, lambda start, stop: (_ for _ in ()).throw(OutOfMemory("full")))


def test_out_of_memory_of_onnxruntime_is_recognised(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(model_folder, "cpu")

    class Full:
        def run(self, *args: object) -> None:
            raise RuntimeError(
                "[ONNXRuntimeError] : 1 : FAIL : BFCArena: Failed to allocate memory for requested buffer of size 9"
            )

    monkeypatch.setattr(session, "_session", Full())
    with pytest.raises(OutOfMemory):
        session.run(feeds())


def test_cuda_that_cannot_be_had(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session_module, "cuda_problem", lambda: "no NVIDIA driver on this computer")
    with pytest.raises(DeviceError, match="CUDA cannot be used: no NVIDIA driver"):
        Session(model_folder, "cuda")
    session = Session(model_folder, "auto")
    assert session.provider == CPU_PROVIDER and "running on the CPU: no NVIDIA driver" in session.note
    monkeypatch.setattr("napari_emdl.models.devices.gpu_present", lambda: False)
    assert not is_warning(Session(model_folder, "auto").note)  # nothing else is there: plain, but never silent
    monkeypatch.setattr("napari_emdl.models.devices.gpu_present", lambda: True)
    assert is_warning(Session(model_folder, "auto").note)
    with pytest.raises(DeviceError, match="unknown device 'tpu'"):
        Session(model_folder, "tpu")
    assert "onnxruntime" not in capfd.readouterr().err


def test_cuda_that_fails_at_the_last_moment_is_quiet(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing known stands against it, yet the provider does not start: onnxruntime's pages of errors are not shown."""
    if not cuda_problem():
        pytest.skip("CUDA works here")
    monkeypatch.setattr(session_module, "cuda_problem", lambda: "")
    with pytest.raises(DeviceError, match=r"could not start CUDA|CUDA cannot be used"):
        Session(model_folder, "cuda")
    assert Session(model_folder, "auto").note.startswith("running on the CPU")
    out = capfd.readouterr()
    assert out.err == "" and out.out == ""


def test_diagnosis_of_two_wheels_and_of_no_cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "_installed", lambda package: True)
    assert "both onnxruntime and onnxruntime-gpu are installed" in cuda_problem()
    monkeypatch.setattr(devices_module, "_installed", lambda package: package == "onnxruntime")
    monkeypatch.setattr(devices_module.ort(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(devices_module.sys, "platform", "linux")
    assert "has no CUDA" in cuda_problem()


def test_diagnosis_of_driver_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "_installed", lambda package: package == "onnxruntime-gpu")
    monkeypatch.setattr(devices_module.ort(), "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(devices_module, "_driver_problem", lambda: "no NVIDIA driver on this computer")
    assert "driver" in cuda_problem()
    monkeypatch.setattr(devices_module, "_driver_problem", lambda: "")
    monkeypatch.setattr(devices_module, "missing_cuda_libraries", lambda: ("libcudnn.so.9",))
    assert "libcudnn.so.9" in cuda_problem() and "napari-emdl[cuda]" in cuda_problem()
    monkeypatch.setattr(devices_module, "missing_cuda_libraries", lambda: ())
    assert cuda_problem() == ""


def test_devices_lists_cpu_and_cuda_with_reason() -> None:
    found = {device.name: device for device in devices()}
    assert found["cpu"].available and found["cpu"].memory_bytes
    assert found["cuda"].available == (found["cuda"].problem == "")
    assert "\n" not in str(found["cuda"])


def test_a_gpu_that_vanishes_leaves_a_job_that_goes_on(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(model_folder, "cpu")
    whole, output = session._session, tmp_path / "disks.h5"

    class Fails:
        left = 3

        def run(self, *args: object) -> object:
            if not self.left:
                raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 999: unknown error ; GPU=0 ; hostname=lab")
            self.left -= 1
            return whole.run(*args)

    def find(items: np.ndarray) -> PeakTable:
        for _ in items:
            session.run(feeds())
        return PeakTable.from_lists([{"row": np.full(1, i), "col": np.zeros(1), "score": np.ones(1)} for i in items])

    def job(**more: object) -> PeakTable:
        return run_peak_job(
            shape=(8,),
            read=lambda start, stop: np.arange(start, stop, dtype=float),
            find=find,
            bytes_per_item=1,
            run=RunParams(workers=1, **more),  # type: ignore[arg-type]
            output=output,
            fingerprint="a",
        )

    monkeypatch.setattr(session, "_session", Fails())
    with pytest.raises(ModelError):  # on a CPU such a text is no lost device
        [session.run(feeds()) for _ in range(4)]
    monkeypatch.setattr(session, "_session", Fails())
    monkeypatch.setattr(session, "provider", CUDA_PROVIDER)
    with pytest.raises(DeviceError, match=r"GPU failed during the run.*`resume=True`") as failed:
        job()
    assert "\n" not in str(failed.value) and part_path(output).exists()
    monkeypatch.setattr(session, "_session", whole)
    np.testing.assert_array_equal(job(resume=True).column("row"), np.arange(8))
