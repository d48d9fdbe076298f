"""Whether each sample of a batch has the outputs that it has alone, and if not, on which axis the samples may be."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...core.errors import RetortError
from ...core.metrics.relative_error import error_by_largest
from ..graph.devices import as_array
from ..graph.rows import BatchAxes, batch_axis, row_count
from .derived_signature import Tensors

TOLERANCE = 1e-3
"""Largest difference of an output, as a share of its largest value."""
Run = Callable[[Tensors], list[torch.Tensor]]


def rows_are_independent(run: Run, feeds: Tensors, batch: BatchAxes | None = None) -> bool:
    """Whether each row alone gives what it gives in the batch, in every output with an axis of the rows.

    Args:
        run: the model, from inputs to outputs.
        feeds: inputs of two rows or more; for fewer the answer is yes.
        batch: the batch axis of each input.
    """
    count = row_count(feeds, batch)
    if count < 2:
        return True
    together = run(feeds)
    alone = [run(_row(feeds, index, batch)) for index in range(count)]
    return all(_agree(whole, [part[place] for part in alone], count) for place, whole in enumerate(together))


def coupling_note(run: Run, feeds: Tensors, batch: BatchAxes | None = None) -> str:
    """A remark on samples that depend on each other, with the axis on which they do not, if none was given."""
    text = "the outputs of a sample depend on the other samples of the batch"
    axis = next((axis for axis in range(1, 4) if _fits(run, feeds, axis)), None) if batch is None else None
    if axis is None:
        return text
    moved = ", ".join(f"{name}: {axis}" for name, tensor in feeds.items() if tensor.dim() > axis)
    return (
        f"{text}, because the batch is taken to be on axis 0; with the samples on axis {axis} they do not: if the "
        f"model takes its batch there, as nn.LSTM does by default, give `batch_axis: {{{moved}}}`"
    )


def _fits(run: Run, feeds: Tensors, axis: int) -> bool:
    """Whether samples are independent if they are moved from axis 0 to this axis."""
    moved = {name: tensor.movedim(0, axis) for name, tensor in feeds.items() if tensor.dim() > axis}
    if not moved:
        return False
    axes = {name: axis if name in moved else batch_axis(name, tensor) for name, tensor in feeds.items()}
    try:
        return rows_are_independent(run, {**feeds, **moved}, axes)
    except RetortError:  # the model does not run on this layout
        return False


def _row(feeds: Tensors, index: int, batch: BatchAxes | None) -> Tensors:
    found = {}
    for name, tensor in feeds.items():
        axis = batch_axis(name, tensor, batch)
        found[name] = tensor if axis is None else tensor.narrow(axis, index, 1)
    return found


def _agree(together: torch.Tensor, alone: list[torch.Tensor], count: int) -> bool:
    """Whether an output is made of the outputs of the rows.

    An output without an axis of the rows is, and one whose other sizes depend on the batch, such as the longest length.
    """
    shapes = [tuple(part.shape) for part in alone]
    axes = [
        axis
        for axis, size in enumerate(together.shape)
        if size == count and all(shape == (*together.shape[:axis], 1, *together.shape[axis + 1 :]) for shape in shapes)
    ]
    if len(axes) != 1:
        return True
    joined = as_array(torch.cat(alone, axes[0]))
    return bool(error_by_largest(as_array(together), joined, least=1e-6, equal_nan=True) <= TOLERANCE)
