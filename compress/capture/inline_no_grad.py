"""Inlining of ``torch.no_grad`` bodies into the surrounding graph, so that every transform sees their nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph.train_eval_mode import graphs

_GRAD_MODE: Any = torch.ops.higher_order.wrap_with_set_grad_enabled
_aten = torch.ops.aten


def inline_no_grad(module: fx.GraphModule) -> None:
    """Replace every body under ``no_grad`` by its nodes; its outputs are detached, so gradients stop there as before.

    A body that enables gradients again is not changed.
    """
    while True:
        nodes = [node for node in module.graph.nodes if _is_switch(node)]
        quiet = [node for node in nodes if not _switches_on(module.get_submodule(_name(node)))]
        if not quiet:
            break
        for node in quiet:
            _inline(module, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _is_switch(node: fx.Node) -> bool:
    return node.target is _GRAD_MODE


def _name(node: fx.Node) -> str:
    body: Any = node.args[1]
    return str(body.target)


def _switches_on(body: torch.nn.Module) -> bool:
    return any(_is_switch(node) and node.args[0] for graph in graphs(body) for node in graph.graph.nodes)


def _inline(module: fx.GraphModule, node: fx.Node) -> None:
    name = _name(node)
    body: Any = module.get_submodule(name)
    operands = iter(node.args[2:])
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
        if not node.args[0] and isinstance(user.meta.get("val"), torch.Tensor) and user.meta["val"].is_floating_point():
            value = graph.call_function(_aten.detach.default, (value,))
            value.meta = dict(user.meta)
        user.replace_all_uses_with(value)
        graph.erase_node(user)
