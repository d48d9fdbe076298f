"""Which segments of a program are INT8 and which stay in floating point, computed from measured times."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from ....core.aten_names import RECURRENT, name_of
from ...graph.module_edit import shapes_of
from ...graph.rows import batch_axes, row_count
from ...program import Program
from ..correction.layer_matrices import quantized_layer
from ..operator_classes import rounds, weighted
from ..points import name_in_model
from ..recurrent_layers import module_of
from .partial_quantization import units_of

Times = Mapping[int, Mapping[str, float]]
"""Milliseconds of each layer, by batch size."""


@dataclass(frozen=True)
class Segment:
    """The part of a program between two tensors through which all data pass.

    Attributes:
        layers: names of its layers, as in the measured times.
        units: names of its integer layers and operators that can stay in floating point.
        values: number of values per sample in its output tensor.
        weights: for each of its layers the name of its weight, or the beginning of the names of its weights.
    """

    layers: tuple[str, ...]
    units: tuple[str, ...]
    values: int
    weights: tuple[str, ...] = ()


def weights_of(parts: Sequence[Segment]) -> dict[str, str]:
    """The layers of all segments in order, each with the name of its weight, or the beginning of their names."""
    return {layer: own for part in parts for layer, own in zip(part.layers, part.weights, strict=True)}


def segments(program: Program) -> list[Segment]:
    """Split a quantized program before every layer whose input tensor carries all data, in graph order."""
    nodes, shapes = list(program.module.graph.nodes), shapes_of(program)
    rows = row_count(program.example, batch_axes(program.signature))
    order = {node: index for index, node in enumerate(nodes)}
    ends = {_origin(item): order[node] for node in nodes for item in node.all_input_nodes}
    units = {unit.node: unit.name for unit in units_of(program)}
    found: list[Segment] = []
    layers: list[tuple[str, str]] = []
    names: list[str] = []
    carried: set[fx.Node] = set()
    for index, node in enumerate(nodes):
        own = _layer_name(node)
        live = [value for value in carried if ends.get(value, -1) >= index]
        if own and layers and len(live) == 1:
            size = int(shapes[live[0]][0].numel()) // rows if live[0] in shapes else 0
            found.append(_segment(layers, names, size))
            layers, names = [], []
        layers += [(own, _weight_name(node, own))] if own else []
        names += [units[node]] if node in units else []
        if own or any(_origin(item) in carried for item in node.all_input_nodes):
            carried.add(_origin(node))
    return [*found, _segment(layers, names, 0)] if layers else found


def _segment(layers: Sequence[tuple[str, str]], units: Sequence[str], values: int) -> Segment:
    return Segment(tuple(name for name, _ in layers), tuple(units), values, tuple(own for _, own in layers))


def _origin(node: fx.Node) -> fx.Node:
    """The tensor before its fake-quantize nodes."""
    while rounds(node):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _layer_name(node: fx.Node) -> str:
    layer = quantized_layer(node)
    if layer is not None:
        return layer.weight.rpartition(".")[0] or node.name
    if name_of(node) in RECURRENT:
        return module_of(node) or node.name
    return name_in_model(node) if weighted(node) is not None else ""


def _weight_name(node: fx.Node, layer: str) -> str:
    """The name of a layer's weight, which is all of it in a file with names such as ``onnx::Conv_29``, or its start."""
    found = quantized_layer(node)
    return found.weight if found is not None and "." not in found.weight else f"{layer}."


def placements(
    parts: Sequence[Segment], floating: Times, integer: Times, crossing: Mapping[int, Sequence[float]]
) -> list[list[str]]:
    """Candidate sets of units that stay in floating point, each the fastest for some weights of the batch sizes.

    Args:
        parts: of the program, in order.
        floating: times of the FP32 file.
        integer: times of the INT8 file.
        crossing: milliseconds, by batch size, to convert the output tensor of each part between integer and floating
            point.

    Returns:
        Names of units for each set, without the two sets in which everything or nothing is integer.
    """
    batches = list(floating)
    whole = {batch: max(sum(floating[batch].values()), 1e-9) for batch in batches}
    even = dict.fromkeys(batches, 1.0)
    views = [even, *({**dict.fromkeys(batches, 0.1), batch: 1.0} for batch in batches)]
    views.append(dict.fromkeys(batches, 0.0) | {batches[0]: 0.5, batches[-1]: 0.2})
    integers = [name for part in parts for name in part.units]
    found: list[list[str]] = []
    for view in views:
        shares = {batch: weight / whole[batch] for batch, weight in view.items()}
        chosen = fastest(
            [_cost(part, floating, shares) for part in parts],
            [_cost(part, integer, shares) if part.units else math.inf for part in parts],
            [sum(shares[batch] * crossing[batch][index] for batch in batches) for index in range(len(parts))],
        )
        names = [name for index in chosen for name in parts[index].units]
        if names and len(names) < len(integers) and names not in found:
            found.append(names)
    return found


def _cost(part: Segment, times: Times, shares: Mapping[int, float]) -> float:
    return sum(share * times[batch].get(layer, 0.0) for batch, share in shares.items() for layer in set(part.layers))


def fastest(floating: Sequence[float], integer: Sequence[float], crossing: Sequence[float]) -> list[int]:
    """The parts that stay in floating point so that the total time is smallest (by dynamic programming).

    Args:
        floating: time of each part in floating point.
        integer: time of each part in integers.
        crossing: time of the conversion between the two after each part.
    """
    best: tuple[tuple[float, list[int]], tuple[float, list[int]]] = ((0.0, []), (0.0, []))
    for index, pair in enumerate(zip(floating, integer)):
        change = crossing[index - 1] if index else 0.0
        steps = []
        for form, cost in enumerate(pair):  # 0: floating point, 1: integer
            stay, other = best[form], best[1 - form]
            before = stay if stay[0] <= other[0] + change else (other[0] + change, other[1])
            steps.append((before[0] + cost, [*before[1], index] if form == 0 else before[1]))
        best = steps[0], steps[1]
    return min(best, key=lambda item: item[0])[1]
