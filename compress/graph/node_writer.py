"""Writing of new nodes that replace another node of a graph."""

from __future__ import annotations

from typing import Any

from torch import fx


class NodeWriter:
    """Writes nodes before another one, with the origin of that node and with example values."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self._graph, self._node = graph, node

    def __call__(self, target: Any, *args: Any, value: Any = None) -> Any:
        """Write a node that calls ``target``; ``value`` is its example value if it cannot be computed from others."""
        with self._graph.inserting_before(self._node):
            made = self._graph.call_function(target, args)
        if value is None:
            value = target(*fx.map_arg(args, lambda item: item.meta["val"]))
        made.meta = {**self._node.meta, "val": value}
        return made
