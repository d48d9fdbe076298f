"""Iteration over ONNX graphs that are protobuf messages: nodes, subgraphs of loops and branches, and what they read.

For graphs in onnx-ir, use that library's ``ir.traversal.RecursiveGraphIterator``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, NodeProto


def bodies(node: NodeProto) -> list[GraphProto]:
    """The graphs inside a node: the branches of an ``If``, the body of a ``Loop`` or ``Scan``."""
    return [body for item in node.attribute for body in (*([item.g] if item.HasField("g") else []), *item.graphs)]


def nested(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from nested(body)


def all_nodes(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """The nodes in order, each followed by the nodes of its subgraphs."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from all_nodes(body)


def captured(node: NodeProto) -> Iterator[str]:
    """Names of outer values that a node's subgraphs read, at any depth."""
    for body in bodies(node):
        own = {item.name for item in (*body.input, *body.initializer)}
        own |= {name for one in body.node for name in one.output}
        read = (name for one in body.node for name in (*one.input, *captured(one)))
        yield from (name for name in read if name not in own)
