"""Where a program computes attention: the queries, keys and values of every attention layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from ....core.aten_names import ATTENTION, SYNONYMS, operator_name
from ....core.errors import ModelError
from ...graph.module_edit import Shapes, shapes_of
from ...graph.node_values import path_of
from ...graph.train_eval_mode import argument
from ...program import Program, evaluating

_PRODUCTS = ("matmul", "bmm")
_BETWEEN = ("mul", "div", "add", "sub", "masked_fill", "where", "dropout", "clamp", "to", "_to_copy", "float", "max")
"""Operators between the product of queries and keys and the softmax, and between the softmax and the next product."""
_QDQ = "qdq"


@dataclass(frozen=True)
class Attention:
    """One attention layer.

    Attributes:
        path: of the user's module.
        inputs: names of the nodes of queries, keys and values, each ``[N, heads, T, d]`` or ``[N, T, d]``.
        turned: whether the keys are ``[N, heads, d, T]``.
        widths: values per token of queries, keys and values, over all heads.
    """

    path: str
    inputs: tuple[str, str, str]
    turned: bool
    widths: tuple[int, int, int]


def attention_layers(program: Program, whose: str) -> list[Attention]:
    """The self-attention layers of a program in order, fused ones or products around a softmax.

    Args:
        whose: ``the student`` or ``the teacher``, for messages.

    Raises:
        ModelError: there is none.
    """
    with evaluating(program):
        shapes = shapes_of(program)
    found = []
    for node in program.module.graph.nodes:
        name = operator_name(node)
        if name == ATTENTION:
            given = [argument(node, key) for key in ("query", "key", "value")]
            found.append(_attention(node, given, False, shapes))
        elif SYNONYMS.get(name, name) in ("softmax", "_softmax"):
            found.append(_around(node, shapes))
    layers = [layer for layer in found if layer is not None]
    if not layers:
        raise ModelError(
            f"the loss `minilm` compares attention, and {whose} has no attention layer",
            "use features, similarity or a loss on the outputs",
        )
    return layers


def _around(softmax: fx.Node, shapes: Shapes) -> Attention | None:
    """The attention whose weights a softmax computes, if it is one."""
    scores = _back_to_product(softmax.all_input_nodes[0])
    context = _on_to_product(softmax)
    if scores is None or context is None:
        return None
    query, key = scores.all_input_nodes[:2]
    return _attention(softmax, [query, key, context.all_input_nodes[1]], True, shapes)


def _back_to_product(node: fx.Node) -> fx.Node | None:
    for _ in range(12):
        if operator_name(node) in _PRODUCTS:
            return node if len(node.all_input_nodes) == 2 else None
        if not _is_between(node) or not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]
    return None


def _on_to_product(node: fx.Node) -> fx.Node | None:
    for _ in range(6):
        after = next((user for user in node.users if operator_name(user) in _PRODUCTS or _is_between(user)), None)
        if after is None:
            return None
        if operator_name(after) in _PRODUCTS:
            return after if after.all_input_nodes[0] is node and len(after.all_input_nodes) == 2 else None
        node = after
    return None


def _is_between(node: fx.Node) -> bool:
    return operator_name(node) in _BETWEEN or _QDQ in operator_name(node)


def _attention(node: fx.Node, inputs: list[fx.Node], turned: bool, shapes: Shapes) -> Attention | None:
    """None for attention to another sequence, for values without heads and for other layouts."""
    sizes = [list(shapes[item][0]) for item in inputs if item in shapes]
    if len(sizes) != 3 or any(len(size) not in (3, 4) for size in sizes):
        return None
    if turned:
        sizes[1][-1], sizes[1][-2] = sizes[1][-2], sizes[1][-1]
    if len({size[-2] for size in sizes}) != 1 or len({size[0] for size in sizes}) != 1:
        return None
    widths = [size[-1] * (size[1] if len(size) == 4 else 1) for size in sizes]
    query, key, value = inputs
    return Attention(path_of(node), (query.name, key.name, value.name), turned, (widths[0], widths[1], widths[2]))


def merged_heads(value: torch.Tensor, turned: bool) -> torch.Tensor:
    """``[N, T, width]`` of ``[N, heads, T, d]``, in float32.

    Args:
        turned: the value is ``[N, heads, d, T]``.
    """
    value = value.float()
    value = value.transpose(-1, -2) if turned else value
    return value if value.dim() == 3 else value.transpose(1, 2).flatten(2)
