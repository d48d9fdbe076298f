"""Inputs of other batch sizes, made from given ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...core.errors import UserError
from ...core.signature import Signature
from ...core.tensors import BATCH

BatchAxes = Mapping[str, int | None]
"""The batch axis of each input, or None for an input that all samples share. By default it is axis 0."""


def batch_axes(signature: Signature) -> dict[str, int | None]:
    """The batch axis of each input of a program."""
    return {spec.name: spec.shape.index(BATCH) if BATCH in spec.shape else None for spec in signature.inputs}


def batch_axis(name: str, tensor: torch.Tensor, axes: BatchAxes | None = None) -> int | None:
    """The batch axis of one input."""
    return (axes or {}).get(name, 0 if tensor.dim() else None)


def rows(feeds: Mapping[str, torch.Tensor], count: int, axes: BatchAxes | None = None) -> dict[str, torch.Tensor]:
    """The first ``count`` rows of every input, repeated if there are fewer; what all samples share is unchanged."""
    found = {}
    for name, tensor in feeds.items():
        axis = batch_axis(name, tensor, axes)
        index = torch.arange(count) % tensor.shape[axis] if axis is not None else None
        found[name] = tensor.clone() if axis is None or index is None else tensor.index_select(axis, index)
    return found


def moved_samples(example: Mapping[str, Any], axes: Mapping[str, int]) -> dict[str, Any]:
    """Arrays or tensors with their samples on axis 0, as inputs with the batch on the given axes.

    Raises:
        UserError: there is no such input, or it does not have the axis.
    """
    for name, axis in axes.items():
        if name not in example or axis >= example[name].ndim:
            shown = ", ".join(f"{key}: {list(value.shape)}" for key, value in example.items())
            raise UserError(
                f"batch axis {axis} of '{name}' does not fit the inputs, which are {shown}",
                "give {input: axis} with the names and the axes of inputs",
            )
    return {
        name: torch.as_tensor(value).movedim(0, axes[name]) if name in axes else value
        for name, value in example.items()
    }


def row_count(feeds: Mapping[str, torch.Tensor], axes: BatchAxes | None = None) -> int:
    """The number of rows of the first input that has a batch axis; 1 if no input has one."""
    for name, tensor in feeds.items():
        axis = batch_axis(name, tensor, axes)
        if axis is not None:
            return tensor.shape[axis]
    return 1
