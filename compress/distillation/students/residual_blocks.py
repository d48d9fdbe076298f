"""Residual blocks: parts of a graph that add something to the value that they read (He et al., 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import fx

from ....core.aten_names import CHANNEL_NORMS, TRAILING_NORMS, name_of, out_of_place
from ...graph.module_edit import Shapes, shapes_of
from ...program import Program, macs_by_node
from .removable_blocks import Block, is_read_elsewhere, layers_path

_NORMS = (*CHANNEL_NORMS, *TRAILING_NORMS, "group_norm", "dropout")


def residual_blocks(program: Program) -> list[Block]:
    """All residual blocks that can be left out, in the order of execution; none lies within another.

    A block is ``x + f(x)``, with the normalisation or activation that follows if ``x`` has passed through such a one
    too (a post-norm Transformer, a ResNet). It multiplies by weights, and nothing of ``f`` is read elsewhere.
    """
    shapes, macs = shapes_of(program), macs_by_node(program)
    order = {node: place for place, node in enumerate(program.module.graph.nodes)}
    found: list[Block] = []
    for node in program.module.graph.nodes:
        if _is_sum(node, shapes):
            block = next(_blocks(node, shapes, macs, order), None)
            if block and not any(block.nodes & other.nodes for other in found):
                found.append(block)
    return found


def _is_sum(node: fx.Node, shapes: Shapes) -> bool:
    return (
        node.op == "call_function"
        and out_of_place(name_of(node)) == "add"
        and len(node.all_input_nodes) == 2
        and all(shapes.get(item) == shapes.get(node) is not None for item in node.all_input_nodes)
    )


def _blocks(total: fx.Node, shapes: Shapes, macs: Mapping[str, int], order: Mapping[fx.Node, int]) -> Iterator[Block]:
    """The block that ends with a sum, for either of the two values as the one that was read before."""
    for entry in sorted(total.all_input_nodes, key=order.__getitem__):
        if entry.op == "get_attr":
            continue
        last = _end(total, entry, shapes)
        nodes = sorted(_between(entry, last, order), key=order.__getitem__)
        work = sum(macs.get(node.name, 0) for node in nodes)
        other = next((item for item in total.all_input_nodes if item is not entry), entry)
        if work and other in nodes and not is_read_elsewhere(nodes, last):
            name = layers_path([node for node in nodes if macs.get(node.name)]) or last.name
            yield Block(name, entry.name, last.name, frozenset(node.name for node in nodes), work)


def _end(total: fx.Node, entry: fx.Node, shapes: Shapes) -> fx.Node:
    """The last node of the block: the sum, or what follows it as it preceded the value that the block reads."""
    node, last = total, total
    while len(node.users) == 1:
        (node,) = node.users
        if node.op != "call_function" or shapes.get(node) != shapes.get(total):
            break
        if node.target == entry.target and name_of(node) != "add":
            last = node
            break
        if out_of_place(name_of(node)) not in _NORMS:
            break
    return last


def _between(entry: fx.Node, last: fx.Node, order: Mapping[fx.Node, int]) -> set[fx.Node]:
    """The nodes on the paths from the value that a block reads to its result, without that value."""
    first, left, behind = order[entry], [last], {last}
    while left:
        for source in left.pop().all_input_nodes:
            if source not in behind and order[source] > first and source.op != "get_attr":
                behind.add(source)
                left.append(source)
    ahead: set[fx.Node] = {entry}
    for node in sorted(behind, key=order.__getitem__):
        if any(source in ahead for source in node.all_input_nodes):
            ahead.add(node)
    return (ahead & behind) - {entry}
