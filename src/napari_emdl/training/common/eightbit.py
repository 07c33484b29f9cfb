"""Graphs in 8 bit by static quantisation of onnxruntime, whatever the network: ranges, weights, biases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

Feeds = Sequence[dict[str, np.ndarray]]

#: For the card.
PRECISION = "convolutions: 7-bit weights of a scale per channel, 8-bit activations; the rest single"


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Feeds) -> None:
        self._left: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def folded(source: Path, target: Path) -> None:
    """The graph with its constants computed and batch normalisation in the convolutions, in standard operators."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(target)
    foreign = [entry for entry in graph.opset_import if entry.domain]
    for entry in foreign:
        graph.opset_import.remove(entry)
    onnx.save(graph, target)


def to_eight_bit(plain: Path, small: Path, feeds: Feeds, layers: list[str]) -> None:
    """Write `small` from `plain`: the named nodes in 8 bit, ranges of their activations from `feeds`.

    Ranges hold all values that were seen: cutting off the rarest (beyond the 99.99th percentile) was nearer on the average, but
    lost clear columns. Weights have 7 bits and a scale per channel: they cannot overflow on CPUs without VNNI.
    """
    quantize_static(
        str(plain),
        str(small),
        _Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=layers,
    )


def correct_biases(plain: Path, small: Path, feeds: Feeds) -> None:
    """Shift the biases of `small`, layer by layer, until each channel has the mean over `feeds` that it has in `plain`.

    Rounding moves every weight of a channel at random but the inputs are all positive, so the error has a mean, and the means
    add up over the layers to lower scores (Nagel et al., arXiv:1906.04721, section 4.2).
    """
    exact, coarse = onnx.load(plain), onnx.load(small)
    numbers = {tensor.name: tensor for tensor in coarse.graph.initializer}
    made_by = {name: node for node in coarse.graph.node for name in node.output}
    before = {node.name: node.output[0] for node in exact.graph.node if node.op_type == "Conv"}
    layers = []
    for node in coarse.graph.node:
        bias = made_by.get(node.input[2]) if node.op_type == "Conv" and len(node.input) == 3 else None
        if bias is not None and bias.op_type == "DequantizeLinear":
            layers.append((node.output[0], bias.input[0], bias.input[1], before[node.name]))
    wanted = _channel_means(exact, [layer[3] for layer in layers], feeds)
    for (output, bias, scale, _), mean in zip(layers, wanted, strict=True):
        (now,) = _channel_means(coarse, [output], feeds)
        shift = np.rint((mean - now) / numpy_helper.to_array(numbers[scale]))
        shifted = (numpy_helper.to_array(numbers[bias]) + shift).astype(np.int32)
        numbers[bias].CopyFrom(numpy_helper.from_array(shifted, bias))
    onnx.save(coarse, small)


def level_scores(plain: Path, small: Path, feeds: Feeds, output: str, layer: str) -> None:
    """Shift the first biases of `layer`, in single precision, until the logits `output` of `small` promise as much as those of
    `plain`: the same sum of probabilities over `feeds`."""
    exact, coarse = onnx.load(plain), onnx.load(small)
    node = next(node for node in coarse.graph.node if node.name == layer)
    bias = next(tensor for tensor in coarse.graph.initializer if tensor.name == node.input[2])
    wanted = _expected(exact, output, feeds)[0]
    for _ in range(2):
        found, slope = _expected(coarse, output, feeds)
        values = numpy_helper.to_array(bias).copy()
        values[: len(found)] += ((wanted - found) / slope).astype(values.dtype)
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(coarse, small)


def _expected(graph: onnx.ModelProto, output: str, feeds: Feeds) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the probabilities of every channel of some logits over all feeds, and its derivative by a shift of the logits."""
    p = [1 / (1 + np.exp(-logits.astype(np.float64))) for logits in _tensors(graph, [output], feeds, lambda values: values)]
    return sum(each.sum((0, 2, 3)) for each in p), sum((each * (1 - each)).sum((0, 2, 3)) for each in p)


def _channel_means(graph: onnx.ModelProto, names: list[str], feeds: Feeds) -> list[np.ndarray]:
    """Mean of every channel of some tensors (batch, channels, rows, cols) over all feeds."""
    found = _tensors(graph, names, feeds, lambda values: values.mean((0, 2, 3)))
    return [np.mean(found[k :: len(names)], axis=0) for k in range(len(names))]


def _tensors(
    graph: onnx.ModelProto, names: list[str], feeds: Feeds, told: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    """What is `told` of some tensors for every feed, those of one feed in a row."""
    seen = copy.deepcopy(graph)
    del seen.graph.output[:]
    seen.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(seen.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [told(values) for feed in feeds for values in session.run(names, feed)]
