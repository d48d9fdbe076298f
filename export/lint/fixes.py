"""Fixes faults of an ONNX file without the program from which it was made.

An exact fix changes values only by rounding. The others (UINT8 activations converted to INT8, scales per channel
reduced to one) are less precise; :mod:`.change` measures by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...core.formats.onnx_graphs import all_nodes
from .declared_types import drop_stale
from .graph_view import DEQUANTIZE, HEAVY, QUANTIZE, Numbers, View, attribute, sorted_nodes
from .qdq_rules import holds_weight, output_axis
from .type_rules import clashing_constants

Fix = Callable[["Editor"], int]
_TINY = 2.0**-24
"""The smallest scale that FP16 can represent."""


class Editor:
    """A model that is being fixed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.count = 0

    @property
    def view(self) -> View:
        """The current state of the model."""
        return View(self.model)

    def store(self, stem: str, array: Numbers) -> str:
        """A new constant."""
        self.count += 1
        name = f"{stem}_fixed_{self.count}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def set_type(self, node: onnx.NodeProto, axis: int | None) -> None:
        """Set or drop the axis of a Q/DQ node."""
        kept = [item for item in node.attribute if item.name != "axis"]
        del node.attribute[:]
        node.attribute.extend(kept + ([] if axis is None else [helper.make_attribute("axis", axis)]))


def fix(model: onnx.ModelProto) -> dict[str, int]:
    """Apply all fixes.

    Args:
        model: edited in place; its weights must be loaded.

    Returns:
        The number of fixes by rule.
    """
    editor = Editor(model)
    done = {rule: apply(editor) for rule, apply in FIXES.items()}
    if any(done.values()):
        _drop_unread(model)
        drop_stale(model)
    return {rule: count for rule, count in done.items() if count}


def sort_nodes(editor: Editor) -> int:
    """Q22: put every node after the nodes that it reads."""
    graph = editor.model.graph
    ordered = sorted_nodes(graph)
    moved = sum(one is not two for one, two in zip(graph.node, ordered, strict=True))
    if moved and [id(node) for node in graph.node] != [id(node) for node in ordered]:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        changed = [node.SerializeToString() for node in graph.node] != [node.SerializeToString() for node in copies]
        del graph.node[:]
        graph.node.extend(copies)
        return int(changed)
    return 0


def standard_domain(editor: Editor) -> int:
    """Q14: Q/DQ in ONNX's own domain."""
    nodes = [node for node in editor.view.pairs() if node.domain not in ("", "ai.onnx")]
    for node in nodes:
        node.domain = ""
    return len(nodes)


def positive_scales(editor: Editor) -> int:
    """Q04: a scale of 0 becomes the smallest scale of FP16: its products were 0, and remain 0 up to 2^-24."""
    view, count = editor.view, 0
    for node in view.pairs():
        scale = view.array(node, 1)
        if scale is not None and np.isfinite(scale).all() and (scale >= 0).all() and not (scale > 0).all():
            node.input[1] = editor.store("scale", np.where(scale > 0, scale, _TINY).astype(scale.dtype))
            count += 1
    return count


def explicit_zero_points(editor: Editor) -> int:
    """Q03: write the implicit zero point: UINT8 0 for a QuantizeLinear, the type of the codes for its readers."""
    view, count = editor.view, 0
    for node in view.pairs():
        if node.op_type != QUANTIZE or (len(node.input) > 2 and node.input[2]) or attribute(node, "output_dtype", 0):
            continue
        scale = view.array(node, 1)
        zero = editor.store("zero", np.zeros(() if scale is None else scale.shape, np.uint8))
        for user in (node, *(user for user, index in view.readers.get(node.output[0], []) if not index)):
            if user.op_type in (QUANTIZE, DEQUANTIZE) and not (len(user.input) > 2 and user.input[2]):
                del user.input[2:]
                user.input.append(zero)
        count += 1
    return count


def signed_activations(editor: Editor) -> int:
    """Q01, Q02: UINT8 activations become INT8; it is exact for zero point 128, else over a symmetric larger range."""
    view, count = editor.view, 0
    for node in [node for node in view.pairs() if node.op_type == QUANTIZE]:
        scale, zero = view.array(node, 1), view.array(node, 2)
        if (
            scale is None
            or zero is None
            or zero.dtype not in (np.uint8, np.int8)
            or not (zero.any() or zero.dtype == np.uint8)
        ):
            continue
        if view.is_constant(node.input[0]) or scale.size != 1 or not _only_dequantized(view, node.output[0]):
            continue
        fresh = [editor.store("scale", _symmetric(scale, zero)), editor.store("zero", np.zeros(zero.shape, np.int8))]
        for user in (node, *_dequantizers(view, node.output[0])):
            del user.input[1:]
            user.input.extend(fresh)
        count += 1
    return count


def one_scale(editor: Editor) -> int:
    """Q05: the largest scale of an activation is used for all its channels."""
    view, count = editor.view, 0
    for node in [node for node in view.pairs() if node.op_type == QUANTIZE]:
        scale = view.array(node, 1)
        if scale is None or scale.size == 1 or holds_weight(view, node):
            continue
        fresh = [editor.store("scale", np.asarray(scale.max())), editor.store("zero", np.int8(0))]  # type: ignore[arg-type]
        for user in (node, *_dequantizers(view, node.output[0])):
            del user.input[1:]
            user.input.extend(fresh)
            editor.set_type(user, None)
        count += 1
    return count


def weight_codes(editor: Editor) -> int:
    """Q06, Q09, Q18: weights as INT8 codes in -127 … 127 with scales along their output channels."""
    view, count = editor.view, 0
    for node in [node for node in view.pairs() if node.op_type == DEQUANTIZE and holds_weight(view, node)]:
        scale, values = view.array(node, 1), _weight_values(view, node)
        if scale is None or values is None or _axis_of_reader(view, node, values.ndim) is None:
            continue
        wanted = _axis_of_reader(view, node, values.ndim)
        axis, coded = attribute(node, "axis", 1) % max(values.ndim, 1), view.array(node, 0)
        right = scale.size == 1 or axis == wanted
        if right and coded is not None and coded.dtype == np.int8 and coded.min(initial=0) > -128:
            continue
        steps = scale if right else _channel_scales(values, int(wanted or 0), scale.dtype)
        codes = np.clip(np.rint(values / _along(steps, values.ndim, int(wanted or 0))), -127, 127).astype(np.int8)
        zero = editor.store("zero", np.zeros(steps.shape, np.int8))
        fresh = [editor.store("weight", codes), editor.store("scale", steps), zero]
        del node.input[:]
        node.input.extend(fresh)
        editor.set_type(node, wanted if steps.size > 1 else None)
        count += 1
    return count


def floating_biases(editor: Editor) -> int:
    """Q07, Q08: a bias of integer codes becomes floating-point numbers."""
    view, count = editor.view, 0
    for node in [node for node in view.pairs() if node.op_type == DEQUANTIZE]:
        values = _dequantized(view, node)
        readers = view.readers.get(node.output[0], [])
        bias = [user for user, index in readers if user.op_type in HEAVY and index == 2]
        if values is None or not (bias or view.stored_type(node, 0) == TensorProto.INT32):
            continue
        name = editor.store("bias", values)
        for user, index in readers:
            user.input[index] = name
        count += 1
    return count


def equal_volumes(editor: Editor) -> int:
    """Q11: a zero point of zeros gets as many values as its scale."""
    view, count = editor.view, 0
    for node in view.pairs():
        scale, zero = view.array(node, 1), view.array(node, 2)
        if scale is not None and zero is not None and scale.size != zero.size and not zero.any():
            node.input[2] = editor.store("zero", np.zeros(scale.shape, zero.dtype))
            count += 1
    return count


def constant_types(editor: Editor) -> int:
    """Q17: a constant operand takes the type of the computed one."""
    view, count = editor.view, 0
    for node, index, kind in list(clashing_constants(view)):
        array = view.constant(node.input[index])
        if array is not None:
            node.input[index] = editor.store("operand", array.astype(helper.tensor_dtype_to_np_dtype(kind)))
            count += 1
    return count


FIXES: dict[str, Fix] = {
    "T04": lambda editor: drop_stale(editor.model),
    "Q22": sort_nodes,
    "Q14": standard_domain,
    "Q04": positive_scales,
    "Q03": explicit_zero_points,
    "Q11": equal_volumes,
    "Q07": floating_biases,
    "Q05": one_scale,
    "Q02": signed_activations,
    "Q06": weight_codes,
    "Q17": constant_types,
}


def _dequantizers(view: View, name: str) -> list[onnx.NodeProto]:
    return [user for user, index in view.readers.get(name, []) if user.op_type == DEQUANTIZE and not index]


def _only_dequantized(view: View, name: str) -> bool:
    """Whether nothing but DequantizeLinear reads codes; the type that others read is not changed."""
    readers = view.readers.get(name, [])
    return name not in view.outputs and all(user.op_type == DEQUANTIZE and not index for user, index in readers)


def _symmetric(scale: Numbers, zero: Numbers) -> Numbers:
    """The scale of a symmetric INT8 grid that covers the given grid."""
    limits = np.iinfo(zero.dtype)
    low, high = float(limits.min) - float(zero.max()), float(limits.max) - float(zero.min())
    steps = 128 if (low, high) == (-128, 127) else 127
    return np.asarray(scale * max(abs(low), high) / steps, scale.dtype)


def _along(scale: Numbers, rank: int, axis: int) -> Numbers:
    if scale.size == 1:
        return np.asarray(scale, np.float32).reshape(())
    return np.asarray(scale, np.float32).reshape([-1 if index == axis else 1 for index in range(rank)])


def _channel_scales(values: Numbers, axis: int, dtype: Any) -> Numbers:
    largest = np.abs(values).max(axis=tuple(index for index in range(values.ndim) if index != axis))
    return np.asarray(np.maximum(largest / 127, _TINY), dtype)


def _weight_values(view: View, node: onnx.NodeProto) -> Numbers | None:
    """The values of a weight, from its codes or from the input of its QuantizeLinear."""
    if view.is_constant(node.input[0]):
        return _dequantized(view, node)
    array = view.array(view.producer[node.input[0]], 0)
    return None if array is None else np.asarray(array, np.float32)


def _dequantized(view: View, node: onnx.NodeProto) -> Numbers | None:
    codes, scale, zero = (view.array(node, index) for index in range(3))
    if codes is None or scale is None:
        return None
    axis, rank = attribute(node, "axis", 1) % max(codes.ndim, 1), codes.ndim
    if scale.ndim > 1 or (scale.size > 1 and codes.shape[axis] != scale.size):
        return None
    offset = np.float32(0) if zero is None or zero.size == 0 else _along(zero, rank, axis)
    return np.asarray((codes.astype(np.float32) - offset) * _along(scale, rank, axis), scale.dtype)


def _axis_of_reader(view: View, node: onnx.NodeProto, rank: int) -> int | None:
    axes = {output_axis(user, index, rank) for user, index in view.readers.get(node.output[0], [])}
    return axes.pop() if len(axes) == 1 else None


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove Q/DQ nodes and constants without readers."""
    graph = model.graph
    while True:
        read = {name for node in all_nodes(graph) for name in node.input} | {value.name for value in graph.output}
        idle = [n for n in graph.node if n.op_type in (QUANTIZE, DEQUANTIZE) and not read & set(n.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
