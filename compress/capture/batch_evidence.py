"""Which axis of each input of an example is the batch: by name, by equal sizes and by trial; and empty axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product

import torch

from ...core.tensors import BATCH
from ..graph.rows import BatchAxes
from .derived_signature import Dynamic

EMPTY = "past"
"""Name of the axes on which an example is empty."""
MOST_TRIALS = 8
"""Layouts that are tried at most, if several axes have the size of the batch."""


def named_axes(dynamic: Dynamic, batch: BatchAxes | None) -> tuple[Dynamic, BatchAxes | None]:
    """The dynamic axes without those that are called ``batch``, and the batch axes with them."""
    named = {name: axis for name, axes in dynamic.items() for axis, label in axes.items() if label == BATCH}
    rest = {name: {axis: label for axis, label in axes.items() if label != BATCH} for name, axes in dynamic.items()}
    return {name: axes for name, axes in rest.items() if axes}, {**(batch or {}), **named} if named else batch


def with_empty(tensors: Mapping[str, torch.Tensor], dynamic: Dynamic) -> Dynamic:
    """The dynamic axes, and those on which the example is empty, such as a cache of keys before the first step.

    They have one name, because all caches of a model grow together.
    """
    found = {name: dict(axes) for name, axes in dynamic.items()}
    for name, tensor in tensors.items():
        for axis in (axis for axis, size in enumerate(tensor.shape) if size == 0 and axis > 0):
            found.setdefault(name, {}).setdefault(axis, EMPTY)
    return found


def batch_layouts(tensors: Mapping[str, torch.Tensor], batch: BatchAxes | None) -> list[BatchAxes | None]:
    """The assignments that the sizes allow, the likely ones first; the given one if there is no choice.

    The batch is on axis 0 of every input if those sizes agree. Otherwise the other inputs have it on the axis that has
    the size of the first input's batch, such as axis 1 of states ``[layers, N, hidden]``; so they may if a size is on
    two axes, such as 1. The last axis of an input, which holds features, is no batch.

    Args:
        tensors: the example, by input name.
        batch: axes that are known, and None for inputs that all samples share.
    """
    free = [name for name, tensor in tensors.items() if tensor.dim() and name not in (batch or {})]
    sizes = [tensors[name].shape[0] for name in free]
    known = {tensors[name].shape[axis] for name, axis in (batch or {}).items() if axis is not None and name in tensors}
    agreed = len({*sizes, *known}) == 1
    found = [dict(layout) for layout in islice(_by_size(tensors, free, known), MOST_TRIALS)] if free else []
    moved = [layout for layout in found if not agreed or (layout[free[0]] == 0 and any(layout.values()))]
    others = [{**(batch or {}), **layout} for layout in moved]
    return [batch, *others] if agreed or not others else list(others)


def other_axis(tensors: Mapping[str, torch.Tensor]) -> str:
    """What helps if the batch of states is on another axis than that of the samples; empty if there are none."""
    states = [name for name, tensor in list(tensors.items())[1:] if tensor.dim() == 3 and tensor.is_floating_point()]
    if not states:
        return ""
    axes = ", ".join(f"{name}: 1" for name in states)
    return f"; if the model takes its batch of states on axis 1 (`[layers, N, hidden]`), give `batch_axis: {{{axes}}}`"


def _by_size(
    tensors: Mapping[str, torch.Tensor], free: list[str], known: set[int]
) -> Iterator[tuple[tuple[str, int], ...]]:
    """Every assignment of the free inputs to axes of one size: the known one, else that of an axis of the first."""
    first = tensors[free[0]]
    sizes = known if len(known) == 1 else dict.fromkeys(first.shape[axis] for axis in _places(first))
    for size in sizes:
        places = [[axis for axis in _places(tensors[name]) if tensors[name].shape[axis] == size] for name in free]
        for chosen in product(*places):
            yield tuple(zip(free, chosen, strict=True))


def _places(tensor: torch.Tensor) -> range:
    return range(max(1, tensor.dim() - 1))
