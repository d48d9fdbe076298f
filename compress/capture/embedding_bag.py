"""Rewrites embedding bags of equal length as an embedding and a reduction; ONNX would get a loop over the bags."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..graph.node_writer import NodeWriter

_aten = torch.ops.aten
_SUM, _MEAN, _MAX = 0, 1, 2


def expand_embedding_bags(graph: fx.Graph) -> None:
    """Replace ``nn.EmbeddingBag`` on ``int64[N, T]`` by ``embedding`` and a sum, mean or maximum over ``T``."""
    for node in graph.find_nodes(op="call_function", target=_aten.embedding_bag.padding_idx):
        weight, flat, offsets, _, mode, _, weights, last, padding = node.args
        indices, factors = _rows(flat), None if weights is None else _rows(weights)
        readers = list(node.users)
        bags = indices is not None and not last and _in_steps(offsets, indices.meta["val"].shape[1])
        if not bags or (weights is not None and factors is None) or (mode == _MAX and padding is not None):
            continue
        if any(user.target is not operator.getitem or user.args[1] != 0 for user in readers):
            continue
        result = _write(NodeWriter(graph, node), weight, indices, factors, mode, padding)
        for user in readers:
            user.replace_all_uses_with(result)
            graph.erase_node(user)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _rows(flat: Any) -> fx.Node | None:
    """The matrix ``[N, T]`` that was flattened."""
    source = flat.args[0] if flat.target is _aten.reshape.default and list(flat.args[1]) == [-1] else None
    return source if isinstance(source, fx.Node) and source.meta["val"].dim() == 2 else None


def _in_steps(offsets: Any, length: Any) -> bool:
    """Whether a bag begins at every multiple of ``length``."""
    if offsets.target is not _aten.arange.start_step or offsets.args[0] != 0:
        return False
    step = offsets.args[2]
    return str(step.meta["val"] if isinstance(step, fx.Node) else step) == str(length)


def _write(write: NodeWriter, weight: Any, indices: Any, factors: Any, mode: Any, padding: Any) -> Any:
    rows = write(_aten.embedding.default, weight, indices)
    if mode == _MAX:
        return write(_aten.amax.default, rows, [1])
    if padding is not None:
        kind = weight.meta["val"].dtype
        present = write(_aten.to.dtype, write(_aten.ne.Scalar, indices, padding), kind)
        present = write(_aten.unsqueeze.default, present, -1)
        rows = write(_aten.mul.Tensor, rows, present)
    if factors is not None:
        rows = write(_aten.mul.Tensor, rows, write(_aten.unsqueeze.default, factors, -1))
    if mode == _MEAN and padding is None:
        return write(_aten.mean.dim, rows, [1])
    total = write(_aten.sum.dim_IntList, rows, [1])
    if mode == _SUM:
        return total
    return write(_aten.div.Tensor, total, write(_aten.clamp.default, write(_aten.sum.dim_IntList, present, [1]), 1))
