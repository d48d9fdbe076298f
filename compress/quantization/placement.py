"""Which tensors get a Q: whole integer nodes for ``cpu``, only what TensorRT's kernels want for ``tensorrt``."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from ...core.errors import UserError
from ...core.options import Target
from ..cost import node_macs
from ..program import Program, ordered
from . import limits
from .operators import SPLITS, Weighted, clamp_bounds, joined, moved, name_of, weighted
from .scheme import UNBOUNDED
from .surgery import Shapes, shapes_of


@dataclass(frozen=True)
class Point:
    """A tensor that is quantized once.

    Attributes:
        value: the node that gives it.
        readers: the nodes that read the quantized tensor; None means all.
        bounds: limits of the clamp that folds into the Q.
    """

    value: fx.Node
    readers: frozenset[fx.Node] | None
    bounds: tuple[float, float] = UNBOUNDED


@dataclass
class Placement:
    """What to quantize.

    Attributes:
        points: activations, in graph order, by the node that gives them.
        layers: the layers that get an INT8 weight.
        joins: operators without weights that run in integers.
        copies: data movements whose output needs the Q of its source again.
        groups: points that share one range where their clamps allow it (inputs and output of a concatenation).
        floating: layers left in floating point, with the reason.
    """

    points: dict[fx.Node, Point] = field(default_factory=dict)
    layers: list[Weighted] = field(default_factory=list)
    joins: list[fx.Node] = field(default_factory=list)
    copies: dict[fx.Node, fx.Node] = field(default_factory=dict)
    groups: list[list[fx.Node]] = field(default_factory=list)
    floating: dict[fx.Node, str] = field(default_factory=dict)


def source_of(value: fx.Node) -> fx.Node:
    """The tensor whose values ``value`` holds, before all data movements."""
    while (earlier := moved(value)) is not None:
        value = earlier
    return value


def tail_of(node: fx.Node) -> tuple[fx.Node, tuple[float, float]]:
    """Where the Q of a node's output goes: behind the clamp that alone reads it, with the limits of that clamp."""
    readers = list(node.users)
    bounds = clamp_bounds(readers[0]) if len(readers) == 1 else None
    return (readers[0], bounds) if bounds is not None else (node, UNBOUNDED)


def name_in_model(node: fx.Node) -> str:
    """The layer's name in the user's model (``layer1.0.conv1``), or the node's own."""
    layer = weighted(node)
    return str(layer.weight.target).rpartition(".")[0] or node.name if layer is not None else node.name


def eligible(
    program: Program, target: Target, exclude: Sequence[str], shapes: Shapes
) -> tuple[dict[fx.Node, Weighted], dict[fx.Node, str]]:
    """Layers that can be integer on the target, and the heavy nodes that cannot, with the reason.

    Raises:
        UserError: a pattern of ``exclude`` fits no node.
    """
    heavy = set(node_macs(program.module, ordered(program)))
    layers: dict[fx.Node, Weighted] = {}
    floating: dict[fx.Node, str] = {}
    nodes = [node for node in program.module.graph.nodes if node.op == "call_function"]
    _check_patterns(exclude, [name for node in nodes for name in (node.name, name_in_model(node))])
    for node in nodes:
        if node.name not in heavy and not any(name.startswith(f"{node.name}.") for name in heavy):
            continue
        layer = weighted(node)
        reason = "excluded by the recipe" if excluded(node, exclude) else limits.reason(node, layer, target, shapes)
        if reason is None and layer is not None:
            layers[node] = layer
        else:
            floating[node] = reason or "its weight is not a constant"
    return layers, floating


def excluded(node: fx.Node, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits the node's name or its layer's name in the model."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in (node.name, name_in_model(node)))


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
            raise UserError(
                f"quantize.exclude: no node is named '{pattern}'",
                f"did you mean {' or '.join(close)}?" if close else "see `retort show` for the names",
            )


def place(program: Program, target: Target, exclude: Sequence[str] = ()) -> Placement:
    """Choose what becomes integer.

    Args:
        program: folded, in evaluation form.
        target: which runtime's kernels to serve.
        exclude: patterns of node or layer names that stay in floating point.

    Raises:
        UserError: a pattern of ``exclude`` fits no node.
    """
    shapes = shapes_of(program)
    layers, floating = eligible(program, target, exclude, shapes)
    build = _Cpu if target == "cpu" else _TensorRT
    return build(program.module.graph, layers, floating, exclude, shapes).placement()


class _Builder:
    """What both targets share: adding readers to the point of a tensor."""

    def __init__(
        self,
        graph: fx.Graph,
        layers: dict[fx.Node, Weighted],
        floating: dict[fx.Node, str],
        exclude: Sequence[str],
        shapes: Shapes,
    ) -> None:
        self.graph = graph
        self.layers = layers
        self.exclude = exclude
        self.shapes = shapes
        self.order = {node: index for index, node in enumerate(graph.nodes)}
        self.result = Placement(layers=list(layers.values()), floating=floating)

    def joinable(self, node: fx.Node) -> bool:
        """Whether a join reads and gives FP32 tensors only and is not excluded."""
        inputs = joined(node)
        floats = all(self.shapes.get(value, (None, None))[1] == torch.float32 for value in (*inputs, node))
        return bool(inputs) and floats and not excluded(node, self.exclude)

    def add(self, value: fx.Node, reader: fx.Node) -> None:
        """Let ``reader`` read the quantized ``value``."""
        old = self.result.points.get(value)
        if old is None or old.readers is not None:
            readers = frozenset({reader}) | (old.readers if old is not None and old.readers else frozenset())
            self.result.points[value] = Point(value, readers)

    def finish(self) -> Placement:
        """The placement, points in graph order."""
        points = self.result.points
        self.result.points = {value: points[value] for value in sorted(points, key=self.order.__getitem__)}
        return self.result


class _Cpu(_Builder):
    """A node is wholly integer or wholly floating point (compress.md 3)."""

    def placement(self) -> Placement:
        """Convolutions and the joins that they feed are integer; a linear layer gives integers where they are read."""
        self._choose_joins()
        self.integer = sorted({*self.layers, *self.joins}, key=self.order.__getitem__)
        for node in self.integer:
            value, bounds = tail_of(node)
            if self._gives_codes(node):
                self.result.points[value] = Point(value, None, bounds)
        for node in self.integer:
            for value in self._inputs(node):
                covered = self._covered(value)
                self.add(covered, node if covered is value else self._first_move(value, covered))
        self._copy_behind_moves()
        self.result.joins = [node for node in self.integer if node in self.joins]
        self.result.groups = [
            [*map(self._covered, joined(node)), tail_of(node)[0]]
            for node in self.result.joins
            if name_of(node) in ("cat", "concat")
        ]
        return self.finish()

    def _covered(self, value: fx.Node) -> fx.Node:
        """The point that quantizes ``value``: its source's where that has one, else its own."""
        source = source_of(value)
        return source if source in self.result.points else value

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        return [self.layers[node].data] if node in self.layers else joined(node)

    @staticmethod
    def _first_move(value: fx.Node, source: fx.Node) -> fx.Node:
        """The movement that reads ``source`` on the way to ``value``."""
        while (earlier := moved(value)) is not source:
            assert earlier is not None
            value = earlier
        return value

    def _choose_joins(self) -> None:
        """Start from all joins; drop those that no integers feed, or whose integers nobody reads."""
        self.joins = {node for node in self.graph.nodes if self.joinable(node)}
        while True:
            solid = self._solid()
            drop = {node for node in self.joins if not self._worth(node, solid)}
            if not drop:
                return
            self.joins -= drop

    def _solid(self) -> set[fx.Node]:
        """Tensors whose producer gives codes anyway: convolutions, joins, and what moves or clamps their output."""
        solid: set[fx.Node] = set()
        for node in self.graph.nodes:
            convolution = node in self.layers and name_of(node).startswith("conv")
            passes = moved(node) in solid
            clamps = clamp_bounds(node) is not None and self._ends_in(node, solid)
            if convolution or passes or clamps or (node in self.joins and self._fed(node, solid)):
                solid.add(node)
        return solid

    def _ends_in(self, node: fx.Node, solid: set[fx.Node]) -> bool:
        """Whether the clamp ``node`` folds into the Q of the integer node before it."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return source in solid and (source in self.layers or source in self.joins) and tail_of(source)[0] is node

    @staticmethod
    def _fed(node: fx.Node, solid: set[fx.Node]) -> bool:
        return any(value in solid for value in joined(node))

    def _worth(self, node: fx.Node, solid: set[fx.Node]) -> bool:
        return self._fed(node, solid) and self._read_as_codes(node)

    def _gives_codes(self, node: fx.Node) -> bool:
        return not (node in self.layers and not name_of(node).startswith("conv")) or self._read_as_codes(node)

    def _read_as_codes(self, node: fx.Node) -> bool:
        """Whether an integer node reads the output, behind its clamp and any movements."""
        pending = [tail_of(node)[0]]
        while pending:
            for user in pending.pop().users:
                if user in self.layers or user in self.joins:
                    return True
                if moved(user) is not None or name_of(user) in SPLITS:
                    pending.append(user)
        return False

    def _copy_behind_moves(self) -> None:
        for node in self.integer:
            for value in self._inputs(node):
                source, step = source_of(value), value
                while source in self.result.points and step is not source:
                    if limits.needs_copy(step):
                        self.result.copies[step] = source
                    step = moved(step) or source


class _TensorRT(_Builder):
    """Inputs of layers and the identity side of residual adds only (tensorrt.md 1.7, placement)."""

    def placement(self) -> Placement:
        """Q in front of every layer; outputs of layers stay in floating point."""
        for node, layer in self.layers.items():
            self.add(layer.data, node)
        depths = self._depths()
        for node in self.graph.nodes:
            if name_of(node) == "add" and self.joinable(node):
                identity = self._identity(node, depths)
                if identity is not None:
                    self.add(identity, node)
                    self.result.joins.append(node)
        self.result.groups = [
            group
            for node in self.graph.nodes
            if name_of(node) in ("cat", "concat")
            for group in [[value for value in (*map(source_of, joined(node)), node) if value in self.result.points]]
            if len(group) > 1
        ]
        return self.finish()

    def _depths(self) -> dict[fx.Node, int]:
        """Layers on the longest way from an input to each node."""
        depths: dict[fx.Node, int] = {}
        for node in self.graph.nodes:
            depths[node] = max((depths[item] for item in node.all_input_nodes), default=0) + (node in self.layers)
        return depths

    def _identity(self, node: fx.Node, depths: dict[fx.Node, int]) -> fx.Node | None:
        """The input of an add that is not the deeper convolution's, which fuses with the add in floating point."""
        left, right = joined(node)
        fused = [side for side in (left, right) if side in self.layers and name_of(side).startswith("conv")]
        if not fused or left is right:
            return None
        main = max(fused, key=lambda side: (depths[side], side is right))
        return left if main is right else right


__all__ = ["Placement", "Point", "excluded", "name_in_model", "place", "source_of", "tail_of"]
