"""Which layers of a student and a teacher are compared: chosen by kind of value, resolution and relative depth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import fx

from ....core.errors import ModelError
from ...graph.node_values import node_values, path_of
from ...program import Program
from .main_path import Layer, as_layer, layer_at, main_path, without_dropout

Pair = tuple[Layer, Layer]
_NUMBERED = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")


def pairs_of(student: Program, teacher: Program, asked: str | Sequence[tuple[str, str]]) -> list[Pair]:
    """The pairs that were asked for, or those that :func:`automatic_pairs` finds for ``auto``.

    Raises:
        ModelError: a layer does not exist, or nothing can be paired.
    """
    if isinstance(asked, str):
        return automatic_pairs(student, teacher)
    return [
        (layer_at(student, ours, "the student"), layer_at(teacher, theirs, "the teacher")) for ours, theirs in asked
    ]


def automatic_pairs(student: Program, teacher: Program) -> list[Pair]:
    """Pairs (student, teacher) of the ends of blocks and stages.

    Feature maps: the last ones of every resolution that both have. Sequences: the blocks at the same relative depth,
    or the last ones of models without numbered blocks. Vectors: the last ones before the prediction.

    Raises:
        ModelError: no value of the student fits one of the teacher.
    """
    ours, theirs = ends(student), ends(teacher)
    pairs = [pair for kind in ("map", "tokens") for pair in _by_resolution(_of(ours, kind), _of(theirs, kind))]
    pairs = [pair for pair in pairs if any(size != 1 for layer in pair for size in layer.resolution)]
    vectors = _of(ours, "vector"), _of(theirs, "vector")
    if all(vectors):
        pairs.append((vectors[0][-1], vectors[1][-1]))
    if not pairs:
        raise ModelError(
            "no layers of the student and the teacher can be paired automatically",
            "give `pairs`: [[student layer, teacher layer]]; `retort show MODEL --nodes` lists the layers",
        )
    return pairs


def ends(program: Program) -> list[Layer]:
    """The ends of blocks on the main path, without the prediction.

    A block is a user's module with a number in its path (``layer1.0``, ``encoder.layer.3``) whose last value is on the
    main path. Kinds of values without such a block have all their values on the main path.
    """
    values = {value.name: value for value in node_values(program)}
    results = _results(program)
    layers: dict[fx.Node, Layer] = {}
    for node in main_path(program):
        kept = without_dropout(node)
        layer = as_layer(kept, values[kept.name]) if kept.name in values and node not in results else None
        if layer is not None:
            layers[kept] = layer
    blocks = _block_ends(program)
    numbered = {layer.kind for node, layer in layers.items() if node in blocks}
    return [layer for node, layer in layers.items() if layer.kind not in numbered or node in blocks]


def _results(program: Program) -> set[fx.Node]:
    """The nodes of the outputs."""
    return set(program.module.graph.output_node().all_input_nodes)


def _block_ends(program: Program) -> set[fx.Node]:
    """The last nodes of the user's modules with a number in their path."""
    last: dict[str, fx.Node] = {}
    for node in program.module.graph.nodes:
        if node.op == "call_function":
            path = path_of(node)
            for match in _NUMBERED.finditer(path):
                last[path[: match.end()]] = node
    return {without_dropout(node) for node in last.values()}


def _of(layers: Sequence[Layer], kind: str) -> list[Layer]:
    return [layer for layer in layers if layer.kind == kind]


def _by_resolution(ours: Sequence[Layer], theirs: Sequence[Layer]) -> list[Pair]:
    groups = [_grouped(layers) for layers in (ours, theirs)]
    common = [resolution for resolution in groups[0] if resolution in groups[1]]
    if common:
        return [pair for resolution in common for pair in _at_depths(groups[0][resolution], groups[1][resolution])]
    lasts = [[group[-1] for group in grouped.values()] for grouped in groups]
    count = min(map(len, lasts))
    return list(zip(lasts[0][-count:], lasts[1][-count:])) if count else []


def _grouped(layers: Sequence[Layer]) -> dict[Any, list[Layer]]:
    grouped: dict[Any, list[Layer]] = {}
    for layer in layers:
        grouped.setdefault(layer.resolution, []).append(layer)
    return grouped


def _at_depths(ours: Sequence[Layer], theirs: Sequence[Layer]) -> list[Pair]:
    """Sequences: block k of n with block k · m / n of m. Maps: the last ones, which end the stage."""
    if ours[0].kind == "map" or not _are_blocks([*ours, *theirs]):
        return [(ours[-1], theirs[-1])]
    share = len(theirs) / len(ours)
    return [(layer, theirs[max(round((number + 1) * share) - 1, 0)]) for number, layer in enumerate(ours)]


def _are_blocks(layers: Sequence[Layer]) -> bool:
    return all(_NUMBERED.search(layer.path) for layer in layers)
