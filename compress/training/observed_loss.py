"""Losses that read values inside the program, or that have parameters which are trained with it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from .losses import Loss, Tensors


@runtime_checkable
class ObservingLoss(Protocol):
    """A loss that needs more than the outputs of the program.

    Attributes:
        identity: distinguishes this loss from others in checkpoints.
        observes: names of nodes of the trained program. Their values are among the outputs that the loss is called
            with, as ``node:NAME``.
        module: its parameters, such as projections. The optimizer trains them with the program, checkpoints contain
            them, and the final program does not.
    """

    identity: str
    observes: tuple[str, ...]
    module: nn.Module

    def __call__(self, outputs: Tensors, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
        """The mean loss of a batch."""


def observed_by(loss: Loss) -> tuple[str, ...]:
    """Names of the nodes that a loss needs; none for a plain function."""
    return loss.observes if isinstance(loss, ObservingLoss) else ()


def module_of(loss: Loss, device: torch.device) -> nn.Module:
    """The parameters of a loss on a device; an empty module for a plain function."""
    return loss.module.to(device) if isinstance(loss, ObservingLoss) else nn.Module()


def train_also(optimizer: torch.optim.Optimizer, module: nn.Module, weight_decay: float) -> None:
    """Add the parameters of a loss to an optimizer; those of a program are not affected."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if weights:
        optimizer.add_param_group({"params": weights, "weight_decay": weight_decay})
