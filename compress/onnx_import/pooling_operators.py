"""Windows over an input: padding in every form of ONNX, and poolings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from .operator_call import Call, Operator

_MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEANS: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d
}  # fmt: skip
_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def of_rank(call: Call, table: dict[int, Any], rank: int) -> Callable[..., Any]:
    """The function for a number of spatial axes.

    Raises:
        ModelError: PyTorch has none.
    """
    if rank not in table:
        raise call.refuse(f"it has {rank} spatial axes")
    found: Callable[..., Any] = table[rank]
    return found


def pads_of(
    call: Call, value: torch.Tensor, kernel: list[int], stride: list[int], dilation: list[int]
) -> tuple[list[Any], list[Any]]:
    """The padding before and after each axis, which may depend on its size."""
    rank, automatic = len(kernel), call.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        return _same(value, kernel, stride, dilation, automatic == "SAME_LOWER")
    pads = call.get("pads") or [0] * 2 * rank if automatic == "NOTSET" else [0] * 2 * rank
    return list(pads[:rank]), list(pads[rank:])


def padded(
    call: Call, value: torch.Tensor, kernel: list[int], stride: list[int], dilation: list[int], fill: float
) -> tuple[torch.Tensor, list[int]]:
    """The value and the padding of the operator, which must be symmetric; an asymmetric padding is applied here."""
    before, after = pads_of(call, value, kernel, stride, dilation)
    if all(isinstance(size, int) for size in (*before, *after)) and before == after:
        return value, list(before)
    return _pad(value, before, after, fill), [0] * len(kernel)


def _pad(value: torch.Tensor, before: list[Any], after: list[Any], fill: float) -> torch.Tensor:
    flat = [size for axis in reversed(range(len(before))) for size in (before[axis], after[axis])]
    return functional.pad(value, flat, value=fill)


def _same(
    value: torch.Tensor, kernel: list[int], stride: list[int], dilation: list[int], lower: bool
) -> tuple[list[Any], list[Any]]:
    before, after = [], []
    for size, k, s, d in zip(value.shape[2:], kernel, stride, dilation, strict=True):
        reach = d * (k - 1)
        total = reach if s == 1 else torch.sym_max(0, (-(-size // s) - 1) * s + reach + 1 - size)
        small, large = total // 2, total - total // 2
        before.append(large if lower else small)
        after.append(small if lower else large)
    return before, after


def _max_pool(call: Call) -> Any:
    kernel = call.get("kernel_shape")
    stride, dilation = (call.get(name) or [1] * len(kernel) for name in ("strides", "dilations"))
    if len(call.node.outputs) > 1 and call.node.outputs[1]:
        return _with_places(call, kernel, stride, dilation)
    given = call.tensor(0)
    value, padding = padded(call, _floating(given), kernel, stride, dilation, float("-inf"))
    pool = of_rank(call, _MAXIMA, len(kernel))
    if any(2 * pad > size for pad, size in zip(padding, kernel)):
        value, padding = _pad(value, padding, padding, float("-inf")), [0] * len(kernel)
    return pool(value, kernel, stride, padding, dilation, bool(call.get("ceil_mode", 0))).to(given.dtype)


def _floating(value: torch.Tensor) -> torch.Tensor:
    """PyTorch pools floating-point numbers alone."""
    return value if value.is_floating_point() else value.to(torch.float32)


def _with_places(call: Call, kernel: list[int], stride: list[int], dilation: list[int]) -> tuple[torch.Tensor, ...]:
    """The maxima, and their places counted over the whole tensor."""
    value = call.tensor(0)
    before, after = pads_of(call, value, kernel, stride, dilation)
    if before != after or any(2 * pad > size for pad, size in zip(before, kernel)):
        raise call.refuse("its indices are used, and its padding is asymmetric")
    pool = of_rank(call, _MAXIMA, len(kernel))
    found, places = pool(value, kernel, stride, before, dilation, bool(call.get("ceil_mode", 0)), True)
    planes, plane = value.shape[0] * value.shape[1], 1
    for size in value.shape[2:]:
        plane = plane * size
    if call.get("storage_order", 0):  # column by column
        places = _by_columns(places, value.shape[2:])
    own = torch.arange(planes, device=value.device).reshape(*value.shape[:2], *[1] * len(kernel))
    return found, places + own * plane


def _by_columns(places: torch.Tensor, sizes: Any) -> torch.Tensor:
    result, rest, factor = torch.zeros_like(places), places, 1
    coordinates = []
    for size in reversed(sizes):
        coordinates.append(rest % size)
        rest = rest // size
    for size, coordinate in zip(sizes, reversed(coordinates), strict=True):
        result = result + coordinate * factor
        factor = factor * size
    return result


def _average_pool(call: Call) -> torch.Tensor:
    kernel = call.get("kernel_shape")
    stride, dilation = (call.get(name) or [1] * len(kernel) for name in ("strides", "dilations"))
    counts, ceil, value = bool(call.get("count_include_pad", 0)), bool(call.get("ceil_mode", 0)), call.tensor(0)
    before, after = pads_of(call, value, kernel, stride, dilation)
    plain = all(isinstance(size, int) for size in (*before, *after)) and before == after
    if plain and all(step == 1 for step in dilation) and all(2 * pad <= size for pad, size in zip(before, kernel)):
        pool = of_rank(call, _MEANS, len(kernel))
        found: torch.Tensor = pool(value, kernel, stride, before, ceil, counts)
        return found
    ones = torch.ones_like(value[:1, :1])
    sums = _window_sums(call, _pad(value, before, after, 0.0), kernel, stride, dilation, ceil)
    inside = _pad(ones, before, after, 1.0 if counts else 0.0)
    return torch.div(sums, _window_sums(call, inside, kernel, stride, dilation, ceil))


def _window_sums(
    call: Call, value: torch.Tensor, kernel: list[int], stride: list[int], dilation: list[int], ceil: bool
) -> torch.Tensor:
    """Sums over the windows of a padded value; with ``ceil``, the last window may reach beyond it."""
    if ceil:
        more = []
        for size, k, s, d in zip(value.shape[2:], kernel, stride, dilation, strict=True):
            free = size - d * (k - 1) - 1
            more.append(-(-free // s) * s - free)
        value = _pad(value, [0] * len(more), more, 0.0)
    flat = value.flatten(0, 1).unsqueeze(1)
    ones = torch.ones(1, 1, *kernel, dtype=value.dtype, device=value.device)
    convolution = of_rank(call, _CONVOLUTIONS, len(kernel))
    sums: torch.Tensor = convolution(flat, ones, None, stride, 0, dilation)
    return sums.reshape(*value.shape[:2], *sums.shape[2:])


def _lp_pool(call: Call) -> torch.Tensor:
    kernel, power = call.get("kernel_shape"), call.get("p", 2)
    stride, dilation = (call.get(name) or [1] * len(kernel) for name in ("strides", "dilations"))
    value = call.tensor(0).abs() ** power
    before, after = pads_of(call, value, kernel, stride, dilation)
    sums = _window_sums(call, _pad(value, before, after, 0.0), kernel, stride, dilation, bool(call.get("ceil_mode", 0)))
    return torch.pow(sums, 1 / power)


def _global_average(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    return value.mean(list(range(2, value.dim())), keepdim=True)


def _global_maximum(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    return value.amax(list(range(2, value.dim())), keepdim=True)


def _global_lp(call: Call) -> torch.Tensor:
    value, power = call.tensor(0), call.get("p", 2)
    found: torch.Tensor = (value.abs() ** power).sum(list(range(2, value.dim())), keepdim=True) ** (1 / power)
    return found


OPERATORS: dict[str, Operator] = {
    "MaxPool": _max_pool, "AveragePool": _average_pool, "LpPool": _lp_pool, "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_maximum, "GlobalLpPool": _global_lp,
}  # fmt: skip
