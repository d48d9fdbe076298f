"""Operators with weights: convolutions, products, poolings and normalisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from .operator_call import Call, Operator

TRACKED = "_tracked"
_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEANS: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d
}  # fmt: skip


def _conv(call: Call) -> torch.Tensor:
    value, weight = call.tensor(0), call.tensor(1)
    rank = weight.dim() - 2
    stride, dilation = (call.get(name) or [1] * rank for name in ("strides", "dilations"))
    value, padding = _padded(call, value, list(weight.shape[2:]), stride, dilation, 0.0)
    convolution = _of_rank(call, _CONVOLUTIONS, rank)
    return convolution(value, weight, call.optional(2), stride, padding, dilation, call.get("group", 1))


def _conv_transpose(call: Call) -> torch.Tensor:
    value, weight = call.tensor(0), call.tensor(1)
    rank = weight.dim() - 2
    stride, dilation, extra = (
        call.get(n) or [d] * rank for n, d in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    pads = call.get("pads") or [0] * 2 * rank
    if call.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or call.get("output_shape"):
        raise call.refuse("its padding is defined by the size of the output")
    before, after = pads[:rank], pads[rank:]
    # PyTorch crops both sides equally; a larger crop of ONNX at the end reduces the output padding, or is cut off.
    smaller = [min(pair) for pair in zip(before, after)]
    if before != smaller:
        raise call.refuse("it crops more at the beginning than at the end")
    extra = [e - (a - s) for e, a, s in zip(extra, after, smaller)]
    cut = [max(0, -e) for e in extra]
    result: torch.Tensor = _of_rank(call, _TRANSPOSED, rank)(
        value, weight, call.optional(2), stride, smaller, [max(0, e) for e in extra], call.get("group", 1), dilation
    )
    for axis, size in enumerate(cut):
        result = result.narrow(axis + 2, 0, result.shape[axis + 2] - size) if size else result
    return result


def _of_rank(call: Call, table: dict[int, Any], rank: int) -> Callable[..., torch.Tensor]:
    if rank not in table:
        raise call.refuse(f"it has {rank} spatial axes")
    found: Callable[..., torch.Tensor] = table[rank]
    return found


def _padded(
    call: Call, value: torch.Tensor, kernel: list[int], stride: list[int], dilation: list[int], fill: float
) -> tuple[torch.Tensor, list[int]]:
    """The value and the padding of the operator, which must be symmetric; an asymmetric padding is applied here."""
    pads, rank = call.get("pads") or [0] * 2 * len(kernel), len(kernel)
    automatic = call.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(call, value, kernel, stride, dilation, automatic == "SAME_LOWER")
    before, after = pads[:rank], pads[rank:]
    if before == after:
        return value, list(before)
    flat = [size for axis in reversed(range(rank)) for size in (before[axis], after[axis])]
    return functional.pad(value, flat, value=fill), [0] * rank


def _same(
    call: Call, value: torch.Tensor, kernel: list[int], stride: list[int], dilation: list[int], lower: bool
) -> list[int]:
    before, after = [], []
    for size, k, s, d in zip(value.shape[2:], kernel, stride, dilation, strict=True):
        reach = d * (k - 1)
        if s > 1 and not isinstance(size, int):
            raise call.refuse("its padding depends on a dynamic size")
        total = reach if s == 1 else max(0, (-(-size // s) - 1) * s + reach + 1 - size)
        small, large = total // 2, total - total // 2
        before.append(large if lower else small)
        after.append(small if lower else large)
    return before + after


def _max_pool(call: Call) -> torch.Tensor:
    kernel = call.get("kernel_shape")
    stride, dilation = (call.get(name) or [1] * len(kernel) for name in ("strides", "dilations"))
    if len(call.node.outputs) > 1 and call.node.outputs[1]:
        raise call.refuse("its indices are used")
    value, padding = _padded(call, call.tensor(0), kernel, stride, dilation, float("-inf"))
    ceil = bool(call.get("ceil_mode", 0))
    pool = _of_rank(call, _MAXIMA, len(kernel))
    return pool(value, kernel, stride, padding, dilation, ceil)


def _average_pool(call: Call) -> torch.Tensor:
    kernel = call.get("kernel_shape")
    stride = call.get("strides") or [1] * len(kernel)
    counts = bool(call.get("count_include_pad", 0))
    if any(step != 1 for step in call.get("dilations") or [1]):
        raise call.refuse("it is dilated")
    value, padding = _padded(call, call.tensor(0), kernel, stride, [1] * len(kernel), 0.0)
    if value is not call.values[0] and not counts:
        raise call.refuse("its padding is asymmetric and is not counted")
    pool = _of_rank(call, _MEANS, len(kernel))
    return pool(value, kernel, stride, padding, bool(call.get("ceil_mode", 0)), counts)


def _global_average(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    return value.mean(list(range(2, value.dim())), keepdim=True)


def _global_maximum(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    return value.amax(list(range(2, value.dim())), keepdim=True)


def _batch_norm(call: Call) -> torch.Tensor:
    weight, bias, mean, variance = (call.tensor(index) for index in (1, 2, 3, 4))
    if call.get("training_mode", 0):  # uses batch statistics in evaluation too, as in weight standardisation
        return functional.batch_norm(call.tensor(0), None, None, weight, bias, True, 0.0, call.get("epsilon", 1e-5))
    if not all(name.endswith(TRACKED) for name in call.node.inputs[3:5]):  # they are computed in the graph
        shape = [1, -1] + [1] * (call.tensor(0).dim() - 2)
        scale = weight / torch.sqrt(variance + call.get("epsilon", 1e-5))
        return call.tensor(0) * scale.reshape(shape) + (bias - mean * scale).reshape(shape)
    # The momentum of ONNX is the weight of the old average, that of PyTorch the weight of the new value.
    momentum = 1 - call.get("momentum", 0.9)
    return functional.batch_norm(
        call.tensor(0), mean, variance, weight, bias, call.training, momentum, call.get("epsilon", 1e-5)
    )


def _instance_norm(call: Call) -> torch.Tensor:
    return functional.instance_norm(
        call.tensor(0), weight=call.tensor(1), bias=call.tensor(2), eps=call.get("epsilon", 1e-5)
    )


def _layer_norm(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    axis = call.get("axis", -1) % value.dim()
    shape = list(value.shape[axis:])
    return functional.layer_norm(value, shape, call.tensor(1), call.optional(2), call.get("epsilon", 1e-5))


def _group_norm(call: Call) -> torch.Tensor:
    value, weight, bias, groups = call.tensor(0), call.tensor(1), call.tensor(2), call.get("num_groups")
    if call.opset < 21 and len(weight) != value.shape[1]:
        weight, bias = (item.repeat_interleave(value.shape[1] // groups) for item in (weight, bias))
    return functional.group_norm(value, groups, weight, bias, call.get("epsilon", 1e-5))


def _rms_norm(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    axis = call.get("axis", -1) % value.dim()
    return functional.rms_norm(value, list(value.shape[axis:]), call.tensor(1), call.get("epsilon", 1e-5))


def _lp_norm(call: Call) -> torch.Tensor:
    value, axis = call.tensor(0), call.get("axis", -1)
    return torch.div(value, torch.linalg.vector_norm(value, call.get("p", 2), axis, keepdim=True))


def _response_norm(call: Call) -> torch.Tensor:
    return functional.local_response_norm(
        call.tensor(0), call.get("size"), call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("bias", 1.0)
    )


def _linear(call: Call) -> torch.Tensor:
    return functional.linear(call.tensor(0), call.tensor(1), call.optional(2))


def _matmul(call: Call) -> torch.Tensor:
    return torch.matmul(call.tensor(0), call.tensor(1))


def _gemm(call: Call) -> torch.Tensor:
    left, right = call.tensor(0), call.tensor(1)
    left = left.t() if call.get("transA", 0) else left
    right = right.t() if call.get("transB", 0) else right
    product = torch.matmul(left, right)
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    product = product if alpha == 1 else alpha * product
    if not call.has(2):
        return product
    return product + (call.tensor(2) if beta == 1 else beta * call.tensor(2))


def _einsum(call: Call) -> torch.Tensor:
    return torch.einsum(call.get("equation"), *(call.tensor(index) for index in range(len(call.values))))


OPERATORS: dict[str, Operator] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool, "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average, "GlobalMaxPool": _global_maximum, "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm, "LayerNormalization": _layer_norm, "GroupNormalization": _group_norm,
    "RMSNormalization": _rms_norm, "LpNormalization": _lp_norm, "LRN": _response_norm, "Linear": _linear,
    "MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum,
}  # fmt: skip
