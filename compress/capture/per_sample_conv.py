"""Rewrites convolutions with a kernel per sample (CondConv, StyleGAN2) as products of kernels and patches.

Such models use one grouped convolution with one group per sample, on an input whose channels contain all samples. ONNX
and most runtimes require a constant number of groups.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from ..graph.node_writer import NodeWriter

_aten = torch.ops.aten


def expand_per_sample_convolutions(graph: fx.Graph) -> None:
    """Replace convolutions of one row with a computed number of groups by patches, kernels and a batched product."""
    for target, write in ((_aten.conv2d.default, _forward), (_aten.conv_transpose2d.input, _transposed)):
        for node in graph.find_nodes(op="call_function", target=target):
            given = _arguments(node)
            if isinstance(given["groups"], fx.Node) and _is_one_row(node, given):
                writer = NodeWriter(graph, node)
                result = write(writer, node, given)
                if given["bias"] is not None:
                    result = writer(
                        _aten.add.Tensor, result, writer(_aten.reshape.default, given["bias"], [1, -1, 1, 1])
                    )
                node.replace_all_uses_with(result)
                graph.erase_node(node)


def _arguments(node: fx.Node) -> dict[str, Any]:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    defaults = {item.name: item.default_value for item in schema}
    return {**defaults, **dict(zip((item.name for item in schema), node.args)), **node.kwargs}


def _is_one_row(node: fx.Node, given: dict[str, Any]) -> bool:
    source, weight = given["input"].meta["val"], given["weight"].meta["val"]
    fixed = (source.shape[0], *source.shape[2:], *weight.shape[1:], *node.meta["val"].shape[2:])
    return all(isinstance(size, int) for size in fixed) and source.shape[0] == 1


def _forward(writer: NodeWriter, node: fx.Node, given: dict[str, Any]) -> Any:
    """``[G, O, C k]`` kernels times ``[G, C k, L]`` patches."""
    source, weight = given["input"].meta["val"], given["weight"].meta["val"]
    apart = writer(_aten.reshape.default, given["input"], [given["groups"], weight.shape[1], *source.shape[2:]])
    steps = [_pair(given[name]) for name in ("dilation", "padding", "stride")]
    patches = writer(_aten.im2col.default, apart, list(weight.shape[2:]), *steps)
    kernels = writer(_aten.reshape.default, given["weight"], [given["groups"], -1, math.prod(weight.shape[1:])])
    product = writer(_aten.bmm.default, kernels, patches)
    return writer(_aten.reshape.default, product, [1, -1, *node.meta["val"].shape[2:]])


def _transposed(writer: NodeWriter, node: fx.Node, given: dict[str, Any]) -> Any:
    """``[G, O k, C]`` kernels times ``[G, C, L]`` pixels are patches for ``col2im``; ``weight`` is ``[G C, O, k]``."""
    weight, size = given["weight"].meta["val"], list(node.meta["val"].shape[2:])
    pixels = math.prod(given["input"].meta["val"].shape[2:])
    apart = writer(_aten.reshape.default, given["input"], [given["groups"], -1, pixels])
    kernels = writer(_aten.reshape.default, given["weight"], [given["groups"], -1, math.prod(weight.shape[1:])])
    patches = writer(_aten.bmm.default, writer(_aten.transpose.int, kernels, 1, 2), apart)
    steps = [_pair(given[name]) for name in ("dilation", "padding", "stride")]
    laid = writer(_aten.col2im.default, patches, size, list(weight.shape[2:]), *steps)
    return writer(_aten.reshape.default, laid, [1, -1, *size])


def _pair(value: Any) -> list[int]:
    return list(value) * (2 // len(value)) if isinstance(value, list | tuple) else [value, value]
