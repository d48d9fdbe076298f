"""The table of ATen operator names: how the name of a node is read, and which operators form a family.

A rule for a family takes its members from this table. Names are strings, so that code without PyTorch can use them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
"""Transposed convolutions."""
GENERAL_CONVOLUTIONS = ("convolution", "_convolution")
"""Convolutions with an argument that states whether they are transposed."""

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
RECURRENT_CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")

MATRIX_LAYERS = ("linear", "addmm", "mm", "matmul")
"""Operators that a linear layer can become in a captured program."""
VECTOR_PRODUCTS = ("mv", "dot", "vdot")
ATTENTION = "scaled_dot_product_attention"

CHANNEL_NORMS = ("batch_norm", "instance_norm")
TRAILING_NORMS = ("layer_norm", "rms_norm")
MAX_POOLS = ("max_pool1d", "max_pool2d", "max_pool3d")
AVERAGE_POOLS = ("avg_pool1d", "avg_pool2d", "avg_pool3d")
ADAPTIVE_AVERAGE_POOLS = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
UNIT_GATES = ("sigmoid", "hardsigmoid")
"""Activations whose output is always in [0, 1]."""
SATURATING = (*UNIT_GATES, "tanh", "softmax")
"""Activations that are constant at both ends."""

ORDERINGS = ("topk", "sort", "argsort", "argmax", "argmin", "max", "min", "kthvalue", "median")
"""Operators that give the places of values in their order; `max` and `min` only along an axis."""

RESHAPES = ("view", "reshape", "_unsafe_view")
TURNS = ("t", "numpy_T", "transpose", "permute")
"""Operators that reorder axes; for a matrix they are transposes."""
SPLITS = ("split", "split_with_sizes", "chunk", "unbind", "tensor_split")
CONCATENATIONS = ("cat", "concat")
BROADCASTS = ("expand", "broadcast_to")
REPEATS = ("repeat", "tile")
CREATORS = ("zeros", "ones", "full", "empty")
"""Operators that create a tensor; with the prefix ``new_`` they take device and type from another tensor."""
NEW_CREATORS = tuple(f"new_{name}" for name in CREATORS)

SYNONYMS = {
    "multiply": "mul", "divide": "div", "true_divide": "div", "subtract": "sub", "negative": "neg", "absolute": "abs",
    "concat": "cat", "concatenate": "cat", "clip": "clamp", "fix": "trunc", "linalg_matmul": "matmul",
    "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim",
    "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne",
    "arccos": "acos", "arcsin": "asin", "arctan": "atan", "arctan2": "atan2",
    "arccosh": "acosh", "arcsinh": "asinh", "arctanh": "atanh",
    "special_expit": "sigmoid", "special_erf": "erf", "special_erfc": "erfc", "special_exp2": "exp2",
    "special_expm1": "expm1", "special_log1p": "log1p", "special_round": "round", "special_logsumexp": "logsumexp",
    "special_softmax": "softmax",
}  # fmt: skip
"""Aliases of operators, with their canonical names."""


class Operands(NamedTuple):
    """Names of the arguments of a layer or product.

    Attributes:
        data: the left factor, an activation in a layer.
        weight: the right factor.
        bias: the summand; None if the operator adds nothing.
    """

    data: str
    weight: str
    bias: str | None = None


OPERANDS = {
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED, *GENERAL_CONVOLUTIONS, "linear"), Operands("input", "weight", "bias")),
    "mm": Operands("self", "mat2"),
    "bmm": Operands("self", "mat2"),
    "matmul": Operands("self", "other"),
    "mv": Operands("self", "vec"),
    "dot": Operands("self", "tensor"),
    "vdot": Operands("self", "other"),
    "addmm": Operands("mat1", "mat2", "self"),
    "addmv": Operands("mat", "vec", "self"),
    "baddbmm": Operands("batch1", "batch2", "self"),
    "addbmm": Operands("batch1", "batch2", "self"),
}
"""Argument names by operator."""


def name_of(node: object) -> str:
    """``conv2d`` for a node that calls ``aten.conv2d.default`` or ``.padding``; empty for all other nodes and objects.

    Operators that work in place keep the underscore at the end of their name.
    """
    name = _full_name(node)
    return name.removeprefix("aten::") if name.startswith("aten::") else ""


def operator_name(node: Any) -> str:
    """The name of what a node calls, in any library: ``relu`` for ``aten.relu_.default``, ``retort::qdq``.

    Operators of ATen have no prefix, and in-place operators have the name of the out-of-place operator. Functions that
    are not operators have their own name (``getitem``). For nodes that are not calls, it is the target.
    """
    if name := name_of(node):
        return out_of_place(name)
    target = node.target
    return _full_name(node) or (getattr(target, "__name__", str(target)) if callable(target) else str(target))


def out_of_place(name: str) -> str:
    """``relu`` for ``relu_``; names that begin with an underscore are not changed (``__and__``)."""
    return name if name.startswith("_") or not name.endswith("_") else name[:-1]


def _full_name(node: object) -> str:
    """``aten::conv2d`` for a node whose target has a schema, else empty."""
    schema = getattr(getattr(node, "target", None), "_schema", None)
    return "" if schema is None else str(schema.name)
