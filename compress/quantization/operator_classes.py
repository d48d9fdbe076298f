"""Classes of ATen operators for quantization: layers with weights, joins, clamps, data movements, and others."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ...core.aten_names import (
    AVERAGE_POOLS,
    CONCATENATIONS,
    CONVOLUTIONS,
    MATRIX_LAYERS,
    MAX_POOLS,
    OPERANDS,
    REPEATS,
    SPLITS,
    TRANSPOSED,
    TURNS,
    UNIT_GATES,
    name_of,
    operator_name,
)
from ..graph import train_eval_mode
from .scheme import UNBOUNDED

POOLS = (*AVERAGE_POOLS, "mean")
# ONNX Runtime has integer kernels for these between Q and DQ; all inputs are activations.
JOINS = ("add", "mul", *CONCATENATIONS, *UNIT_GATES, "leaky_relu", *POOLS)

# Data movements: their output stays within the input's range, so it can use the input's grid.
# ONNX Runtime moves a DequantizeLinear through operators of the first kind, but not through those of the second.
CARRIED = (
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "slice", "contiguous", "clone", "alias"),
    *("detach", "dropout", "feature_dropout", "movedim", "swapaxes", *TURNS, *MAX_POOLS, "to"),
)
REQUANTIZED = (
    *("select", "narrow", "expand", "expand_as", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("index_select", "flip", "roll", *REPEATS),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d"),
)
_RANGES = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
_LIMITS = {"hardtanh": ("min_val", "max_val"), "clamp": ("min", "max"), "clip": ("min", "max")}


@dataclass(frozen=True)
class Weighted:
    """A layer with a constant weight.

    Attributes:
        node: the layer.
        data: the input activation.
        weight: the ``get_attr`` node of the weight.
        consumer: the node that reads ``weight``: the layer itself, or a transpose before it.
        axis: output-channel axis of the weight as stored.
        bias: the ``get_attr`` node of the bias, if any.
    """

    node: fx.Node
    data: fx.Node
    weight: fx.Node
    consumer: fx.Node
    axis: int
    bias: fx.Node | None


def is_qdq(node: object) -> bool:
    """Whether a node is a fake-quantize."""
    return isinstance(node, fx.Node) and operator_name(node) == "retort::qdq"


def is_dynamic(node: object) -> bool:
    """Whether a node quantizes a tensor to a grid that it computes at run time from the tensor's extremes."""
    return isinstance(node, fx.Node) and operator_name(node) == "retort::dynamic_qdq"


def rounds(node: object) -> bool:
    """Whether a node only rounds its first argument to a grid, static or dynamic."""
    return is_qdq(node) or is_dynamic(node)


def operand(node: fx.Node, name: str) -> Any:
    """An argument by name, or its default if it is not given."""
    return train_eval_mode.argument(node, name)


def operands(node: fx.Node) -> tuple[Any, Any, Any]:
    """Data, weight and bias of a layer or product, by :data:`OPERANDS`; None for a bias that it does not have."""
    data, weight, bias = OPERANDS[name_of(node)]
    return operand(node, data), operand(node, weight), operand(node, bias) if bias else None


def weighted(node: fx.Node) -> Weighted | None:
    """``node`` as a layer, or None if its second operand is not a constant weight."""
    name = name_of(node)
    if name not in (*CONVOLUTIONS, *TRANSPOSED, *MATRIX_LAYERS):
        return None
    data, weight, bias = operands(node)
    return _layer(node, data, weight, 0 if name in (*CONVOLUTIONS, "linear") else 1, bias)


def _layer(node: fx.Node, data: Any, weight: Any, axis: int, bias: Any) -> Weighted | None:
    if not isinstance(data, fx.Node) or not isinstance(weight, fx.Node) or data.op == "get_attr":
        return None
    consumer = node
    if name_of(weight) in TURNS and isinstance(weight.args[0], fx.Node):
        if not _swaps_two(weight):
            return None
        consumer, weight, axis = weight, weight.args[0], 1 - axis
    if weight.op != "get_attr":
        return None
    bias = bias if isinstance(bias, fx.Node) and bias.op == "get_attr" else None
    return Weighted(node, data, weight, consumer, axis, bias)


def _swaps_two(node: fx.Node) -> bool:
    """Whether a transpose of a matrix swaps its two axes."""
    name = name_of(node)
    if name in ("t", "numpy_T"):
        return True
    axes: Any = node.args[1:] if name == "transpose" else node.args[1]
    order = [int(axis) % 2 for axis in axes]
    return sorted(order) == [0, 1] if name == "transpose" else order == [1, 0]


def moved(node: fx.Node) -> fx.Node | None:
    """The tensor whose values ``node`` only moves; None if it computes values or returns a list of tensors."""
    if node.target is operator.getitem and name_of(node.args[0]) in SPLITS:
        source = node.args[0].args[0]  # type: ignore[union-attr]
    elif name_of(node) in CONCATENATIONS:
        source = node.args[0][0] if len(node.args[0]) == 1 else None  # type: ignore[index, arg-type]
    else:
        source = node.args[0] if _only_moves(node) and node.args else None
    return source if isinstance(source, fx.Node) else None


def _only_moves(node: fx.Node) -> bool:
    name = name_of(node)
    if name == "constant_pad_nd":
        return bool(operand(node, "value") == 0)
    if name == "pad":
        return operand(node, "mode") != "constant" or not operand(node, "value")
    if name == "to":
        return not any(isinstance(argument, torch.dtype) for argument in (*node.args, *node.kwargs.values()))
    return name in CARRIED or name in REQUANTIZED


def needs_copy(node: fx.Node) -> bool:
    """Whether a movement needs Q/DQ after it to move integers; the runtime moves a DQ only to a single reader."""
    return node.target is operator.getitem or name_of(node) in REQUANTIZED or len(node.users) > 1


def clamp_bounds(node: fx.Node) -> tuple[float, float] | None:
    """The limits of an activation that is a clamp around 0 and can fold into the Q after it; None for others."""
    name = name_of(node)
    if name in _RANGES:
        return _RANGES[name]
    if name not in _LIMITS:
        return None
    low, high = (operand(node, item) for item in _LIMITS[name])
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        return None
    bounds = (UNBOUNDED[0] if low is None else float(low), UNBOUNDED[1] if high is None else float(high))
    return bounds if bounds[0] <= 0 < bounds[1] else None


def fixed_grid(node: fx.Node) -> bool:
    """Whether a gate's output is always in [0, 1]; its grid then has steps of 1/256 and needs no calibration."""
    return name_of(node) in UNIT_GATES


def joined(node: fx.Node) -> list[fx.Node]:
    """The activations that a join reads; empty if the node is not a join or reads anything else."""
    name = name_of(node)
    if name not in JOINS or (name == "add" and operand(node, "alpha") != 1) or moved(node) is not None:
        return []
    if name == "mean" and not _is_global_pool(node):
        return []
    if name in CONCATENATIONS:
        values = list(node.args[0])  # type: ignore[arg-type]
    else:
        values = list(node.args[:2] if name in ("add", "mul") else node.args[:1])
    nodes = [value for value in values if isinstance(value, fx.Node) and value.op != "get_attr"]
    return nodes if len(nodes) == len(values) else []


def _is_global_pool(node: fx.Node) -> bool:
    """Whether a mean has the form in which :mod:`.prepare.integer_forms` writes global average pooling."""
    axes = operand(node, "dim") if len(node.args) > 1 else None
    spatial = isinstance(axes, list | tuple) and list(axes) in ([2], [2, 3], [2, 3, 4])
    return spatial and bool(operand(node, "keepdim"))


def channels_first(node: fx.Node) -> bool:
    """Whether a tensor of three axes is ``[N, C, L]``, as after a convolution, and not ``[N, L, C]``."""
    while node.op == "call_function":
        name = name_of(node)
        if name in CONVOLUTIONS or name in TRANSPOSED:
            return True
        if name in (*MATRIX_LAYERS, "layer_norm", "embedding", "transpose", "permute") or not node.all_input_nodes:
            return False
        node = node.all_input_nodes[0]
    return False


def kind_of(node: fx.Node) -> str:
    """The name of a node's kind in facts: ``conv2d``, ``linear``, ``add``, ``pool`` …"""
    name = name_of(node)
    if name in POOLS:
        return "pool"
    return "linear" if name in MATRIX_LAYERS else {"concat": "cat"}.get(name, name)
