"""Optimizers and schedules of the learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from ...core.errors import ModelError
from ...core.options.stage_options import TrainOptions

STEP_AT = (0.5, 0.75)
STEP_FACTOR = 0.1
EXPONENTIAL_END = 0.01


def make_optimizer(module: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimizer of the options over all parameters that are not frozen.

    Weight decay applies only to matrices and kernels, because it harms biases, norms and scales.

    Raises:
        ModelError: all parameters are frozen.
    """
    trainable = [weight for weight in module.parameters() if weight.requires_grad]
    if not trainable:
        raise ModelError("the model has no trainable parameter", "unfreeze parameters (`requires_grad`) before capture")
    groups = [
        {"params": [weight for weight in trainable if weight.dim() >= 2], "weight_decay": options.weight_decay},
        {"params": [weight for weight in trainable if weight.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate, momentum = options.learning_rate, options.momentum
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=momentum)
    if options.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, momentum=momentum)
    return (torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW)(groups, lr=rate)


def rate_factor(options: TrainOptions, step: int, steps_per_epoch: int) -> float:
    """Factor of the learning rate at an optimizer step (counted from 0).

    Linear warm-up over ``warmup_epochs``, then constant; a tenth at 50 % and again at 75 %; exponential down to 1 %;
    or a half cosine (Loshchilov and Hutter, 2017) or a straight line down to 0.
    """
    warmup = round(options.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(options.epochs * steps_per_epoch - warmup, 1)
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if options.schedule == "linear":
        return 1 - progress
    if options.schedule == "exponential":
        return float(EXPONENTIAL_END**progress)
    if options.schedule == "step":
        return float(STEP_FACTOR ** sum(progress >= place for place in STEP_AT))
    return 1.0


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def add_penalties(module: nn.Module, options: TrainOptions) -> None:
    """Add the gradients of ``l1 · Σ|w| + l2 / 2 · Σw²`` over matrices and kernels to those of the loss."""
    for weight in module.parameters():
        if weight.grad is None or weight.dim() < 2:
            continue
        if options.l1:
            weight.grad.add_(weight.detach().sign(), alpha=options.l1)
        if options.l2:
            weight.grad.add_(weight.detach(), alpha=options.l2)
