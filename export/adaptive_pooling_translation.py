"""Adaptive pooling as ONNX operators, for every ratio of the sizes and for dynamic sizes.

Element ``i`` of ``o`` covers the elements from ``floor(i·n/o)`` to ``ceil((i+1)·n/o)`` of ``n``. Where ``o`` divides
``n``, that is ordinary pooling. Otherwise averages are products with a matrix of weights along each axis, and maxima
are taken of slices. With a dynamic ``n`` the matrix, or the bounds of the slices, are computed from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18

from ..core.tensors import Array

op: Any = opset18  # its annotations do not include Python numbers, which it accepts


def forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations for ``torch.onnx.export``'s ``custom_translation_table``."""
    import torch

    aten = torch.ops.aten
    averages = (aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d)
    inner = (aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d)
    maxima = (aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d)
    return {form.default: _average for form in (*averages, *inner)} | {form.default: _maximum for form in maxima}


def _average(x: Any, output_size: Sequence[Any]) -> Any:
    """``[N, C, …]`` or ``[C, …]`` to the sizes given for the last axes."""
    sizes, rank = _axes(x, output_size), len(x.shape)
    whole = [axis for axis, _, goal in sizes if isinstance(goal, int) and goal == 1]
    window = _window(sizes)
    if window and len(whole) < len(sizes) and rank == len(sizes) + 2:
        return op.AveragePool(x, kernel_shape=window, strides=window)
    result = op.ReduceMean(x, op.Constant(value_ints=whole), keepdims=1) if whole else x
    for axis, size, goal in sizes:
        if axis in whole or (isinstance(goal, int) and goal == size):
            continue
        known = size is not None and isinstance(goal, int)
        weights = _known_weights(x, size or 0, goal) if known else _weights(x, axis, goal)
        if axis == rank - 1:
            result = op.MatMul(result, op.Transpose(weights, perm=[1, 0]))
        else:
            result = _swapped(op.MatMul(weights, _swapped(result, axis, rank)), axis, rank)
    return result


def _maximum(x: Any, output_size: Sequence[Any]) -> tuple[Any, Any]:
    """Maxima, and their places in the pooled axes, counted in row-major order."""
    sizes = _axes(x, output_size)
    if not all(isinstance(goal, int) for _, _, goal in sizes):
        raise NotImplementedError("adaptive maxima of a size that is computed")
    window = _window(sizes)
    if window and len(x.shape) == len(sizes) + 2:
        maxima, places = op.MaxPool(x, kernel_shape=window, strides=window)
        return maxima, op.Mod(places, _constant(np.array(math.prod(size or 0 for _, size, _ in sizes))))
    result, flat, stride = x, None, _constant(np.array([1]))
    for axis, size, goal in reversed(sizes):
        parts = [_largest(result, flat, _bounds(x, axis, size, place, goal), axis, stride) for place in range(goal)]
        result, flat = (op.Concat(*column, axis=axis) for column in zip(*parts, strict=True))
        stride = op.Mul(stride, op.Shape(x, start=axis, end=axis + 1))
    return result, flat


def _largest(x: Any, flat: Any, bounds: tuple[Any, Any], axis: int, stride: Any) -> tuple[Any, Any]:
    """The maximum of a slice along an axis, and its place in this axis and those after it, whose places are given."""
    axes = op.Constant(value_ints=[axis])
    part = op.Slice(x, *bounds, axes)
    found = op.ArgMax(part, axis=axis, keepdims=1)
    maximum = op.ReduceMax(part, axes, keepdims=1)
    place = op.Mul(op.Add(found, bounds[0]), stride)
    if flat is None:
        return maximum, place
    return maximum, op.Add(place, op.GatherElements(op.Slice(flat, *bounds, axes), found, axis=axis))


def _bounds(x: Any, axis: int, size: int | None, place: int, goal: int) -> tuple[Any, Any]:
    """The first element and the end of what an element of the result covers, as vectors of one number."""
    return _number(x, axis, size, place, goal, 0), _number(x, axis, size, place + 1, goal, goal - 1)


def _axes(x: Any, goals: Sequence[Any]) -> list[tuple[int, int | None, Any]]:
    """Axis, size (None if dynamic) and wanted size (a number, or the tensor that it is computed by) of pooled axes."""
    first, sizes = len(x.shape) - len(goals), x.shape
    return [
        (first + index, sizes[first + index] if isinstance(sizes[first + index], int) else None, goal)
        for index, goal in enumerate(goals)
    ]


def _window(sizes: Sequence[tuple[int, int | None, Any]]) -> list[int]:
    """The window of ordinary pooling; empty if the wanted sizes do not divide the sizes, or are not known."""
    if any(size is None or not isinstance(goal, int) or size % goal for _, size, goal in sizes):
        return []
    return [(size or 0) // goal for _, size, goal in sizes]


def _swapped(x: Any, axis: int, rank: int) -> Any:
    """The axis and the one before the last exchanged."""
    order = list(range(rank))
    order[axis], order[rank - 2] = order[rank - 2], order[axis]
    return x if axis == rank - 2 else op.Transpose(x, perm=order)


def _known_weights(x: Any, size: int, goal: int) -> Any:
    """``[o, n]``: the share of each element in each average."""
    starts, ends, places = np.arange(goal), np.arange(1, goal + 1), np.arange(size)
    inside = (places >= (starts * size // goal)[:, None]) & (places < (-(-ends * size // goal))[:, None])
    return op.Constant(value=ir.tensor((inside / inside.sum(1, keepdims=True)).astype(x.dtype.numpy())))


def _weights(x: Any, axis: int, goal: Any) -> Any:
    """The same, computed from the size of the axis, for a wanted size that is a number or computed."""
    zero, one = (_constant(np.array(value)) for value in (0, 1))
    length = op.Shape(x, start=axis, end=axis + 1)
    wide = _constant(np.array(goal)) if isinstance(goal, int) else op.Squeeze(goal)
    starts = op.Unsqueeze(op.Range(zero, wide, one), op.Constant(value_ints=[1]))
    low = op.Div(op.Mul(starts, length), wide)
    high = op.Div(op.Add(op.Mul(op.Add(starts, one), length), op.Sub(wide, one)), wide)
    places = op.Range(zero, op.Squeeze(length), one)
    inside = op.And(op.GreaterOrEqual(places, low), op.Less(places, high))
    return op.Div(op.Cast(inside, to=x.dtype), op.Cast(op.Sub(high, low), to=x.dtype))


def _number(x: Any, axis: int, size: int | None, factor: int, goal: int, rest: int) -> Any:
    """``(factor · n + rest) // goal`` as a vector of one element."""
    if size is not None:
        return _constant(np.array([(factor * size + rest) // goal]))
    product = op.Mul(op.Shape(x, start=axis, end=axis + 1), _constant(np.array([factor])))
    return op.Div(op.Add(product, _constant(np.array([rest]))), _constant(np.array([goal])))


def _constant(values: Array) -> Any:
    return op.Constant(value=ir.tensor(values.astype(np.int64)))
