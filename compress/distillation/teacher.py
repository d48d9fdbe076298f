"""The teacher: a program in evaluation mode that is run on the student's inputs, once per batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..graph.node_values import named_values, observe
from ..program import Program, device_of, move, set_training, shared
from ..training.losses import Tensors, prediction_of


class Teacher:
    """A program that is not trained.

    Args:
        program: it is set to evaluation mode, and moved to the student's device at its first use.
        observed: names of nodes whose values are also returned.
    """

    def __init__(self, program: Program, observed: Sequence[str] = ()) -> None:
        set_training(program, False)
        self.program, self.observed = program, tuple(observed)
        self._run = program
        if observed:  # a graph of its own, because the program's other users expect its outputs alone
            self._run = shared(program)
            observe(self._run, self.observed)

    def outputs(self, inputs: Tensors) -> Tensors:
        """The teacher's outputs for a batch of the student's inputs, and the observed values as ``node:NAME``."""
        names = [spec.name for spec in self.program.signature.inputs]
        values = [inputs[name] for name in names] if set(names) <= set(inputs) else list(inputs.values())[: len(names)]
        if values[0].device != device_of(self.program):
            for program in (self.program, self._run):
                move(program, values[0].device)
        with torch.no_grad():
            found: tuple[torch.Tensor, ...] = self._run.module(*values)
        return named_values(self.program, self.observed, found)

    def predict(self, inputs: Tensors) -> torch.Tensor:
        """The teacher's prediction for a batch of the student's inputs."""
        return prediction_of(list(self.outputs(inputs).values()))
