"""The exponential moving average of the weights of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from .losses import Tensors


class MovingAverage:
    """The moving average of the parameters and buffers of a module; values that are not floating-point are copied.

    Args:
        decay: share of the average that stays at each step; it is smaller in the first steps.

    Attributes:
        values: the averages by name.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        state = module.state_dict()  # its tensors share memory with the module, which is only changed in place
        self.values = copies(state)
        floating = [name for name, value in state.items() if value.is_floating_point()]
        self._averaged = [self.values[name] for name in floating], [state[name] for name in floating]
        self._copied = [(self.values[name], state[name]) for name in state if name not in set(floating)]

    def update(self, step: int) -> None:
        """Include the weights after an optimizer step, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for average, value in zip(*self._averaged, strict=True):
            average.lerp_(value, 1 - decay)
        for average, value in self._copied:
            average.copy_(value)

    def restore(self, values: Mapping[str, torch.Tensor]) -> None:
        """Continue with the averages of a checkpoint."""
        for name, value in values.items():
            self.values[name].copy_(value)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Use the averages as the weights of the module within this context."""
        before = copies(self._module.state_dict())
        self._module.load_state_dict(self.values)
        try:
            yield
        finally:
            self._module.load_state_dict(before)


def copies(state: Mapping[str, torch.Tensor]) -> Tensors:
    """Tensors that share no memory with the given ones."""
    return {name: value.detach().clone() for name, value in state.items()}
