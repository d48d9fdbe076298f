"""Attention as basic ONNX operators, with PyTorch's results for rows whose mask leaves out everything: zeros.

ONNX's softmax makes NaN of such a row, or equal weights if masked scores are lowered by a finite number. So the mask
is searched for such rows, which is a small tensor compared with the attention weights, and their results are multiplied
by 0. The search is folded for constant masks; :func:`skip_searches` removes it for masks of finite numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18

from .graph_edit import add_constant, constant, dims, every_node, is_op, producer

op: Any = opset18  # its annotations do not include Python numbers, which it accepts
_MOVES = ("Reshape", "Expand", "Unsqueeze", "Squeeze", "Transpose", "Slice", "Gather", "Identity", "Concat", "Cast")


def forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations for ``torch.onnx.export``'s ``custom_translation_table``."""
    import torch

    return {torch.ops.aten.scaled_dot_product_attention.default: _attention}


def _attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """From ``[…, L, E]``, ``[…, S, E]`` and ``[…, S, V]`` to ``[…, L, V]``, in evaluation."""
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        key, value = (_repeated(item, query.shape[-3]) for item in (key, value))
    factor = _number(math.sqrt(scale if scale is not None else query.shape[-1] ** -0.5), query)
    rank = len(query.shape)
    keys = op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = op.MatMul(op.Mul(query, factor), op.Mul(keys, factor))  # both are scaled, as in PyTorch, for stability
    mask, attends = _masks(query, key, attn_mask, is_causal)
    weights = op.Softmax(scores if mask is None else op.Add(scores, mask), axis=-1)
    result = op.MatMul(weights, value)
    return result if attends is None else op.Mul(result, op.Cast(attends, to=query.dtype))


def _masks(query: Any, key: Any, mask: Any, causal: bool) -> tuple[Any, Any]:
    """What is added to the scores, and which rows attend to anything at all; None for none and all."""
    lowest, infinite = (_number(value, query) for value in (float(ir.DataType(query.dtype).min), -math.inf))
    if causal:
        sizes = op.Concat(*[op.Shape(item, start=-2, end=-1) for item in (query, key)], axis=0)
        seen = op.Trilu(op.Expand(_number(1.0, query), sizes), upper=0)
        return op.Where(op.Cast(seen, to=ir.DataType.BOOL), _number(0.0, query), lowest), None
    if mask is None:
        return None, None
    if mask.dtype == ir.DataType.BOOL:
        added = op.Where(mask, _number(0.0, query), lowest)
        return added, op.Equal(_largest(added), _number(0.0, query))
    attends = op.Not(op.Equal(_largest(mask), infinite))
    return op.Where(attends, mask, _number(0.0, query)), attends


def _largest(mask: Any) -> Any:
    return op.ReduceMax(mask, op.Constant(value_ints=[-1]), keepdims=1)


def _repeated(value: Any, heads: int) -> Any:
    """``[N, H/g, S, E]`` with each head ``g`` times in a row."""
    each = op.Unsqueeze(value, op.Constant(value_ints=[2]))
    many = op.Expand(each, op.Constant(value_ints=[1, 1, heads // value.shape[-3], 1, 1]))
    return op.Reshape(many, op.Constant(value_ints=[0, heads, -1, value.shape[-1]]))


def _number(value: float, like: Any) -> Any:
    return op.Constant(value=ir.tensor(value, dtype=like.dtype))


def skip_searches(model: ir.Model) -> tuple[ir.Model, bool]:
    """Replace the search for rows that attend to nothing by its result, where a mask has finite numbers only."""
    changed = False
    for node in every_node(model):
        found = producer(node.inputs[0]) if is_op(node, "Equal") else None
        least = constant(node.inputs[1]) if found is not None and is_op(found, "ReduceMax") else None
        if found is None or least is None or not np.isneginf(least).all() or not _finite(found.inputs[0]):
            continue
        never = add_constant(
            model, f"{node.outputs[0].name}_never", np.zeros([1] * len(dims(found.inputs[0]) or ()), bool)
        )
        ir.convenience.replace_all_uses_with(node.outputs[0], never)
        changed = True
    return model, changed


def _finite(value: ir.Value | None) -> bool:
    """Whether all numbers that a value can have are finite: constants, choices of constants, and what moves them."""
    known = constant(value)
    if known is not None:
        return bool(np.isfinite(known).all())
    node = producer(value)
    if node is None or value is None:
        return False
    if is_op(node, "Where"):
        return all(_finite(item) for item in node.inputs[1:])
    if is_op(node, "Cast"):
        source = node.inputs[0]
        return source is not None and source.dtype is not None and not source.dtype.is_floating_point()
    if is_op(node, "Concat"):
        return all(_finite(item) for item in node.inputs)
    return is_op(node, *_MOVES) and _finite(node.inputs[0])
