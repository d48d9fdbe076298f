"""Replaces weights that a program computes from parameters alone by new parameters, which can be stored as INT8.

``weight_norm`` and other parametrisations compute a weight on every call, and ``MultiheadAttention`` slices its three
projections from one parameter. Without this step, such layers would stay in floating point.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from ....core.aten_names import CONVOLUTIONS, MATRIX_LAYERS, OPERANDS, TRANSPOSED, TURNS, name_of
from ....core.graph_state import overwritten
from ...graph.module_edit import fetch, free_path, put
from ...program import Program
from ..operator_classes import operand
from .batch_norm_folding import finish

_LAYERS = (*CONVOLUTIONS, *TRANSPOSED, *MATRIX_LAYERS)


def store_computed(program: Program) -> list[str]:
    """Replace computed weights and biases by parameters with the same values, in place.

    Args:
        program: the program, in evaluation mode.

    Returns:
        Paths of the new parameters, in graph order.
    """
    made: dict[fx.Node, str] = {}
    written = overwritten(program.module.graph)
    for node in list(program.module.graph.nodes):
        for name in filter(None, OPERANDS[name_of(node)][1:] if name_of(node) in _LAYERS else ()):
            value = operand(node, name)
            if isinstance(value, fx.Node) and _is_computed(value, written):
                if value not in made:
                    made[value] = _store(program.module, value, node, name)
                with program.module.graph.inserting_before(node):
                    node.replace_input_with(value, program.module.graph.get_attr(made[value]))
    if made:
        finish(program)
    return list(made.values())


def _is_computed(value: fx.Node, written: set[fx.Node]) -> bool:
    """Whether a value is computed from parameters alone; a parameter itself or its transpose does not count."""
    if value.op == "get_attr" or (name_of(value) in TURNS and _is_parameter(value.args[0])):
        return False
    pending, read = [value], False
    while pending:
        node = pending.pop()
        if node in written:
            return False
        if node.op == "get_attr":
            read = True
        elif node.op != "call_function" or "dropout" in node.name or (not node.all_input_nodes and node is not value):
            return False
        pending += node.all_input_nodes
    return read


def _is_parameter(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def _store(module: fx.GraphModule, value: fx.Node, reader: fx.Node, name: str) -> str:
    with torch.no_grad():
        tensor = _evaluate(module, value, {})
    origin = value
    while origin.op != "get_attr":
        origin = origin.all_input_nodes[0]
    stem = str(origin.target).rpartition(".")[0]
    path = free_path(module, f"{stem}.{reader.name}_{name}" if stem else f"{reader.name}_{name}")
    put(module, path, nn.Parameter(tensor.detach().clone().contiguous(), requires_grad=tensor.is_floating_point()))
    return path


def _evaluate(module: fx.GraphModule, node: fx.Node, done: dict[fx.Node, Any]) -> Any:
    if node not in done:
        if node.op == "get_attr":
            done[node] = fetch(module, str(node.target))
        else:
            for item in node.all_input_nodes:
                _evaluate(module, item, done)
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda item: done[item])
            assert callable(node.target)
            done[node] = node.target(*args, **kwargs)
    return done[node]
