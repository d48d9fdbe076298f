"""Explicit Q/DQ: each ``retort::qdq`` of the program becomes INT8 initialisers and Quantize/DequantizeLinear.

During translation each op is one node ``QDQ`` of the domain ``retort``, so that no optimizer folds a dequantized
weight into an FP32 constant; :func:`write_qdq` replaces these nodes last. Weights become INT8 initialisers followed by
DequantizeLinear (tensorrt.md Q09); transposes, reshapes and slices of a weight are done on its codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...core.errors import ArtifactError
from ..graph_edit import (
    Numbers,
    add_constant,
    constant,
    evaluate,
    every_node,
    insert_before,
    is_op,
    sole_user,
    substitute,
)

DOMAIN = "retort"
OP = "QDQ"
MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split")
# A fake-quantize may have two more inputs: scale and zero point by which its codes are read (qlinear_fusions.py,
# gates).
_READ_AS = 3
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def is_qdq(node: ir.Node | None) -> bool:
    """Whether ``node`` is a fake-quantize that has not been written as Q/DQ yet."""
    return node is not None and node.domain == DOMAIN and node.op_type == OP


def has_qdq(model: ir.Model) -> bool:
    """Whether the program from which ``model`` was translated is quantized."""
    return any(is_qdq(node) for node in every_node(model))


def merge_repeated(model: ir.Model) -> tuple[ir.Model, bool]:
    """Remove a fake-quantize whose input is already on the same grid, because it changes no value."""
    changed = False
    for node in every_node(model):
        source = node.inputs[0].producer() if is_qdq(node) and node.inputs[0] is not None else None
        if is_qdq(source) and source is not None and _grid(node) == _grid(source):
            substitute(node.outputs[0], source.outputs[0])
            changed = True
    return model, changed


def quantize_before_reshape(model: ir.Model) -> tuple[ir.Model, bool]:
    """Change ``x → reshape → qdq`` to ``x → qdq → reshape``: equal, and the node before it fuses with the Q."""
    changed = False
    for node in every_node(model):
        move = node.inputs[0].producer() if is_qdq(node) and node.inputs[0] is not None else None
        if move is None or not is_op(move, *_RESHAPES) or attribute_axis(node) >= 0:
            continue
        source = move.inputs[0]
        if source is None or source.producer() is None or sole_user(source) is not move:
            continue
        if sole_user(move.outputs[0]) is not node:
            continue
        _swap(move, node, source)
        changed = True
    return model, changed


def attribute_axis(node: ir.Node) -> int:
    """Channel axis of a fake-quantize; -1 for one scale for the whole tensor."""
    return node.attributes["axis"].as_int()


def copy_qdq(origin: ir.Node, value: ir.Value, place: ir.Node) -> ir.Value:
    """The output of a new fake-quantize of ``value`` with the grid of ``origin``, inserted before ``place``."""
    output = ir.Value(name=f"{value.name}_requantized", shape=value.shape, type=value.type)
    attributes, grid = list(origin.attributes.values()), origin.inputs[3:5] or origin.inputs[1:3]
    copied = ir.Node(DOMAIN, OP, [value, *grid], attributes, outputs=[output], name=f"node_{output.name}")
    assert place.graph is not None
    place.graph.insert_before(place, copied)
    return output


def write_qdq(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write every fake-quantize as Q/DQ.

    Raises:
        ArtifactError: a scale is not positive and finite, or a range fits neither INT8 nor UINT8.
    """
    found = [node for node in every_node(model) if is_qdq(node)]
    for node in found:
        source = node.inputs[0]
        assert source is not None
        values = constant(source)
        (_write_activation if values is None else _write_weight)(model, node, source)
    if found:
        _move_codes(model)
        model.graph.opset_imports.pop(DOMAIN, None)
    return model, bool(found)


def _grid(node: ir.Node) -> tuple[object, ...]:
    scale, zero = (constant(value) for value in node.inputs[1:3])
    numbers = tuple(None if array is None else array.tobytes() for array in (scale, zero))
    return (*numbers, *(node.attributes[name].as_int() for name in ("axis", "qmin", "qmax")))


def _swap(move: ir.Node, node: ir.Node, source: ir.Value) -> None:
    """Rewire ``source → move → node`` to ``source → node → move``."""
    moved, result = move.outputs[0], node.outputs[0]
    ir.convenience.replace_all_uses_with(result, moved, replace_graph_outputs=True)
    node.replace_input_with(0, source)
    move.replace_input_with(0, result)
    result.shape = source.shape
    assert move.graph is not None
    move.graph.remove(node)
    move.graph.insert_before(move, node)


def _codes_type(node: ir.Node) -> np.dtype[np.generic]:
    qmin, qmax = (node.attributes[name].as_int() for name in ("qmin", "qmax"))
    if qmin >= -128 and qmax <= 127:
        return np.dtype(np.int8)
    if qmin >= 0 and qmax <= 255:
        return np.dtype(np.uint8)
    raise ArtifactError(f"'{node.name}' quantizes to [{qmin}, {qmax}], which is not 8 bits", "quantize it to INT8")


def _numbers(node: ir.Node, first: int = 1) -> tuple[Numbers, Numbers]:
    """Scale and zero point, the latter in the type of the codes; both 0-d, or 1-d per channel."""
    scale, zero = (constant(value) for value in node.inputs[first : first + 2])
    if scale is None or zero is None:
        raise ArtifactError(f"the scale of '{node.name}' is not a constant", "freeze the scales before exporting")
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ArtifactError(
            f"'{node.name}' has a scale that is not positive and finite", "calibrate again with more samples"
        )
    shape = () if attribute_axis(node) < 0 else (-1,)
    return scale.astype(np.float32).reshape(shape), zero.astype(_codes_type(node)).reshape(shape)


def _write_activation(model: ir.Model, node: ir.Node, source: ir.Value) -> None:
    scale, zero = _numbers(node)
    base, kind = source.name or "value", ir.DataType.from_numpy(zero.dtype)
    grid = [add_constant(model, f"{base}_scale", scale), add_constant(model, f"{base}_zero_point", zero)]
    axis = {"axis": attribute_axis(node)} if scale.ndim else {}
    codes = insert_before(node, "QuantizeLinear", [source, *grid], axis, f"{base}_quantized", source.shape, kind)
    if len(node.inputs) > _READ_AS:
        scale, zero = _numbers(node, _READ_AS)
        grid = [add_constant(model, f"{base}_read_scale", scale), add_constant(model, f"{base}_read_zero_point", zero)]
    name = f"{base}_dequantized"
    result = insert_before(node, "DequantizeLinear", [codes, *grid], axis, name, source.shape, source.dtype)
    substitute(node.outputs[0], result)


@dataclass(frozen=True)
class _Codes:
    """A quantized constant.

    Attributes:
        values: INT8 or UINT8 codes.
        scale: 0-d, or one per index of ``axis``.
        zero_point: of the shape of ``scale`` and the type of ``values``.
        axis: -1 for one scale.
    """

    values: Numbers
    scale: Numbers
    zero_point: Numbers
    axis: int


def _write_weight(model: ir.Model, node: ir.Node, source: ir.Value) -> None:
    scale, zero = _numbers(node)
    weight = constant(source)
    assert weight is not None
    axis = attribute_axis(node) if scale.ndim else -1
    ratio = weight.astype(np.float32) / _spread(scale, axis, weight.ndim)
    low, high = (node.attributes[name].as_int() for name in ("qmin", "qmax"))
    shifted = np.rint(ratio) + _spread(zero, axis, weight.ndim).astype(np.float32)
    codes = _Codes(np.clip(shifted, low, high).astype(zero.dtype), scale, zero, axis)
    substitute(node.outputs[0], _dequantize(model, node, source.name or "weight", codes, source.dtype))


def _spread(values: Numbers, axis: int, rank: int) -> Numbers:
    """``values`` reshaped so that they broadcast along ``axis`` of a tensor of that rank."""
    return values.reshape([-1 if dim == axis else 1 for dim in range(rank)]) if values.ndim else values


def _dequantize(model: ir.Model, place: ir.Node, base: str, codes: _Codes, dtype: ir.DataType | None) -> ir.Value:
    stored = [
        add_constant(model, f"{base}_quantized", codes.values),
        add_constant(model, f"{base}_scale", codes.scale),
        add_constant(model, f"{base}_zero_point", codes.zero_point),
    ]
    attributes = {"axis": codes.axis} if codes.scale.ndim else {}
    shape = ir.Shape(codes.values.shape)
    return insert_before(place, "DequantizeLinear", stored, attributes, f"{base}_dequantized", shape, dtype)


def _move_codes(model: ir.Model) -> None:
    """Apply data movements of dequantized weights to their codes, until none is left."""
    pending = [node for node in every_node(model) if is_op(node, "DequantizeLinear")]
    while pending:
        node = pending.pop()
        codes = _codes_of(node)
        for use in list(node.outputs[0].uses()) if codes is not None else []:
            if codes is not None and is_op(use.node, *MOVES) and use.idx == 0:
                pending += _moved(model, node, use.node, codes)


def _codes_of(node: ir.Node) -> _Codes | None:
    """The constant that a DequantizeLinear reads, if it is symmetric; else None."""
    values, scale, zero = (constant(value) for value in node.inputs)
    if values is None or scale is None or zero is None or zero.any():
        return None
    return _Codes(values, scale, zero, node.attributes["axis"].as_int() if scale.ndim else -1)


def _moved(model: ir.Model, node: ir.Node, move: ir.Node, codes: _Codes) -> list[ir.Node]:
    """Replace ``dequantize → move`` by the dequantize of moved codes, unless the scales cannot be moved as well."""
    rest = [constant(value) for value in move.inputs[1:]]
    feeds = [array for array in rest if array is not None]
    if len(feeds) != len(rest):
        return []
    opset = model.graph.opset_imports.get("", 21)
    full = np.broadcast_to(_spread(codes.scale, codes.axis, codes.values.ndim), codes.values.shape)
    grids = [_compress(scales) for scales in evaluate(move, [full, *feeds], opset)]
    if any(grid is None for grid in grids):
        return []
    parts = evaluate(move, [codes.values, *feeds], opset)
    stored = node.inputs[0]
    base = (stored.name if stored is not None and stored.name else "weight").removesuffix("_quantized")
    made: list[ir.Node] = []
    for output, values, grid in zip(move.outputs, parts, grids, strict=True):
        assert grid is not None
        scale, axis = grid
        moved = _Codes(values, scale, np.zeros(scale.shape, values.dtype), axis)
        result = _dequantize(model, move, base, moved, output.dtype)
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        producer = result.producer()
        assert producer is not None
        made.append(producer)
    assert move.graph is not None
    move.graph.remove(move, safe=True)
    return made


def _compress(full: Numbers) -> tuple[Numbers, int] | None:
    """Scales of a whole tensor as ``(scales, axis)``, axis -1 for a single scale; None if they vary along two axes."""
    if full.size == 0 or (full == full.flat[0]).all():
        return np.asarray(full.flat[0] if full.size else 1.0, dtype=np.float32).reshape(()), -1
    for axis in range(full.ndim):
        line = full[tuple(slice(None) if dim == axis else 0 for dim in range(full.ndim))]
        if (full == line.reshape([-1 if dim == axis else 1 for dim in range(full.ndim)])).all():
            return np.asarray(line, order="C"), axis
    return None
