"""The nodes of a captured graph that behave differently in training, and the switch that sets them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

from ...core.errors import ArtifactError

TRAINS = "retort_trains"
"""Key in ``node.meta``: the value of the node's mode argument in training; absent if it has no training mode."""

STACK = "nn_module_stack"
_SWITCHES = ("train", "training", "use_input_stats")
_DROPOUT = "dropout_p"
_NEEDS_STATISTICS = ("aten.batch_norm", "aten.instance_norm")

Mode = bool | float


def graphs(module: torch.nn.Module) -> Iterator[fx.GraphModule]:
    """The graph module and those nested in it (bodies of higher-order operators)."""
    for child in module.modules():
        if isinstance(child, fx.GraphModule):
            yield child


def mode_argument(node: fx.Node) -> str | None:
    """Name of the argument that selects training or evaluation; None if the operator has none."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    names = [argument.name for argument in node.target._schema.arguments]
    return next((name for name in (*_SWITCHES, _DROPOUT) if name in names), None)


def mode_nodes(module: torch.nn.Module) -> list[fx.Node]:
    """All nodes with a mode argument, in execution order, which is the order of ordinals."""
    return [node for graph in graphs(module) for node in graph.graph.nodes if mode_argument(node)]


def argument(node: fx.Node, name: str) -> Any:
    """The value of a node's argument, or its schema default if it is not given.

    Raises:
        KeyError: the operator has no such argument.
    """
    position, default = _position(node, name)
    if name in node.kwargs:
        return node.kwargs[name]
    return node.args[position] if position < len(node.args) else default


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set an argument by name, and insert schema defaults for omitted arguments before it."""
    position, _ = _position(node, name)
    schema = _schema(node)[position]
    if name in node.kwargs or schema.kwarg_only:
        node.update_kwarg(name, value)
        return
    missing = _schema(node)[len(node.args) : position]
    node.args = (*node.args, *(node.kwargs.get(item.name, item.default_value) for item in missing))
    node.kwargs = {key: kept for key, kept in node.kwargs.items() if key not in {item.name for item in missing}}
    node.args = (*node.args[:position], value, *node.args[position + 1 :])


def mark_training_form(module: torch.nn.Module) -> None:
    """Mark every node that is in training mode, in a graph captured in training mode.

    A normalisation without running statistics uses batch statistics in evaluation too, so it has no mode.
    """
    for node in mode_nodes(module):
        value = argument(node, _name(node))
        if value and not _always_on(node):
            node.meta[TRAINS] = value


def mark_evaluation_form(module: torch.nn.Module, training: torch.nn.Module | None, frozen: set[str]) -> None:
    """Mark the nodes of a graph captured in evaluation mode.

    Args:
        training: the same model in training mode, if it could be captured: a node gets the mode of the corresponding
            node (same submodule, same operator, same position among equal nodes).
        frozen: names of submodules that stay in evaluation mode in training.
    """
    counterparts = dict(_labelled(training)) if training is not None else {}
    for label, node in _labelled(module):
        value = argument(node, _name(node))
        if value or _always_on(node):
            continue
        counterpart = counterparts.get(label)
        if counterpart is not None:
            trains = argument(counterpart, _name(counterpart))
        else:
            trains = _name(node) != _DROPOUT and owner(node) not in frozen
        if trains:
            node.meta[TRAINS] = trains


def apply(module: torch.nn.Module, training: bool) -> None:
    """Switch every marked node to training or to evaluation."""
    for node in mode_nodes(module):
        if TRAINS in node.meta:
            name = _name(node)
            set_argument(node, name, node.meta[TRAINS] if training else off(name))
    for graph in graphs(module):
        graph.recompile()
    module.train(training)


def off(name: str) -> Mode:
    """The value of a mode argument in evaluation."""
    return 0.0 if name == _DROPOUT else False


def random_nodes(module: torch.nn.Module) -> list[fx.Node]:
    """Nodes that draw random numbers in every mode (stochastic depth, noise)."""
    return [
        node
        for graph in graphs(module)
        for node in graph.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded in node.target.tags
        and mode_argument(node) is None
    ]


def to_json(module: torch.nn.Module) -> list[dict[str, Any]]:
    """The marks as JSON: ordinal among the mode nodes, operator, and the value in training."""
    return [
        {"ordinal": index, "op": str(node.target), "train": node.meta[TRAINS]}
        for index, node in enumerate(mode_nodes(module))
        if TRAINS in node.meta
    ]


def from_json(module: torch.nn.Module, marks: Sequence[dict[str, Any]], where: str) -> None:
    """Set the marks from :func:`to_json` on a graph with the same operators.

    Args:
        where: the file, for error messages.

    Raises:
        ArtifactError: the marks do not fit the graph.
    """
    nodes = mode_nodes(module)
    for mark in marks:
        index = mark["ordinal"]
        if index >= len(nodes) or str(nodes[index].target) != mark["op"]:
            raise ArtifactError(
                f"{where}: its training modes do not fit its graph, which has no {mark['op']} at position {index}",
                "the file was altered; capture the model again",
            )
        nodes[index].meta[TRAINS] = mark["train"]


def owner(node: fx.Node) -> str:
    """Dotted name of the user's submodule from which a node came; empty for the model itself or if unknown."""
    stack = list((node.meta.get(STACK) or {}).values())
    return str(stack[-1][0]).split("@")[0] if stack else ""


def _labelled(module: torch.nn.Module) -> Iterator[tuple[tuple[str, str, int], fx.Node]]:
    seen: dict[tuple[str, str], int] = {}
    for node in mode_nodes(module):
        place = owner(node), str(node.target)
        seen[place] = seen.get(place, -1) + 1
        yield (*place, seen[place]), node


def _always_on(node: fx.Node) -> bool:
    return str(node.target).startswith(_NEEDS_STATISTICS) and argument(node, "running_mean") is None


def _name(node: fx.Node) -> str:
    name = mode_argument(node)
    assert name is not None
    return name


def _schema(node: fx.Node) -> list[Any]:
    assert isinstance(node.target, torch._ops.OpOverload)
    return list(node.target._schema.arguments)


def _position(node: fx.Node, name: str) -> tuple[int, Any]:
    for position, item in enumerate(_schema(node)):
        if item.name == name:
            return position, item.default_value
    raise KeyError(f"{node.target} has no argument {name}")
