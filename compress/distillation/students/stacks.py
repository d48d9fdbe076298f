"""Stacks of equal layers, found in the captured graph as repetitions of the same calls.

The calls of a graph are in the order of execution, so n equal layers are n repetitions of one sequence of calls. A
repetition counts as a layer if its data flow is that of its neighbours: it reads one value of the layer before it, the
same values from outside (a mask, a position bias), and weights of its own, and nothing else of it is read elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from torch import fx

from ....core.aten_names import name_of
from ...graph.module_edit import Shapes, shapes_of
from ...program import Program, macs_by_node
from .removable_blocks import Block, is_read_elsewhere, module_path

Codes = np.ndarray[tuple[int], np.dtype[np.int64]]
Flow = tuple[str, fx.Node | None, int]
"""Where an argument comes from: the kind of place, the node outside, and the place within a layer."""
_OUTSIDE, _WITHIN, _BEFORE = "outside", "within", "before"


def stacks_of(program: Program) -> list[tuple[Block, ...]]:
    """All stacks of at least two equal layers, in the order of execution; outer layers win over inner ones."""
    nodes, sizes = list(program.module.graph.nodes), _sizes(program.module.graph)
    calls = [node for node in nodes if node.op in ("call_function", "call_module") and node not in sizes]
    shapes, macs = shapes_of(program), macs_by_node(program)
    codes = _codes(calls, shapes)
    taken = np.zeros(len(calls), dtype=bool)
    found: list[tuple[int, tuple[Block, ...]]] = []
    for start, period, length in _repetitions(codes):
        if taken[start : start + length].any():
            continue
        best = _best(calls[start : start + length], period, shapes, macs)
        if best:
            taken[start : start + length] = True
            found.append((start, best))
    return [stack for _, stack in sorted(found, key=lambda item: item[0])]


def _sizes(graph: fx.Graph) -> frozenset[fx.Node]:
    """Sizes of the inputs and numbers computed from them, which belong to no layer.

    A number that all layers use, such as the product of batch size and heads, is computed in the first one alone.
    """
    found = set[fx.Node]()
    for node in graph.nodes:
        read = node.all_input_nodes
        of_input = name_of(node) == "sym_size" and all(source.op == "placeholder" for source in read)
        computed = getattr(node.target, "__module__", "") == "_operator" and all(source in found for source in read)
        if read and (of_input or computed):
            found.add(node)
    return frozenset(found)


def _codes(calls: Sequence[fx.Node], shapes: Shapes) -> Codes:
    """A number per call; equal calls with arguments of equal shapes have equal numbers."""
    known: dict[Any, int] = {}
    return np.array([known.setdefault(_form(node, shapes), len(known)) for node in calls], dtype=np.int64)


def _form(node: fx.Node, shapes: Shapes) -> tuple[Any, ...]:
    arguments = [_plain(item, shapes) for item in (*node.args, *sorted(node.kwargs.items()))]
    if "dropout" in name_of(node):  # its rate may grow with depth, and does nothing in evaluation
        arguments[1:] = []
    return str(node.target), _plain(node, shapes), *arguments


def _plain(item: Any, shapes: Shapes) -> Any:
    if isinstance(item, fx.Node):
        shape, dtype = shapes.get(item, (None, None))
        return "node", item.op == "get_attr", None if shape is None else tuple(shape), str(dtype)
    if isinstance(item, tuple | list):
        return tuple(_plain(part, shapes) for part in item)
    return repr(item)


def _repetitions(codes: Codes) -> list[tuple[int, int, int]]:
    """Start, period and length of all sequences that repeat at least once, the longest first."""
    found = []
    for period in range(1, len(codes) // 2 + 1):
        same = np.concatenate([[0], (codes[:-period] == codes[period:]).astype(np.int8), [0]])
        edges = np.flatnonzero(np.diff(same))
        found += [
            (int(start), period, int(end - start) + period)
            for start, end in zip(edges[::2], edges[1::2])
            if end - start >= period
        ]
    return sorted(found, key=lambda item: (-item[2], item[1]))


def _best(calls: Sequence[fx.Node], period: int, shapes: Shapes, macs: dict[str, int]) -> tuple[Block, ...]:
    """The most layers that a repetition holds, over all places where the first can begin; empty without any.

    Of as many layers, those are taken that are modules of the user, so that their names are as deep as possible.
    """
    best: tuple[Block, ...] = ()
    for turn in range(min(period, len(calls) - 2 * period + 1)):
        count = (len(calls) - turn) // period
        layers = [calls[turn + period * index : turn + period * (index + 1)] for index in range(count)]
        if not any(macs.get(node.name) for node in layers[0]):
            return ()
        for run in _sound(layers):
            for first, last in ((0, len(run)), (1, len(run)), (0, len(run) - 1), (1, len(run) - 1)):
                if last - first >= max(len(best), 2) and (found := _chain(run[first:last], shapes, macs)):
                    best = max(best, found, key=lambda layers: (len(layers), _depth(layers)))
                    break
    return best


def _sound(layers: Sequence[Sequence[fx.Node]]) -> Iterator[list[Sequence[fx.Node]]]:
    """Runs of at least two layers of each of which only one value is read by others."""
    for sound, run in groupby(layers, key=_gives_one_value):
        if sound and len(found := list(run)) > 1:
            yield found


def _gives_one_value(layer: Sequence[fx.Node]) -> bool:
    own = set(layer)
    return sum(any(user not in own for user in node.users) for node in layer) == 1


def _depth(layers: Sequence[Block]) -> int:
    """Number of modules on the path of the layer that has the fewest."""
    return min((layer.name.count(".") for layer in layers), default=-1)


def _chain(layers: Sequence[Sequence[fx.Node]], shapes: Shapes, macs: dict[str, int]) -> tuple[Block, ...]:
    """The layers as blocks if each continues the one before it in the same way; empty if not."""
    places = {node: (index, place) for index, layer in enumerate(layers) for place, node in enumerate(layer)}
    flows = [list(_flow(layer, index, places)) for index, layer in enumerate(layers)]
    if any(flow != flows[1] for flow in flows[2:]):
        return ()
    carried = {place for kind, _, place in flows[1] if kind == _BEFORE}
    if len(carried) != 1 or len(flows[0]) != len(flows[1]):
        return ()
    entries = {one[1] for one, other in zip(flows[0], flows[1]) if other[0] == _BEFORE}
    if any(one != other for one, other in zip(flows[0], flows[1]) if other[0] != _BEFORE) or len(entries) != 1:
        return ()
    place, entry = carried.pop(), entries.pop()
    if entry is None or entry not in shapes or shapes[entry] != shapes.get(layers[0][place]):
        return ()
    exits = [layer[place] for layer in layers]
    if any(is_read_elsewhere(layer, last) for layer, last in zip(layers, exits)):
        return ()
    return tuple(
        Block(
            module_path(layer) or last.name,
            before.name,
            last.name,
            frozenset(node.name for node in layer),
            sum(macs.get(node.name, 0) for node in layer),
        )
        for layer, before, last in zip(layers, [entry, *exits], exits)
    )


def _flow(layer: Sequence[fx.Node], index: int, places: Mapping[fx.Node, tuple[int, int]]) -> Iterator[Flow]:
    """Where each argument of each call comes from; a weight of its own is the same as any other."""
    for node in layer:
        for source in node.all_input_nodes:
            at, place = places.get(source, (None, 0))
            if source.op == "get_attr":
                yield _OUTSIDE, None, 0
            elif at is None:
                yield _OUTSIDE, source, 0
            else:
                yield {index: _WITHIN, index - 1: _BEFORE}.get(at, str(index - at)), None, place
