"""Runs a quantized program with any selection of its layers in FP32."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from ....core.aten_names import RECURRENT, name_of
from ....core.tensors import Array
from ...graph.decisions import with_scores
from ...graph.devices import as_array
from ...graph.module_edit import shapes_of
from ...program import Program, evaluating, macs_by_node
from ..correction.layer_matrices import QuantizedLayer, quantized_layer
from ..operator_classes import JOINS, clamp_bounds, is_qdq, kind_of, moved, rounds
from ..recurrent_layers import module_of


@dataclass(frozen=True)
class Unit:
    """The smallest part of a program that is either integer or FP32: a layer, or an operator without weights.

    Attributes:
        name: the layer's name in the user's model, or the node's.
        kind: ``conv2d``, ``linear``, ``add`` …
        node: the operator.
        layer: its weight, scale and bias; None for an operator without weights.
        quantizers: fake-quantize nodes of its weight, inputs and output.
        cost: multiply-accumulates; for an operator without weights, the number of computed values.
    """

    name: str
    kind: str
    node: fx.Node
    layer: QuantizedLayer | None
    quantizers: frozenset[fx.Node]
    cost: int


def units_of(program: Program) -> list[Unit]:
    """The integer layers and operators of a quantized program, in graph order."""
    macs, shapes = macs_by_node(program), shapes_of(program)
    found, taken = [], set()
    for node in program.module.graph.nodes:
        layer = quantized_layer(node)
        inputs = [item for value in node.all_input_nodes if (item := quantizer_of(value)) is not None]
        if layer is None and (name_of(node) not in (*JOINS, *RECURRENT) or not inputs):
            continue
        name = (module_of(node) if layer is None else layer.weight.rpartition(".")[0]) or node.name
        name = node.name if name in taken else name
        taken.add(name)
        size = int(shapes[node][0].numel()) if node in shapes else 0
        around = frozenset([*inputs, *_output(node)])
        found.append(Unit(name, kind_of(node), node, layer, around, macs.get(node.name, size)))
    return found


def quantizer_of(value: fx.Node) -> fx.Node | None:
    """The fake-quantize that a value comes from, through data movements; None if there is none."""
    while not rounds(value):
        earlier = moved(value)
        if earlier is None:
            return None
        value = earlier
    return value


def _output(node: fx.Node) -> list[fx.Node]:
    readers = list(node.users)
    if len(readers) == 1 and clamp_bounds(readers[0]) is not None:
        readers = list(readers[0].users)
    return [reader for reader in readers if is_qdq(reader)]


class Partial:
    """Runs a quantized program with some of its units in FP32.

    Args:
        quantized: the program with corrected weights and biases.
        exact: the same graph with the weights and biases of the FP32 program.
        feeds: inputs by chunk.
    """

    def __init__(self, quantized: Program, exact: Program, feeds: Sequence[Sequence[torch.Tensor]]) -> None:
        self.quantized, self.exact, self.feeds = with_scores(quantized), exact, feeds
        self.units = units_of(self.quantized)
        self.nodes = list(self.quantized.module.graph.nodes)
        self.own = {path for unit in self.units for path in _paths(unit)}

    def predict(self, chosen: Collection[Unit]) -> list[Array]:
        """The floating-point outputs, and what decides others, of all samples, if only the chosen units are integer."""
        return joined([self.outputs(self.run(known, chosen), known) for known in self.fp32_values()])

    def fp32_values(self) -> Iterator[dict[fx.Node, Any]]:
        """All values of the FP32 form, chunk by chunk."""
        with evaluating(self.quantized), torch.inference_mode():
            for feed in self.feeds:
                values: dict[fx.Node, Any] = {}
                inputs = iter(feed)
                for node in self.nodes:
                    values[node] = next(inputs) if node.op == "placeholder" else self._exact(node, values)
                yield values

    def _exact(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            return _attribute(self.exact.module if node.target in self.own else self.quantized.module, node)
        return values[node.args[0]] if rounds(node) else _call(node, values)  # type: ignore[index]

    def run(self, known: dict[fx.Node, Any], chosen: Collection[Unit]) -> dict[fx.Node, Any]:
        """The values that differ from FP32 if the chosen units are integer."""
        active = frozenset().union(*(unit.quantizers for unit in chosen)) if chosen else frozenset()
        paths = {path for unit in chosen for path in _paths(unit)}
        values: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node.op == "get_attr" and node.target in paths:
                values[node] = _attribute(self.quantized.module, node)
            elif rounds(node):
                if node in active or (node.args[0].op == "get_attr" and node.args[0].target in paths):
                    values[node] = _call(node, values, known)
                elif node.args[0] in values:
                    values[node] = values[node.args[0]]
            elif any(source in values for source in node.all_input_nodes):
                values[node] = _call(node, values, known)
        return values

    def outputs(self, values: dict[fx.Node, Any], known: dict[fx.Node, Any]) -> list[Array]:
        """The floating-point outputs among the values of one chunk."""
        node = self.nodes[-1]
        return [as_array(item) for item in values.get(node, known[node])[0] if item.is_floating_point()]


def _paths(unit: Unit) -> list[str]:
    """Paths of the parameters that corrections may change in a unit."""
    if unit.layer is not None:
        return [path for path in (unit.layer.weight, unit.layer.bias) if path is not None]
    sources: list[Any] = [node.args[0] for node in unit.quantizers]
    return [str(source.target) for source in sources if source.op == "get_attr"]


def joined(chunks: Sequence[Sequence[Array]]) -> list[Array]:
    """Outputs of several chunks, each output as one array."""
    return [np.concatenate([np.atleast_1d(part) for part in parts]) for parts in zip(*chunks, strict=True)]


def _attribute(module: fx.GraphModule, node: fx.Node) -> Any:
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def _call(node: fx.Node, values: dict[fx.Node, Any], known: dict[fx.Node, Any] | None = None) -> Any:
    def _look(source: fx.Node) -> Any:
        return values[source] if source in values or known is None else known[source]

    args: Any = fx.map_arg(node.args, _look)
    kwargs: Any = fx.map_arg(node.kwargs, _look)
    return args if node.op == "output" else node.target(*args, **kwargs)  # type: ignore[operator]
