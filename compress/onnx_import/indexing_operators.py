"""Operators that write or choose by indices: scatter, one-hot, compress, reversed sequences and unpooling."""

from __future__ import annotations

from typing import Any

import torch

from .operator_call import Call, Operator
from .shape_arithmetic import whole

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positive(indices: torch.Tensor, size: Any) -> torch.Tensor:
    return torch.where(indices < 0, indices + size, indices)


def _scatter_elements(call: Call) -> torch.Tensor:
    value, axis, reduction = call.tensor(0), call.get("axis", 0), call.get("reduction", "none")
    index, updates = _positive(call.tensor(1).long(), value.shape[axis]), call.tensor(2).to(value.dtype)
    if reduction == "none":
        return value.scatter(axis, index, updates)
    return value.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction])


def _scatter_nd(call: Call) -> torch.Tensor:
    value, index, reduction = call.tensor(0), call.tensor(1).long(), call.get("reduction", "none")
    updates, places = call.tensor(2).to(value.dtype), tuple(index.unbind(-1))
    if reduction == "none":
        return value.index_put(places, updates)
    if reduction == "add":
        return value.index_put(places, updates, accumulate=True)
    return _scatter_reduced(value, places, updates, _REDUCTIONS[reduction])


def _scatter_reduced(
    value: torch.Tensor, places: tuple[torch.Tensor, ...], updates: torch.Tensor, reduction: str
) -> torch.Tensor:
    """``ScatterND`` with a product or an extreme: rows of the flattened leading axes."""
    depth = len(places)
    row = torch.zeros_like(places[0])
    for place, size in zip(places, value.shape[:depth], strict=True):
        row = row * size + _positive(place, size)
    flat = value.flatten(0, depth - 1) if depth > 1 else value
    parts = updates.reshape(-1, *value.shape[depth:])
    index = row.reshape(-1, *[1] * (flat.dim() - 1)).expand(parts.shape)
    return flat.scatter_reduce(0, index, parts, reduction).reshape(value.shape)


def _one_hot(call: Call) -> torch.Tensor:
    index, axis = call.tensor(0), call.get("axis", -1)
    depth = int(whole(call.host(1))[0])
    off, on = call.tensor(2).unbind(0)
    axis = axis if axis >= 0 else axis + index.dim() + 1
    shape = [1] * (index.dim() + 1)
    shape[axis] = depth
    places = torch.arange(depth, device=index.device).reshape(shape).to(index.dtype)
    return torch.where(_positive(index, depth).unsqueeze(axis) == places, on, off)


def _compress(call: Call) -> torch.Tensor:
    value, axis = call.tensor(0), call.get("axis")
    if isinstance(call.values[1], torch.Tensor):
        raise call.refuse("how many values it keeps depends on data")
    kept = torch.tensor([place for place, keep in enumerate(whole(call.host(1))) if keep], dtype=torch.long)
    return value.reshape(-1).index_select(0, kept) if axis is None else value.index_select(axis, kept)


def _reverse_sequence(call: Call) -> torch.Tensor:
    """Each sequence is reversed up to its own length."""
    value, lengths = call.tensor(0), call.tensor(1).long()
    rows, steps = call.get("batch_axis", 1), call.get("time_axis", 0)
    places = torch.arange(value.shape[steps], device=value.device)
    shape = [1, -1] if rows == 0 else [-1, 1]
    own = lengths.reshape(shape[::-1])
    index = torch.where(places.reshape(shape) < own, own - 1 - places.reshape(shape), places.reshape(shape))
    return value.gather(steps, index.reshape(*index.shape, *[1] * (value.dim() - 2)).expand(value.shape))


def _max_unpool(call: Call) -> torch.Tensor:
    """Values go back to the places of a ``MaxPool``, which count over the whole tensor; all others are 0."""
    value, index = call.tensor(0), call.tensor(1).long()
    kernel = call.get("kernel_shape")
    stride, pads = call.get("strides") or [1] * len(kernel), call.get("pads") or [0] * 2 * len(kernel)
    inner = [
        (size - 1) * s + k - before - after
        for size, s, k, before, after in zip(
            value.shape[2:], stride, kernel, pads[: len(kernel)], pads[len(kernel) :], strict=True
        )
    ]
    sizes = list(whole(call.host(2))) if call.has(2) else [*value.shape[:2], *inner]
    planes, plane = value.shape[0] * value.shape[1], 1
    for size in inner:
        plane = plane * size
    own = torch.arange(planes, device=value.device).reshape(*value.shape[:2], *[1] * len(kernel)) * plane
    flat = torch.zeros(planes, plane, dtype=value.dtype, device=value.device)
    flat = flat.scatter(1, (index - own).reshape(planes, -1), value.reshape(planes, -1))
    found = flat.reshape(*value.shape[:2], *inner)
    for axis, (own_size, size) in enumerate(zip(inner, sizes[2:], strict=True)):
        if own_size != size:
            edge = list(found.shape)
            edge[axis + 2] = size - own_size
            found = torch.cat([found, found.new_zeros(edge)], axis + 2)
    return found


def _tensor_scatter(call: Call) -> torch.Tensor:
    """New keys or values written into a cache, for each sample at its own place."""
    cache, update = call.tensor(0), call.tensor(1)
    axis = call.get("axis", -2) % cache.dim()
    steps = torch.arange(update.shape[axis], device=cache.device)
    shape = [1] * cache.dim()
    shape[axis] = -1
    index = steps.reshape(shape)
    if call.has(2):
        first = [1] * cache.dim()
        first[0] = -1
        index = index + call.tensor(2).long().reshape(first)
    if call.get("mode", "linear") == "circular":
        index = index % cache.shape[axis]
    return cache.scatter(axis, index.expand(update.shape), update)


OPERATORS: dict[str, Operator] = {
    "ScatterElements": _scatter_elements, "Scatter": _scatter_elements, "ScatterND": _scatter_nd, "OneHot": _one_hot,
    "Compress": _compress, "ReverseSequence": _reverse_sequence, "MaxUnpool": _max_unpool,
    "TensorScatter": _tensor_scatter,
}  # fmt: skip
