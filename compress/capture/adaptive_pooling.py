"""Rewrites adaptive maximum pooling to several cells as pooling or as maxima of slices; ONNX has only the global one.

Cell ``i`` of ``n`` covers the positions from ``floor(i * size / n)`` to ``ceil((i + 1) * size / n)``. The maximum over
a rectangle is the maximum over one axis after the other.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..graph.node_writer import NodeWriter

_aten = torch.ops.aten
_POOLS = {
    _aten.adaptive_max_pool1d.default: _aten.max_pool1d.default,
    _aten.adaptive_max_pool2d.default: _aten.max_pool2d.default,
    _aten.adaptive_max_pool3d.default: _aten.max_pool3d.default,
}


def expand_adaptive_max_pools(graph: fx.Graph) -> None:
    """Replace every pooling of fixed size whose places are not used; the pooling to one cell stays."""
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _POOLS:
            continue
        source: Any = node.args[0]
        given: Any = node.args[1]
        cells = [int(size) for size in given]
        sizes = list(source.meta["val"].shape[-len(cells) :])
        values_only = all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
        if set(cells) == {1} or not values_only or not all(isinstance(size, int) for size in sizes):
            continue
        made = _pooled(NodeWriter(graph, node), _POOLS[node.target], source, sizes, cells)
        for user in list(node.users):
            user.replace_all_uses_with(made)
            graph.erase_node(user)
        graph.erase_node(node)


def _pooled(write: NodeWriter, pool: Any, source: Any, sizes: list[int], cells: list[int]) -> Any:
    if all(size % count == 0 for size, count in zip(sizes, cells)):
        steps = [size // count for size, count in zip(sizes, cells)]
        return write(pool, source, steps, steps)
    for axis, (size, count) in enumerate(zip(sizes, cells), -len(cells)):
        ends = [(place * size // count, -(-(place + 1) * size // count)) for place in range(count)]
        parts = [
            write(_aten.amax.default, write(_aten.slice.Tensor, source, axis, start, end), [axis], True)
            for start, end in ends
        ]
        source = write(_aten.cat.default, parts, axis)
    return source
