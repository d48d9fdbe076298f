"""Activations in forms that are finite for all finite numbers, and as in evaluation if training is random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxscript import opset18

op: Any = opset18  # its annotations do not include Python numbers, which it accepts


def forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations for ``torch.onnx.export``'s ``custom_translation_table``."""
    import torch

    return {torch.ops.aten.rrelu.default: _rrelu, torch.ops.aten.log_sigmoid.default: _log_sigmoid}


def _log_sigmoid(x: Any) -> Any:
    """``-softplus(-x)``: the logarithm of a sigmoid that rounds to 0 would be infinite."""
    return op.Neg(op.Softplus(op.Neg(x)))


def _rrelu(x: Any, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: Any = None) -> Any:
    """``RReLU`` (arXiv:1505.00853): in evaluation, the slope of negative values is the middle of its range."""
    return op.LeakyRelu(x, alpha=(lower + upper) / 2)
