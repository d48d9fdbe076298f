"""Operators with weights: convolutions, products and normalisations."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from .operator_call import Call, Operator
from .pooling_operators import of_rank, padded

TRACKED = "_tracked"
_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def _conv(call: Call) -> torch.Tensor:
    value, weight = call.tensor(0), call.tensor(1)
    rank = weight.dim() - 2
    stride, dilation = (call.get(name) or [1] * rank for name in ("strides", "dilations"))
    value, padding = padded(call, value, list(weight.shape[2:]), stride, dilation, 0.0)
    convolution = of_rank(call, _CONVOLUTIONS, rank)
    found: torch.Tensor = convolution(value, weight, call.optional(2), stride, padding, dilation, call.get("group", 1))
    return found


def _conv_transpose(call: Call) -> torch.Tensor:
    value, weight = call.tensor(0), call.tensor(1)
    rank = weight.dim() - 2
    stride, dilation, extra = (
        call.get(n) or [d] * rank for n, d in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    before, after = _crops(call, value, stride, reach, extra)
    # PyTorch crops both sides equally: the rest is cut off, or a smaller crop at the end adds to the output.
    smaller = [max(0, min(pair)) for pair in zip(before, after)]
    grown = [max(0, s - a) for a, s in zip(after, smaller)]
    transposed = of_rank(call, _TRANSPOSED, rank)
    if any(e + g >= max(s, d) for e, g, s, d in zip(extra, grown, stride, dilation)):
        raise call.refuse("its output is padded by a whole step or more")
    result: torch.Tensor = transposed(
        value, weight, call.optional(2), stride, smaller, [e + g for e, g in zip(extra, grown)], call.get("group", 1),
        dilation,
    )  # fmt: skip
    for axis, (first, last, cut) in enumerate(zip(before, after, smaller)):
        size = result.shape[axis + 2] - (first - cut) - max(0, last - cut)
        uncut = first == cut and last <= cut
        result = result if uncut else result.narrow(axis + 2, first - cut, size)
    return result


def _crops(
    call: Call, value: torch.Tensor, stride: list[int], reach: list[int], extra: list[int]
) -> tuple[list[int], list[int]]:
    """What is cut off at both ends; with a given output size it follows from that (ONNX, ConvTranspose)."""
    rank, automatic = len(stride), call.get("auto_pad", "NOTSET")
    pads, wanted = call.get("pads") or [0] * 2 * rank, call.get("output_shape")
    if not wanted and automatic in ("NOTSET", "VALID"):
        return pads[:rank], pads[rank:]
    before, after = [], []
    for axis, (step, span, more) in enumerate(zip(stride, reach, extra, strict=True)):
        size = value.shape[axis + 2]
        if wanted and not isinstance(size, int):
            raise call.refuse("the size of its output is fixed, and its input has a dynamic size")
        total = step * (size - 1) + more + span - wanted[-rank:][axis] if wanted else max(0, more + span - step)
        if total < 0:  # the output is larger than what the windows reach
            before.append(0)
            after.append(total)
            continue
        small, large = total // 2, total - total // 2
        before.append(small if automatic == "SAME_UPPER" else large)
        after.append(large if automatic == "SAME_UPPER" else small)
    return before, after


def _batch_norm(call: Call) -> Any:
    value, weight, bias, mean, variance = call.tensors()
    epsilon = call.get("epsilon", 1e-5)
    if call.get("training_mode", 0):  # uses batch statistics in evaluation too, as in weight standardisation
        result = functional.batch_norm(value, None, None, weight, bias, True, 0.0, epsilon)
        return result if len(call.node.outputs) == 1 else (result, *_moved_statistics(call, value, mean, variance))
    if not all(name.endswith(TRACKED) for name in call.node.inputs[3:5]):  # they are computed in the graph
        shape = [1, -1] + [1] * (value.dim() - 2)
        scale = weight / torch.sqrt(variance + epsilon)
        return value * scale.reshape(shape) + (bias - mean * scale).reshape(shape)
    # The momentum of ONNX is the weight of the old average, that of PyTorch the weight of the new value.
    momentum = 1 - call.get("momentum", 0.9)
    return functional.batch_norm(value, mean, variance, weight, bias, call.training, momentum, epsilon)


def _moved_statistics(
    call: Call, value: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
) -> list[torch.Tensor]:
    """The second and third output: averages of the old statistics and those of the batch."""
    axes, old = [0, *range(2, value.dim())], call.get("momentum", 0.9)
    now = (value.mean(axes), value.var(axes, unbiased=False))
    return [before * old + new * (1 - old) for before, new in zip((mean, variance), now)]


def _instance_norm(call: Call) -> torch.Tensor:
    return functional.instance_norm(
        call.tensor(0), weight=call.tensor(1), bias=call.tensor(2), eps=call.get("epsilon", 1e-5)
    )


def _layer_norm(call: Call) -> Any:
    value, epsilon = call.tensor(0), call.get("epsilon", 1e-5)
    axis = call.get("axis", -1) % value.dim()
    shape = list(value.shape[axis:])
    weight, bias = (None if item is None else item.expand(shape) for item in (call.tensor(1), call.optional(2)))
    result = functional.layer_norm(value, shape, weight, bias, epsilon)
    if len(call.node.outputs) == 1:
        return result
    axes = list(range(axis, value.dim()))
    spread = value.var(axes, unbiased=False, keepdim=True)
    return result, value.mean(axes, keepdim=True), torch.rsqrt(spread + epsilon)


def _group_norm(call: Call) -> torch.Tensor:
    value, weight, bias, groups = call.tensor(0), call.tensor(1), call.tensor(2), call.get("num_groups")
    if call.opset < 21 and len(weight) != value.shape[1]:
        weight, bias = (item.repeat_interleave(value.shape[1] // groups) for item in (weight, bias))
    return functional.group_norm(value, groups, weight, bias, call.get("epsilon", 1e-5))


def _rms_norm(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    axis = call.get("axis", -1) % value.dim()
    shape = list(value.shape[axis:])
    return functional.rms_norm(value, shape, call.tensor(1).expand(shape), call.get("epsilon", 1e-5))


def _lp_norm(call: Call) -> torch.Tensor:
    value, axis = call.tensor(0), call.get("axis", -1)
    norm = torch.linalg.vector_norm(value, call.get("p", 2), axis, keepdim=True)
    return torch.where(norm == 0, 0.0, value / norm)


def _response_norm(call: Call) -> torch.Tensor:
    """Divided by the squares of the neighbouring channels; of an even number, ONNX takes more behind than before."""
    size, alpha, beta, bias = (call.get(k, d) for k, d in (("size", 0), ("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    value = call.tensor(0)
    if size % 2:
        return functional.local_response_norm(value, size, alpha, beta, bias)
    squares = functional.pad(value.square().movedim(1, -1), ((size - 1) // 2, size // 2))
    sums = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return torch.div(value, (bias + alpha / size * sums) ** beta)


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
    "Conv": _conv, "ConvTranspose": _conv_transpose, "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm, "LayerNormalization": _layer_norm, "GroupNormalization": _group_norm,
    "RMSNormalization": _rms_norm, "LpNormalization": _lp_norm, "LRN": _response_norm, "Linear": _linear,
    "MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum,
}  # fmt: skip
