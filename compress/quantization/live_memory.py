"""Memory of the activations of a graph: which values are alive at the same time, and their bytes."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from ..graph.module_edit import Shapes, shapes_of
from ..graph.rows import batch_axes, row_count
from ..program import Program


def live_bytes(program: Program, shapes: Shapes | None = None) -> int:
    """Peak memory of the activations, in bytes per sample, if every value is freed after its last reader."""
    known = shapes_of(program) if shapes is None else shapes
    alive = most = 0
    for node, done in with_ends(program.module.graph):
        alive += _bytes(node, known)
        most = max(most, alive)
        alive -= sum(_bytes(item, known) for item in done)
    return most // rows_of_example(program)


def all_bytes(program: Program, shapes: Shapes | None = None) -> int:
    """Memory of all activations together, in bytes per sample."""
    known = shapes_of(program) if shapes is None else shapes
    return sum(_bytes(node, known) for node in program.module.graph.nodes) // rows_of_example(program)


def rows_of_example(program: Program) -> int:
    """Number of samples in the program's example."""
    return row_count(program.example, batch_axes(program.signature))


def _bytes(node: fx.Node, shapes: Shapes) -> int:
    if node.op == "get_attr" or node not in shapes:
        return 0
    shape, dtype = shapes[node]
    return int(shape.numel()) * int(dtype.itemsize)


def with_ends(graph: fx.Graph) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Every node, with the values that no later node reads."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for source in (node, *node.all_input_nodes):
            last[source] = node
    ends: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last.items():
        ends.setdefault(node, []).append(source)
    for node in graph.nodes:
        yield node, ends.get(node, [])
