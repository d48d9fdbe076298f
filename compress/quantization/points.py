"""The tensors to quantize, and the names of layers in the user's model."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from ...core.aten_names import name_of
from .operator_classes import Weighted, clamp_bounds, is_qdq, moved, operand, weighted
from .recurrent_layers import Recurrent, module_of
from .scheme import UNBOUNDED


@dataclass(frozen=True)
class Point:
    """A tensor that is quantized once.

    Attributes:
        value: the node that computes it.
        readers: the nodes that read the quantized tensor; None means all.
        bounds: limits of the clamp that folds into the Q.
    """

    value: fx.Node
    readers: frozenset[fx.Node] | None
    bounds: tuple[float, float] = UNBOUNDED


@dataclass
class Placement:
    """The tensors and layers to quantize.

    Attributes:
        points: activations, in graph order, by the node that computes them.
        layers: the layers that get an INT8 weight.
        joins: operators without weights that run in integers.
        copies: data movements whose output needs the same Q as their source.
        groups: points that share one range where their clamps allow it (inputs and output of a concatenation).
        dynamic: matrix products whose input is quantized at run time.
        recurrent: recurrent layers that get INT8 weights.
        floating: layers that stay in floating point, with the reason.
    """

    points: dict[fx.Node, Point] = field(default_factory=dict)
    layers: list[Weighted] = field(default_factory=list)
    joins: list[fx.Node] = field(default_factory=list)
    copies: dict[fx.Node, fx.Node] = field(default_factory=dict)
    groups: list[list[fx.Node]] = field(default_factory=list)
    dynamic: list[Weighted] = field(default_factory=list)
    recurrent: list[Recurrent] = field(default_factory=list)
    floating: dict[fx.Node, str] = field(default_factory=dict)


def source_of(value: fx.Node) -> fx.Node:
    """The tensor whose values ``value`` holds, before all data movements."""
    while (earlier := moved(value)) is not None:
        value = earlier
    return value


def tail_of(node: fx.Node) -> tuple[fx.Node, tuple[float, float]]:
    """The node after which the Q of ``node`` goes (a clamp that is its only reader, or itself), and its limits."""
    readers = list(node.users)
    bounds = clamp_bounds(readers[0]) if len(readers) == 1 else None
    return (readers[0], bounds) if bounds is not None else (node, UNBOUNDED)


def name_in_model(node: fx.Node) -> str:
    """The layer's name in the user's model (``layer1.0.conv1``), or the node's name."""
    layer = weighted(node)
    weight = layer.weight if layer is not None else _table(node)
    name = str(weight.target).rpartition(".")[0] if weight is not None else module_of(node)
    return name or node.name


def _table(node: fx.Node) -> fx.Node | None:
    """The table that an embedding reads, if it is a parameter."""
    table = operand(node, "weight") if name_of(node) == "embedding" else None
    if isinstance(table, fx.Node) and is_qdq(table):
        table = table.args[0]
    return table if isinstance(table, fx.Node) and table.op == "get_attr" else None


def excluded(node: fx.Node, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches the node's name or its layer's name in the model."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in (node.name, name_in_model(node)))
