"""The public call of a capture: a module becomes a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..graph.rows import BatchAxes
from ..program import NOTES, Program
from .capture import capture_module


def capture(
    model: nn.Module,
    example: Mapping[str, Any],
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    output_names: Sequence[str] | None = None,
    batch: BatchAxes | None = None,
) -> Program:
    """Capture a model as a program, and prove that both compute the same.

    The model is not changed, and shares no memory with the program. Submodules in evaluation inside a model in training
    (frozen BatchNorm) stay frozen. Outputs are compared with those of the model in evaluation, at the example's batch
    size and at 3 and 1.

    Args:
        model: any module that ``torch.export`` can take.
        example: one array or tensor per input, by the name that the input gets. They are
            passed by name if all names are parameters of ``forward``, else by position.
        dynamic: further dynamic axes, ``{input name: {axis: axis name}}``; an axis that is called ``batch`` is the
            batch axis of its input.
        batch: the batch axis of inputs whose batch is not on axis 0, and None for inputs that all samples share; if all
            are None, the program has fixed sizes. Axes that are not given are found by sizes and by trial.
        output_names: one name per output tensor; by default ``output``, or the keys and fields the model returns.

    Returns:
        The program, in evaluation form.

    Raises:
        CaptureError: the model cannot be captured; the message states where and why.
        ModelError: the model does not run on the example.
    """
    captured = capture_module(model, example, dynamic, output_names, batch)
    signature = replace(captured.signature, batch_invariant=captured.independent)
    program = Program(captured.module, signature, captured.example)
    if captured.notes:
        program.meta[NOTES] = list(captured.notes)
    return program
