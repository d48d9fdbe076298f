"""BatchNorm over the rows of all processes, on any device: statistics of the global batch, as a single process has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from ...graph import train_eval_mode
from ...program import Program
from .processes import counted_rows

_SCHEMA = (
    "synchronised_batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, "
    "bool training, float momentum, float eps, bool cudnn_enabled) -> Tensor"
)
_LIBRARY = torch.library.Library("retort", "FRAGMENT")
_LIBRARY.define(_SCHEMA)


@contextmanager
def synchronised(program: Program) -> Iterator[None]:
    """Within this context, every BatchNorm of a program that trains uses the statistics of all processes."""
    plain, over_all = torch.ops.aten.batch_norm.default, torch.ops.retort.synchronised_batch_norm.default
    _replace(program, plain, over_all)
    try:
        yield
    finally:
        _replace(program, over_all, plain)


def _replace(program: Program, one: Any, other: Any) -> None:
    for graph in train_eval_mode.graphs(program.module):
        found = [node for node in graph.graph.nodes if node.target is one]
        for node in found:
            node.target = other
        if found:
            graph.recompile()


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> torch.Tensor:
    if not training:
        return torch.batch_norm(x, weight, bias, running_mean, running_var, False, momentum, eps, cudnn_enabled)
    normalised: torch.Tensor
    normalised, mean, variance, count = _Normalise.apply(x, eps)  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    if weight is not None:
        normalised = normalised * _channels(weight, x).to(normalised.dtype)
    return normalised if bias is None else normalised + _channels(bias, x).to(normalised.dtype)


_LIBRARY.impl("synchronised_batch_norm", _batch_norm, "CompositeImplicitAutograd")


class _Normalise(torch.autograd.Function):
    """``(x - mean) / sqrt(variance + eps)`` with the mean and the biased variance over the rows of all processes.

    The statistics of the processes are merged as in Chan et al., 1979, from one exchange in each direction.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
        """The normalised values ``[N, C, …]``, and mean, variance ``[C]`` and number of values per channel."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        values = x.float()
        own = values.new_zeros(2 * x.shape[1] + 1, dtype=torch.float64)
        if counted_rows():
            mean = values.mean(axes)
            own[0] = x.numel() // x.shape[1]
            own[1:] = torch.cat([mean, (values - _channels(mean, x)).square().sum(axes)]).double()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        found = torch.stack(parts)
        counts, means, squares = found[:, :1], *found[:, 1:].chunk(2, 1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (squares + counts * (means - mean).square()).sum(0) / count
        scale = (variance + eps).rsqrt()
        normalised = ((values - _channels(mean, x).float()) * _channels(scale, x).float()).to(x.dtype)
        ctx.save_for_backward(normalised, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalised, mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, None]:
        """The gradient of the values of this process."""
        normalised, scale, count = ctx.saved_tensors
        axes = [axis for axis in range(grad.dim()) if axis != 1]
        steps, wide = normalised.float(), grad.float()
        sums = torch.cat([wide.sum(axes), (wide * steps).sum(axes)]).double()
        dist.all_reduce(sums)
        mean, along = (sums / count).float().chunk(2)
        found = (wide - _channels(mean, grad) - steps * _channels(along, grad)) * _channels(scale, grad).float()
        return found.to(grad.dtype), None


def _channels(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.reshape([1, -1] + [1] * (like.dim() - 2))
