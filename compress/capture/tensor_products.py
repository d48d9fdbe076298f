"""Rewrites contractions of any axes (``tensordot``, ``inner``, ``vecdot``) as matrix products.

Every later transform knows the matrix product: it is counted, pruned, quantized and exported. A triangular system with
a matrix of parameters (the prior of a flow) is a product with the inverse, which the file stores as a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..graph.node_writer import NodeWriter

_aten = torch.ops.aten


def expand_tensor_products(graph: fx.Graph) -> None:
    """Replace every contraction that a matrix product can compute."""
    for node in list(graph.nodes):
        make = _MAKERS.get(node.target) if node.op == "call_function" else None
        made = make(NodeWriter(graph, node), node) if make is not None else None
        if made is not None:
            node.replace_all_uses_with(made)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _tensordot(write: NodeWriter, node: fx.Node) -> Any:
    first, second, own, others = node.args[:4]
    return _contracted(write, first, second, own, others)  # type: ignore[arg-type]


def _inner(write: NodeWriter, node: fx.Node) -> Any:
    first, second = node.args[:2]
    return _contracted(write, first, second, [-1], [-1])


def _vecdot(write: NodeWriter, node: fx.Node) -> Any:
    first, second = node.args[:2]
    if _value(first).is_complex():
        return None
    return write(_aten.sum.dim_IntList, write(_aten.mul.Tensor, first, second), [node.kwargs.get("dim", -1)])


def _solved(write: NodeWriter, node: fx.Node) -> Any:
    """``solve_triangular(A, B)``, if ``A`` does not depend on the inputs of the model."""
    matrix, values = node.args[:2]
    if not isinstance(matrix, fx.Node) or node.kwargs.get("unitriangular") or _depends_on_inputs(matrix):
        return None
    cut = write(_aten.triu.default if node.kwargs.get("upper") else _aten.tril.default, matrix)
    inverse = write(_aten.linalg_inv.default, cut)
    factors = (inverse, values) if node.kwargs.get("left", True) else (values, inverse)
    return write(_aten.matmul.default, *factors)


def _depends_on_inputs(node: fx.Node) -> bool:
    seen, waiting = set[fx.Node](), [node]
    while waiting:
        item = waiting.pop()
        if item.op == "placeholder":
            return True
        waiting += [other for other in item.all_input_nodes if other not in seen]
        seen.update(item.all_input_nodes)
    return False


def _contracted(write: NodeWriter, first: Any, second: Any, own: Sequence[int], others: Sequence[int]) -> Any:
    """``[free axes of first, free axes of second]``; None if a matrix product cannot compute it."""
    one, two = _value(first), _value(second)
    if not own or not one.dim() or not two.dim():
        return None
    left = [axis % one.dim() for axis in own]
    right = [axis % two.dim() for axis in others]
    rows = [axis for axis in range(one.dim()) if axis not in left]
    columns = [axis for axis in range(two.dim()) if axis not in right]
    sizes = [two.shape[axis] for axis in columns]
    if any(one.shape[a] != two.shape[b] for a, b in zip(left, right)) or sum(not isinstance(s, int) for s in sizes) > 1:
        return None
    first = _joined(write, _turned(write, first, [*rows, *left]), len(rows), len(left))
    second = _joined(write, _turned(write, second, [*right, *columns]), 0, len(right))
    second = _joined(write, second, 1, len(columns))
    result = write(_aten.matmul.default, first, second)
    if len(columns) < 2:
        return result
    return write(_aten.unflatten.int, result, -1, [size if isinstance(size, int) else -1 for size in sizes])


def _turned(write: NodeWriter, node: Any, order: list[int]) -> Any:
    return node if order == list(range(len(order))) else write(_aten.permute.default, node, order)


def _joined(write: NodeWriter, node: Any, start: int, count: int) -> Any:
    """Make one axis of ``count`` axes."""
    return node if count < 2 else write(_aten.flatten.using_ints, node, start, start + count - 1)


def _value(node: Any) -> torch.Tensor:
    value: torch.Tensor = node.meta["val"]
    return value


_MAKERS = {
    _aten.tensordot.default: _tensordot,
    _aten.inner.default: _inner,
    _aten.linalg_vecdot.default: _vecdot,
    _aten.linalg_solve_triangular.default: _solved,
}
