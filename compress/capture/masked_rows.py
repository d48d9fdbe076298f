"""Rewrites ``x[mask] = f(x[mask])`` as ``x = where(mask, f(x), x)``: how many rows a mask selects is no fixed size.

It holds for every function that treats its rows one by one, such as the experts of a mixture that each get the tokens
that a router chose. All rows are computed, and those that the mask does not select are not used. ``x[mask] = 0``
becomes ``x = where(mask, 0, x)``, which needs no list of the selected places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from ...core.errors import CaptureError
from ..graph.node_writer import NodeWriter

_aten = torch.ops.aten
_PUTS = (_aten.index_put.default, _aten.index_put_.default)
_BY_ROW = (
    *(_aten.linear.default, _aten.dropout.default, _aten.clone.default, _aten.contiguous.default, _aten.to.dtype),
    *(_aten.layer_norm.default, _aten.embedding.default),
)
_ALONG = (_aten.softmax.int, _aten.log_softmax.int, _aten.unsqueeze.default)
"""Operators whose second argument is an axis; they work row by row unless it is the first."""


def expand_masked_rows(graph: fx.Graph) -> None:
    """Replace every update of masked rows by one value, or by what is computed from the same rows of other values."""
    for node in list(graph.nodes):
        if node.target not in _PUTS or any(node.args[3:]) or node.kwargs:
            continue
        write = NodeWriter(graph, node)
        mask = _mask(node.args[1])
        found = _same_for_all(write, node) or (_by_row(write, node, mask) if mask is not None else None)
        if found is None:
            continue
        chosen, rows = found
        result = write(_aten.where.self, chosen, rows, node.args[0])
        if node.target is _aten.index_put_.default:
            result = write(_aten.copy_.default, node.args[0], result)
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def _same_for_all(write: NodeWriter, node: fx.Node) -> tuple[fx.Node, Any] | None:
    """The mask and the value of ``x[mask] = value`` or ``x[:, mask] = value`` if all rows get the same value."""
    indices: Any = node.args[1]
    mask, value = _mask(indices[-1:]), node.args[2]
    if mask is None or any(item is not None for item in indices[:-1]) or not isinstance(value, fx.Node):
        return None
    kept: Any = node.args[0]
    depth = kept.meta["val"].dim() - mask.meta["val"].dim() - (len(indices) - 1)
    shape = value.meta["val"].shape
    if len(shape) == depth + 1 and isinstance(shape[0], int) and shape[0] == 1:
        value = write(_aten.squeeze.dim, value, 0)
    elif len(shape) > depth:
        return None
    return _spread(write, mask, depth), value


def _by_row(write: NodeWriter, node: fx.Node, mask: fx.Node) -> tuple[fx.Node, Any] | None:
    """The mask and the values of all rows if the rows that it selects are computed one by one."""
    rows = _on_all_rows(write, node.args[2], mask, {}) if _selects(node.args[2]) else None
    if rows is None:
        return None
    kept: Any = node.args[0]
    if mask.meta["val"].dim() > 1:
        sizes = [size if isinstance(size, int) else -1 for size in mask.meta["val"].shape]
        rows = write(_aten.unflatten.int, rows, 0, sizes)
    return _spread(write, mask, kept.meta["val"].dim() - mask.meta["val"].dim()), rows


def _spread(write: NodeWriter, mask: fx.Node, depth: int) -> fx.Node:
    """The mask with ``depth`` further axes."""
    chosen = mask
    for _ in range(depth):
        chosen = write(_aten.unsqueeze.default, chosen, -1)
    return chosen


def require_known_sizes(graph: fx.Graph) -> None:
    """Reject a program in which the size of a value depends on data.

    Raises:
        CaptureError: there is such a value; the message has the line.
    """
    for node in graph.nodes:
        if node.op == "call_function" and _selects(node):
            line = str(node.meta.get("stack_trace") or "").strip().splitlines()
            raise CaptureError(
                "the number of values that the model selects depends on its data"
                + (f" (`{line[-1].strip()}`)" if line else f" ({node.name})"),
                "keep all values and mark those that count: torch.where, masked_fill or topk of a fixed number",
            )


def _mask(indices: Any) -> fx.Node | None:
    """The mask by which rows are selected."""
    only = indices[0] if isinstance(indices, list | tuple) and len(indices) == 1 else None
    value = only.meta.get("val") if isinstance(only, fx.Node) else None
    return only if isinstance(value, torch.Tensor) and value.dtype == torch.bool else None


def _selects(node: Any) -> bool:
    """Whether the size of a value depends on data."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, torch.Tensor) and bool(free_unbacked_symbols(value))


def _on_all_rows(write: NodeWriter, node: Any, mask: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """The value for all rows, ``[mask.numel(), …]``; None if it cannot be computed row by row."""
    if node not in known:
        known[node] = _computed(write, node, mask, known)
    return known[node]


def _computed(write: NodeWriter, node: fx.Node, mask: fx.Node, known: dict[fx.Node, Any]) -> Any:
    if node.target is _aten.index.Tensor:
        depth = mask.meta["val"].dim()
        source: Any = node.args[0]
        if _mask(node.args[1]) is not mask or _selects(source):
            return None
        return source if depth == 1 else write(_aten.flatten.using_ints, source, 0, depth - 1)
    rank = node.meta["val"].dim()
    if not _is_by_row(node, rank):
        return None
    values = []
    for item in node.args:
        if isinstance(item, fx.Node) and _selects(item):
            if item.meta["val"].dim() != rank - (node.target is _aten.unsqueeze.default):
                return None
            item = _on_all_rows(write, item, mask, known)
            if item is None:
                return None
        values.append(item)
    return write(node.target, *values)


def _is_by_row(node: fx.Node, rank: int) -> bool:
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload) or node.kwargs or target._schema.is_mutable:
        return False
    if target in _ALONG:
        axis: Any = node.args[1]
        return bool(axis % rank)
    return target in _BY_ROW or torch.Tag.pointwise in target.tags
