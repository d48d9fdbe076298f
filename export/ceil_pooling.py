"""Pooling that rounds its size up (``ceil_mode``), where PyTorch leaves out the last window.

PyTorch drops a window that begins in the padding behind the data. The formula of ONNX up to opset 21, and TensorRT, do
not, so such a pooling would have one more row or column. Where sizes are known it is written without rounding up, with
the padding that the windows of PyTorch reach. A mean that counts padding counts no place beyond the padding that was
asked for, which a factor per place corrects.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .graph_edit import add_constant, attribute, dims, every_node, insert_before, is_op, substitute

_LEADING = 2


def without_windows_in_padding(model: ir.Model) -> tuple[ir.Model, bool]:
    """Set explicit padding on every pooling of known size whose size ONNX's formula gives as too large."""
    changed = False
    for node in every_node(model):
        if not is_op(node, "MaxPool", "AveragePool") or not attribute(node, "ceil_mode", 0) or len(node.outputs) > 1:
            continue
        ends = _ends(node)
        if ends is not None:
            factors = _factors(node, ends)
            begins = _listed(node, "pads", 0, 2 * len(ends))[: len(ends)]
            node.attributes["pads"] = ir.AttrInt64s("pads", [*begins, *ends])
            node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
            if factors is not None:
                _multiply(model, node, factors)
            changed = True
    return model, changed


def _ends(node: ir.Node) -> list[int] | None:
    """The padding behind the data per axis, if a window is left out on some axis; None otherwise."""
    sizes, outputs = dims(node.inputs[0]), dims(node.outputs[0])
    if sizes is None or outputs is None or len(sizes) <= _LEADING:
        return None
    rank = len(sizes) - _LEADING
    kernel, strides = _listed(node, "kernel_shape", 1, rank), _listed(node, "strides", 1, rank)
    dilations, pads = _listed(node, "dilations", 1, rank), _listed(node, "pads", 0, 2 * rank)
    found, left_out = [], False
    for axis, (size, count) in enumerate(zip(sizes[_LEADING:], outputs[_LEADING:], strict=True)):
        if not isinstance(size, int) or not isinstance(count, int):
            return None
        reach, stride, begin = dilations[axis] * (kernel[axis] - 1) + 1, strides[axis], pads[axis]
        rounded_up = -(-(size + begin + pads[rank + axis] - reach) // stride) + 1
        end = max(0, (count - 1) * stride + reach - size - begin)
        if (size + begin + end - reach) // stride + 1 != count:
            return None
        left_out |= rounded_up > count
        found.append(end)
    return found if left_out else None


def _factors(node: ir.Node, ends: list[int]) -> NDArray[np.float32] | None:
    """Kernel size divided by the number of places that count, ``[1, 1, places…]``; None if all or no padding counts."""
    if not is_op(node, "AveragePool") or not attribute(node, "count_include_pad", 0):
        return None
    rank = len(ends)
    sizes, counts = dims(node.inputs[0]), dims(node.outputs[0])
    assert sizes is not None
    assert counts is not None
    kernel, strides = _listed(node, "kernel_shape", 1, rank), _listed(node, "strides", 1, rank)
    dilations, pads = _listed(node, "dilations", 1, rank), _listed(node, "pads", 0, 2 * rank)
    if all(end <= given for end, given in zip(ends, pads[rank:], strict=True)):
        return None
    found = np.ones([1] * (rank + _LEADING))
    for axis in range(rank):
        starts = np.arange(int(counts[axis + _LEADING] or 0)) * strides[axis] - pads[axis]
        last = int(sizes[axis + _LEADING] or 0) + pads[rank + axis]
        places = starts[:, None] + dilations[axis] * np.arange(kernel[axis])
        share = kernel[axis] / (places < last).sum(1)
        found = found * share.reshape([-1 if dim == axis + _LEADING else 1 for dim in range(found.ndim)])
    return found.astype(np.float32)


def _multiply(model: ir.Model, node: ir.Node, factors: NDArray[np.float32]) -> None:
    old = node.outputs[0]
    attributes = {key: item.value for key, item in node.attributes.items()}
    pooled = insert_before(node, "AveragePool", list(node.inputs), attributes, f"{old.name}_sums", old.shape, old.dtype)
    scale = add_constant(model, f"{old.name}_counted", factors)
    substitute(old, insert_before(node, "Mul", [pooled, scale], {}, f"{old.name}_means", old.shape, old.dtype))


def _listed(node: ir.Node, name: str, default: int, count: int) -> list[int]:
    found = node.attributes.get(name)
    return [default] * count if found is None else list(found.as_ints())
