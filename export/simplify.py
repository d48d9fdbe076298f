"""Graph passes that change no values: dead and repeated nodes, no-ops, constants, pooling, names.

Each pass takes a model and returns the model and whether it changed. This is the convention of onnx-ir's own passes,
which are used where possible. Fake-quantize nodes are not changed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from .graph_edit import (
    add_constant,
    attribute,
    constant,
    constant_bytes,
    dims,
    evaluate,
    every_node,
    insert_before,
    is_op,
    producer,
    substitute,
)
from .qdq.write_qdq import is_qdq

Pass = Callable[[ir.Model], tuple[ir.Model, bool]]
_NOTHING = ("Identity", "Dropout")
_KEEPS_ORDER = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand")
_SLOW = ("Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "Resize", "Einsum", "MaxPool", "AveragePool", "GridSample")
_SMALL_BYTES = 1024
_ROUNDS = 8


def simplify(model: ir.Model, passes: tuple[Pass, ...] | None = None) -> tuple[ir.Model, bool]:
    """Run the passes until none changes anything.

    Args:
        model: edited in place.
        passes: which passes, in order; :data:`PASSES` when absent.

    Returns:
        The model and whether it changed.
    """
    chosen = PASSES if passes is None else passes
    anything = False
    for _ in range(_ROUNDS):
        results = [step(model)[1] for step in chosen]
        if not any(results):
            break
        anything = True
    return model, anything


def remove_dead(model: ir.Model) -> tuple[ir.Model, bool]:
    """Remove nodes and initializers that do not affect an output."""
    return model, common.RemoveUnusedNodesPass()(model).modified


def merge_equal(model: ir.Model) -> tuple[ir.Model, bool]:
    """Merge equal small initializers and nodes that compute the same from the same inputs."""
    constants = common.DeduplicateInitializersPass()(model).modified
    return model, common.CommonSubexpressionEliminationPass()(model).modified or constants


def remove_noops(model: ir.Model) -> tuple[ir.Model, bool]:
    """Remove identities, inference dropouts, casts to the same type, and other operators without effect."""
    changed = False
    for node in every_node(model):
        source = _only_source(node)
        if source is None or node.graph is None:
            continue
        if node.outputs[0].is_graph_output() and (source.is_graph_input() or source.is_initializer()):
            continue  # ONNX requires a node between an input and an output
        if node.outputs[0].is_graph_output() and source.is_graph_output():
            continue  # both names must be kept
        substitute(node.outputs[0], source)
        changed = True
    return model, changed


def fold_constants(model: ir.Model) -> tuple[ir.Model, bool]:
    """Compute nodes whose inputs are constants, including weights of any size, unless the file would become larger."""
    result = optimizer.fold_constants(model, input_size_limit=1 << 62, output_size_limit=1 << 62, should_fold=_pays)
    modified = bool(result.modified)
    if modified:
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model, _fold_splits(model) or modified


def pool_globally(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write a mean over all spatial axes as GlobalAveragePool, because ReduceMean has no integer kernel.

    An AveragePool whose window covers its whole input is rewritten as well; TensorRT rejects windows larger than the
    input.

    A mean over the last axis of a rank-3 tensor is not rewritten unless its input is quantized, because it may be the
    first step of a normalisation.
    """
    changed = False
    for node in every_node(model):
        if is_op(node, "AveragePool") and _covers_all(node):
            _pool(model, node)
            changed = True
        if not is_op(node, "ReduceMean") or node.inputs[0] is None:
            continue
        source, shape = node.inputs[0], dims(node.inputs[0])
        if shape is None or not _spatial(node, len(shape)) or (len(shape) == 3 and not is_qdq(source.producer())):
            continue
        _pool(model, node)
        changed = True
    return model, changed


def _only_source(node: ir.Node) -> ir.Value | None:
    """The input that equals the output; None if the operator has an effect."""
    source = node.inputs[0] if node.inputs else None
    if is_op(node, "Mul"):
        pairs = ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0]))
        return next(
            (other for factor, other in pairs if _all_true(factor, other) and not is_qdq(producer(other))), None
        )
    if is_op(node, "Where"):
        return node.inputs[1] if _all_true(node.inputs[0], node.inputs[1]) else None
    return source if source is not None and _does_nothing(node, source) else None


def _all_true(value: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether a constant is 1 or true throughout and does not widen the shape of the other input."""
    known, shape = constant(value), dims(other)
    if known is None or shape is None or known.ndim > len(shape) or not (known == 1).all():
        return False
    aligned = shape[len(shape) - known.ndim :]
    return known.size > 0 and all(size in (1, axis) for size, axis in zip(known.shape, aligned))


def _does_nothing(node: ir.Node, source: ir.Value) -> bool:
    output = node.outputs[0]
    if is_op(node, *_NOTHING):
        return not any(extra.uses() or extra.is_graph_output() for extra in node.outputs[1:])
    if is_op(node, "Cast"):
        return source.dtype is not None and source.dtype == output.dtype
    if is_op(node, "Transpose"):
        perm = node.attributes.get("perm")
        return perm is not None and list(perm.as_ints()) == sorted(perm.as_ints())
    return is_op(node, *_KEEPS_ORDER) and _same_shape(dims(source), dims(output))


def _fold_splits(model: ir.Model) -> bool:
    """Store the parts of a split constant, which would otherwise be computed at run time (cross-attention)."""
    changed = False
    for node in every_node(model):
        feeds = [constant(value) for value in node.inputs] if is_op(node, "Split") else [None]
        whole = [array for array in feeds if array is not None]
        if len(whole) != len(feeds) or node.inputs[0] is None or not _freed(node.inputs[0]):
            continue
        if any(output.is_graph_output() for output in node.outputs):
            continue
        for output, part in zip(
            node.outputs, evaluate(node, whole, model.graph.opset_imports.get("", 21)), strict=True
        ):
            stored = add_constant(model, output.name or "part", part)
            ir.convenience.replace_all_uses_with(output, stored, replace_graph_outputs=True)
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        changed = True
    return changed


def _same_shape(one: tuple[int | str | None, ...] | None, two: tuple[int | str | None, ...] | None) -> bool:
    return one is not None and one == two and all(axis is not None for axis in one)


def _pays(node: ir.Node) -> bool | None:
    """Whether folding keeps the file small: a large constant is folded only if all its readers are."""
    if is_op(node, "QuantizeLinear", "DequantizeLinear") or is_qdq(node):
        return False
    if is_op(node, *_SLOW):
        return None  # by the optimizer's own limits: the reference implementation takes minutes for large ones
    before = sum(constant_bytes(value) for value in set(node.inputs) if value is not None and _freed(value))
    after = [_bytes(value) for value in node.outputs]
    if any(size is None for size in after):
        return None
    return sum(size for size in after if size is not None) <= before + _SMALL_BYTES


def _freed(value: ir.Value) -> bool:
    """Whether ``value`` has no readers left after its foldable readers are folded, and these do not become larger."""
    readers = [use.node for use in value.uses()]
    if value.is_graph_output() or any(constant(item) is None for node in readers for item in node.inputs if item):
        return False
    if len(readers) == 1:
        return True
    total = [_bytes(out) for node in readers for out in node.outputs]
    return all(size is not None for size in total) and sum(filter(None, total)) <= constant_bytes(value)


def _bytes(value: ir.Value) -> int | None:
    shape = dims(value)
    if shape is None or value.dtype is None or not all(isinstance(axis, int) for axis in shape):
        return None
    return int(np.prod([axis for axis in shape if isinstance(axis, int)], dtype=np.int64) * value.dtype.itemsize)


def _covers_all(node: ir.Node) -> bool:
    shape, window = dims(node.inputs[0]), node.attributes.get("kernel_shape")
    pads, after = node.attributes.get("pads"), dims(node.outputs[0])
    if shape is None or window is None or after is None or (pads is not None and any(pads.as_ints())):
        return False
    inside = all(isinstance(size, int) and size <= kernel for size, kernel in zip(shape[2:], window.as_ints()))
    return inside and all(size == 1 for size in after[2:])


def _spatial(node: ir.Node, rank: int) -> bool:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if rank < 3 or axes is None:
        return False
    return sorted(int(axis) % rank for axis in axes.reshape(-1)) == list(range(2, rank))


def _pool(model: ir.Model, node: ir.Node) -> None:
    source, shape = node.inputs[0], dims(node.inputs[0])
    assert source is not None
    assert shape is not None
    keep = bool(attribute(node, "keepdims", 1))
    name, dtype = node.outputs[0].name or "pool", source.dtype
    pooled_shape = ir.Shape([*shape[:2], *[1] * (len(shape) - 2)])
    pooled = insert_before(node, "GlobalAveragePool", [source], {}, f"{name}_pooled", pooled_shape, dtype)
    if keep:
        substitute(node.outputs[0], pooled)
        return
    # Reshape and not Flatten: ONNX Runtime moves a DequantizeLinear past the first only.
    target = add_constant(model, f"{name}_shape", np.asarray([0, -1], dtype=np.int64))
    flat = insert_before(node, "Reshape", [pooled, target], {}, f"{name}_flat", ir.Shape(shape[:2]), dtype)
    substitute(node.outputs[0], flat)


PASSES: tuple[Pass, ...] = (remove_noops, fold_constants, pool_globally, merge_equal, remove_dead)
