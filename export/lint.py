"""Q/DQ rules that a file for TensorRT must keep (tensorrt.md 1.7), those its parser lets pass in silence included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

Numbers = NDArray[Any]
Verdict = Literal["reject", "silent", "advice"]
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
INTEGER_OPS = frozenset(
    ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm", "QLinearAdd")
)
_WEIGHT_AXIS = {"Conv": 0, "ConvTranspose": 1}
_HEAVY = frozenset((*_WEIGHT_AXIS, "Gemm", "MatMul"))


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        rule: its number in tensorrt.md 1.7, such as ``Q05``.
        node: name of the node, or of its first output.
        message: what is wrong.
        remedy: what to do.
        verdict: what TensorRT does: ``reject`` it, take it for something else in ``silent``, or run it slower than need
            be (``advice``).
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


class View:
    """A graph with its lookups: who makes a value, who reads it, and what a constant holds."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.stored |= {
            node.output[0]: attribute.t
            for node in graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        self.maker = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in graph.node:
            for index, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, index))

    def pairs(self) -> Iterator[onnx.NodeProto]:
        """Quantize and Dequantize nodes."""
        return (node for node in self.graph.node if node.op_type in (QUANTIZE, DEQUANTIZE))

    def array(self, node: onnx.NodeProto, index: int) -> Numbers | None:
        """The constant that ``node`` reads at ``index``; None when it is absent or computed."""
        name = node.input[index] if index < len(node.input) else ""
        if name not in self.stored:
            return None
        return np.asarray(numpy_helper.to_array(self.stored[name]))

    def type_of(self, node: onnx.NodeProto, index: int) -> int:
        """Element type of the constant that ``node`` reads at ``index``; 0 when unknown."""
        name = node.input[index] if index < len(node.input) else ""
        return self.stored[name].data_type if name in self.stored else 0

    def is_constant(self, node: onnx.NodeProto) -> bool:
        """Whether the data that ``node`` quantizes or dequantizes is a constant."""
        return node.input[0] in self.stored


Rule = Callable[[View], Iterator[Finding]]


def lint(model: onnx.ModelProto) -> list[Finding]:
    """All faults of a model that is meant for TensorRT, in the order of the rules."""
    view = View(model.graph)
    return [finding for rule in RULES for finding in rule(view)]


def q01_zero_point_zero(view: View) -> Iterator[Finding]:
    """Q01: zero points are 0."""
    for node in view.pairs():
        zero = view.array(node, 2)
        if zero is not None and np.any(zero):
            yield _finding("Q01", node, "has a zero point other than 0", "quantize symmetrically")


def q02_no_uint8(view: View) -> Iterator[Finding]:
    """Q02: nothing is quantized to UINT8, which the parser takes for INT8."""
    for node in view.pairs():
        if TensorProto.UINT8 in (view.type_of(node, 2), view.type_of(node, 0), _output_type(node)):
            yield _finding("Q02", node, "quantizes to UINT8", "export with --target tensorrt")


def q03_zero_point_present(view: View) -> Iterator[Finding]:
    """Q03: a QuantizeLinear says its type, which is UINT8 in ONNX and INT8 to the parser when it does not."""
    for node in view.pairs():
        given = len(node.input) > 2 and node.input[2] != ""
        if not given and _output_type(node) != TensorProto.INT8:
            yield _finding("Q03", node, "has no zero point, so that its type is ambiguous", "give an INT8 zero point")


def q04_scale_positive(view: View) -> Iterator[Finding]:
    """Q04: scales are positive and finite."""
    for node in view.pairs():
        scale = view.array(node, 1)
        if scale is not None and not (np.isfinite(scale).all() and (scale > 0).all()):
            yield _finding("Q04", node, "has a scale that is not positive and finite", "calibrate again")


def q05_activation_per_tensor(view: View) -> Iterator[Finding]:
    """Q05: activations have one scale."""
    for node in view.pairs():
        scale = view.array(node, 1)
        if scale is not None and scale.size > 1 and not _holds_weight(view, node):
            yield _finding("Q05", node, f"quantizes an activation with {scale.size} scales", "use one scale")


def q06_weight_axis(view: View) -> Iterator[Finding]:
    """Q06: a weight's scales lie along its output channels."""
    for node in view.pairs():
        scale = view.array(node, 1)
        if node.op_type != DEQUANTIZE or scale is None or scale.ndim == 0 or not _holds_weight(view, node):
            continue
        if scale.ndim > 1:
            yield _finding("Q06", node, f"has scales of rank {scale.ndim}", "use one scale per output channel")
            continue
        rank, size = _shape(view, node)
        for user, index in view.readers.get(node.output[0], []):
            expected = _output_axis(user, index, rank)
            if expected is None or scale.size == 1:
                continue
            axis = _axis(node) % max(rank, 1)
            if axis != expected or (size and size[axis] != scale.size):
                message = f"has {scale.size} scales along axis {axis}; {user.op_type} wants them along {expected}"
                yield _finding("Q06", node, message, "quantize the weight per output channel")


def q07_bias_not_integer(view: View) -> Iterator[Finding]:
    """Q07: biases stay in floating point."""
    for node in view.pairs():
        readers = view.readers.get(node.output[0], [])
        is_bias = any(user.op_type in _HEAVY and index == 2 for user, index in readers)
        if view.type_of(node, 0) == TensorProto.INT32 or (node.op_type == DEQUANTIZE and is_bias):
            yield _finding("Q07", node, "dequantizes a bias", "keep the bias in FP32")


def q09_weight_stored_as_codes(view: View) -> Iterator[Finding]:
    """Q09: a weight is stored as INT8, not as FP32 behind a QuantizeLinear."""
    for node in view.pairs():
        if node.op_type == QUANTIZE and view.is_constant(node):
            yield _finding("Q09", node, "quantizes a constant at run time", "store its INT8 codes")


def q10_scale_constant(view: View) -> Iterator[Finding]:
    """Q10: scales and zero points are constants."""
    for node in view.pairs():
        lacking = [i for i in (1, 2) if i < len(node.input) and node.input[i] and view.array(node, i) is None]
        if lacking:
            yield _finding("Q10", node, "has a scale or zero point that is computed", "make it an initializer")


def q12_no_integer_ops(view: View) -> Iterator[Finding]:
    """Q12: quantization is written as Q/DQ, not as integer operators."""
    for node in view.graph.node:
        if node.op_type in INTEGER_OPS:
            yield _finding("Q12", node, f"is a {node.op_type}, which the parser refuses", "write it as Q/DQ")


def q13_eight_bits(view: View) -> Iterator[Finding]:
    """Q13: quantized types have 8 bits."""
    wide: dict[int, str] = {TensorProto.INT16: "INT16", TensorProto.UINT16: "UINT16", TensorProto.INT32: "INT32"}
    for node in view.pairs():
        kind = view.type_of(node, 2) or _output_type(node)
        if kind in wide:
            yield _finding("Q13", node, f"quantizes to {wide[kind]}", "quantize to INT8")


def q22_unique_and_sorted(view: View) -> Iterator[Finding]:
    """Q22: every value is made once, before it is read."""
    known = {"", *view.stored, *(value.name for value in view.graph.input)}
    for node in view.graph.node:
        for name in node.input:
            if name not in known:
                yield _finding("Q22", node, f"reads '{name}' before it is made", "sort the graph")
        for name in node.output:
            if name in known and name and node.op_type != "Constant":
                yield _finding("Q22", node, f"makes '{name}', which exists already", "give it another name")
            known.add(name)


VERDICTS: dict[str, Verdict] = {
    **dict.fromkeys(("Q02", "Q03", "Q05", "Q06", "Q10"), "silent"),
    "Q09": "advice",
}
RULES: tuple[Rule, ...] = (
    q01_zero_point_zero,
    q02_no_uint8,
    q03_zero_point_present,
    q04_scale_positive,
    q05_activation_per_tensor,
    q06_weight_axis,
    q07_bias_not_integer,
    q09_weight_stored_as_codes,
    q10_scale_constant,
    q12_no_integer_ops,
    q13_eight_bits,
    q22_unique_and_sorted,
)


def _finding(rule: str, node: onnx.NodeProto, message: str, remedy: str) -> Finding:
    name = node.name or (node.output[0] if node.output else node.op_type)
    return Finding(rule, name, message, remedy, VERDICTS.get(rule, "reject"))


def _axis(node: onnx.NodeProto) -> int:
    return next((int(item.i) for item in node.attribute if item.name == "axis"), 1)


def _output_type(node: onnx.NodeProto) -> int:
    if node.op_type != QUANTIZE:
        return 0
    return next((int(item.i) for item in node.attribute if item.name == "output_dtype"), 0)


def _holds_weight(view: View, node: onnx.NodeProto) -> bool:
    """Whether the data is a constant, directly or through a QuantizeLinear of one."""
    maker = view.maker.get(node.input[0])
    quantized = maker is not None and maker.op_type == QUANTIZE and view.is_constant(maker)
    return view.is_constant(node) or quantized


def _shape(view: View, node: onnx.NodeProto) -> tuple[int, tuple[int, ...]]:
    name = node.input[0]
    if name not in view.stored:
        name = view.maker[name].input[0]
    size = tuple(view.stored[name].dims)
    return len(size), size


def _output_axis(user: onnx.NodeProto, index: int, rank: int) -> int | None:
    """The axis of a weight that holds the output channels of its reader; None when it reads no weight there."""
    if user.op_type in _WEIGHT_AXIS and index == 1:
        return _WEIGHT_AXIS[user.op_type]
    if user.op_type == "Gemm" and index == 1:
        return 0 if any(item.name == "transB" and item.i for item in user.attribute) else 1
    return rank - 1 if user.op_type == "MatMul" and index == 1 else None
