"""Explicit Q/DQ: each ``retort::qdq`` of the program becomes INT8 initialisers and Quantize/DequantizeLinear.

During translation an op stays whole, as a node ``QDQ`` of the domain ``retort``, so that no optimizer folds a
dequantized weight back into FP32; :func:`write_qdq` replaces them last. Weights become INT8 initialisers followed by
DequantizeLinear (tensorrt.md Q09); transposes, reshapes and slices of a weight are done on its codes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..core.errors import ArtifactError
from ..core.tensors import Array
from .edit import add_constant, constant, evaluate, every_node, insert_before, is_op, sole_user, substitute

DOMAIN = "retort"
OP = "QDQ"
MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split")
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def is_qdq(node: ir.Node | None) -> bool:
    """Whether ``node`` is a fake-quantize that has not been written as Q/DQ yet."""
    return node is not None and node.domain == DOMAIN and node.op_type == OP


def has_qdq(model: ir.Model) -> bool:
    """Whether the program behind ``model`` is quantized."""
    return any(is_qdq(node) for node in every_node(model))


def merge_repeated(model: ir.Model) -> tuple[ir.Model, bool]:
    """Drop a fake-quantize whose input already lies on the very same grid (rounding twice rounds once)."""
    changed = False
    for node in every_node(model):
        source = node.inputs[0].producer() if is_qdq(node) and node.inputs[0] is not None else None
        if is_qdq(source) and source is not None and _grid(node) == _grid(source):
            substitute(node.outputs[0], source.outputs[0])
            changed = True
    return model, changed


def quantize_before_reshape(model: ir.Model) -> tuple[ir.Model, bool]:
    """Swap ``x → reshape → qdq`` to ``x → qdq → reshape``: the same numbers, and the op before it fuses with its Q."""
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
    """``value`` behind a fake-quantize on the grid of ``origin``, put before ``place``."""
    output = ir.Value(name=f"{value.name}_requantized", shape=value.shape, type=value.type)
    attributes = list(origin.attributes.values())
    copied = ir.Node(DOMAIN, OP, [value, *origin.inputs[1:]], attributes, outputs=[output], name=f"node_{output.name}")
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


def _numbers(node: ir.Node) -> tuple[Array, Array]:
    """Scale and zero point, the latter in the type of the codes; both 0-d, or 1-d per channel."""
    scale, zero = (constant(value) for value in node.inputs[1:3])
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
    name = f"{base}_dequantized"
    result = insert_before(node, "DequantizeLinear", [codes, *grid], axis, name, source.shape, source.dtype)
    substitute(node.outputs[0], result)


def _write_weight(model: ir.Model, node: ir.Node, source: ir.Value) -> None:
    scale, zero = _numbers(node)
    weight = constant(source)
    assert weight is not None
    axis = attribute_axis(node)
    spread = tuple(-1 if dim == axis else 1 for dim in range(weight.ndim)) if scale.ndim else ()
    ratio = weight.astype(np.float32) / scale.reshape(spread)
    low, high = (node.attributes[name].as_int() for name in ("qmin", "qmax"))
    codes = np.clip(np.rint(ratio) + zero.reshape(spread).astype(np.float32), low, high).astype(zero.dtype)
    result = _dequantize(model, node, source.name or "weight", codes, scale, zero, axis, source.dtype)
    substitute(node.outputs[0], result)


def _dequantize(
    model: ir.Model,
    place: ir.Node,
    base: str,
    codes: Array,
    scale: Array,
    zero: Array,
    axis: int,
    dtype: ir.DataType | None,
) -> ir.Value:
    stored = [
        add_constant(model, f"{base}_quantized", codes),
        add_constant(model, f"{base}_scale", scale),
        add_constant(model, f"{base}_zero_point", zero),
    ]
    attributes = {"axis": axis} if scale.ndim else {}
    shape = ir.Shape(codes.shape)
    return insert_before(place, "DequantizeLinear", stored, attributes, f"{base}_dequantized", shape, dtype)


def _move_codes(model: ir.Model) -> None:
    """Apply movements of dequantized weights to their codes, until none is left."""
    pending = [node for node in every_node(model) if is_op(node, "DequantizeLinear")]
    while pending:
        node = pending.pop()
        codes, scale, zero = (constant(value) for value in node.inputs)
        if codes is None or scale is None or zero is None:
            continue
        for use in list(node.outputs[0].uses()):
            if is_op(use.node, *MOVES) and use.idx == 0:
                pending += _moved(model, node, use.node, codes, scale, zero)


def _moved(model: ir.Model, node: ir.Node, move: ir.Node, codes: Array, scale: Array, zero: Array) -> list[ir.Node]:
    """Replace ``dequantize → move`` by the dequantize of moved codes; nothing when the scales do not follow."""
    rest = [constant(value) for value in move.inputs[1:]]
    if any(array is None for array in rest) or zero.any():
        return []
    axis = node.attributes["axis"].as_int() if scale.ndim else -1
    spread = scale.reshape([-1 if dim == axis else 1 for dim in range(codes.ndim)]) if scale.ndim else scale
    opset = model.graph.opset_imports.get("", 21)
    feeds = [array for array in rest if array is not None]
    moved_codes = evaluate(move, [codes, *feeds], opset)
    moved_scales = evaluate(move, [np.broadcast_to(spread, codes.shape), *feeds], opset)
    grids = [_compress(full) for full in moved_scales]
    if any(grid is None for grid in grids):
        return []
    base = (node.inputs[0].name or "weight").removesuffix("_quantized") if node.inputs[0] is not None else "weight"
    made: list[ir.Node] = []
    for output, part, grid in zip(move.outputs, moved_codes, grids, strict=True):
        assert grid is not None
        new_scale, new_axis = grid
        result = _dequantize(
            model, move, base, part, new_scale, np.zeros(new_scale.shape, zero.dtype), new_axis, output.dtype
        )
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        producer = result.producer()
        assert producer is not None
        made.append(producer)
    assert move.graph is not None
    move.graph.remove(move, safe=True)
    return made


def _compress(full: Array) -> tuple[Array, int] | None:
    """Scales spread over a whole tensor as ``(scales, axis)``, axis -1 for a single one; None along two axes."""
    if full.size == 0 or (full == full.flat[0]).all():
        return np.asarray(full.flat[0] if full.size else 1.0, dtype=np.float32).reshape(()), -1
    for axis in range(full.ndim):
        line = full[tuple(slice(None) if dim == axis else 0 for dim in range(full.ndim))]
        if (full == line.reshape([-1 if dim == axis else 1 for dim in range(full.ndim)])).all():
            return np.asarray(line, order="C"), axis
    return None
