"""Running products as ONNX operators: each step doubles the number of elements that a product covers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxscript import opset18

op: Any = opset18  # its annotations do not include Python numbers, which it accepts


def forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations for ``torch.onnx.export``'s ``custom_translation_table``."""
    import torch

    return {torch.ops.aten.cumprod.default: _running_product}


def _running_product(x: Any, dim: int, dtype: int | None = None) -> Any:
    """The product of all elements up to each one, in ``ceil(log2(n))`` steps (Hillis, Steele, 1986)."""
    axis = dim % max(1, len(x.shape))
    size = x.shape[axis] if len(x.shape) else 1
    if not isinstance(size, int):
        raise NotImplementedError("a running product along an axis of dynamic size has no form in ONNX")
    if dtype is not None and dtype != x.dtype:
        raise NotImplementedError("a running product in another type has no form in ONNX")
    one, axes = op.CastLike(op.Constant(value_int=1), x), op.Constant(value_ints=[axis])
    reach = 1
    while reach < size:
        pads = op.Constant(value_ints=[reach, 0])
        before = op.Slice(x, op.Constant(value_ints=[0]), op.Constant(value_ints=[size - reach]), axes)
        x = op.Mul(x, op.Pad(before, pads, one, axes))
        reach *= 2
    return x
