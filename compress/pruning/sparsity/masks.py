"""Sparsity masks: the weights that can become sparse, the axis of N:M patterns, and the choice by magnitude."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ....core.aten_names import CONVOLUTIONS, MATRIX_LAYERS, OPERANDS, RECURRENT, operator_name
from ....core.options.stage_options import SparsifyOptions
from ...graph.module_edit import fetch
from ...program import Program
from ..coupling.layer_patterns import matching
from ..coupling.shapes import bind

KEY = "sparsity"
"""Key of ``program.meta`` that holds the pattern and the sparse parameters."""


@dataclass(frozen=True)
class MaskedWeight:
    """A weight that can become sparse.

    Attributes:
        parameter: its first name.
        node: the operator that multiplies by it.
        axis: axis of the input channels, along which N:M patterns are formed.
        skipped: why it stays dense; empty if it becomes sparse.
    """

    parameter: str
    node: fx.Node
    axis: int
    skipped: str = ""


def find_places(program: Program, options: SparsifyOptions) -> list[MaskedWeight]:
    """All weights of convolutions, linear and recurrent layers, each once, in graph order.

    Raises:
        UserError: a pattern of the options matches nothing.
    """
    names = [name for name, _ in program.module.named_parameters(remove_duplicate=False)]
    left_out = {name for pattern in options.exclude for name in matching(pattern, names, "exclude")}
    wanted = {name for pattern in options.only for name in matching(pattern, names, "only")} or set(names)
    first: dict[int, MaskedWeight] = {}
    for node in program.module.graph.nodes:
        for weight, axis in _weights(node):
            name, tensor = str(weight.target), fetch(program.module, str(weight.target))
            reason = "excluded" if name in left_out or name not in wanted else _unfit(tensor, axis, options)
            first.setdefault(id(tensor), MaskedWeight(name, node, axis, reason))
    return [place for place in first.values() if place.parameter in names]


def _weights(node: fx.Node) -> Iterable[tuple[fx.Node, int]]:
    kind, given = operator_name(node), bind(node) if node.op == "call_function" else {}
    found: list[tuple[Any, int]] = []
    if kind in (*CONVOLUTIONS, *MATRIX_LAYERS):
        found = [(given[OPERANDS[kind].weight], 1 if kind in (*CONVOLUTIONS, "linear") else 0)]
    elif kind in RECURRENT:
        found = [(item, 1) for item in given.get("params", ())]
    for weight, axis in found:
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            yield weight, axis


def _unfit(tensor: Tensor, axis: int, options: SparsifyOptions) -> str:
    if tensor.dim() < 2:
        return "is not a matrix"
    group, channels = options.group, tensor.shape[axis]
    if group is not None and channels % group[1]:
        return f"has {channels} input channels, which is not a multiple of {group[1]}"
    return ""


def grouped(weight: Tensor, axis: int, size: int) -> Tensor:
    """The weight as ``[rows, size]``, a view if possible, whose rows are groups of ``size`` values along ``axis``."""
    return weight.movedim(axis, -1).reshape(-1, size)


def keep_largest(weight: Tensor, axis: int, group: tuple[int, int]) -> Tensor:
    """The mask that keeps the N largest magnitudes of every M values along ``axis``."""
    kept, size = group
    moved = weight.detach().abs().movedim(axis, -1)
    rows = moved.reshape(-1, size)
    mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, rows.topk(kept, 1).indices, True)
    return mask.reshape(moved.shape).movedim(-1, axis)


def magnitude_masks(
    weights: Sequence[Tensor], places: Sequence[MaskedWeight], options: SparsifyOptions
) -> list[Tensor]:
    """Boolean masks of the weights that magnitude pruning keeps."""
    if options.group is not None:
        return [keep_largest(weight, place.axis, options.group) for weight, place in zip(weights, places)]
    if options.scope == "layer":
        return [_largest(weight.detach().abs(), options.sparsity) for weight in weights]
    whole = _largest(torch.cat([weight.detach().abs().reshape(-1) for weight in weights]), options.sparsity)
    parts = torch.split(whole, [weight.numel() for weight in weights])
    return [part.reshape(weight.shape) for part, weight in zip(parts, weights)]


def _largest(values: Tensor, sparsity: float) -> Tensor:
    """A mask without the smallest share of values; of equal values, the first are removed."""
    gone = round(sparsity * values.numel())
    order = values.reshape(-1).argsort(stable=True)
    mask = torch.ones(values.numel(), dtype=torch.bool)
    mask[order[:gone]] = False
    return mask.reshape(values.shape)
