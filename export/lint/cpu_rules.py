"""Rules for ONNX Runtime on a CPU: what it cannot load, and what runs slower than the model before compression."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from .declared_types import t04_declared_types
from .graph_view import HEAVY, QUANTIZE, Finding, View, finding, type_name
from .qdq_rules import Rule, holds_weight, q06_weight_axis, q11_equal_volumes


def c01_unsigned_activations(view: View) -> Iterator[Finding]:
    """C01: activations are UINT8, for which x86 has kernels three times as fast as for INT8 (compress.md 3)."""
    for node in view.pairs():
        if node.op_type == QUANTIZE and not holds_weight(view, node) and view.stored_type(node, 2) == TensorProto.INT8:
            message = "quantizes an activation to INT8, which x86 processors run slower than FP32"
            yield finding("C01", node, message, "export with --target cpu", "advice")


def c02_no_half(view: View) -> Iterator[Finding]:
    """C02: heavy nodes do not compute in FP16 or BF16, which a CPU converts on every operation."""
    for node in view.graph.node:
        kind = view.type_of(node.input[0]) if node.op_type in HEAVY and node.input else 0
        if kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            yield finding("C02", node, f"computes in {type_name(kind)}", "export in FP32 for a CPU", "advice")


def c03_scales(view: View) -> Iterator[Finding]:
    """C03: scales are positive and finite."""
    for node in view.pairs():
        scale = view.array(node, 1)
        if scale is not None and not (np.isfinite(scale).all() and (scale > 0).all()):
            yield finding("C03", node, "has a scale that is not positive and finite", "calibrate again", "silent")


def c04_weights_as_codes(view: View) -> Iterator[Finding]:
    """C04: a weight is stored as INT8; FP32 with a QuantizeLinear is quantized at every start, in a larger file."""
    for node in view.pairs():
        if node.op_type == QUANTIZE and view.is_constant(node.input[0]):
            yield finding("C04", node, "quantizes a constant at run time", "store its INT8 codes", "advice")


RULES: tuple[Rule, ...] = (
    c01_unsigned_activations,
    c02_no_half,
    c03_scales,
    c04_weights_as_codes,
    q06_weight_axis,
    q11_equal_volumes,
    t04_declared_types,
)
