"""Canonical forms: aliases of operators get their usual name, and recurrent cells become basic operators.

Every later transform handles ``mul`` and ``linear``, and need not handle ``multiply`` or ``lstm_cell``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ...core.aten_names import SYNONYMS
from ..graph.node_writer import NodeWriter

_aten = torch.ops.aten


def canonicalize(graph: fx.Graph) -> None:
    """Give every node the usual name of its operator, with the same arguments, and expand the recurrent cells."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        usual = _usual(node.target)
        if usual is not None:
            first = [item.name for item in node.target._schema.arguments]
            names = dict(zip(first, (item.name for item in usual._schema.arguments)))
            node.kwargs = {names[key]: value for key, value in node.kwargs.items()}
            node.target = usual
        elif node.target in _CELLS:
            _expand_cell(graph, node)
        elif node.target in (_aten.rsub.Scalar, _aten.rsub.Tensor):
            _widen_first(graph, node)
        elif node.target is _aten.item.default:
            _keep_tensor(graph, node)
    graph.eliminate_dead_code()


def _usual(target: torch._ops.OpOverload) -> Any:
    """The operator with another name that takes the same arguments in the same order."""
    name = target._schema.name.removeprefix("aten::")
    place = "_" if name.endswith("_") else ""
    packet = (
        getattr(_aten, SYNONYMS.get(name.removesuffix("_"), "") + place, None) if target.namespace == "aten" else None
    )
    overloads = [getattr(packet, key) for key in packet.overloads()] if packet is not None else []
    return next((item for item in overloads if _kinds(item) == _kinds(target)), None)


def _kinds(target: torch._ops.OpOverload) -> list[tuple[str, bool]]:
    return [(str(item.type), item.kwarg_only) for item in target._schema.arguments]


def _widen_first(graph: fx.Graph, node: fx.Node) -> None:
    """Convert an integer mask before ``1.0 - mask``: the exporter promotes no types in operators that it expands."""
    first: Any = node.args[0]
    kind = node.meta["val"].dtype
    if kind.is_floating_point and not first.meta["val"].is_floating_point():
        node.args = (NodeWriter(graph, node)(_aten.to.dtype, first, kind), *node.args[1:])


def _keep_tensor(graph: fx.Graph, node: fx.Node) -> None:
    """Use the tensor itself where a number that was read from it (``x / x.max().item()``) is an operand."""
    source: Any = node.args[0]
    for user in list(node.users):
        target = _with_tensors(user.target)
        places = [place for place, item in enumerate(user.args) if item is node]
        if target is None or node in user.kwargs.values() or not places or 0 in places:
            continue
        with graph.inserting_before(user):
            scalar = graph.call_function(_aten.reshape.default, (source, []))
        scalar.meta = {**node.meta, "val": source.meta["val"].reshape([])}
        user.args = tuple(scalar if item is node else item for item in user.args)
        user.target = target


def _with_tensors(target: Any) -> Any:
    """The form of an operator on two values whose second operand is a tensor; None if there is none."""
    if not isinstance(target, torch._ops.OpOverload) or target._overloadname not in ("Tensor", "Scalar"):
        return None
    found = getattr(target.overloadpacket, "Tensor", None)
    if found is None or found._schema.is_mutable:
        return None
    operands = [str(item.type) for item in found._schema.arguments[:2]]
    return found if operands == ["Tensor", "Tensor"] else None


def _expand_cell(graph: fx.Graph, node: fx.Node) -> None:
    names = [item.name for item in node.target._schema.arguments]  # type: ignore[union-attr]
    given = {"b_ih": None, "b_hh": None, **dict(zip(names, node.args)), **node.kwargs}
    write = NodeWriter(graph, node)
    hidden: Any = given["hx"]
    state = hidden[0] if isinstance(hidden, list | tuple) else hidden
    inputs = write(_aten.linear.default, given["input"], given["w_ih"], given["b_ih"])
    carried = write(_aten.linear.default, state, given["w_hh"], given["b_hh"])
    results = _CELLS[node.target](write, inputs, carried, hidden)
    for user in list(node.users) if len(results) > 1 else ():
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        graph.erase_node(user)
    if len(results) == 1:
        node.replace_all_uses_with(results[0])
    graph.erase_node(node)


def _chunks(write: NodeWriter, value: Any, count: int) -> list[Any]:
    parts = write(_aten.chunk.default, value, count, 1)
    return [write(operator.getitem, parts, index) for index in range(count)]


def _lstm(write: NodeWriter, inputs: Any, carried: Any, states: Any) -> Sequence[Any]:
    gates = _chunks(write, write(_aten.add.Tensor, inputs, carried), 4)
    take, forget, give = (write(_aten.sigmoid.default, gates[index]) for index in (0, 1, 3))
    new = write(_aten.mul.Tensor, take, write(_aten.tanh.default, gates[2]))
    cell = write(_aten.add.Tensor, write(_aten.mul.Tensor, forget, states[1]), new)
    return write(_aten.mul.Tensor, give, write(_aten.tanh.default, cell)), cell


def _gru(write: NodeWriter, inputs: Any, carried: Any, state: Any) -> Sequence[Any]:
    fresh, old = _chunks(write, inputs, 3), _chunks(write, carried, 3)
    reset, keep = (write(_aten.sigmoid.default, write(_aten.add.Tensor, old[index], fresh[index])) for index in (0, 1))
    candidate = write(_aten.add.Tensor, fresh[2], write(_aten.mul.Tensor, reset, old[2]))
    new = write(_aten.tanh.default, candidate)
    moved = write(_aten.mul.Tensor, write(_aten.sub.Tensor, state, new), keep)
    return (write(_aten.add.Tensor, moved, new),)


def _plain(activation: Any) -> Callable[[NodeWriter, Any, Any, Any], Sequence[Any]]:
    return lambda write, inputs, carried, state: (write(activation, write(_aten.add.Tensor, inputs, carried)),)


_CELLS: dict[Any, Callable[[NodeWriter, Any, Any, Any], Sequence[Any]]] = {
    _aten.lstm_cell.default: _lstm,
    _aten.gru_cell.default: _gru,
    _aten.rnn_tanh_cell.default: _plain(_aten.tanh.default),
    _aten.rnn_relu_cell.default: _plain(_aten.relu.default),
}
