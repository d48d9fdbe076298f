"""The state of a captured graph: buffers that a run changes in place and that its outputs depend on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import Graph, Node

REMEDY = "pass the state to `forward` as an input and return its new value, or change it only `if self.training`"
_SETS = ("aten.copy_.default", "aten.zero_.default", "aten.fill_.Scalar", "aten.fill_.Tensor")


def state_of(graph: Graph, buffers: Iterable[Node]) -> list[Node]:
    """Those of the buffers whose old value affects the outputs, and which the graph changes."""
    reached: set[Node] = set()
    waiting = [graph.output_node()]
    while waiting:
        node = waiting.pop()
        waiting += [item for item in node.all_input_nodes if item not in reached]
        reached.update(node.all_input_nodes)
    return [node for node in buffers if node in reached and _changed(node) and not _set_first(node)]


def state_in_words(names: list[str]) -> str:
    """A sentence on the buffers that a model changes."""
    shown = ", ".join(f"'{name}'" for name in names[:3]) + " and others" * (len(names) > 3)
    return f"the model's outputs depend on its buffer{'s' * (len(names) > 1)} {shown}, which it changes in every run"


def overwritten(graph: Graph) -> set[Node]:
    """Values that an operator of the graph writes into: also through a view of them, or as a view of what is written.

    Such a value depends on where it is read, so that it may not be computed anew from its inputs alone.
    """
    families: dict[Node, set[Node]] = {}
    written: list[Node] = []
    for node in graph.nodes:
        family = families.setdefault(node, {node})
        for source in _sources(node):
            joined = families[source]
            if joined is not family:
                family |= joined
                families.update(dict.fromkeys(joined, family))
        if _writes(node):
            written.append(node)
    return set().union(*(families[node] for node in written))


def _sources(node: Node) -> list[Node]:
    """The inputs whose memory the result of a node may share, or that the node writes into."""
    if node.op != "call_function":
        return []
    schema: Any = getattr(node.target, "_schema", None)
    if schema is None:  # `getitem` and other functions of Python
        return list(node.all_input_nodes)
    bound = {item.name: value for item, value in zip(schema.arguments, node.args, strict=False)} | dict(node.kwargs)
    shared = [bound.get(item.name) for item in schema.arguments if item.alias_info is not None]
    return [item for value in shared for item in _nodes(value)]


def _nodes(value: Any) -> list[Node]:
    from torch.fx import Node as FxNode

    if isinstance(value, FxNode):
        return [value]
    return [item for part in value for item in _nodes(part)] if isinstance(value, list | tuple) else []


def _changed(node: Node) -> bool:
    """Whether a value or a view of it is changed in place."""
    return any(_writes(user) or (_is_view(user) and _changed(user)) for user in node.users)


def _set_first(node: Node) -> bool:
    """Whether every run sets the value before it reads it."""
    first = min(node.users)
    return str(first.target) in _SETS and first.args[0] is node


def _writes(node: Node) -> bool:
    schema: Any = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _is_view(node: Node) -> bool:
    schema: Any = getattr(node.target, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)
