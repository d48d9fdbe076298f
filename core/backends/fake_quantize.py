"""The fake-quantize operator ``retort::qdq``, which represents INT8 in programs; importing this module registers it.

``y = (clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale`` with ties rounded to even, as ONNX's
QuantizeLinear followed by DequantizeLinear computes it. Gradients: straight-through for ``x`` inside the clamp range
and zero outside (Bengio et al., 2013); the learned step size for ``scale`` (Esser et al., LSQ, 2020), without LSQ's
gradient factor, which belongs to the optimizer's policy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME, DYNAMIC = "retort::qdq", "retort::dynamic_qdq"
SCHEMA = "(Tensor x, Tensor scale, Tensor zero_point, int axis, int qmin, int qmax) -> Tensor"


def qdq(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int = -1, qmin: int = -128, qmax: int = 127) -> Tensor:
    """Round ``x`` to the grid that ``scale`` and ``zero_point`` define.

    Args:
        x: a floating-point tensor of any shape.
        scale: float, positive; 0-d or ``[1]`` when ``axis`` is -1, else ``[C]`` with ``C = x.shape[axis]``.
        zero_point: integers, of the same shape as ``scale``.
        axis: the channel axis, or -1 for one scale for the whole tensor.
        qmin: smallest integer code.
        qmax: largest integer code.

    Returns:
        A tensor of the shape and dtype of ``x``.
    """
    result: Tensor = torch.ops.retort.qdq(x, scale, zero_point, axis, qmin, qmax)
    return result


def dynamic_qdq(x: Tensor) -> Tensor:
    """Round ``x`` to the UINT8 grid from its minimum to its maximum (0 included), as DynamicQuantizeLinear does.

    The whole tensor has one grid, so every row depends on the other rows. The gradient is straight-through.
    """
    result: Tensor = torch.ops.retort.dynamic_qdq(x)
    return result


def _dynamic(x: Tensor) -> Tensor:
    low, high = (value.clamp(*limits) for value, limits in zip(torch.aminmax(x.float()), ((None, 0), (0, None))))
    scale = (high - low) / 255
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-low / scale).round().clamp(0, 255)
    return ((x.float() / scale).round() + zero).clamp(0, 255).sub(zero).mul(scale).to(x.dtype)


def codes(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, qmin: int, qmax: int) -> Tensor:
    """The integer codes of ``x``, as QuantizeLinear computes them; int8, uint8 or int32 depending on the range.

    Args: as :func:`qdq`.
    """
    clamped = (torch.round(_ratio(x, scale, axis)) + _spread(zero_point, x, axis)).clamp(qmin, qmax)
    if qmin >= -128 and qmax <= 127:
        return clamped.to(torch.int8)
    return clamped.to(torch.uint8 if qmin >= 0 and qmax <= 255 else torch.int32)


def _spread(value: Tensor, x: Tensor, axis: int) -> Tensor:
    """``value`` shaped so that it broadcasts along ``axis`` of ``x``."""
    if axis < 0:
        return value.reshape(())
    return value.reshape([-1 if dim == axis else 1 for dim in range(x.dim())])


def _ratio(x: Tensor, scale: Tensor, axis: int) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.to(wide) / _spread(scale, x, axis).to(wide)


def _forward(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, qmin: int, qmax: int) -> Tensor:
    # One new buffer, then in place: this operator runs on every activation of a quantized program.
    result = _ratio(x, scale, axis)
    shift = _spread(zero_point, x, axis).to(result.dtype)
    result.round_().add_(shift).clamp_(qmin, qmax).sub_(shift).mul_(_spread(scale, x, axis).to(result.dtype))
    return result.to(x.dtype)


def _fake(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, qmin: int, qmax: int) -> Tensor:
    if scale.numel() != zero_point.numel():
        raise ValueError("retort::qdq: scale and zero_point differ in size")
    if axis >= x.dim() or (axis >= 0 and scale.numel() != x.shape[axis]):
        raise ValueError(f"retort::qdq: {scale.numel()} scales do not fit axis {axis} of a tensor of {x.dim()} axes")
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, zero_point, ctx.axis, ctx.qmin, ctx.qmax = inputs
    ctx.save_for_backward(x, scale, zero_point)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
    x, scale, zero_point = ctx.saved_tensors
    ratio = _ratio(x, scale, ctx.axis)
    shift = _spread(zero_point, x, ctx.axis).to(ratio.dtype)
    low, high = ctx.qmin - shift, ctx.qmax - shift
    rounded = torch.round(ratio)
    inside = (rounded >= low) & (rounded <= high)
    grad_x = grad * inside if ctx.needs_input_grad[0] else None
    grad_scale = None
    if ctx.needs_input_grad[1]:
        slope = torch.where(inside, rounded - ratio, torch.minimum(torch.maximum(rounded, low), high))
        grad_scale = _reduce(grad.to(slope.dtype) * slope, scale, ctx.axis)
    return grad_x, grad_scale, None, None, None, None


def _reduce(grad: Tensor, scale: Tensor, axis: int) -> Tensor:
    dims = [dim for dim in range(grad.dim()) if dim != axis]
    summed = grad.sum(dims) if dims else grad
    return summed.reshape(scale.shape).to(scale.dtype)


def _register() -> None:
    """Define the operator once per process; a reload, or a second copy of this file in an archive, reuses it."""
    if hasattr(torch.ops.retort, "qdq"):
        return
    torch.library.define(NAME, SCHEMA)
    torch.library.impl(NAME, "default")(_forward)
    torch.library.register_fake(NAME)(_fake)
    torch.library.register_autograd(NAME, _backward, setup_context=_setup_context)
    torch.library.define(DYNAMIC, "(Tensor x) -> Tensor")
    torch.library.impl(DYNAMIC, "default")(_dynamic)
    torch.library.register_fake(DYNAMIC)(torch.empty_like)
    torch.library.register_autograd(DYNAMIC, lambda ctx, grad: grad)


_register()
