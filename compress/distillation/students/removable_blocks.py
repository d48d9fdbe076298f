"""Parts of a graph that can be left out because they give a value of the shape that they read, and their removal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import fx

from ...capture.cleanup import has_effect
from ...graph.module_edit import drop_unused
from ...graph.node_values import path_of
from ...program import Program, shared

_PARTS = 3


@dataclass(frozen=True)
class Block:
    """A part of a graph whose result can be replaced by what it reads.

    Attributes:
        name: its module path, or the name of its last node without one.
        entry: name of the node whose value it reads.
        exit: name of the node that gives its result, of the same shape.
        nodes: names of all its nodes.
        macs: multiply-accumulates for one sample.
    """

    name: str
    entry: str
    exit: str
    nodes: frozenset[str]
    macs: int


def without(program: Program, blocks: Iterable[Block]) -> Program:
    """A copy of a program that hands on what each of the blocks reads; it shares the parameters that are left.

    No two of the blocks may overlap.
    """
    result = shared(program)
    graph = result.module.graph
    nodes = {node.name: node for node in graph.nodes}
    handed: dict[fx.Node, fx.Node] = {}
    for block in blocks:
        entry, last = nodes[block.entry], nodes[block.exit]
        entry = handed.get(entry, entry)
        last.replace_all_uses_with(entry)
        for gone, kept in handed.items():
            handed[gone] = entry if kept is last else kept
        handed[last] = entry
    graph.eliminate_dead_code(has_effect)
    drop_unused(result.module)
    result.module.recompile()
    return result


def is_read_elsewhere(nodes: Sequence[fx.Node], last: fx.Node) -> bool:
    """Whether another value than that of the last node is read outside of ``nodes``."""
    own = set(nodes)
    return any(user not in own for node in nodes if node is not last for user in node.users)


def module_path(nodes: Sequence[fx.Node]) -> str:
    """The path of the innermost user module that all nodes belong to, or the common part of their parameters' paths."""
    common = _common([path.split(".") for node in nodes if (path := path_of(node))])
    if not common:
        read = [item for node in nodes for item in node.all_input_nodes if item.op == "get_attr"]
        common = _common([str(item.target).split(".")[:-1] for item in read])
    return ".".join(common)


def _common(paths: Sequence[list[str]]) -> list[str]:
    """The parts that all paths begin with."""
    return [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths))]


def layers_path(nodes: Sequence[fx.Node]) -> str:
    """As :func:`module_path`, with the parts in braces if there are two or three: ``layer.0.{intermediate,output}``."""
    common = module_path(nodes)
    rest = [path_of(node).removeprefix(common).strip(".").split(".")[0] for node in nodes]
    parts = list(dict.fromkeys(part for part in rest if part))
    return f"{common}.{{{','.join(parts)}}}".lstrip(".") if 1 < len(parts) <= _PARTS else common
