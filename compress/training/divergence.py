"""Divergence: a training whose loss or weights are no longer finite stops and says where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ...core.errors import UserError
from ...core.options.stage_options import TrainOptions
from ..program import Program


class Running(Protocol):
    """What is asked of a training in progress."""

    program: Program
    options: TrainOptions
    feeding: Any
    at: Any


def require_finite_loss(loop: Running, loss: float) -> None:
    """Stop if a loss is not finite.

    Raises:
        UserError: it is not.
    """
    if not math.isfinite(loss):
        raise _diverged(loop, f"the loss is {loss}")


def require_finite(loop: Running) -> None:
    """Stop if a weight or a statistic is not finite.

    Raises:
        UserError: one is not; the message names it.
    """
    floating = {name: value for name, value in loop.program.module.state_dict().items() if value.is_floating_point()}
    if _all_finite(list(floating.values())):
        return
    name = next(name for name, value in floating.items() if not bool(torch.isfinite(value).all()))
    if name.endswith("running_var") and any(end - begin == 1 for begin, end in loop.feeding.spans):
        raise _too_few_samples(loop, name)
    raise _diverged(loop, f"'{name}' has values that are not finite")


def _all_finite(values: Sequence[torch.Tensor]) -> bool:
    """Whether all values are finite, by their sums, which is one pass without a copy."""
    return all(math.isfinite(float(value.sum())) or bool(torch.isfinite(value).all()) for value in values)


def _too_few_samples(loop: Running, name: str) -> UserError:
    alone = loop.feeding.sampler.count == 1
    return UserError(
        f"BatchNorm needs at least 2 samples in each batch, and '{name}' has a variance of 1 sample",
        "give more training samples" if alone else f"set batch_size (now {loop.options.batch_size}) to 2 or more",
    )


def _diverged(loop: Running, what: str) -> UserError:
    rate, epoch, step = loop.options.learning_rate, loop.at.epoch + 1, loop.at.step + 1
    return UserError(
        f"the training diverged: {what} in epoch {epoch}, step {step}",
        f"lower learning_rate (now {rate:g}), or set clip_norm: 1.0 and warmup_epochs: 1",
        epoch=epoch,
        step=step,
    )
