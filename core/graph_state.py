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
