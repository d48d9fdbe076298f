"""Roles of quantized values: constant or not, weight or activation, and whether values can be negative."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.aten_names import (
    ADAPTIVE_AVERAGE_POOLS,
    AVERAGE_POOLS,
    CONVOLUTIONS,
    GENERAL_CONVOLUTIONS,
    MAX_POOLS,
    OPERANDS,
    RESHAPES,
    TRANSPOSED,
    TURNS,
    UNIT_GATES,
    operator_name,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Node

_PRODUCTS = ("mm", "bmm", "matmul", "addmm", "baddbmm")
_WEIGHT_USERS = frozenset(
    [*CONVOLUTIONS, *TRANSPOSED, *GENERAL_CONVOLUTIONS, *_PRODUCTS, "linear", "einsum", "embedding", "lstm", "gru"]
)
_MOVES = frozenset(
    [
        *(*RESHAPES, *TURNS, "mT", "squeeze", "unsqueeze", "flatten", "unflatten", "slice", "select", "narrow"),
        *("split", "split_with_sizes", "chunk", "unbind", "getitem", "expand"),
        *("contiguous", "clone", "detach", "alias", "dropout"),
    ]
)
_NON_NEGATIVE = frozenset(["relu", *UNIT_GATES, "softmax", "_softmax", "abs", "exp", "square", "relu6", "softplus"])
_POOLS = (*MAX_POOLS, "max_pool2d_with_indices", *AVERAGE_POOLS, *ADAPTIVE_AVERAGE_POOLS, "_adaptive_avg_pool2d")
_KEEP_SIGN = _MOVES | frozenset([*_POOLS, "mean", "amax", "retort::qdq"])


def _name(node: Any) -> str:
    """The operator's name, such as ``conv2d`` for ``aten.conv2d.default``; empty for a node that is not a call."""
    return operator_name(node) if node.op == "call_function" else ""


def _inputs(node: Node) -> list[Node]:
    return list(node.all_input_nodes)


def is_constant(node: Any, values: dict[str, Tensor]) -> bool:
    """Whether ``node`` depends only on parameters, buffers and constants."""
    pending, seen = [node], set()
    while pending:
        current = pending.pop()
        if current in seen or not hasattr(current, "op"):
            continue
        seen.add(current)
        if current.op == "placeholder" and current.name not in values:
            return False
        pending += _inputs(current)
    return True


def is_weight(node: Node, values: dict[str, Tensor]) -> bool:
    """Whether a quantized constant is the weight of a convolution, a product or a recurrence, not its data input.

    The data input can be constant as well, such as positions from which a small network computes a bias.
    """
    pending = [(node, user) for user in node.users]
    while pending:
        value, user = pending.pop()
        name = _name(user)
        if name in _MOVES:
            pending += [(user, other) for other in user.users]
        elif name not in _WEIGHT_USERS or _is_worked_on(value, user, values):
            return False
    return True


def _is_worked_on(value: Node, user: Node, values: dict[str, Tensor]) -> bool:
    """Whether ``value`` is a layer's data input, or the left factor of a product whose right factor is constant too."""
    name = _name(user)
    place = 1 if name in _PRODUCTS and OPERANDS[name].bias else 0  # the summand of addmm comes before its factors
    if user.args[place : place + 1] != (value,):
        return False
    if name in _PRODUCTS:
        return is_constant(user.args[place + 1], values)
    return name == "linear" or "conv" in name


def non_negative(node: Any) -> bool:
    """Whether the operators that compute a value guarantee that it is not negative."""
    while hasattr(node, "op") and node.op == "call_function":
        name = _name(node)
        if name in _NON_NEGATIVE:
            return True
        if name in ("clamp", "hardtanh", "clamp_min"):
            low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val"))
            return isinstance(low, int | float) and low >= 0
        if name not in _KEEP_SIGN:
            return False
        node = node.args[0]
    return False
