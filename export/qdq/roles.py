"""Roles of quantized values: constant or not, weight or activation, and whether values can be negative."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Node

_WEIGHT_USERS = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "convolution",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "linear",
        "addmm",
        "mm",
        "bmm",
        "baddbmm",
        "matmul",
        "einsum",
        "embedding",
        "lstm",
        "gru",
        "_convolution",
    ]
)
_PRODUCTS = {"mm": 0, "bmm": 0, "matmul": 0, "addmm": 1, "baddbmm": 1}
"""Where their left factor stands."""
_MOVES = frozenset(
    [
        "view",
        "reshape",
        "_unsafe_view",
        "permute",
        "transpose",
        "t",
        "numpy_T",
        "mT",
        "squeeze",
        "unsqueeze",
        "flatten",
        "unflatten",
        "slice",
        "select",
        "narrow",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "expand",
        "contiguous",
        "clone",
        "getitem",
        "detach",
        "alias",
        "dropout",
    ]
)
_NON_NEGATIVE = frozenset(
    ["relu", "relu_", "sigmoid", "hardsigmoid", "softmax", "_softmax", "abs", "exp", "square", "relu6", "softplus"]
)
_KEEP_SIGN = _MOVES | frozenset(
    [
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "max_pool2d_with_indices",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "_adaptive_avg_pool2d",
        "mean",
        "amax",
        "qdq",
    ]
)


def _name(node: Any) -> str:
    """``conv2d`` for a node that calls ``aten.conv2d.default``."""
    text = str(getattr(node.target, "__name__", node.target))
    return text.split(".")[0] if node.op == "call_function" else ""


def _inputs(node: Node) -> list[Node]:
    return list(node.all_input_nodes)


def is_constant(node: Any, values: dict[str, Tensor]) -> bool:
    """Whether ``node`` depends on parameters, buffers and constants alone."""
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
    """Whether a quantized constant is the factor of a convolution, a product or a recurrence, not what it works on.

    Positions that a small net turns into a bias are constants, too, and stand where activations do.
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
    """Whether ``value`` is the input of a layer, or the left of a product whose right is constant as well."""
    name = _name(user)
    place = _PRODUCTS.get(name, 0)
    if user.args[place : place + 1] != (value,):
        return False
    if name in _PRODUCTS:
        return is_constant(user.args[place + 1], values)
    return name == "linear" or "conv" in name


def non_negative(node: Any) -> bool:
    """Whether a value cannot be below zero, by the operators that it comes from."""
    while hasattr(node, "op") and node.op == "call_function":
        name = _name(node)
        if name in _NON_NEGATIVE:
            return True
        if name in ("clamp", "hardtanh", "hardtanh_", "clamp_", "clamp_min"):
            low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val"))
            return isinstance(low, int | float) and low >= 0
        if name not in _KEEP_SIGN:
            return False
        node = node.args[0]
    return False
