"""Placement rules per target: complete integer nodes for ``cpu``, the inputs of INT8 kernels for ``tensorrt``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from ....core.aten_names import CONCATENATIONS, SPLITS, name_of
from ...graph.module_edit import Shapes
from ..operator_classes import Weighted, clamp_bounds, joined, moved, needs_copy
from ..points import Placement, Point, excluded, source_of, tail_of


class Builder:
    """The part that both targets share: adding readers to the point of a tensor."""

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
        """Whether a node is a join that reads and returns only FP32 tensors and is not excluded."""
        inputs = joined(node)
        floats = all(self.shapes.get(value, (None, None))[1] == torch.float32 for value in (*inputs, node))
        return bool(inputs) and floats and not excluded(node, self.exclude)

    def add(self, value: fx.Node, reader: fx.Node) -> None:
        """Record that ``reader`` reads the quantized ``value``."""
        old = self.result.points.get(value)
        if old is None or old.readers is not None:
            readers = frozenset({reader}) | (old.readers if old is not None and old.readers else frozenset())
            self.result.points[value] = Point(value, readers)

    def finish(self) -> Placement:
        """The placement, with its points in graph order."""
        points = self.result.points
        self.result.points = {value: points[value] for value in sorted(points, key=self.order.__getitem__)}
        return self.result


class Cpu(Builder):
    """Placement for ONNX Runtime: each node is completely integer or completely floating point (compress.md 3)."""

    def placement(self) -> Placement:
        """Make convolutions and the joins after them integer; linear layers return integers only to integer nodes."""
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
            if name_of(node) in CONCATENATIONS
        ]
        return self.finish()

    def _covered(self, value: fx.Node) -> fx.Node:
        """The tensor whose point quantizes ``value``: its source if that has a point, else itself."""
        source = source_of(value)
        return source if source in self.result.points else value

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        return [self.layers[node].data] if node in self.layers else joined(node)

    @staticmethod
    def _first_move(value: fx.Node, source: fx.Node) -> fx.Node:
        """The first data movement on the path from ``source`` to ``value``."""
        while (earlier := moved(value)) is not source:
            assert earlier is not None
            value = earlier
        return value

    def _choose_joins(self) -> None:
        """Start from all joins; drop those without integer inputs, and those whose output no integer node reads."""
        self.joins = {node for node in self.graph.nodes if self.joinable(node)}
        while True:
            integers = self._integer_tensors()
            drop = {node for node in self.joins if not self._worth(node, integers)}
            if not drop:
                return
            self.joins -= drop

    def _integer_tensors(self) -> set[fx.Node]:
        """Tensors that integer nodes compute: outputs of convolutions and joins, and their movements and clamps."""
        integers: set[fx.Node] = set()
        for node in self.graph.nodes:
            convolution = node in self.layers and name_of(node).startswith("conv")
            passes = moved(node) in integers
            clamps = clamp_bounds(node) is not None and self._ends_in(node, integers)
            if convolution or passes or clamps or (node in self.joins and self._fed(node, integers)):
                integers.add(node)
        return integers

    def _ends_in(self, node: fx.Node, integers: set[fx.Node]) -> bool:
        """Whether the clamp ``node`` folds into the Q after the integer node before it."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return source in integers and (source in self.layers or source in self.joins) and tail_of(source)[0] is node

    @staticmethod
    def _fed(node: fx.Node, integers: set[fx.Node]) -> bool:
        return any(value in integers for value in joined(node))

    def _worth(self, node: fx.Node, integers: set[fx.Node]) -> bool:
        return self._fed(node, integers) and self._read_as_codes(node)

    def _gives_codes(self, node: fx.Node) -> bool:
        return not (node in self.layers and not name_of(node).startswith("conv")) or self._read_as_codes(node)

    def _read_as_codes(self, node: fx.Node) -> bool:
        """Whether an integer node reads the output, directly or after its clamp and data movements."""
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
                    if needs_copy(step):
                        self.result.copies[step] = source
                    step = moved(step) or source


class TensorRT(Builder):
    """Placement for TensorRT: only inputs of layers and the identity side of residual adds (tensorrt.md 1.7)."""

    def placement(self) -> Placement:
        """Quantize the input of every layer; the outputs of layers stay in floating point."""
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
            if name_of(node) in CONCATENATIONS
            for group in [[value for value in (*map(source_of, joined(node)), node) if value in self.result.points]]
            if len(group) > 1
        ]
        return self.finish()

    def _depths(self) -> dict[fx.Node, int]:
        """Number of layers on the longest path from an input to each node."""
        depths: dict[fx.Node, int] = {}
        for node in self.graph.nodes:
            depths[node] = max((depths[item] for item in node.all_input_nodes), default=0) + (node in self.layers)
        return depths

    def _identity(self, node: fx.Node, depths: dict[fx.Node, int]) -> fx.Node | None:
        """The identity input of a residual add: the other input is the deeper convolution, which fuses with the add."""
        left, right = joined(node)
        fused = [side for side in (left, right) if side in self.layers and name_of(side).startswith("conv")]
        if not fused or left is right:
            return None
        main = max(fused, key=lambda side: (depths[side], side is right))
        return left if main is right else right
