"""Removal of the assertions that ``torch.export`` writes into graphs: on dtypes, and on sizes that it could not prove.

They are conditions of PyTorch's own reasoning, not of the model: they fail in mixed precision, after pruning, and at
sizes where PyTorch would only have chosen other strides (a batch of 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch.fx import Graph, GraphModule

_ASSERTIONS = ("aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "aten._assert_async.msg")


def drop_assertions(graph: Graph) -> bool:
    """Remove all assertions from a graph, with the sizes that only they read; return whether there were any."""
    found = [node for node in graph.nodes if str(node.target) in _ASSERTIONS and not node.users]
    waiting = {source for node in found for source in node.all_input_nodes}
    for node in found:
        graph.erase_node(node)
    while waiting:
        unread = waiting.pop()
        if not unread.users and unread.op == "call_function":
            waiting |= set(unread.all_input_nodes)
            graph.erase_node(unread)
    return bool(found)


def without_assertions(module: GraphModule) -> None:
    """Remove all assertions from a module and those nested in it."""
    for child in module.modules():
        graph: Any = getattr(child, "graph", None)
        if graph is not None and drop_assertions(graph):
            cast("GraphModule", child).recompile()
