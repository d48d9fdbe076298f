"""Inspection of a model without side effects: modes, buffers, random state and parameters are restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..graph.workarounds import masks_unseen, padding_as_in_evaluation

_BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
_Averaging = _BatchNorm | nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
NUDGE = 0.1


@contextmanager
def preserved(model: nn.Module) -> Iterator[Callable[[], set[str]]]:
    """Restore the state of the model at the end.

    Yields:
        A function that switches the model to training mode and returns the names of the submodules that stay frozen:
        those in evaluation mode inside a model in training, and those whose ``train`` method keeps them there.
    """
    found = {child: child.training for child in model.modules()}
    momenta = [child for child in model.modules() if isinstance(child, _Averaging) and child.momentum is None]
    state = torch.get_rng_state()

    def train() -> set[str]:
        """Switch to training mode."""
        model.train()
        if found[model]:
            _set_modes(found)
        return {name for name, child in model.named_modules() if not child.training}

    with same_buffers(model):
        try:
            # A cumulative average divides by a counter read from data, which a graph cannot contain.
            _set_momentum(momenta, 0.1)
            yield train
        finally:
            _set_momentum(momenta, None)
            _set_modes(found)
            torch.set_rng_state(state)


@contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Undo the changes that a run of the model makes to its buffers."""
    before = [
        (owner, name, buffer, buffer.detach().clone())
        for owner in model.modules()
        for name, buffer in owner.named_buffers(recurse=False, remove_duplicate=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, value in before:
                setattr(owner, name, buffer)
                buffer.copy_(value)


@contextmanager
def nudged(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Change parameters slightly, so that a branch whose weights are zero affects the outputs.

    Yields:
        The changed values by all their names.
    """
    noise = torch.Generator().manual_seed(0)
    moved: dict[int, torch.Tensor] = {}
    for weight in model.parameters():
        value = weight.detach()
        if value.is_floating_point() and value.numel():
            scale = NUDGE * max(float(value.float().pow(2).mean().sqrt()), NUDGE)
            moved[id(weight)] = value + (scale * torch.randn(value.shape, generator=noise)).to(value.dtype)
    names = dict(model.named_parameters(remove_duplicate=False))
    values = {name: moved[id(weight)] for name, weight in names.items() if id(weight) in moved}
    with holding(model, values):
        yield values


@contextmanager
def holding(model: nn.Module, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Use other values of the parameters within this context; unknown names are ignored."""
    before = [(weight, weight.detach().clone(), name) for name, weight in model.named_parameters() if name in values]
    try:
        with torch.no_grad():
            for weight, _, name in before:
                weight.copy_(values[name])
        yield
    finally:
        with torch.no_grad():
            for weight, value, _ in before:
                weight.copy_(value)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Trace attention as basic operators, because the fused encoder layer exists only in evaluation.

    It computes the same, except for additive masks and wholly masked rows, of which the fast path makes NaN.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with masks_unseen(), padding_as_in_evaluation():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _set_modes(flags: Mapping[nn.Module, bool]) -> None:
    for child, flag in flags.items():
        child.training = flag


def _set_momentum(children: list[_Averaging], value: float | None) -> None:
    for child in children:
        child.momentum = value
