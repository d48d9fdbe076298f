"""Inlining of ``torch.no_grad`` and ``torch.autocast`` bodies, so that every transform sees their nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ...core.errors import CaptureError
from ..graph.train_eval_mode import graphs

_GRAD_MODE: Any = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST: Any = torch.ops.higher_order.wrap_with_autocast
_BODY = {_GRAD_MODE: 1, _AUTOCAST: 4}
"""Places of the body among the arguments; its operands follow."""
_aten = torch.ops.aten


def inline_contexts(module: fx.GraphModule) -> None:
    """Replace every body under ``no_grad`` by its nodes; its outputs are detached, so gradients stop there as before.

    A body that enables gradients again is not changed. A body under ``autocast`` is replaced where that has no effect:
    switched off, or for a GPU, as the model is captured on the CPU.

    Raises:
        CaptureError: the model computes in another precision under ``autocast``.
    """
    while True:
        nodes = [node for node in module.graph.nodes if _is_switch(node)]
        for node in nodes:
            _require_no_effect(node)
        quiet = [node for node in nodes if not _switches_on(module.get_submodule(_name(node)))]
        if not quiet:
            break
        for node in quiet:
            _inline(module, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _is_switch(node: fx.Node) -> bool:
    return node.target in (_GRAD_MODE, _AUTOCAST)


def _require_no_effect(node: fx.Node) -> None:
    if node.target is _AUTOCAST and node.args[0] == "cpu" and node.args[2]:
        raise CaptureError(
            f"the model computes in {str(node.args[1]).removeprefix('torch.')} under torch.autocast in its forward; a "
            "program has the precision of its weights",
            "disable it for capture (`torch.autocast('cpu', enabled=False)`), and export with another `precision`",
        )


def _name(node: fx.Node) -> str:
    body: Any = node.args[_BODY[node.target]]
    return str(body.target)


def _switches_on(body: torch.nn.Module) -> bool:
    return any(node.target is _GRAD_MODE and node.args[0] for graph in graphs(body) for node in graph.graph.nodes)


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    name = _name(node)
    body: Any = module.get_submodule(name)
    operands = iter(node.args[_BODY[node.target] + 1 :])
    copied: dict[fx.Node, Any] = {}
    with module.graph.inserting_before(node):
        for item in body.graph.nodes:
            if item.op == "placeholder":
                copied[item] = next(operands)
            elif item.op == "get_attr":
                copied[item] = module.graph.get_attr(f"{name}.{item.target}")
                copied[item].meta = dict(item.meta)
            elif item.op == "output":
                _replace(module.graph, node, [copied.get(value, value) for value in item.args[0]])
            else:
                copied[item] = module.graph.node_copy(item, copied.__getitem__)
    module.graph.erase_node(node)


def _replace(graph: fx.Graph, node: fx.Node, results: list[Any]) -> None:
    """Replace every ``getitem`` of the body's outputs by the detached value."""
    for user in list(node.users):
        value: Any = results[user.args[1]]  # type: ignore[index]
        quiet = node.target is _GRAD_MODE and not node.args[0]
        if quiet and isinstance(user.meta.get("val"), torch.Tensor) and user.meta["val"].is_floating_point():
            value = graph.call_function(_aten.detach.default, (value,))
            value.meta = dict(user.meta)
        user.replace_all_uses_with(value)
        graph.erase_node(user)
