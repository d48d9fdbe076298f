"""Rewrites of a graph into equivalent forms that ONNX Runtime fuses into its integer CPU kernels.

Measured with ONNX Runtime 1.31: a ``Gemm`` with a bias after DequantizeLinear nodes becomes QGemm only if a
QuantizeLinear follows it, directly or after a Relu whose zero point is the lowest code. Otherwise it runs in floating
point and dequantizes its weight on every run (an MLP with GELU is then 2.5 times slower than FP32). A ``Gemm`` without
bias always becomes QGemm, a ``MatMul`` of rank 3 or more always becomes MatMulIntegerToFloat, and the cost of the
``Add`` after them is not measurable (2.1 times faster than FP32). A ``MatMul`` of rank 2 with an ``Add`` is rewritten
as ``Gemm`` first.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..graph_edit import (
    Numbers,
    add_constant,
    attribute,
    constant,
    dims,
    every_node,
    insert_before,
    is_op,
    sole_user,
    substitute,
)
from ..qdq.write_qdq import copy_qdq, is_qdq
from .depthwise_padding import widen_depthwise

_HEAVY = ("Conv", "Gemm", "MatMul")
_CLOSE = 1e-6
_CODES = {ir.DataType.UINT8: np.uint8, ir.DataType.INT8: np.int8}
_WITH_SPACE = 3
_CARRIES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "MaxPool", "Expand")


def requantize_moved(model: ir.Model) -> tuple[ir.Model, bool]:
    """Repeat a fake-quantize after the data movements before a heavy node; its values are already on that grid.

    ONNX Runtime itself moves a DequantizeLinear past some data movements (Reshape), but not past others (Flatten).
    """
    made: dict[ir.Value, ir.Value] = {}
    for node in every_node(model):
        if not is_op(node, *_HEAVY):
            continue
        for index, value in enumerate(node.inputs[:2]):
            origin = _origin(value)
            if value is None or origin is None or value is origin.outputs[0]:
                continue
            if value not in made:
                made[value] = copy_qdq(origin, value, node)
            node.replace_input_with(index, made[value])
    return model, bool(made)


def separate_bias(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write quantized ``Gemm(a, b, bias)`` as ``Add(Gemm(a, b), bias)``."""
    changed = False
    for node in every_node(model):
        if not is_op(node, "Gemm") or not _quantized(node) or not _plain(node):
            continue
        if len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        _split(node, node.inputs[2])
        changed = True
    return model, changed


def products_as_gemm(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write quantized ``Add(MatMul(a, b), bias)`` of rank 2 as ``Add(Gemm(a, b), bias)``."""
    changed = False
    for node in every_node(model):
        if not is_op(node, "MatMul") or not _quantized(node):
            continue
        if any(len(dims(value) or ()) != 2 for value in node.inputs):
            continue
        output = node.outputs[0]
        if not any(is_op(use.node, "Add") for use in output.uses()):
            continue
        substitute(output, insert_before(node, "Gemm", node.inputs, {}, _name(output), output.shape, output.dtype))
        changed = True
    return model, changed


def gates_by_sum(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write ``q(HardSigmoid(q(x)))`` as the sum of ``x`` and a constant, dequantized with another scale.

    ``clamp(alpha x + beta, 0, 1)`` on steps of ``s`` has the codes of ``x + beta / alpha`` on steps of ``s / alpha``:
    the runtime saturates them. Time per million elements on one thread: 0.11 ms in this form (QLinearAdd), 0.3 ms with
    a look-up table (QLinearLeakyRelu of slope 1), 0.9 ms as DequantizeLinear, HardSigmoid, QuantizeLinear.
    """
    changed = False
    for node in every_node(model):
        reader = sole_user(node.outputs[0]) if is_op(node, "HardSigmoid") else None
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if reader is None or source is None or not is_qdq(reader) or not is_qdq(source):
            continue
        if _same_codes(node, source, reader):
            continue  # for gates_by_clip
        slope, offset = _factor(node, "alpha", 0.2), _factor(node, "beta", 0.5)
        scale, zero = (constant(value) for value in reader.inputs[1:3])
        unsigned = reader.attributes["qmin"].as_int() == 0
        if unsigned and scale is not None and zero is not None and not zero.any() and slope > 0 and offset > 0:
            _sum_gate(model, node, reader, scale / np.float32(slope), offset / slope)
            changed = True
    return model, changed


def gates_by_clip(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write ``q(HardSigmoid(dq(c)))`` as the clipped codes ``c`` where both are equal.

    ``clamp(alpha s (c - z) + beta, 0, 1)`` on steps of ``alpha s`` is ``min(c, 1 / (alpha s))`` if
    ``alpha s z = beta``. It takes 0.04 ms per million elements on one thread. This pass runs after Q/DQ is written.
    """
    changed = False
    for node in every_node(model):
        reader = sole_user(node.outputs[0]) if is_op(node, "HardSigmoid") else None
        source = node.inputs[0].producer() if reader is not None and node.inputs[0] is not None else None
        if reader is None or source is None or not is_op(reader, "QuantizeLinear"):
            continue
        if not is_op(source, "DequantizeLinear") or not _same_codes(node, source, reader):
            continue
        codes, kind = source.inputs[0], reader.outputs[0].dtype
        if codes is None or kind not in _CODES or codes.dtype != kind:
            continue
        type_, lowest = _CODES[kind], _lowest(reader)
        last = lowest + np.rint(1 / np.asarray(constant(reader.inputs[1]), np.float64))
        if last < np.iinfo(type_).max:
            base = _name(node.outputs[0])
            ends = [
                add_constant(model, f"{base}_{name}", np.asarray(end, type_))
                for name, end in (("lowest", lowest), ("highest", last))
            ]
            output = reader.outputs[0]
            codes = insert_before(reader, "Clip", [codes, *ends], {}, _name(output), output.shape, output.dtype)
        substitute(reader.outputs[0], codes)
        changed = True
    return model, changed


def _same_codes(node: ir.Node, source: ir.Node, reader: ir.Node) -> bool:
    """Whether a hard-sigmoid between two grids does not change the codes except by clipping them."""
    numbers = [constant(value) for value in (*source.inputs[1:3], *reader.inputs[1:3])]
    if any(array is None or array.size != 1 for array in numbers):
        return False
    scale, zero, finer, begin = (float(array.reshape(())) for array in numbers if array is not None)
    zero, begin = zero - _lowest(reader), begin - _lowest(reader)
    slope, offset = _factor(node, "alpha", 0.2), _factor(node, "beta", 0.5)
    close = math.isclose(scale * slope, finer, rel_tol=_CLOSE) and math.isclose(zero * finer, offset, rel_tol=_CLOSE)
    return begin == 0 and close


def _lowest(reader: ir.Node) -> int:
    """The lowest code of a QuantizeLinear, or of a fake-quantize."""
    if is_qdq(reader):
        return reader.attributes["qmin"].as_int()
    return np.iinfo(_CODES[reader.outputs[0].dtype]).min if reader.outputs[0].dtype in _CODES else 0


def _sum_gate(model: ir.Model, node: ir.Node, reader: ir.Node, scale: Numbers, offset: float) -> None:
    output, zero = node.outputs[0], reader.inputs[2]
    base = _name(output)
    addend = add_constant(model, f"{base}_offset", np.asarray(offset, np.float32))
    step = add_constant(model, f"{base}_offset_scale", np.asarray(offset, np.float32).reshape(scale.shape))
    codes = _fake_quantize(reader, [addend, step, zero], f"{base}_offset_quantized")
    total = insert_before(node, "Add", [node.inputs[0], codes], {}, base, output.shape, output.dtype)
    substitute(output, total)
    finer = add_constant(model, f"{base}_scale", scale.astype(np.float32))
    substitute(reader.outputs[0], _fake_quantize(reader, [total, finer, zero, *reader.inputs[1:3]], f"{base}_moved"))


def _fake_quantize(origin: ir.Node, inputs: list[ir.Value | None], name: str) -> ir.Value:
    """A fake-quantize like ``origin``, put before it."""
    result = origin.outputs[0]
    output = ir.Value(name=name, shape=result.shape, type=result.type)
    attributes = list(origin.attributes.values())
    node = ir.Node(origin.domain, origin.op_type, inputs, attributes, outputs=[output], name=f"node_{name}")
    assert origin.graph is not None
    origin.graph.insert_before(origin, node)
    return output


def _factor(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default


def pools_channels_last(model: ir.Model) -> tuple[ir.Model, bool]:
    """Insert a transpose from ``[N, C, 1, 1]`` to ``[N, 1, 1, C]`` before a reshape to ``[N, C]``; it moves no data.

    ONNX Runtime runs its integer convolutions in channels-last layout, and keeps that layout for the following nodes
    only if a later transpose cancels the conversion. Before a Reshape it converts back, and a global pooling of codes
    then takes 3 to 7 times as long.
    """
    changed = False
    for node in every_node(model):
        before, after = dims(node.inputs[0]) if is_op(node, "Reshape", "Flatten") else None, dims(node.outputs[0])
        if before is None or after is None or len(before) < _WITH_SPACE or before[:2] != after:
            continue
        source = node.inputs[0]
        if source is None or any(size != 1 for size in before[2:]) or not is_qdq(source.producer()):
            continue
        output, rank = node.outputs[0], len(before)
        order = [0, *range(2, rank), 1]
        shape = ir.Shape([before[axis] for axis in order])
        last = insert_before(node, "Transpose", [source], {"perm": order}, f"{_name(source)}_last", shape, output.dtype)
        flat = add_constant(model, f"{_name(output)}_shape", np.asarray([0, -1], np.int64))
        substitute(output, insert_before(node, "Reshape", [last, flat], {}, _name(output), output.shape, output.dtype))
        changed = True
    return model, changed


def _origin(value: ir.Value | None) -> ir.Node | None:
    """The per-tensor fake-quantize from which ``value`` comes, if there are only data movements between them."""
    node = value.producer() if value is not None else None
    while is_op(node, *_CARRIES) and node is not None and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if is_qdq(node) and node is not None and node.attributes["axis"].as_int() < 0 else None


def _quantized(node: ir.Node) -> bool:
    """Whether both factors are outputs of dequantize nodes."""
    producers = [value.producer() if value is not None else None for value in node.inputs[:2]]
    return all(is_op(producer, "DequantizeLinear") or is_qdq(producer) for producer in producers)


def _plain(node: ir.Node) -> bool:
    return _factor(node, "alpha", 1.0) == _factor(node, "beta", 1.0) == 1.0 and attribute(node, "transA", 0) == 0


def _split(node: ir.Node, bias: ir.Value) -> None:
    output = node.outputs[0]
    attributes = {"transB": attribute(node, "transB", 0)}
    product = insert_before(
        node, "Gemm", node.inputs[:2], attributes, f"{_name(output)}_product", output.shape, output.dtype
    )
    total = insert_before(node, "Add", [product, bias], {}, f"{_name(output)}_biased", output.shape, output.dtype)
    substitute(output, total)


def _name(value: ir.Value) -> str:
    return value.name or "value"


CPU_FORMS = (requantize_moved, products_as_gemm, separate_bias, widen_depthwise, gates_by_sum, pools_channels_last)
