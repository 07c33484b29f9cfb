"""Run a network: choice of device, test on load, batches that shrink when memory runs out, cancel inside a batch."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emdl.base.errors import Cancelled, DeviceError, EmdlError, ModelError
from napari_emdl.base.reading import read_small_npy, read_small_npz
from napari_emdl.jobs.control import Control
from napari_emdl.jobs.executor import available_cores
from napari_emdl.models.card import Tensor, file_in
from napari_emdl.models.devices import CPU_PROVIDER, CUDA_PROVIDER, cpu_note, cuda_problem, ort, quiet_ort
from napari_emdl.models.registry import Model, load_model

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
#: Longest time a network may take for its test tensors or a first try.
TRIAL_LIMIT_S = 60.0
#: Outputs that are lists of peaks: (task, output) with the score in column 2.
_SORTED_BY_SCORE = {("disk-proposer", "candidates")}
#: CUDA rounds the operands of products to TF32 (10 bits): in an emulation outputs of the shipped networks moved by 1e-3 of the
#: largest value, positions of disks by less than 0.001 px.
_CUDA_TOLERANCE = 1e-2
#: What onnxruntime says when the GPU itself fails: unplugged, reset, fallen off the bus, its driver restarted.
_DEVICE_LOST = ("cuda failure", "cuda error", "cudnn failure", "cudnn error", "cublas failure", "cuda_error", "cuda driver")
_OUT_OF_MEMORY = ("failed to allocate", "out of memory", "bad allocation", "bad_alloc", "alloc_failed", "memoryallocation")


class OutOfMemory(Exception):
    """The device has no room for a batch of this size."""


class Session:
    """A loaded network.

    Parameters
    ----------
    model
        Model, or its folder.
    device
        "cpu", "cuda" or "auto". "auto" takes CUDA where it can be had and says in `note` why not; it never takes another
        provider.
    threads
        Threads a network call may use on the CPU; all cores when None.
    check
        Run the card's test tensors and compare; also warms up.

    Attributes
    ----------
    provider
        Execution provider that really runs.

    Raises
    ------
    DeviceError
        "cuda" was asked for and cannot be had, with the reason.
    ModelError
        The network cannot be loaded, does not fit its card, or fails its test.
    """

    def __init__(self, model: Model | str | Path, device: str = "auto", threads: int | None = None, check: bool = True) -> None:
        self.model = model if isinstance(model, Model) else load_model(Path(model))
        self.device, self.threads = device, threads
        self.provider, self._device_note = CPU_PROVIDER, ""
        self._session = self._open(device)
        self.inputs = {item.name: item for item in self._session.get_inputs()}
        self.outputs = [item.name for item in self._session.get_outputs()]
        self._constants: dict[str, Any] = {}
        # One call fills a GPU, and two need twice its memory; on a CPU calls share the threads.
        self._turn = threading.Lock() if self.provider == CUDA_PROVIDER else nullcontext()
        self._batch_limit: int | None = None
        self._match_card()
        if check:
            self.test(whole=self.model.source != "shipped")  # all of a shipped network's is run by a test of the package

    def __reduce__(self) -> tuple[Any, ...]:
        # On another computer (Dask) the network is opened again from the same folder, on what that computer has. A worker
        # computes as many blocks at once as it has threads, each with one.
        return _reopen, (self.model, self.device, {n: v.numpy() for n, v in self._constants.items()})

    @property
    def note(self) -> str:
        """Why "auto" did not take the GPU, and whether memory ran out; "" when there is nothing to say."""
        memory = f"out of memory: batch reduced to {self._batch_limit}" if self._batch_limit else ""
        return "; ".join(text for text in (self._device_note, memory) if text)

    def _open(self, device: str) -> Any:
        if device not in ("auto", "cpu", "cuda"):
            raise DeviceError(f"unknown device {device!r}; choose auto, cpu or cuda")
        if device != "cpu":
            problem = cuda_problem()
            if not problem:
                session = self._create([(CUDA_PROVIDER, _cuda_options()), CPU_PROVIDER])
                if session.get_providers()[0] == CUDA_PROVIDER:
                    self.provider = CUDA_PROVIDER
                    return session
                problem = "onnxruntime could not start CUDA (is the driver too old, or the GPU full?); run nvidia-smi to see"
            if device == "cuda":
                raise DeviceError(f"CUDA cannot be used: {problem}")
            self._device_note = cpu_note(problem)
        return self._create([CPU_PROVIDER])

    def _create(self, providers: list[Any]) -> Any:
        options = ort().SessionOptions()
        options.intra_op_num_threads = self.threads or available_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Waiting threads that spin would take the cores from reading, drawing and whoever else is on this computer.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            with quiet_ort():
                return ort().InferenceSession(str(self.model.network), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no base class but this
            raise ModelError(f"{self.model.name}: the network cannot be loaded ({_short(error)})") from error

    def _match_card(self) -> None:
        """The card must describe this network: same inputs and outputs."""
        card = self.model.card
        for side, described, real in (
            ("inputs", [t.id for t in card.inputs], list(self.inputs)),
            ("outputs", [t.id for t in card.outputs], self.outputs),
        ):
            # a network may have outputs that its card does not mention, but no inputs
            if not set(described) <= set(real) or (side == "inputs" and len(real) != len(described)):
                raise ModelError(
                    f"{self.model.name}: card and network do not match: {side} are {', '.join(described)} in the card "
                    f"but {', '.join(real)} in the network"
                )

    def require(self, inputs: Iterable[str], outputs: Iterable[str], optional: Iterable[str] = ()) -> None:
        """Refuse a network without the inputs and outputs a task needs; it may have the optional inputs or not.

        Raises
        ------
        ModelError
            Naming both lists.
        """
        wanted_in, wanted_out = list(inputs), list(outputs)
        if set(self.inputs) - set(optional) != set(wanted_in) or not set(wanted_out) <= set(self.outputs):
            raise ModelError(
                f"model {self.model.name} has inputs {', '.join(self.inputs)} and outputs {', '.join(self.outputs)}; "
                f"{self.model.card.emdl.task} needs inputs {', '.join(wanted_in)} and outputs {', '.join(wanted_out)}"
            )

    def test(self, whole: bool = True) -> float | None:
        """Run the card's test tensors.

        Parameters
        ----------
        whole
            All items of the batch, else the first.

        Returns
        -------
        Largest deviation relative to the largest value of an output; None when the card has no test tensors.

        Raises
        ------
        ModelError
            When the network does not give what its card says.
        """
        card, folder = self.model.card, self.model.folder
        if not all(tensor.test_tensor for tensor in (*card.inputs, *card.outputs)):
            return None
        expected, feeds = ({t.id: _load(folder, t) for t in tensors} for tensors in (card.outputs, card.inputs))
        if not whole:
            feeds |= {tensor.id: feeds[tensor.id][:1] for tensor in card.inputs if tensor.batched}
        batched = {tensor.id for tensor in card.outputs if tensor.batched}
        worst = 0.0
        for name, found in self.trial(feeds, expected).items():
            want = np.asarray(expected[name], np.float64)
            if (card.emdl.task, name) in _SORTED_BY_SCORE:
                # rows of equal score may come in any order, and padding is arbitrary: the scores tell enough
                found, want = found[..., 2], want[..., 2]
            largest = max(1e-12, float(np.max(np.abs(want), initial=0)))
            if not whole and name in batched:
                want = want[:1]
            if found.shape != want.shape or not np.all(np.isfinite(found)):
                raise ModelError(f"{self.model.name} fails its test: output {name} has shape {found.shape} or is not finite")
            worst = max(worst, float(np.max(np.abs(found - want), initial=0) / largest))
        if worst > max(card.emdl.tolerance, _CUDA_TOLERANCE if self.provider == CUDA_PROVIDER else 0.0):
            raise ModelError(
                f"{self.model.name} fails its test: outputs are {worst:.2g} off what its card says; get the model again"
            )
        return worst

    def trial(self, feeds: Mapping[str, Any], outputs: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """One call on a small input that must come to an end; Ctrl-C stops it.

        Raises
        ------
        ModelError
            When the network does not finish in time (a graph may hold an endless loop), or for what :meth:`run` raises.
        """
        control, done = Control(), queue.SimpleQueue[Any]()

        def call() -> None:
            try:
                done.put(self.run(feeds, outputs, control))
            except BaseException as error:
                done.put(error)

        # Python handles signals in its main thread only, and never inside a call of onnxruntime.
        threading.Thread(target=call, daemon=True, name="emdl-model-trial").start()
        end = time.monotonic() + TRIAL_LIMIT_S
        try:
            while done.empty() and time.monotonic() < end:
                time.sleep(0.002 if end - time.monotonic() > TRIAL_LIMIT_S - 1 else 0.05)
        except BaseException:
            control.cancel()
            raise
        if done.empty():
            control.cancel()
            raise ModelError(
                f"{self.model.name} does not finish a small test within {TRIAL_LIMIT_S:g} s and was stopped; "
                "it may hold an endless loop"
            )
        found = done.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def set_constant(self, name: str, value: NDArray[Any]) -> None:
        """Put an input that stays the same (a probe's spectrum) on the device once; leave it out of later feeds."""
        device = "cuda" if self.provider == CUDA_PROVIDER else "cpu"
        self._constants[name] = ort().OrtValue.ortvalue_from_numpy(self._cast(name, value), device)

    def _cast(self, name: str, value: Any) -> NDArray[Any]:
        item = self.inputs.get(name)
        if item is None:
            raise ModelError(f"model {self.model.name} has no input {name!r}; it has {', '.join(self.inputs)}")
        return np.ascontiguousarray(value, dtype=_DTYPES.get(item.type, np.float32))

    def run(
        self, feeds: Mapping[str, Any], outputs: Iterable[str] | None = None, control: Control | None = None
    ) -> dict[str, NDArray[Any]]:
        """One call of the network.

        Parameters
        ----------
        feeds
            Inputs by name, cast to the network's types; constants may be left out.
        outputs
            Outputs to fetch; what is not named never leaves the device.
        control
            A cancelled control stops the call between two operators.

        Raises
        ------
        Cancelled
            When cancelled before or during the call.
        OutOfMemory
            When the batch does not fit the device.
        DeviceError
            When the GPU itself fails.
        ModelError
            For inputs the network does not take.
        """
        names = list(outputs or self.outputs)
        cast = {name: self._cast(name, value) for name, value in feeds.items()}
        options = ort().RunOptions()
        options.log_severity_level = 4
        remove = lambda: None  # noqa: E731
        if control is not None:
            control.check()
            remove = control.on_cancel(lambda: setattr(options, "terminate", True))
        try:
            with self._turn:
                if self._constants:
                    return self._run_bound(cast, names, options)
                return dict(zip(names, self._session.run(names, cast, options), strict=True))
        except Exception as error:
            if control is not None and control.cancelled:
                raise Cancelled("cancelled by the user") from None
            if isinstance(error, MemoryError) or any(text in str(error).lower() for text in _OUT_OF_MEMORY):
                raise OutOfMemory(_short(error)) from None
            if self.provider == CUDA_PROVIDER and any(text in str(error).lower() for text in _DEVICE_LOST):
                raise DeviceError(
                    f"the GPU failed during the run ({_short(error)}); finished blocks are kept: go on with `resume=True`, "
                    "on the CPU with `device='cpu'`"
                ) from None
            raise ModelError(f"{self.model.name} does not run on this input ({_short(error)})") from error
        finally:
            remove()

    def _run_bound(self, feeds: dict[str, NDArray[Any]], names: list[str], options: Any) -> dict[str, NDArray[Any]]:
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        for name, constant in self._constants.items():
            if name not in feeds:
                binding.bind_ortvalue_input(name, constant)
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, options)
        return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))

    def in_batches(self, total: int, batch: int, call: Callable[[int, int], None]) -> None:
        """Call ``call(start, stop)`` over all of `total` items, `batch` at a time; out of memory halves the batch and goes on.

        Raises
        ------
        DeviceError
            When not even one item fits.
        """
        start = 0
        while start < total:
            size = min(batch, self._batch_limit or batch)
            stop = min(start + size, total)
            try:
                call(start, stop)
                start = stop
            except OutOfMemory as error:
                if stop - start == 1:
                    raise DeviceError(
                        f"not even one item fits the memory of the device ({error}); use `device='cpu'`"
                    ) from None
                self._batch_limit = math.ceil((stop - start) / 2)


def _load(folder: Path, tensor: Tensor) -> NDArray[Any]:
    """Test tensor from a .npy, or from a .npz that holds several by name."""
    assert tensor.test_tensor is not None
    path = file_in(folder, tensor.test_tensor)
    try:
        return read_small_npz(path, tensor.id) if path.suffix == ".npz" else read_small_npy(path)
    except EmdlError as error:
        raise ModelError(f"{folder.name}: the test tensor {path.name} cannot be read ({error})") from error


def _reopen(model: Model, device: str, constants: dict[str, NDArray[Any]]) -> Session:
    session = Session(model, device, threads=1, check=False)
    for name, value in constants.items():
        session.set_constant(name, value)
    return session


def _cuda_options() -> dict[str, str]:
    # HEURISTIC: an exhaustive search of convolution algorithms takes minutes for every new shape.
    return {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.split(" : ")[-1] if "[ONNXRuntimeError]" in text else text
    return text if len(text) < 240 else text[:240] + " ..."
