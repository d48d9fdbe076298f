"""INT8 weights of recurrent nodes, traced back through the reordering of gates to their fake-quantize nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph_edit import Numbers, constant, evaluate, is_op
from .write_qdq import MOVES, attribute_axis, is_qdq

_CONCAT = "Concat"


@dataclass(frozen=True)
class Codes:
    """A quantized weight of all directions.

    Attributes:
        values: INT8 codes ``[D, gates · H, inputs]``.
        scales: one per row, ``[D, gates · H]``.
    """

    values: Numbers
    scales: Numbers


def codes_of(value: ir.Value | None, opset: int) -> Codes | None:
    """The codes and scales of a weight; None if it is not a fake-quantized constant with one scale per row."""
    found = follow(value, opset)
    if found is None or found[0].ndim != 3:
        return None
    values, spread = found
    scales = spread[:, :, 0]
    return Codes(values, np.ascontiguousarray(scales)) if bool((spread == scales[:, :, None]).all()) else None


def follow(value: ir.Value | None, opset: int) -> tuple[Numbers, Numbers] | None:
    """Codes of a fake-quantized constant after data movements, and the scale of each code; None for other values."""
    return _follow(value, opset, {})


def _follow(
    value: ir.Value | None, opset: int, known: dict[ir.Value, tuple[Numbers, Numbers] | None]
) -> tuple[Numbers, Numbers] | None:
    """Codes of a value and the scale of each code, moved by the nodes between the value and its fake-quantize."""
    if value is None:
        return None
    if value not in known:
        known[value] = _step(value, opset, known)
    return known[value]


def _step(
    value: ir.Value, opset: int, known: dict[ir.Value, tuple[Numbers, Numbers] | None]
) -> tuple[Numbers, Numbers] | None:
    node = value.producer()
    if node is None:
        return None
    if is_qdq(node):
        return _quantized(node)
    if not is_op(node, *MOVES, _CONCAT):
        return None
    count = len(node.inputs) if node.op_type == _CONCAT else 1
    moved = [_follow(item, opset, known) for item in node.inputs[:count]]
    rest = [constant(item) for item in node.inputs[count:]]
    if any(item is None for item in (*moved, *rest)):
        return None
    results = []
    for part in (0, 1):
        feeds = [*(pair[part] for pair in moved if pair is not None), *(array for array in rest if array is not None)]
        results.append(evaluate(node, feeds, opset)[value.index() or 0])
    return results[0], results[1]


def _quantized(node: ir.Node) -> tuple[Numbers, Numbers] | None:
    weight, scale, zero = (constant(item) for item in node.inputs[:3])
    if weight is None or scale is None or zero is None or zero.any():
        return None
    axis = attribute_axis(node)
    shape = [-1 if dim == axis else 1 for dim in range(weight.ndim)] if axis >= 0 else [1] * weight.ndim
    spread = np.broadcast_to(scale.astype(np.float32).reshape(shape), weight.shape)
    low, high = (node.attributes[name].as_int() for name in ("qmin", "qmax"))
    values = np.clip(np.rint(weight.astype(np.float32) / spread), low, high).astype(np.int8)
    return values, np.ascontiguousarray(spread)
