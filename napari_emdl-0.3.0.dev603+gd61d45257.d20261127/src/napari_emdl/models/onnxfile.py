"""Look into an ONNX file without loading it: opset, operator domains, external data.

Only the few protobuf fields that matter for safety are read (onnx.proto3, field numbers in the names below), so that a
network from anywhere can be judged before onnxruntime touches it and without the ``onnx`` package.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from napari_emdl.base.errors import ModelError

#: Operator sets that come with onnxruntime; anything else needs a custom operator library, which is refused.
BUILT_IN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

_MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTION = 7, 8, 25
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_OP, _NODE_DOMAIN = 5, 4, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = 5, 6, 10, 11, 22
_TENSOR_EXTERNAL = 13
_SPARSE_PARTS = (1, 2)
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 7, 10
_DEEPEST_GRAPH = 32
_MOST_NODES = 200_000
_LARGEST_BYTES = (2 << 30) - 1  # what a protobuf message can hold

Message = memoryview


class _TooLarge(Exception):
    """The graph has more nodes than any network."""


@dataclass
class OnnxFacts:
    """What an ONNX file declares."""

    opset: dict[str, int] = field(default_factory=dict)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    external_data: set[str] = field(default_factory=set)
    n_nodes: int = 0

    @property
    def foreign_domains(self) -> set[str]:
        """Domains of operators that neither onnxruntime nor the file itself defines."""
        return {d for d, op in self.operators if d not in BUILT_IN_DOMAINS and (d, op) not in self.functions}


def inspect(path: Path) -> OnnxFacts:
    """Read what `path` declares.

    Raises
    ------
    ModelError
        When it is not an ONNX file or a damaged one.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ModelError(f"{path.name} is larger than 2 GB, which no ONNX file can be; get it again")
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read the network {path}: {error.strerror}") from error
    facts = OnnxFacts()
    try:
        _model(data, facts)
    except _TooLarge:
        raise ModelError(f"{path.name} has more than {_MOST_NODES:,} operators, which is refused") from None
    except (IndexError, ValueError, struct.error, UnicodeDecodeError, RecursionError):
        raise ModelError(f"{path.name} is damaged or no ONNX file; get it again") from None
    if not facts.opset or not facts.operators:
        raise ModelError(f"{path.name} holds no ONNX network; get it again")
    return facts


def check_safe(path: Path) -> OnnxFacts:
    """Refuse custom operators and data outside the model's folder.

    Raises
    ------
    ModelError
        Naming what is refused.
    """
    facts = inspect(path)
    if facts.foreign_domains:
        names = ", ".join(sorted(facts.foreign_domains))
        raise ModelError(
            f"{path.name} needs custom operators ({names}), which are refused; export it with standard ONNX operators"
        )
    folder = path.resolve().parent
    for location in facts.external_data:
        target = (folder / location).resolve()
        if Path(location).is_absolute() or not target.is_relative_to(folder):
            raise ModelError(
                f"{path.name} keeps data outside its folder ({location}), which is refused; put it beside the network"
            )
        if not target.is_file():
            raise ModelError(f"{path.name} needs the file {location} beside it, which is missing")
    return facts


def _fields(message: Message) -> Iterator[tuple[int, Message | int]]:
    """(field number, value) of a message: memoryviews for length-delimited fields, ints for the others."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if not number:
            raise ValueError("field number 0")
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
        elif wire == 2:
            length, at = _varint(message, at)
            if at + length > end:
                raise ValueError("field runs over the end")
            yield number, message[at : at + length]
            at += length
        elif wire in (1, 5):
            width = 8 if wire == 1 else 4
            if at + width > end:
                raise ValueError("field runs over the end")
            yield number, int.from_bytes(message[at : at + width], "little")
            at += width
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: Message, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise ValueError("varint too long")


def _parts(message: Message, *numbers: int) -> Iterator[Message]:
    for number, value in _fields(message):
        if number in numbers and isinstance(value, memoryview):
            yield value


def _text(message: Message, number: int) -> str:
    """Last value of a text field: what comes later in a message wins, as in every protobuf reader."""
    found = b""
    for value in _parts(message, number):
        found = bytes(value)
    return found.decode()


def _model(model: Message, facts: OnnxFacts) -> None:
    for number, value in _fields(model):
        if not isinstance(value, memoryview):
            continue
        if number == _MODEL_OPSET:
            versions = [v for n, v in _fields(value) if n == _OPSET_VERSION and isinstance(v, int)]
            version = versions[-1] if versions else 0
            facts.opset[_text(value, _OPSET_DOMAIN)] = version
        elif number == _MODEL_FUNCTION:
            facts.functions.add((_text(value, _FUNCTION_DOMAIN), _text(value, _FUNCTION_NAME)))
            for node in _parts(value, _FUNCTION_NODE):
                _node(node, facts, 0)
        elif number == _MODEL_GRAPH:
            _graph(value, facts, 0)


def _graph(graph: Message, facts: OnnxFacts, depth: int) -> None:
    if depth > _DEEPEST_GRAPH:
        raise ValueError("graphs nested too deeply")
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == _GRAPH_NODE:
            _node(value, facts, depth)
        elif number == _GRAPH_INITIALIZER:
            _tensor(value, facts)
        elif number == _GRAPH_SPARSE:
            _sparse(value, facts)


def _node(node: Message, facts: OnnxFacts, depth: int) -> None:
    facts.n_nodes += 1
    if facts.n_nodes > _MOST_NODES:
        raise _TooLarge
    facts.operators.add((_text(node, _NODE_DOMAIN), _text(node, _NODE_OP)))
    for attribute in _parts(node, _NODE_ATTRIBUTE):
        for tensor in _parts(attribute, _ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _tensor(tensor, facts)
        for sparse in _parts(attribute, _ATTRIBUTE_SPARSE):
            _sparse(sparse, facts)
        for graph in _parts(attribute, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            _graph(graph, facts, depth + 1)


def _sparse(sparse: Message, facts: OnnxFacts) -> None:
    for tensor in _parts(sparse, *_SPARSE_PARTS):
        _tensor(tensor, facts)


def _tensor(tensor: Message, facts: OnnxFacts) -> None:
    for entry in _parts(tensor, _TENSOR_EXTERNAL):
        if _text(entry, _ENTRY_KEY) == "location":
            facts.external_data.add(_text(entry, _ENTRY_VALUE))
