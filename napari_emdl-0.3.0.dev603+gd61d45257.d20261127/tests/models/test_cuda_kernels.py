"""Every shipped graph holds only operators that onnxruntime has CUDA kernels for: what has none would go through the CPU."""

import mmap
import re
from pathlib import Path

import onnxruntime
import pytest

onnx = pytest.importorskip("onnx")

from napari_emdl.models.registry import shipped_folder  # noqa: E402

LIBRARY = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
#: Operators whose kernel class has another name.
CLASSES = {
    "AveragePool": "Pool",
    "MaxPool": "Pool",
    "BatchNormalization": "BatchNorm",
    "Max": "VariadicElementwiseOpINS0_24variadic_elementwise_ops3Max",
    "Min": "VariadicElementwiseOpINS0_24variadic_elementwise_ops3Min",
}
#: Constants are folded when a graph is loaded, and shapes are known to the host.
NO_KERNEL_NEEDED = {"Constant", "Shape"}


@pytest.fixture(scope="module")
def kernels() -> set[str]:
    """Names of the classes in the installed CUDA library: its type information outlives stripping."""
    if not LIBRARY.is_file():
        pytest.skip("this onnxruntime has no CUDA library")
    with open(LIBRARY, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {name.decode() for name in re.findall(rb"onnxruntime4cuda\d+([A-Za-z][A-Za-z0-9_]*)", content)}


def has_kernel(operator: str, kernels: set[str]) -> bool:
    return any(re.match(CLASSES.get(operator, operator) + r"(_|I|E|\d|$)", name) for name in kernels)


def test_the_look_tells_kernels_apart(kernels: set[str]) -> None:
    assert has_kernel("Conv", kernels) and has_kernel("TopK", kernels)
    assert not has_kernel("DFT", kernels) and not has_kernel("StringSplit", kernels)


@pytest.mark.parametrize("network", sorted(shipped_folder().glob("*/model.onnx")), ids=lambda path: path.parent.name)
def test_every_operator_has_a_cuda_kernel(network: Path, kernels: set[str]) -> None:
    graph = onnx.load(network)
    operators = {(node.domain, node.op_type) for node in graph.graph.node}
    assert not {domain for domain, _ in operators if domain}
    missing = [name for _, name in operators if name not in NO_KERNEL_NEEDED and not has_kernel(name, kernels)]
    assert not missing, f"no CUDA kernel for {sorted(missing)}"
