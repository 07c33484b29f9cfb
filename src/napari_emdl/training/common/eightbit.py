"""Graphs in 8 bit by static quantisation of onnxruntime, whatever the network: ranges, weights, biases."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

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


def to_eight_bit(plain: Path, small: Path, feeds: Feeds, layers: list[str], percentile: float | None = None) -> None:
    """Write `small` from `plain`: the named nodes in 8 bit, ranges of their activations from `feeds`.

    With `percentile`, the rarest values beyond it are cut off, and the others are told apart more finely. Weights have 7 bits and a scale per channel: so they cannot overflow on CPUs without VNNI, and all CPUs give the same.
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
        calibrate_method=CalibrationMethod.MinMax if percentile is None else CalibrationMethod.Percentile,
        extra_options={} if percentile is None else {"CalibPercentile": percentile},
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


def _channel_means(graph: onnx.ModelProto, names: list[str], feeds: Feeds) -> list[np.ndarray]:
    """Mean of every channel of some tensors (batch, channels, rows, cols) over all feeds."""
    seen = copy.deepcopy(graph)
    del seen.graph.output[:]
    seen.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(seen.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = [[values.mean((0, 2, 3)) for values in session.run(names, feed)] for feed in feeds]
    return [np.mean([means[k] for means in found], axis=0) for k in range(len(names))]
