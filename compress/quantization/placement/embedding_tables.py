"""Embedding tables in INT8 with one scale per row, which take a quarter of the memory.

The codes are looked up first and scaled afterwards. A table that is small, or that an operator computes, stays in
floating point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from ....core.aten_names import name_of
from ...graph.module_edit import Shapes, shapes_of
from ...program import Program
from ..operator_classes import operand
from ..points import excluded
from ..recurrent_layers import Facts, round_rows
from ..scheme import WEIGHT_MAX

LEAST = 1 << 14
"""Smallest number of values of a quantized table; in a smaller one the saving is not worth the additional nodes."""


def quantize_tables(program: Program, exclude: Sequence[str]) -> Facts:
    """Put a fake-quantize on every large embedding table, in place.

    Args:
        exclude: patterns of node or layer names that stay in floating point.

    Returns:
        For each scale buffer, the parameter and its axis.

    Raises:
        ModelError: a table has NaN or infinite values.
    """
    module = program.module
    facts: Facts = {}
    made: dict[str, fx.Node] = {}
    for node, table in _lookups(module, shapes_of(program)).items():
        if excluded(node, exclude):
            continue
        name = str(table.target)
        if name not in made:
            made[name] = round_rows(module, node, name, int(WEIGHT_MAX), facts, "_rows")
        node.replace_input_with(table, made[name])
    module.recompile()
    return facts


def _lookups(module: fx.GraphModule, shapes: Shapes) -> Mapping[fx.Node, fx.Node]:
    """Embeddings that read a large constant FP32 table, with the table."""
    found = {}
    for node in module.graph.nodes:
        table = operand(node, "weight") if name_of(node) == "embedding" else None
        if not isinstance(table, fx.Node) or table.op != "get_attr":
            continue
        shape, kind = shapes[table]
        if kind == torch.float32 and torch.Size(shape).numel() >= LEAST:
            found[node] = table
    return found
