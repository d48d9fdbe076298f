"""Losses between values inside a student and its teacher: pure functions of tensors, in float32."""

from __future__ import annotations

import torch
from torch.nn import functional

from .logit_losses import mean_of

_TINY = 1e-8


def hint(
    student: torch.Tensor, teacher: torch.Tensor, normalize: bool, kept: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared difference of inner values; the student's have been projected to the teacher's width.

    Romero et al., "FitNets: Hints for Thin Deep Nets", 2015, equation 3.

    Args:
        student: values ``[N, ..., C]``.
        teacher: values of the same shape.
        normalize: divide by the mean square of the teacher's values, which makes the loss free of their scale.
        kept: which positions count ``[N, ...]``; None for all.
    """
    weights = None if kept is None else kept[..., None]
    error = mean_of((student - teacher).square(), weights)
    return error / mean_of(teacher.square(), weights).clamp(min=_TINY) if normalize else error


def attention_map(values: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """Where values are large: mean squares over the channels ``[N, positions]``, each row of length 1.

    Args:
        values: ``[N, ..., C]``.
        kept: which positions count ``[N, ...]``; the others become 0.
    """
    energy = values.square().mean(-1)
    if kept is not None:
        energy = energy * kept
    return functional.normalize(energy.flatten(1), dim=1, eps=_TINY)


def attention_transfer(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared distance of attention maps ``[N, positions]``, the mean over the samples; at most 2.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017, equation 2. The paper divides the weight 1000
    by the number of positions; this sum over positions needs no such division.
    """
    return (student - teacher).square().sum(1).mean()
