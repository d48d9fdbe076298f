"""Selection of integer layers that the target supports, and of the tensors that get a QuantizeLinear."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Literal

from torch import fx

from ....core.aten_names import CONVOLUTIONS, MATRIX_LAYERS, RECURRENT, name_of
from ....core.cpu_targets import is_for_cpu
from ....core.errors import UserError
from ....core.options.stage_options import Target
from ...graph.module_edit import Shapes, shapes_of
from ...program import Program, macs_by_node
from ..operator_classes import JOINS, Weighted, clamp_bounds, weighted
from ..points import Placement, Point, excluded, name_in_model, source_of, tail_of
from ..recurrent_layers import Recurrent, recurrent, why_floating
from . import kernel_limits
from .target_rules import Cpu, TensorRT

End = Literal["auto", "int8", "float"]
Ends = tuple[End, End]
"""Requested precision of the layers that read the model's inputs, and of the layers that no other layer follows."""
SHOWN = 12
"""Names of layers in a message."""


def eligible(
    program: Program, target: Target, exclude: Sequence[str], shapes: Shapes, ends: Ends = ("auto", "auto")
) -> tuple[dict[fx.Node, Weighted], dict[fx.Node, str]]:
    """Layers that can be integer on the target, and the nodes with multiply-accumulates that cannot, with the reason.

    Raises:
        UserError: a pattern of ``exclude`` matches no node.
    """
    heavy = set(macs_by_node(program))
    layers: dict[fx.Node, Weighted] = {}
    floating: dict[fx.Node, str] = {}
    nodes = [node for node in program.module.graph.nodes if node.op == "call_function"]
    last = _last(nodes)
    layers_first = sorted(nodes, key=lambda node: node.name not in heavy)
    _check_patterns(exclude, [name for each in (name_in_model, _own_name) for name in map(each, layers_first)])
    for node in nodes:
        if node.name not in heavy and not any(name.startswith(f"{node.name}.") for name in heavy):
            continue
        layer = weighted(node)
        reason = (
            "excluded by the recipe" if excluded(node, exclude) else kernel_limits.reason(node, layer, target, shapes)
        )
        if reason is None and layer is not None:
            reason = _at_an_end(layer, node in last, target, shapes, ends)
        if reason is None and layer is not None:
            layers[node] = layer
        else:
            floating[node] = reason or "its weight is not a constant"
    return layers, floating


def _last(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The layers whose output reaches no other layer."""
    leads: set[fx.Node] = set()
    last = set()
    for node in reversed(nodes):
        behind = any(user in leads for user in node.users)
        layer = weighted(node) is not None or name_of(node) in RECURRENT
        if layer and not behind:
            last.add(node)
        if layer or behind:
            leads.add(node)
    return last


def _at_an_end(layer: Weighted, last: bool, target: Target, shapes: Shapes, ends: Ends) -> str | None:
    """The reason why a first or last layer stays in floating point; None if it does not."""
    if last and ends[1] == "float":
        return "last layer (quantize.last_layer)"
    head = last and name_of(layer.node) == "linear" and len(shapes[layer.data][0]) == 2
    if head and ends[1] == "auto" and is_for_cpu(target) and _reads_floats(layer):
        return kernel_limits.slow_last_layer(shapes[layer.weight][0], target)
    if ends[0] == "int8" or source_of(layer.data).op != "placeholder":
        return None
    if ends[0] == "float":
        return "first layer (quantize.first_layer)"
    convolution = is_for_cpu(target) and name_of(layer.node) in CONVOLUTIONS
    return kernel_limits.slow_first_layer(layer.node, shapes[layer.weight][0], target) if convolution else None


def _reads_floats(layer: Weighted) -> bool:
    """Whether no integer node computes the layer's input, so that the input must be quantized for this layer alone."""
    source = source_of(layer.data)
    while clamp_bounds(source) is not None:
        source = source_of(source.all_input_nodes[0])
    integers = (*CONVOLUTIONS, *MATRIX_LAYERS, *JOINS)
    return source.op == "call_function" and name_of(source) not in integers


def _own_name(node: fx.Node) -> str:
    return node.name


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            known = list(dict.fromkeys(names))
            close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3)
            more = f" and {len(known) - SHOWN} more (all with --json)" if len(known) > SHOWN else ""
            listed = f"the model has {', '.join(known[:SHOWN])}{more}"
            raise UserError(
                f"quantize.exclude: no node matches '{pattern}'",
                f"did you mean {' or '.join(close)}? {listed}" if close else listed,
                known=known,
            )


def place(
    program: Program,
    target: Target,
    exclude: Sequence[str] = (),
    ends: Ends = ("auto", "auto"),
    dynamic: bool = False,
) -> Placement:
    """Choose the layers and operators that become integer, and the tensors that are quantized.

    Args:
        program: folded, in evaluation mode.
        target: the runtime whose kernels are used.
        exclude: patterns of node or layer names that stay in floating point.
        ends: precision of the first and the last layers (``quantize.first_layer``, ``quantize.last_layer``).
        dynamic: quantize the inputs of matrix products at run time.

    Raises:
        UserError: a pattern of ``exclude`` matches no node.
    """
    shapes = shapes_of(program)
    layers, floating = eligible(program, target, exclude, shapes, ends)
    apart = {node: layer for node, layer in layers.items() if dynamic and name_of(node) in MATRIX_LAYERS}
    layers = {node: layer for node, layer in layers.items() if node not in apart}
    build = Cpu if is_for_cpu(target) else TensorRT
    made = build(program.module.graph, layers, floating, exclude, shapes).placement()
    made.dynamic = list(apart.values())
    made.recurrent = _recurrent(program, target, exclude, shapes, ends)
    for layer in made.recurrent:
        made.floating[layer.node] = why_floating(layer)
        if layer.integer:
            del made.floating[layer.node]
    return made


def _recurrent(program: Program, target: Target, exclude: Sequence[str], shapes: Shapes, ends: Ends) -> list[Recurrent]:
    nodes = [node for node in program.module.graph.nodes if node.op == "call_function"]
    last = _last(nodes) if ends[1] == "float" else set()
    found = [recurrent(node, target, shapes) for node in nodes if node not in last and not excluded(node, exclude)]
    first = ends[0] == "float"
    return [
        layer
        for layer in found
        if layer is not None and not (first and source_of(layer.node.all_input_nodes[0]).op == "placeholder")
    ]


__all__ = ["Placement", "Point", "eligible", "excluded", "name_in_model", "place", "source_of", "tail_of"]
