"""Fewer layers of a recurrent network: the layers of one LSTM, GRU or RNN call are left out of that call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ....core.aten_names import RECURRENT, name_of
from ...graph.module_edit import fetch
from ...program import Program

_PARAMETERS, _BIASES, _COUNT, _BIDIRECTIONAL = 2, 3, 4, 7
_aten = torch.ops.aten


@dataclass(frozen=True)
class RecurrentStack:
    """A recurrent call of several layers; all but the first read the values of the layer below, of one width.

    Attributes:
        name: path of its module.
        node: name of its node.
        layers: their number.
    """

    name: str
    node: str
    layers: int


def recurrent_stacks(program: Program) -> list[RecurrentStack]:
    """All recurrent calls of at least two layers on padded inputs, in the order of execution."""
    found = []
    for node in program.module.graph.nodes:
        if _is_padded(node) and node.args[_COUNT] > 1:
            first = node.args[_PARAMETERS][0].target
            found.append(RecurrentStack(first.rpartition(".")[0] or node.name, node.name, node.args[_COUNT]))
    return found


def keep_layers(program: Program, stack: RecurrentStack, kept: Sequence[int]) -> None:
    """Leave only some layers in a recurrent call, in place.

    The initial states of the others are not read. Where the last states of all layers are read, those of a missing
    layer are the ones of the next kept layer above it, or of the last.

    Args:
        kept: indices of the layers, rising; the first layer must be among them, because it reads the input.
    """
    graph = program.module.graph
    (node,) = (item for item in graph.nodes if item.name == stack.node)
    arguments: list[Any] = list(node.args)
    directions = 2 if arguments[_BIDIRECTIONAL] else 1
    size = len(arguments[_PARAMETERS]) // stack.layers
    arguments[_PARAMETERS] = [
        item for layer in kept for item in arguments[_PARAMETERS][layer * size : (layer + 1) * size]
    ]
    arguments[_COUNT] = len(kept)
    rows = [layer * directions + side for layer in kept for side in range(directions)]
    above = [sum(layer < old for layer in kept) for old in range(stack.layers)]
    nearest = [min(place, len(kept) - 1) for place in above]
    back = [place * directions + side for place in nearest for side in range(directions)]
    states = arguments[1] if isinstance(arguments[1], list | tuple) else [arguments[1]]
    with graph.inserting_before(node):
        states = [_rows(graph, state, rows) for state in states]
    arguments[1] = states if isinstance(node.args[1], list | tuple) else states[0]
    node.args = tuple(arguments)
    for user in [item for item in node.users if item.args[1] > 0]:
        readers = list(user.users)
        with graph.inserting_before(user.next):
            whole = _rows(graph, user, back)
        for reader in readers:
            reader.replace_input_with(user, whole)


def _rows(graph: fx.Graph, state: fx.Node, rows: Sequence[int]) -> fx.Node:
    """Rows of a state ``[layers · directions, N, width]``, as slices, which every exporter knows."""
    slices = [graph.call_function(_aten.slice.Tensor, (state, 0, row, row + 1)) for row in rows]
    return slices[0] if len(slices) == 1 else graph.call_function(_aten.cat.default, (slices, 0))


def widths_fit(program: Program, stack: RecurrentStack) -> bool:
    """Whether every layer but the first has weights of the same shapes, so that any of them can follow another."""
    (node,) = (item for item in program.module.graph.nodes if item.name == stack.node)
    weights: Any = node.args[_PARAMETERS]
    size = len(weights) // stack.layers
    shapes = [
        [fetch(program.module, str(item.target)).shape for item in weights[layer * size : (layer + 1) * size]]
        for layer in range(1, stack.layers)
    ]
    return all(item == shapes[0] for item in shapes)


def _is_padded(node: fx.Node) -> bool:
    """Whether a node is a recurrent call whose second argument is the initial state, and not the sizes of batches."""
    return (
        name_of(node) in RECURRENT
        and len(node.args) > _BIDIRECTIONAL
        and isinstance(node.args[_COUNT], int)
        and isinstance(node.args[_PARAMETERS], list | tuple)
    )
