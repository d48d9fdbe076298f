"""Rewrites of Transformer layers into the forms that ONNX Runtime's CPU kernels run fastest.

Measured with ONNX Runtime 1.31, one thread, 64 tokens of 384 channels:

* SkipLayerNormalization, into which ONNX Runtime fuses a residual sum and a layer norm, takes 0.196 ms; the separate
  nodes take 0.041 ms. So the sum is written as ``Sum``, which the fusion does not match.
* MatMulIntegerToFloat adds a bias at no cost while it scales; a separate ``Add`` costs 0.015 ms. After the first linear
  layer of a feed-forward block, ``Add`` and Gelu are fused into BiasGelu (0.207 ms), while Gelu alone takes 0.126 ms.
* The exporter's attention searches all attention weights for NaN (a quarter of the attention's time) and transposes the
  keys twice, so attention has a translation of its own (:mod:`retort.export.attention_translation`).

In FP32, where the products take most of the time, these rewrites together give a speedup of 1.12 for a BERT of 6 layers
(1.09 to 1.14 at batches 1 and 8), 1.06 for a ViT and 1.05 for a GPT-2.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph_edit import (
    add_constant,
    attribute,
    constant,
    dims,
    every_node,
    insert_before,
    is_op,
    producer,
    sole_user,
    substitute,
)
from ..qdq.write_qdq import is_qdq

MICROSOFT = "com.microsoft"
_ROWS = 3


def sum_residuals(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write the sums before layer norms as ``Sum``."""
    return _as_sums(model, "LayerNormalization")


def sum_biases(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write the sums before ``Gelu`` as ``Sum``; for FP32 products, whose bias is added after them."""
    return _as_sums(model, "Gelu")


def _as_sums(model: ir.Model, reader: str) -> tuple[ir.Model, bool]:
    """Write each ``Add`` that is the data input of such a reader as ``Sum``, which no fusion matches."""
    changed = False
    for node in every_node(model):
        if not is_op(node, "Add") or any(is_qdq(producer(value)) for value in node.inputs):
            continue
        output = node.outputs[0]
        if any(is_op(use.node, reader) and use.idx == 0 for use in output.uses()):
            total = insert_before(node, "Sum", node.inputs, {}, output.name or "sum", output.shape, output.dtype)
            substitute(output, total)
            changed = True
    return model, changed


def scale_scores(model: ir.Model) -> tuple[ir.Model, bool]:
    """Scale the scores once instead of scaling queries and keys; ONNX Runtime fuses the factor into the product."""
    changed = False
    for node in every_node(model):
        if not is_op(node, "MatMul"):
            continue
        scaled = [_scaled(value) for value in node.inputs]
        if any(item is None for item in scaled):
            continue
        (left, one), (right, two) = (item for item in scaled if item is not None)
        output = node.outputs[0]
        base = output.name or "scores"
        product = insert_before(node, "MatMul", [left, right], {}, f"{base}_product", output.shape, output.dtype)
        factor = add_constant(model, f"{base}_factor", np.asarray(one * two, np.float32))
        substitute(output, insert_before(node, "Mul", [product, factor], {}, base, output.shape, output.dtype))
        changed = True
    return model, changed


def _scaled(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """For a product with a constant scalar: the other factor, and the scalar."""
    node = producer(value)
    if node is None or not is_op(node, "Mul"):
        return None
    source, factor = node.inputs[0], constant(node.inputs[1])
    return None if source is None or factor is None or factor.size != 1 else (source, float(factor.reshape(())))


def scale_with_bias(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write a product of codes whose result is FP32, with its bias, as MatMulIntegerToFloat.

    This pass runs after Q/DQ is written.
    """
    changed = False
    for node in every_node(model):
        if not is_op(node, "MatMul") or len(dims(node.outputs[0]) or ()) < _ROWS:
            continue
        data, weight = (producer(value) for value in node.inputs)
        if not is_op(data, "DequantizeLinear") or not is_op(weight, "DequantizeLinear"):
            continue
        assert data is not None
        assert weight is not None
        codes, scales = constant(weight.inputs[0]), constant(weight.inputs[1])
        if constant(data.inputs[0]) is not None or codes is None or scales is None or codes.ndim != 2:
            continue
        zero = constant(weight.inputs[2]) if len(weight.inputs) > 2 else None
        if zero is not None and zero.any():
            continue
        if scales.ndim and attribute(weight, "axis", 1) % 2 != 1:
            continue
        if any(is_op(use.node, "QuantizeLinear") for use in node.outputs[0].uses()):
            continue
        _write_product(node, data, weight, codes.shape[1])
        changed = True
    if changed:
        model.graph.opset_imports[MICROSOFT] = 1
    return model, changed


def _write_product(node: ir.Node, data: ir.Node, weight: ir.Node, columns: int) -> None:
    result = node.outputs[0]
    reader = sole_user(result)
    bias = None
    if reader is not None and is_op(reader, "Add"):
        other = next((value for value in reader.inputs if value is not result), None)
        array = constant(other)
        bias = other if array is not None and array.shape == (columns,) else None
    last = node if bias is None or reader is None else reader
    old = last.outputs[0]
    inputs = [
        data.inputs[0],
        weight.inputs[0],
        data.inputs[1],
        weight.inputs[1],
        data.inputs[2],
        None,  # the weight's zero point is 0; given one per column, the kernel corrects for each
        bias,
    ]
    output = ir.Value(name=old.name, shape=old.shape, type=old.type)
    product = ir.Node(MICROSOFT, "MatMulIntegerToFloat", inputs, outputs=[output], name=f"node_{old.name}")
    assert last.graph is not None
    last.graph.insert_before(last, product)
    substitute(old, output)


FORMS = (scale_scores, sum_residuals)
"""Passes for quantized programs, which run before Q/DQ is written."""
FP32_FORMS = (scale_scores, sum_residuals, sum_biases)
"""Passes for other programs."""
