"""Optimizers and schedules of the learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from ...core.errors import ModelError
from ...core.options.stage_options import TrainOptions
from .frozen_weights import rate_factors

STEP_AT = (0.5, 0.75)
STEP_FACTOR = 0.1
EXPONENTIAL_END = 0.01
FACTOR = "rate_factor"
"""Key of a parameter group for its factor of the learning rate."""


def make_optimizer(module: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimizer of the options over all parameters that are not frozen.

    Weight decay applies only to matrices and kernels, because it harms biases, norms and scales.

    Raises:
        ModelError: all parameters are frozen.
        UserError: a pattern of ``rates`` matches no parameter.
    """
    if not any(weight.requires_grad for weight in module.parameters()):
        raise ModelError(
            "the model has no trainable parameter",
            "unfreeze parameters (`requires_grad`) before capture, or freeze fewer with `freeze`",
        )
    factors = rate_factors(module, options.rates)
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    groups = []
    for factor in sorted(set(factors.values()), reverse=True):
        own = [weight for name, weight in named if factors[name] == factor]
        matrices, others = ([weight for weight in own if (weight.dim() >= 2) is wide] for wide in (True, False))
        groups += [
            {"params": matrices, "weight_decay": options.weight_decay, FACTOR: factor},
            {"params": others, "weight_decay": 0.0, FACTOR: factor},
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
    """Set the learning rate of every parameter group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(FACTOR, 1.0)


def add_penalties(module: nn.Module, options: TrainOptions) -> None:
    """Add the gradients of ``l1 · Σ|w| + l2 / 2 · Σw²`` over matrices and kernels to those of the loss."""
    for weight in module.parameters():
        if weight.grad is None or weight.dim() < 2:
            continue
        if options.l1:
            weight.grad.add_(weight.detach().sign(), alpha=options.l1)
        if options.l2:
            weight.grad.add_(weight.detach(), alpha=options.l2)
