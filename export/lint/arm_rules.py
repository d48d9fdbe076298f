"""Rules for ONNX Runtime on 64-bit Arm processors (docs/specs/compress.md, "Arm")."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from . import cpu_rules
from .declared_types import t04_declared_types
from .graph_view import DEQUANTIZE, QUANTIZE, Finding, View, finding
from .qdq_rules import Rule, holds_weight, q06_weight_axis, q11_equal_volumes

_LOWEST = -128


def a01_signed_activations(view: View) -> Iterator[Finding]:
    """A01: activations are INT8, which ONNX Runtime's Arm kernels multiply as they are (compress.md, "Arm")."""
    for node in view.pairs():
        if node.op_type == QUANTIZE and not holds_weight(view, node) and view.stored_type(node, 2) == TensorProto.UINT8:
            message = "quantizes an activation to UINT8, for which Arm has fewer kernels than for INT8"
            yield finding("A01", node, message, "export with --target arm", "advice")


def a02_no_overflow(view: View) -> Iterator[Finding]:
    """A02: weights are in -127 … 127; sums of two products with -128 overflow on processors without dot product."""
    for node in view.pairs():
        codes = view.array(node, 0) if node.op_type == DEQUANTIZE else None
        if codes is not None and codes.dtype == np.int8 and np.count_nonzero(codes == _LOWEST) > 1:
            message = (
                "has weights of -128: two products with activations of -128 overflow 16 bits on processors without "
                "dot product (Cortex-A72), and the outputs are wrong without an error"
            )
            yield finding("A02", node, message, "quantize the weights to -127 … 127", "silent")


def a03_symmetric_weights(view: View) -> Iterator[Finding]:
    """A03: weights are INT8 with zero point 0, without which no symmetric kernel runs."""
    for node in view.pairs():
        codes, zero = (view.array(node, place) for place in (0, 2))
        if node.op_type != DEQUANTIZE or codes is None or codes.ndim < 2:
            continue
        if codes.dtype == np.uint8 or (codes.dtype == np.int8 and zero is not None and np.any(zero)):
            message = "has a weight that is not symmetric INT8, for which Arm has only slower kernels"
            yield finding("A03", node, message, "quantize the weight symmetrically to INT8", "advice")


RULES: tuple[Rule, ...] = (
    a01_signed_activations,
    a02_no_overflow,
    a03_symmetric_weights,
    cpu_rules.c02_no_half,
    cpu_rules.c03_scales,
    cpu_rules.c04_weights_as_codes,
    q06_weight_axis,
    q11_equal_volumes,
    t04_declared_types,
)
