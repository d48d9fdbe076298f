"""A graph with look-up tables: the producer and the readers of a value, constants, types and shapes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

Numbers = NDArray[Any]
Verdict = Literal["reject", "silent", "advice"]
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
WEIGHT_AXIS = {"Conv": 0, "ConvTranspose": 1}
HEAVY = frozenset((*WEIGHT_AXIS, "Gemm", "MatMul"))
_KEEP_TYPE = frozenset(
    (
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Relu", "Clip", "Sigmoid", "Tanh"),
        *(
            "MaxPool",
            "AveragePool",
            "GlobalAveragePool",
            "Reshape",
            "Transpose",
            "Flatten",
            "Concat",
            "Softmax",
            "Gelu",
        ),
        *("LayerNormalization", "BatchNormalization", "Identity", "Squeeze", "Unsqueeze", "Slice", "Pad", "HardSwish"),
    )
)
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
LARGE_ELEMENTS = 256
"""For constants above this size, the inference of types and shapes uses only their type and shape."""


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        rule: number of the rule, such as ``Q05``; the Q rules are those of tensorrt.md 1.7.
        node: name of the node, or of its first output.
        message: what is wrong.
        remedy: what to do.
        verdict: what TensorRT does with it: ``reject`` it; compute something else without an error (``silent``); or run
            it slower than necessary (``advice``).
    """

    rule: str
    node: str
    message: str
    remedy: str
    verdict: Verdict = "reject"

    def to_dict(self) -> dict[str, str]:
        """Values for JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        return f"{self.rule} {self.node}: {self.message} ({self.remedy})"


def finding(rule: str, node: onnx.NodeProto, message: str, remedy: str, verdict: Verdict = "reject") -> Finding:
    """A finding at a node."""
    return Finding(rule, label(node), message, remedy, verdict)


def label(node: onnx.NodeProto) -> str:
    """The name of a node, or of its first output if it has none."""
    return node.name or (node.output[0] if node.output else node.op_type)


class View:
    """A graph with look-up tables."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
        self.stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self.stored |= {
            node.output[0]: attribute.t
            for node in self.graph.node
            if node.op_type == "Constant" and node.output
            for attribute in node.attribute
            if attribute.name == "value"
        }
        self.producer = {name: node for node in self.graph.node for name in node.output if name}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in self.graph.node:
            for index, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, index))
        self._arrays: dict[str, Numbers | None] = {}
        self.outputs = {value.name for value in self.graph.output}

    def pairs(self) -> Iterator[onnx.NodeProto]:
        """Quantize and Dequantize nodes."""
        return (node for node in self.graph.node if node.op_type in (QUANTIZE, DEQUANTIZE))

    def array(self, node: onnx.NodeProto, index: int) -> Numbers | None:
        """The constant that ``node`` reads at ``index``; None if it is absent, computed, or in a separate file."""
        return self.constant(node.input[index]) if index < len(node.input) else None

    def constant(self, name: str) -> Numbers | None:
        """A constant by name; None if the value is not a constant, or is stored in a separate file of weights."""
        if name not in self._arrays:
            tensor = self.stored.get(name)
            elsewhere = tensor is None or tensor.data_location == TensorProto.EXTERNAL
            self._arrays[name] = None if tensor is None or elsewhere else np.asarray(numpy_helper.to_array(tensor))
        return self._arrays[name]

    def stored_type(self, node: onnx.NodeProto, index: int) -> int:
        """Element type of the constant that ``node`` reads at ``index``; 0 if that input is not a constant."""
        name = node.input[index] if index < len(node.input) else ""
        return self.stored[name].data_type if name in self.stored else 0

    def is_constant(self, name: str) -> bool:
        """Whether a value is stored in the file."""
        return name in self.stored

    @cached_property
    def order(self) -> list[onnx.NodeProto]:
        """The nodes in topological order: each node comes after those that it reads from."""
        return sorted_nodes(self.graph)

    @cached_property
    def inferred(self) -> tuple[dict[str, onnx.TypeProto], list[str]]:
        """Types and shapes of all values as ONNX infers them, and the errors that it finds."""
        return infer(self.model, self.order)

    @cached_property
    def types(self) -> dict[str, int]:
        """Element types as TensorRT reads them: in every opset, a DequantizeLinear's output has its scale's type."""
        types = {name: int(known.tensor_type.elem_type) for name, known in self.inferred[0].items()}
        types |= {name: int(tensor.data_type) for name, tensor in self.stored.items()}
        for node in self.order:
            if node.op_type == DEQUANTIZE and len(node.input) > 1 and types.get(node.input[1]):
                types[node.output[0]] = types[node.input[1]]
            elif node.op_type in _KEEP_TYPE and types.get(node.input[0]):
                types[node.output[0]] = types[node.input[0]]
        return types

    def type_of(self, name: str) -> int:
        """Element type of a value; 0 if it is unknown."""
        return self.types.get(name, 0)

    def shape_of(self, name: str) -> tuple[int | None, ...] | None:
        """Sizes of a value, with None for unknown ones; None instead of a list if its rank is unknown."""
        if name in self.stored:
            return tuple(self.stored[name].dims)
        known = self.inferred[0].get(name)
        if known is None or not known.tensor_type.HasField("shape"):
            return None
        return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in known.tensor_type.shape.dim)


def infer(model: onnx.ModelProto, order: list[onnx.NodeProto]) -> tuple[dict[str, onnx.TypeProto], list[str]]:
    """Types and shapes of a graph, inferred without reading large weights.

    Returns:
        Types by value name, and one message per node that violates ONNX's rules.
    """
    slim = _without_weights(model, order)
    complaints: list[str] = []
    try:
        done = onnx.shape_inference.infer_shapes(slim, strict_mode=True, data_prop=True)
    except Exception as error:  # InferenceError, and RuntimeError for exceptions from C++
        complaints = [line for line in str(error).splitlines() if "op_type:" in line] or str(error).splitlines()[:1]
        try:
            done = onnx.shape_inference.infer_shapes(slim)
        except Exception:  # then only the types of inputs and constants are known
            done = slim
    values = (*done.graph.input, *done.graph.value_info, *done.graph.output)
    return {value.name: value.type for value in values}, complaints


def sorted_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes in topological order, otherwise in their given order; nodes in a cycle come last.

    The sort of onnx-ir raises an error for a cycle, and reads no file in which a value has two producers. The lint
    reports such faults, so it has to sort these files too.
    """
    made = {name for node in graph.node for name in node.output}
    waiting: dict[str, list[int]] = {}
    lacking = [0] * len(graph.node)
    for number, node in enumerate(graph.node):
        for name in {name for name in node.input if name in made}:
            waiting.setdefault(name, []).append(number)
            lacking[number] += 1
    ready = [number for number, count in enumerate(lacking) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for name in dict.fromkeys(graph.node[number].output):
            for follower in waiting.pop(name, ()):
                lacking[follower] -= 1
                if lacking[follower] == 0:
                    heapq.heappush(ready, follower)
    done = set(order)
    return [graph.node[number] for number in (*order, *(n for n in range(len(graph.node)) if n not in done))]


def _without_weights(model: onnx.ModelProto, order: list[onnx.NodeProto]) -> onnx.ModelProto:
    slim = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    slim.opset_import.extend(model.opset_import)
    slim.functions.extend(model.functions)
    graph = model.graph
    slim.graph.name = graph.name or "graph"
    slim.graph.node.extend(_typed_by_scale(model, order))
    slim.graph.input.extend(graph.input)
    slim.graph.output.extend(graph.output)
    given = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if prod(tensor.dims) <= LARGE_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL:
            slim.graph.initializer.append(tensor)
        elif tensor.name not in given:
            slim.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return slim


def _typed_by_scale(model: onnx.ModelProto, order: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, with outputs of DequantizeLinear in the type of its scale: TensorRT's rule, ONNX's from opset 19."""
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    halves = {t.name: t.data_type for t in model.graph.initializer if t.data_type in _HALVES} if opset < 19 else {}
    for node in order:
        kind = halves.get(node.input[1]) if node.op_type == DEQUANTIZE and len(node.input) > 1 else None
        if kind is None:
            yield node
            continue
        single = onnx.NodeProto()
        single.CopyFrom(node)
        single.output[0] = f"{node.output[0]}/float"
        yield single
        yield onnx.helper.make_node("Cast", [single.output[0]], [node.output[0]], to=kind)


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def integers(node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    """An attribute that is a list of integers; empty if it is absent."""
    return next((tuple(item.ints) for item in node.attribute if item.name == name), ())


def type_name(kind: int) -> str:
    """``FP16`` for FLOAT16, ``FP32`` for FLOAT, else ONNX's own name."""
    name = str(TensorProto.DataType.Name(kind))
    return {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64", "BFLOAT16": "BF16"}.get(name, name)
