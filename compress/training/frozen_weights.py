"""Weights that stay as they are for some epochs or always, and those with a learning rate of their own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import nn

from ...core.errors import UserError
from ...core.options.recipe import nearest
from ...core.options.stage_options import TrainOptions

Value = TypeVar("Value")


class FrozenWeights:
    """The weights that ``freeze`` of the options names, and the buffers of the same names, such as those of BatchNorm.

    Weights that are never trained take no gradient while this is in use, which saves their part of the backward pass.

    Args:
        module: the module that is trained; its buffers are kept as they are now.

    Raises:
        UserError: a pattern matches no weight.
    """

    def __init__(self, module: nn.Module, options: TrainOptions) -> None:
        self._module = module
        until = {pattern: math.inf if epochs == "always" else epochs for pattern, epochs in options.freeze.items()}
        found = matched("freeze", until, [name for name, _ in module.named_parameters()])
        weights = dict(module.named_parameters())
        self._until = [(weights[name], epochs) for name, epochs in found.items()]
        self._buffers = [
            (buffer, buffer.detach().clone(), epochs)
            for name, buffer in module.named_buffers()
            if (epochs := first_match(name, until)) is not None
        ]
        self._never = [weight for weight, epochs in self._until if epochs == math.inf and weight.requires_grad]
        for weight in self._never:
            weight.requires_grad_(False)

    def drop_gradients(self, epoch: int) -> None:
        """Remove the gradients of weights that are frozen in an epoch, counted from 0, so that no step uses them."""
        for weight, until in self._until:
            if epoch < until:
                weight.grad = None

    def keep_buffers(self, epoch: int) -> None:
        """Give buffers that are frozen in an epoch, counted from 0, the values that they had before the training."""
        with torch.no_grad():
            for buffer, value, until in self._buffers:
                if epoch < until:
                    buffer.copy_(value)

    def release(self) -> None:
        """Let weights that were never trained take gradients again."""
        for weight in self._never:
            weight.requires_grad_(True)


def rate_factors(module: nn.Module, rates: Mapping[str, float]) -> dict[str, float]:
    """The factor of the learning rate of each parameter by name, 1 where no pattern matches.

    Raises:
        UserError: a pattern matches no parameter.
    """
    names = [name for name, _ in module.named_parameters()]
    return {**dict.fromkeys(names, 1.0), **matched("rates", rates, names)}


def matched(option: str, patterns: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    """The value of the first pattern that matches each name; names without one are left out.

    Raises:
        UserError: a pattern matches no name.
    """
    known = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            near = nearest(pattern.rstrip("*."), sorted({name.rpartition(".")[0] for name in known}))
            raise UserError(
                f"{option}: no weight is called '{pattern}'{near}", "`retort show MODEL --nodes` lists modules"
            )
    found = {name: first_match(name, patterns) for name in known}
    return {name: value for name, value in found.items() if value is not None}


def first_match(name: str, patterns: Mapping[str, Value]) -> Value | None:
    """The value of the first pattern that matches a name."""
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), None)
