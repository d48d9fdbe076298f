"""Elementwise operators and reductions."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from .operator_call import Call, Operator, as_tensor
from .shape_arithmetic import host, is_known, objects, whole

DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float32, 11: torch.float64, 12: torch.uint32, 13: torch.uint64, 16: torch.float32,
}  # fmt: skip
"""PyTorch's type of each type of ONNX; half precision is computed in float32."""


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    return lambda call: function(call.tensor(0))


def _binary(function: Callable[[Any, Any], torch.Tensor]) -> Operator:
    return lambda call: function(*_operands(call, 0, 1))


def _operands(call: Call, *indices: int) -> list[Any]:
    """Inputs that are computed with each other; a number stays a number, which keeps constants out of the graph."""
    values = [call.values[index] for index in indices]
    rank = max((value.dim() for value in values if isinstance(value, torch.Tensor)), default=-1)
    if rank < 0:
        return [as_tensor(value) for value in values]
    return [value if isinstance(value, torch.Tensor) else _operand(value, rank) for value in values]


def _operand(value: Any, rank: int) -> Any:
    array = objects(value)
    return array.reshape(-1)[0] if array.size == 1 and array.ndim <= rank else as_tensor(value)


def _logical(function: Callable[[Any, Any], torch.Tensor]) -> Operator:
    return lambda call: function(call.tensor(0), call.tensor(1))


def _many(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    return lambda call: reduce(function, [call.tensor(index) for index in range(len(call.values))])


def _add(left: Any, right: Any) -> torch.Tensor:
    return torch.add(left, right) if isinstance(left, torch.Tensor) else torch.add(right, left)


def _multiply(left: Any, right: Any) -> torch.Tensor:
    return torch.mul(left, right) if isinstance(left, torch.Tensor) else torch.mul(right, left)


def _subtract(left: Any, right: Any) -> Any:
    return left - right


def _divide(left: Any, right: Any) -> Any:
    floating = any(
        value.is_floating_point() if isinstance(value, torch.Tensor) else isinstance(value, float)
        for value in (left, right)
    )
    if floating:
        return left / right
    return torch.div(left if isinstance(left, torch.Tensor) else as_tensor(left), right, rounding_mode="trunc")


def _modulo(call: Call) -> torch.Tensor:
    function = torch.fmod if call.get("fmod", 0) else torch.remainder
    return function(call.tensor(0), call.tensor(1)).to(call.tensor(0).dtype)


def _mean(call: Call) -> torch.Tensor:
    total: torch.Tensor = _many(torch.add)(call)
    return total / len(call.values)


def _single(bound: Any) -> Any:
    """A bound as a number; some files have it as a tensor with one element."""
    return None if bound is None else whole(bound)[0]


def _clip(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    if any(isinstance(bound, torch.Tensor) for bound in call.values[1:3]):
        for index, function in ((1, torch.maximum), (2, torch.minimum)):
            value = function(value, call.tensor(index).to(value.dtype)) if call.has(index) else value
        return value
    low, high = (_single(call.host(index, name)) for index, name in ((1, "min"), (2, "max")))
    low, high = (None if bound is None or abs(bound) >= 3e38 else bound for bound in (low, high))
    if (low, high) == (None, None):
        return value
    if not value.is_floating_point():
        return value.clamp(low, high).to(value.dtype)
    if (low, high) == (0, 6):
        return functional.relu6(value)
    return functional.relu(value) if (low, high) == (0, None) else value.clamp(low, high)


def _hard_sigmoid(call: Call) -> torch.Tensor:
    alpha, beta, value = call.get("alpha", 0.2), call.get("beta", 0.5), call.tensor(0)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return functional.hardsigmoid(value)
    return torch.clamp(alpha * value + beta, 0, 1)


def _gelu(call: Call) -> torch.Tensor:
    return functional.gelu(call.tensor(0), approximate=call.get("approximate", "none"))


def _prelu(call: Call) -> torch.Tensor:
    value, slope = call.tensor(0), call.tensor(1)
    channels = value.shape[1] if value.dim() > 1 else 1
    by_channel = slope.numel() == channels and slope.dim() == value.dim() - 1 and len(slope) == channels
    if by_channel or (slope.numel() == 1 and slope.dim() <= value.dim()):
        return functional.prelu(value, slope.reshape(-1))
    return torch.where(value < 0, value * slope, value)


def _cast(call: Call) -> torch.Tensor:
    kind = DTYPES.get(call.get("to"))
    if kind is None:
        raise call.refuse("its type is neither a number type of PyTorch nor a boolean")
    return call.tensor(0).to(kind)


def _cast_like(call: Call) -> Any:
    """A number stays one, so that it can still be a bound or a fill value."""
    like = call.tensor(1).dtype
    value = call.values[0]
    if not isinstance(value, torch.Tensor) and like.is_floating_point and is_known(objects(value)):
        return host(objects(value).astype(np.float64).astype(object))
    return call.tensor(0).to(like)


def _shrink(call: Call) -> torch.Tensor:
    value, limit, bias = call.tensor(0), call.get("lambd", 0.5), call.get("bias", 0.0)
    found = torch.where(value < -limit, value + bias, torch.where(value > limit, value - bias, 0))
    return found.to(value.dtype)


def _softmax(function: Callable[..., torch.Tensor]) -> Operator:
    def _run(call: Call) -> torch.Tensor:
        value = call.tensor(0)
        if call.opset >= 13:
            return function(value, dim=call.get("axis", -1))
        axis = call.get("axis", 1) % value.dim()
        if axis == value.dim() - 1:
            return function(value, dim=-1)
        return function(value.flatten(axis), dim=-1).reshape(value.shape)

    return _run


def _reduction(function: Callable[..., torch.Tensor], empty: int | None = None) -> Operator:
    def _run(call: Call) -> torch.Tensor:
        value, axes = call.tensor(0), call.axes(1)
        if not axes:
            if call.get("noop_with_empty_axes", 0):
                return value
            axes = list(range(value.dim()))
        keep = bool(call.get("keepdims", 1))
        if empty is not None and any(isinstance(size, int) and size == 0 for size in value.shape):
            shape = value.sum(axes, keepdim=keep).shape
            return torch.full(shape, _extreme(value.dtype, empty), dtype=value.dtype)
        return function(value, axes, keep)

    return _run


def _extreme(kind: torch.dtype, sign: int) -> Any:
    """What the largest or the smallest of no values is."""
    if kind.is_floating_point:
        return sign * float("inf")
    if kind == torch.bool:
        return sign > 0
    limits = torch.iinfo(kind)
    return limits.max if sign > 0 else limits.min


def _product(value: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % value.dim() for axis in axes), reverse=True):
        value = value.prod(axis, keepdim=keep)
    return value


def _arg(function: Callable[..., torch.Tensor]) -> Operator:
    def _run(call: Call) -> torch.Tensor:
        value, axis = call.tensor(0), call.get("axis", 0)
        keep = bool(call.get("keepdims", 1))
        if not call.get("select_last_index", 0):
            return function(value, dim=axis, keepdim=keep)
        last: torch.Tensor = value.shape[axis] - 1 - function(value.flip(axis), dim=axis, keepdim=keep)
        return last

    return _run


def _hardmax(call: Call) -> torch.Tensor:
    value, axis = call.tensor(0), call.get("axis", -1 if call.opset >= 13 else 1)
    flat = value if call.opset >= 13 else value.flatten(axis % value.dim())
    along = axis if call.opset >= 13 else -1
    largest = flat.argmax(along, keepdim=True)
    places = torch.arange(flat.shape[along], device=flat.device)
    shape = [1] * flat.dim()
    shape[along] = -1
    return (places.reshape(shape) == largest).to(value.dtype).reshape(value.shape)


def _where(call: Call) -> torch.Tensor:
    chosen = call.tensor(0)
    yes, no = _operands(call, 1, 2)
    if not isinstance(yes, torch.Tensor) and not isinstance(no, torch.Tensor):
        yes = call.tensor(1)
    return torch.where(chosen, yes, no)


def _power(call: Call) -> torch.Tensor:
    base, exponent = _operands(call, 0, 1)
    return torch.pow(base, exponent).to(base.dtype if isinstance(base, torch.Tensor) else exponent.dtype)


def _is_infinite(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    negative, positive = (bool(call.get(name, 1)) for name in ("detect_negative", "detect_positive"))
    if negative and positive:
        return torch.isinf(value)
    if not negative and not positive:
        return torch.zeros_like(value, dtype=torch.bool)
    return torch.eq(value, float("inf") if positive else float("-inf"))


def _selu(call: Call) -> torch.Tensor:
    alpha, gamma = call.get("alpha", 1.67326319217681884765625), call.get("gamma", 1.05070102214813232421875)
    if abs(alpha - 1.6732632) < 1e-5 and abs(gamma - 1.050701) < 1e-5:
        return functional.selu(call.tensor(0))
    found: torch.Tensor = gamma * functional.elu(call.tensor(0), alpha)
    return found


def _swish(call: Call) -> torch.Tensor:
    value, alpha = call.tensor(0), call.get("alpha", 1.0)
    return functional.silu(value) if alpha == 1 else value * torch.sigmoid(alpha * value)


def _dropout(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """The value itself; the mask of what is kept is the second output."""
    value = call.tensor(0)
    ratio = whole(call.host(1, "ratio", 0.5))[0]
    if call.has(2) and bool(whole(call.host(2))[0]) and ratio:
        raise call.refuse("it draws random numbers also in evaluation (its training mode is on)")
    return value, torch.ones_like(value, dtype=torch.bool)


def _shift(call: Call) -> torch.Tensor:
    function = torch.bitwise_left_shift if call.get("direction") == "LEFT" else torch.bitwise_right_shift
    return function(call.tensor(0), call.tensor(1))


def _bit_cast(call: Call) -> torch.Tensor:
    kind = DTYPES.get(call.get("to"))
    if kind is None or call.get("to") in (10, 16):
        raise call.refuse("its type is neither a number type of PyTorch nor a boolean")
    return call.tensor(0).view(kind)


OPERATORS: dict[str, Operator] = {
    "Relu": _unary(functional.relu), "Sigmoid": _unary(torch.sigmoid), "Tanh": _unary(torch.tanh),
    "Exp": _unary(torch.exp), "Log": _unary(torch.log), "Sqrt": _unary(torch.sqrt), "Neg": _unary(torch.neg),
    "Abs": _unary(torch.abs), "Erf": _unary(torch.erf), "Floor": _unary(torch.floor), "Ceil": _unary(torch.ceil),
    "Round": _unary(torch.round), "Sign": _unary(torch.sign), "Sin": _unary(torch.sin), "Cos": _unary(torch.cos),
    "Reciprocal": _unary(torch.reciprocal), "Softplus": _unary(functional.softplus),
    "Softsign": _unary(functional.softsign), "Not": _unary(torch.logical_not), "IsNaN": _unary(torch.isnan),
    "IsInf": _is_infinite, "Identity": _unary(lambda value: value), "Dropout": _dropout,
    "Tan": _unary(torch.tan), "Asin": _unary(torch.asin), "Acos": _unary(torch.acos), "Atan": _unary(torch.atan),
    "Sinh": _unary(torch.sinh), "Cosh": _unary(torch.cosh), "Asinh": _unary(torch.asinh),
    "Acosh": _unary(torch.acosh), "Atanh": _unary(torch.atanh), "Det": _unary(torch.linalg.det), "Hardmax": _hardmax,
    "BitShift": _shift, "BitCast": _bit_cast, "BitwiseAnd": _logical(torch.bitwise_and),
    "BitwiseOr": _logical(torch.bitwise_or), "BitwiseXor": _logical(torch.bitwise_xor),
    "BitwiseNot": _unary(torch.bitwise_not),
    "HardSwish": _unary(functional.hardswish), "Mish": _unary(functional.mish),
    "Elu": lambda call: functional.elu(call.tensor(0), call.get("alpha", 1.0)),
    "Celu": lambda call: functional.celu(call.tensor(0), call.get("alpha", 1.0)),
    "Selu": _selu,
    "LeakyRelu": lambda call: functional.leaky_relu(call.tensor(0), call.get("alpha", 0.01)),
    "ThresholdedRelu": lambda call: functional.threshold(call.tensor(0), call.get("alpha", 1.0), 0.0),
    "Swish": _swish,
    "HardSigmoid": _hard_sigmoid, "Gelu": _gelu, "PRelu": _prelu, "Clip": _clip, "Cast": _cast,
    "CastLike": _cast_like, "Shrink": _shrink, "OptionalGetElement": _unary(lambda value: value),
    "Add": _binary(_add), "Sub": _binary(_subtract), "Mul": _binary(_multiply), "Div": _binary(_divide),
    "Pow": _power, "Mod": _modulo, "Where": _where,
    "Equal": _logical(torch.eq), "Greater": _logical(torch.gt), "Less": _logical(torch.lt),
    "GreaterOrEqual": _logical(torch.ge), "LessOrEqual": _logical(torch.le), "And": _logical(torch.logical_and),
    "Or": _logical(torch.logical_or), "Xor": _logical(torch.logical_xor),
    "Min": _many(torch.minimum), "Max": _many(torch.maximum), "Sum": _many(torch.add), "Mean": _mean,
    "Softmax": _softmax(torch.softmax), "LogSoftmax": _softmax(torch.log_softmax),
    "ReduceMean": _reduction(lambda value, axes, keep: value.mean(axes, keepdim=keep)),
    "ReduceSum": _reduction(lambda value, axes, keep: value.sum(axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda value, axes, keep: value.amax(axes, keepdim=keep), -1),
    "ReduceMin": _reduction(lambda value, axes, keep: value.amin(axes, keepdim=keep), 1),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(lambda value, axes, keep: value.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda value, axes, keep: value.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceSumSquare": _reduction(lambda value, axes, keep: value.square().sum(axes, keepdim=keep)),
    "ReduceLogSum": _reduction(lambda value, axes, keep: value.sum(axes, keepdim=keep).log()),
    "ReduceLogSumExp": _reduction(lambda value, axes, keep: torch.logsumexp(value, axes, keepdim=keep)),
    "ArgMax": _arg(torch.argmax), "ArgMin": _arg(torch.argmin),
}  # fmt: skip
