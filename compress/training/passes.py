"""Forward and backward passes of a program and its loss, in one process or with the gradients of several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

from ...core.data.splits import Split
from ..graph.node_values import named_values
from ..program import Program
from .distributed.processes import team
from .feeding import Batch, Indices, Reader, Share
from .losses import Loss, Tensors
from .observed_loss import module_of, observed_by


@dataclass(frozen=True)
class Evaluated:
    """Outputs and targets of some validation samples.

    Attributes:
        loss: the mean loss if the samples have no targets.
    """

    outputs: Tensors
    targets: torch.Tensor | None
    loss: torch.Tensor | None


class Passes:
    """Computes outputs and gradients.

    In several processes each one has its share of the rows, and gradients are averaged by
    ``DistributedDataParallel``, which accelerate sets up. Each loss is weighted by its rows, so that the gradients are
    those of the mean over all rows.

    Attributes:
        loss_module: the parameters that the loss trains.
        share: the rows of this process.
    """

    def __init__(self, program: Program, loss: Loss, machine: Accelerator) -> None:
        self.program, self.loss, self.machine, self.team = program, loss, machine, team()
        self.observed, self.loss_module = observed_by(loss), module_of(loss, machine.device)
        self.share = Share() if self.team is None else Share(self.team.rank, self.team.processes)
        self._module: nn.Module = _MeanLoss(self)
        if self.team is not None:
            self._module = machine.prepare_model(self._module, device_placement=False)

    def trained(self) -> list[nn.Parameter]:
        """The parameters of the program and of the loss."""
        return [*self.program.module.parameters(), *self.loss_module.parameters()]

    def backward(self, batch: Batch) -> torch.Tensor:
        """Add the gradients of a batch; returns its mean loss in this process."""
        weight = self.share.processes * batch.rows / batch.step_rows
        if self.team is not None:
            self.team.rows = batch.rows
        with nullcontext() if batch.last else self.machine.no_sync(self._module):
            loss: torch.Tensor = self._module(batch.inputs, batch.targets)
            weighted = loss if weight == 1 else loss * weight
            if self.machine.scaler is None:  # accelerate's own call looks for packages at every step
                weighted.backward()
            else:
                self.machine.backward(weighted)
        return loss.detach()

    def mean_loss(self, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
        """The loss of some rows."""
        with self._precision():
            return self.loss(self.outputs(inputs), inputs, targets)

    def outputs(self, inputs: Tensors) -> Tensors:
        """The outputs by name, and the values that the loss observes."""
        with self._precision():
            values = self.program.module(*inputs.values())
        return named_values(self.program, self.observed, values)

    def _precision(self) -> AbstractContextManager[Any]:
        mixed = self.machine.mixed_precision != "no"
        return self.machine.autocast() if mixed else nullcontext()

    def evaluate(self, split: Split, rows: range, reader: Reader, check: bool) -> Iterator[Evaluated]:
        """Outputs for some validation samples, in every process for the shares of all processes, in order."""
        own: Indices = self.share.of(rows)
        found: list[Evaluated | None] = [self._evaluated(split, own, reader, check) if len(own) else None]
        if self.team is not None:
            everywhere: list[Any] = [None] * self.share.processes
            dist.all_gather_object(everywhere, found[0])
            found = everywhere
        yield from (part for part in found if part is not None)

    def _evaluated(self, split: Split, rows: Indices, reader: Reader, check: bool) -> Evaluated:
        inputs, targets = reader.read(split, rows, "the validation split", check=check)
        outputs = self.outputs(inputs)
        loss = None if targets is not None else self.loss(outputs, inputs, None)
        if self.team is None:
            return Evaluated(outputs, targets, loss)
        kept = {spec.name: outputs[spec.name].cpu() for spec in self.program.signature.outputs}
        return Evaluated(kept, None if targets is None else targets.cpu(), None if loss is None else loss.cpu())


class _MeanLoss(nn.Module):
    """The loss of a batch as a module with all parameters that it trains."""

    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self.program, self.of_the_loss = passes.program.module, passes.loss_module
        object.__setattr__(self, "passes", passes)

    def forward(self, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
        """See :meth:`Passes.mean_loss`."""
        passes: Passes = object.__getattribute__(self, "passes")
        return passes.mean_loss(inputs, targets)
