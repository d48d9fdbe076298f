"""Activations and functions in forms that are right for all finite numbers, and as in evaluation if training is random.

ONNX has neither ``log1p`` nor ``expm1``, and ``log(1 + x)`` and ``exp(x) - 1`` lose all digits of small numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxscript import opset18

op: Any = opset18  # its annotations do not include Python numbers, which it accepts


def forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations for ``torch.onnx.export``'s ``custom_translation_table``."""
    import torch

    return {
        torch.ops.aten.rrelu.default: _rrelu,
        torch.ops.aten.log_sigmoid.default: _log_sigmoid,
        torch.ops.aten.log1p.default: _log1p,
        torch.ops.aten.expm1.default: _expm1,
    }


def _log_sigmoid(x: Any) -> Any:
    """``-softplus(-x)``: the logarithm of a sigmoid that rounds to 0 would be infinite."""
    return op.Neg(op.Softplus(op.Neg(x)))


def _rrelu(x: Any, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: Any = None) -> Any:
    """``RReLU`` (arXiv:1505.00853): in evaluation, the slope of negative values is the middle of its range."""
    return op.LeakyRelu(x, alpha=(lower + upper) / 2)


def _log1p(x: Any) -> Any:
    """``log(u) * x / (u - 1)`` of ``u = 1 + x``, in which the rounding of the sum cancels (HP-15C Handbook, 1982)."""
    one = op.CastLike(op.Constant(value_float=1.0), x)
    total = op.Add(x, one)
    kept = op.Sub(total, one)
    exact = op.Equal(kept, x)  # also for infinity, which divided by itself is no number
    corrected = op.Mul(op.Log(total), op.Where(exact, one, op.Div(x, kept)))
    return op.Where(op.Equal(total, one), x, corrected)


def _expm1(x: Any) -> Any:
    """``tanh(x / 2) * (exp(x) + 1)``, which has no difference of equal numbers."""
    one, half = (op.CastLike(op.Constant(value_float=value), x) for value in (1.0, 0.5))
    return op.Mul(op.Tanh(op.Mul(x, half)), op.Add(op.Exp(x), one))
