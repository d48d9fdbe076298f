"""A graph with its lookups: who makes a value, who reads it, what a constant holds, its type and its shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
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
LARGE_BYTES = 4096
"""Constants above this size count by type and shape alone where types and shapes are inferred."""


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        rule: its number, such as ``Q05``; the Q rules are those of tensorrt.md 1.7.
        node: name of the node, or of its first output.
        message: what is wrong.
        remedy: what to do.
        verdict: what TensorRT does: ``reject`` it; take it for something else, or fail where nobody looks, in
            ``silent``; or run it slower than need be (``advice``).
    """

    rule: str
    node: str
    message: str
    remedy: str
    verdict: Verdict = "reject"

    def to_dict(self) -> dict[str, str]:
        """JSON-ready values."""
        return dict(vars(self))

    def __str__(self) -> str:
        return f"{self.rule} {self.node}: {self.message} ({self.remedy})"


def finding(rule: str, node: onnx.NodeProto, message: str, remedy: str, verdict: Verdict = "reject") -> Finding:
    """A finding at a node."""
    return Finding(rule, label(node), message, remedy, verdict)


def label(node: onnx.NodeProto) -> str:
    """How a node is called: its name, else its first output."""
    return node.name or (node.output[0] if node.output else node.op_type)


class View:
    """A graph with its lookups."""

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
        self.maker = {name: node for node in self.graph.node for name in node.output if name}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in self.graph.node:
            for index, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, index))
        self.outputs = {value.name for value in self.graph.output}

    def pairs(self) -> Iterator[onnx.NodeProto]:
        """Quantize and Dequantize nodes."""
        return (node for node in self.graph.node if node.op_type in (QUANTIZE, DEQUANTIZE))

    def array(self, node: onnx.NodeProto, index: int) -> Numbers | None:
        """The constant that ``node`` reads at ``index``; None when it is absent, computed or stored elsewhere."""
        return self.constant(node.input[index]) if index < len(node.input) else None

    def constant(self, name: str) -> Numbers | None:
        """A constant by name; None when it is none, or stands in a file beside the model."""
        tensor = self.stored.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return np.asarray(numpy_helper.to_array(tensor))

    def stored_type(self, node: onnx.NodeProto, index: int) -> int:
        """Element type of the constant that ``node`` reads at ``index``; 0 when it is none."""
        name = node.input[index] if index < len(node.input) else ""
        return self.stored[name].data_type if name in self.stored else 0

    def is_constant(self, name: str) -> bool:
        """Whether a value is stored in the file."""
        return name in self.stored

    @cached_property
    def inferred(self) -> tuple[dict[str, onnx.TypeProto], list[str]]:
        """Types and shapes of all values as ONNX infers them, and what it complains about."""
        return infer(self.model)

    def type_of(self, name: str) -> int:
        """Element type of a value; 0 when it is not known."""
        if name in self.stored:
            return int(self.stored[name].data_type)
        known = self.inferred[0].get(name)
        return int(known.tensor_type.elem_type) if known is not None else 0

    def shape_of(self, name: str) -> tuple[int | None, ...] | None:
        """Sizes of a value, None for those not known; None when its rank is not known."""
        if name in self.stored:
            return tuple(self.stored[name].dims)
        known = self.inferred[0].get(name)
        if known is None or not known.tensor_type.HasField("shape"):
            return None
        return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in known.tensor_type.shape.dim)


def infer(model: onnx.ModelProto) -> tuple[dict[str, onnx.TypeProto], list[str]]:
    """Types and shapes without touching large weights.

    Returns:
        Types by value name, and one text per node that ONNX's rules refuse.
    """
    slim = _without_weights(model)
    complaints: list[str] = []
    try:
        done = onnx.shape_inference.infer_shapes(slim, strict_mode=True, data_prop=True)
    except Exception as error:  # InferenceError, and RuntimeError for what C++ throws
        complaints = [line for line in str(error).splitlines() if "op_type:" in line] or str(error).splitlines()[:1]
        try:
            done = onnx.shape_inference.infer_shapes(slim)
        except Exception:  # types are then known for inputs and constants alone
            done = slim
    values = (*done.graph.input, *done.graph.value_info, *done.graph.output)
    return {value.name: value.type for value in values}, complaints


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    slim = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    slim.opset_import.extend(model.opset_import)
    slim.functions.extend(model.functions)
    graph = model.graph
    slim.graph.name = graph.name or "graph"
    slim.graph.node.extend(graph.node)
    slim.graph.input.extend(graph.input)
    slim.graph.output.extend(graph.output)
    given = {value.name for value in graph.input}
    for tensor in graph.initializer:
        size = len(tensor.raw_data) or 8 * sum(len(data) for data in (tensor.float_data, tensor.int64_data))
        if size <= LARGE_BYTES and tensor.data_location != TensorProto.EXTERNAL:
            slim.graph.initializer.append(tensor)
        elif tensor.name not in given:
            slim.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return slim


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def integers(node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    """An attribute of several integers; empty when it is absent."""
    return next((tuple(item.ints) for item in node.attribute if item.name == name), ())


def type_name(kind: int) -> str:
    """``FP16`` for FLOAT16, ``FP32`` for FLOAT, else ONNX's own name."""
    name = str(TensorProto.DataType.Name(kind))
    return {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64", "BFLOAT16": "BF16"}.get(name, name)
