"""Rules about element types: networks are strongly typed, so types that ONNX requires to be equal must be (Q17)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import onnx
from onnx import TensorProto

from .declared_types import t04_declared_types
from .graph_view import DEQUANTIZE, QUANTIZE, Finding, View, finding, type_name
from .qdq_rules import Rule

FOREIGN_TYPES = frozenset(
    (
        *(TensorProto.UINT16, TensorProto.INT16, TensorProto.UINT32, TensorProto.UINT64, TensorProto.STRING),
        *(TensorProto.COMPLEX64, TensorProto.COMPLEX128, TensorProto.UINT4),
        *(TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ),
    )
)
"""Types that TensorRT does not have."""
_FLOAT_ONLY = frozenset(
    (
        *(
            "MatMul",
            "Gemm",
            "Relu",
            "LeakyRelu",
            "Softmax",
            "Sigmoid",
            "Tanh",
            "Elu",
            "Selu",
            "HardSigmoid",
            "Softplus",
        ),
        *("Conv", "ConvTranspose", "LayerNormalization", "BatchNormalization", "InstanceNormalization", "Gelu", "Erf"),
        *("AveragePool", "MaxPool", "HardSwish", "Mish", "Exp", "Log", "Sqrt", "LogSoftmax", "PRelu", "Softsign"),
        *("Ceil", "Floor", "Round", "Reciprocal", "Cos", "Sin", "Mean", "ReduceL2", "LpNormalization", "IsNaN"),
    )
)
_LOGIC = frozenset(("Not", "And", "Or", "Xor"))
_TAKES_UINT8 = frozenset(("Cast", "CastLike", "Shape", "Size", "Equal", QUANTIZE, DEQUANTIZE))
_STRICT = (TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.FLOAT)
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
_LENIENT = frozenset((("Clip", 1), ("Clip", 2), ("Pad", 2)))
"""Operands that the parser converts, although ONNX requires equal types."""


def q17_one_type(view: View) -> Iterator[Finding]:
    """Q17: operands that must have the same type in ONNX have the same type; TensorRT converts nothing implicitly."""
    for node in view.graph.node:
        if node.op_type in (QUANTIZE, DEQUANTIZE) or node.domain not in ("", "ai.onnx"):
            continue
        for name, first, index, second in _clashes(view, node):
            message = f"mixes {type_name(first)} and {type_name(second)} in '{name}'"
            verdict = "silent" if (node.op_type, index) in _LENIENT else "reject"
            yield finding("Q17", node, message, "convert both to one type with a Cast", verdict)  # type: ignore[arg-type]


def t01_types_that_are_not_there(view: View) -> Iterator[Finding]:
    """T01: TensorRT supports the types of inputs and constants."""
    for value in view.graph.input:
        kind = value.type.tensor_type.elem_type
        if not value.type.HasField("tensor_type") or kind in FOREIGN_TYPES:
            shown = type_name(kind) if value.type.HasField("tensor_type") else "no tensor"
            yield Finding("T01", value.name, f"is {shown}, which TensorRT does not support", "use another type")
    for name, tensor in view.stored.items():
        if tensor.data_type in FOREIGN_TYPES:
            message = f"is stored in {type_name(tensor.data_type)}, which TensorRT does not support"
            yield Finding("T01", name, message, "store it in another type")


def t02_integers_in_float_operators(view: View) -> Iterator[Finding]:
    """T02: products and activation functions use floating point: TensorRT has no such kernels for integers."""
    for node in view.graph.node:
        if node.domain not in ("", "ai.onnx") or not node.input:
            continue
        kind = view.type_of(node.input[0])
        if kind == TensorProto.UINT8 and node.op_type not in _TAKES_UINT8 and not _is_coded(view, node.input[0]):
            yield finding(
                "T02", node, "computes in UINT8", "cast its input first: `x.float()` at the start of `forward`"
            )
        elif kind in _INTEGERS and node.op_type in _FLOAT_ONLY and (node.op_type, kind) != ("Relu", TensorProto.INT64):
            yield finding("T02", node, f"computes in {type_name(kind)}", "cast its input to floating point")


def t03_types_not_allowed(view: View) -> Iterator[Finding]:
    """T03: each operand has a type that ONNX allows for its operator; TensorRT accepts some more."""
    for node in view.graph.node:
        schema = _schema(node.op_type, view.opset) if node.domain in ("", "ai.onnx") else None
        if schema is None or node.op_type in (QUANTIZE, DEQUANTIZE):
            continue
        allowed = _allowed(node.op_type, view.opset)
        for index, name in enumerate(node.input):
            kind = view.type_of(name)
            if name and kind and not _is_allowed(schema, allowed, index, kind):
                verdict = "reject" if kind in _STRICT or node.op_type in _LOGIC else "silent"
                message = f"does not accept {type_name(kind)} as input {index} according to ONNX"
                yield finding("T03", node, message, "cast it", verdict)  # type: ignore[arg-type]
                break


def _is_coded(view: View, name: str) -> bool:
    producer = view.producer.get(name)
    return producer is not None and producer.op_type == QUANTIZE


def allows(op: str, opset: int, index: int, kind: int) -> bool:
    """Whether ONNX lets an operator take a type as that input."""
    schema = _schema(op, opset)
    return schema is not None and _is_allowed(schema, _allowed(op, opset), index, kind)


def clashing_constants(view: View) -> Iterator[tuple[onnx.NodeProto, int, int]]:
    """Constant operands of another type than the operand before them: node, index, the type they should have."""
    for node in view.graph.node:
        if node.op_type not in (QUANTIZE, DEQUANTIZE) and node.domain in ("", "ai.onnx"):
            for name, first, index, _ in _clashes(view, node):
                if view.is_constant(name):
                    yield node, index, first


RULES: tuple[Rule, ...] = (
    q17_one_type,
    t01_types_that_are_not_there,
    t02_integers_in_float_operators,
    t03_types_not_allowed,
    t04_declared_types,
)


@functools.cache
def _schema(op: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op, max(opset, 1))
    except onnx.defs.SchemaError:
        return None


@functools.cache
def _allowed(op: str, opset: int) -> dict[str, frozenset[str]]:
    schema = _schema(op, opset)
    assert schema is not None
    return {item.type_param_str: frozenset(item.allowed_type_strs) for item in schema.type_constraints}


def _formal(schema: onnx.defs.OpSchema, index: int) -> onnx.defs.OpSchema.FormalParameter | None:
    if index < len(schema.inputs):
        return schema.inputs[index]
    last = schema.inputs[-1] if schema.inputs else None
    return last if last is not None and last.option == onnx.defs.OpSchema.FormalParameterOption.Variadic else None


def _clashes(view: View, node: onnx.NodeProto) -> Iterator[tuple[str, int, int, int]]:
    """Inputs whose type differs from the first of their type variable: name, first type, index, own type."""
    schema = _schema(node.op_type, view.opset)
    if schema is None:
        return
    first: dict[str, int] = {}
    for index, name in enumerate(node.input):
        formal = _formal(schema, index)
        kind = view.type_of(name) if name else 0
        if formal is None or not kind or not formal.is_homogeneous:
            continue
        known = first.setdefault(formal.type_str, kind)
        if known != kind:
            yield name, known, index, kind


def _is_allowed(schema: onnx.defs.OpSchema, allowed: dict[str, frozenset[str]], index: int, kind: int) -> bool:
    formal = _formal(schema, index)
    if formal is None:
        return True
    choices = allowed.get(formal.type_str, frozenset((formal.type_str,)))
    return _spelled(kind) in choices


@functools.cache
def _spelled(kind: int) -> str:
    return f"tensor({TensorProto.DataType.Name(kind).lower()})"
