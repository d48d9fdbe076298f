"""Choosing what becomes integer: layers that the target can run, then the tensors that get a Q."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from torch import fx

from ...core.errors import UserError
from ...core.options import Target
from ..cost import node_macs
from ..program import Program, ordered
from . import limits
from .operators import Weighted, weighted
from .points import Placement, Point, excluded, name_in_model, source_of, tail_of
from .surgery import Shapes, shapes_of
from .targets import Cpu, TensorRT


def eligible(
    program: Program, target: Target, exclude: Sequence[str], shapes: Shapes
) -> tuple[dict[fx.Node, Weighted], dict[fx.Node, str]]:
    """Layers that can be integer on the target, and the heavy nodes that cannot, with the reason.

    Raises:
        UserError: a pattern of ``exclude`` fits no node.
    """
    heavy = set(node_macs(program.module, ordered(program)))
    layers: dict[fx.Node, Weighted] = {}
    floating: dict[fx.Node, str] = {}
    nodes = [node for node in program.module.graph.nodes if node.op == "call_function"]
    _check_patterns(exclude, [name for node in nodes for name in (node.name, name_in_model(node))])
    for node in nodes:
        if node.name not in heavy and not any(name.startswith(f"{node.name}.") for name in heavy):
            continue
        layer = weighted(node)
        reason = "excluded by the recipe" if excluded(node, exclude) else limits.reason(node, layer, target, shapes)
        if reason is None and layer is not None:
            layers[node] = layer
        else:
            floating[node] = reason or "its weight is not a constant"
    return layers, floating


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
            raise UserError(
                f"quantize.exclude: no node is named '{pattern}'",
                f"did you mean {' or '.join(close)}?" if close else "see `retort show` for the names",
            )


def place(program: Program, target: Target, exclude: Sequence[str] = ()) -> Placement:
    """Choose what becomes integer.

    Args:
        program: folded, in evaluation form.
        target: which runtime's kernels to serve.
        exclude: patterns of node or layer names that stay in floating point.

    Raises:
        UserError: a pattern of ``exclude`` fits no node.
    """
    shapes = shapes_of(program)
    layers, floating = eligible(program, target, exclude, shapes)
    build = Cpu if target == "cpu" else TensorRT
    return build(program.module.graph, layers, floating, exclude, shapes).placement()


__all__ = ["Placement", "Point", "eligible", "excluded", "name_in_model", "place", "source_of", "tail_of"]
