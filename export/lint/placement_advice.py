"""Advice on the placement of Q/DQ nodes for fast INT8 in TensorRT (tensorrt.md, placement)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from .graph_view import DEQUANTIZE, HEAVY, QUANTIZE, Finding, View, attribute, finding
from .qdq_rules import Rule

_MOVES = frozenset(("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Split", "Pad"))
_MIN_DIM, _MIN_CHANNELS = 16, 16
_WALK = 24


def p01_all_inputs(view: View) -> Iterator[Finding]:
    """P01: a heavy node with one quantized input and another in floating point runs in floating point."""
    for node in view.graph.node:
        if node.op_type not in HEAVY or len(node.input) < 2:
            continue
        sides = [_is_quantized(view, name) for name in node.input[:2]]
        if any(sides) and not all(sides):
            lacking = node.input[sides.index(False)]
            message = f"has only one quantized input: '{lacking}' is in floating point"
            yield finding("P01", node, message, "quantize both inputs, or neither", "advice")


def p02_residual(view: View) -> Iterator[Finding]:
    """P02: a residual Add has one quantized input, the one of the shortcut."""
    for node in view.graph.node:
        if node.op_type != "Add" or len(node.input) != 2 or any(view.is_constant(name) for name in node.input):
            continue
        sides = [_is_quantized(view, name) for name in node.input]
        producers = [_computed_by(view, name) for name in node.input]
        if all(sides) and any(producers):
            message = "has two quantized inputs, so it cannot be fused with the convolution before it"
            yield finding("P02", node, message, "leave the input from the convolution in floating point", "advice")
        elif any(producers) and not any(sides) and _near_int8(view, node):
            message = "has no quantized input, so the residual is read in floating point"
            yield finding("P02", node, message, "quantize the input of the shortcut", "advice")


def p03_concat(view: View) -> Iterator[Finding]:
    """P03: the inputs of a concatenation have one scale, else each input is converted."""
    for node in view.graph.node:
        if node.op_type != "Concat":
            continue
        scales = [_scale_behind(view, name) for name in node.input]
        known = [scale for scale in scales if scale is not None]
        if len(known) > 1 and len(known) == len(scales) and not np.allclose(known, known[0], rtol=1e-6, atol=0):
            yield finding("P03", node, "concatenates tensors of different scales", "give them one scale", "advice")


def p04_pairs_of_movements(view: View) -> Iterator[Finding]:
    """P04: nodes that only move data have no Q/DQ of their own, because TensorRT moves Q/DQ through them."""
    for node in view.graph.node:
        if node.op_type not in _MOVES or not node.input or not _is_quantized(view, node.input[0]):
            continue
        taken = [user for user, index in view.readers.get(node.output[0], []) if user.op_type == QUANTIZE and not index]
        own = view.producer.get(node.input[0])
        before, after = (
            view.array(item, 1) if item is not None else None for item in (own, taken[0] if taken else None)
        )
        if before is not None and after is not None and before.size == after.size and not np.allclose(before, after):
            message = "is between Q/DQ pairs of different scales, so its input is converted"
            yield finding("P04", node, message, "use one scale before and after it", "advice")


def p05_average_pools(view: View) -> Iterator[Finding]:
    """P05: an average pool with a quantized input stays in floating point unless its output is quantized too."""
    for node in view.graph.node:
        if node.op_type in ("AveragePool", "GlobalAveragePool") and _is_quantized(view, node.input[0]):
            users = [user for user, _ in view.readers.get(node.output[0], [])]
            if users and not any(user.op_type == QUANTIZE for user in users):
                message = "has a quantized input and a floating-point output, so it runs in floating point"
                yield finding(
                    "P05", node, message, "quantize its output as well, or do not quantize its input", "advice"
                )


def p06_small_products(view: View) -> Iterator[Finding]:
    """P06: products too small for INT8 kernels are slower with Q/DQ than without."""
    for node in view.graph.node:
        if node.op_type not in HEAVY or len(node.input) < 2 or not _is_quantized(view, node.input[0]):
            continue
        shape = _weight_shape(view, node.input[1])
        if shape is None:
            continue
        reason = _too_small(node, shape)
        if reason:
            yield finding("P06", node, reason, "leave it in floating point", "advice")


def _too_small(node: onnx.NodeProto, shape: tuple[int, ...]) -> str:
    if node.op_type == "Conv" and len(shape) > 2:
        group, (out, inside), kernel = attribute(node, "group", 1), shape[:2], shape[2:]
        if group > 1:
            return "" if out % 8 == 0 and min(kernel) >= 3 else "is a grouped convolution that has no INT8 kernel"
        wide = min(out, inside) >= _MIN_CHANNELS or ((out % 8 == 0 or inside % 8 == 0) and len(set(kernel)) == 1)
        return "" if wide else f"is a convolution of {inside} to {out} channels, too few for INT8 kernels"
    if node.op_type in ("MatMul", "Gemm") and len(shape) >= 2 and min(shape[-2:]) < _MIN_DIM:
        return f"multiplies with a weight of {shape[-2]} x {shape[-1]}, too small for INT8 kernels"
    return ""


def _weight_shape(view: View, name: str) -> tuple[int, ...] | None:
    producer = view.producer.get(name)
    if producer is not None and producer.op_type == DEQUANTIZE:
        name = producer.input[0]
        coded = view.producer.get(name)
        name = coded.input[0] if coded is not None and coded.op_type == QUANTIZE else name
    return tuple(view.stored[name].dims) if name in view.stored else None


def _is_quantized(view: View, name: str) -> bool:
    """Whether a value comes from a DequantizeLinear, looking through nodes that move data."""
    for _ in range(_WALK):
        producer = view.producer.get(name)
        if producer is None:
            return False
        if producer.op_type == DEQUANTIZE:
            return True
        if producer.op_type not in _MOVES:
            return False
        name = producer.input[0]
    return False


def _computed_by(view: View, name: str) -> onnx.NodeProto | None:
    """The heavy node that computes a value, looking through Q/DQ and normalisation."""
    for _ in range(_WALK):
        producer = view.producer.get(name)
        if producer is None or producer.op_type in HEAVY:
            return producer
        if producer.op_type not in (QUANTIZE, DEQUANTIZE, "BatchNormalization", "Identity"):
            return None
        name = producer.input[0]
    return None


def _near_int8(view: View, node: onnx.NodeProto) -> bool:
    producers = [_computed_by(view, name) for name in node.input]
    return any(
        producer is not None and all(_is_quantized(view, name) for name in producer.input[:2]) for producer in producers
    )


def _scale_behind(view: View, name: str) -> float | None:
    producer = view.producer.get(name)
    scale = view.array(producer, 1) if producer is not None and producer.op_type == DEQUANTIZE else None
    return float(scale.reshape(-1)[0]) if scale is not None and scale.size == 1 else None


RULES: tuple[Rule, ...] = (
    p01_all_inputs,
    p02_residual,
    p03_concat,
    p04_pairs_of_movements,
    p05_average_pools,
    p06_small_products,
)
