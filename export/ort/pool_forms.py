"""Pooling of codes where ONNX Runtime has a fast kernel for it, and pooling in floating point elsewhere.

ONNX Runtime runs integer convolutions in channels-last layout, where its MaxPool of codes is fast, and keeps that
layout for what follows. Elsewhere it pools codes in a kernel that is not vectorized: 26 ms for 32 images of 32 channels
and 46 x 46 points, where the same pooling in FP32 takes 0.3 ms (ONNX Runtime 1.31, one thread, AMD EPYC, Zen 5).

It also moves a QuantizeLinear that follows a MaxPool before it. A product with 2, whose result is quantized with twice
the scale to the same codes, prevents that; it takes 0.2 ns for each of the fewer elements after pooling.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph_edit import add_constant, constant, every_node, insert_before, is_op, producer, substitute
from ..qdq.write_qdq import is_qdq
from .qlinear_fusions import fake_quantize

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_TWO = np.asarray(2.0, np.float32)
_STOPS = ("MatMul", "Gemm", "LSTM", "GRU", "RNN")


def maxima_before_codes(model: ir.Model) -> tuple[ir.Model, bool]:
    """Keep a ``MaxPool`` in floating point that no integer convolution precedes: its result is quantized.

    Codes grow with the values, so that the codes of the maxima are the maxima of the codes.
    """
    changed = False
    for node in every_node(model):
        if not is_op(node, "MaxPool") or len(node.outputs) > 1 or _after_integer_convolution(node):
            continue
        before = producer(node.inputs[0])
        if before is not None and _is_whole(before):
            _moved(model, before, node)
            changed = True
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        if readers and all(_is_whole(reader) for reader in readers):
            for reader in readers:
                _doubled(model, reader, node.outputs[0], reader)
            changed = True
    return model, changed


def _is_whole(node: ir.Node) -> bool:
    """Whether a node is a fake-quantize with one scale, which is constant."""
    return is_qdq(node) and node.attributes["axis"].as_int() < 0 and constant(node.inputs[1]) is not None


def _moved(model: ir.Model, codes: ir.Node, node: ir.Node) -> None:
    """Quantize what a MaxPool gives instead of what it reads."""
    old = node.outputs[0]
    attributes = {key: item.value for key, item in node.attributes.items()}
    pooled = insert_before(node, "MaxPool", codes.inputs[:1], attributes, f"{old.name}_pooled", old.shape, old.dtype)
    _doubled(model, codes, pooled, node)


def _doubled(model: ir.Model, codes: ir.Node, pooled: ir.Value, replaced: ir.Node) -> None:
    """Put twice a value, quantized with twice the scale of a fake-quantize, in the place of a node."""
    old, grid, scale = replaced.outputs[0], codes.inputs[3:5] or codes.inputs[1:3], constant(codes.inputs[1])
    assert scale is not None
    name = f"{pooled.name}_twice"
    two, twice = (
        add_constant(model, f"{name}_{what}", array) for what, array in (("factor", _TWO), ("scale", 2 * scale))
    )
    product = insert_before(replaced, "Mul", [pooled, two], {}, name, pooled.shape, pooled.dtype)
    substitute(old, fake_quantize(replaced, codes, [product, twice, codes.inputs[2], *grid], f"{name}_codes"))


def _after_integer_convolution(node: ir.Node) -> bool:
    """Whether one of the nearest convolutions before a node computes in integers."""
    waiting, seen = [producer(value) for value in node.inputs[:1]], set[ir.Node]()
    while waiting:
        item = waiting.pop()
        if item is None or item in seen or is_op(item, *_STOPS):
            continue
        seen.add(item)
        if is_op(item, *_CONVOLUTIONS):
            if all(is_qdq(producer(value)) for value in item.inputs[:2]):
                return True
            continue
        waiting += [producer(value) for value in (item.inputs[:1] if is_qdq(item) else item.inputs)]
    return False


FORMS = (maxima_before_codes,)
"""Passes for quantized programs on cpu, which run before Q/DQ is written."""
