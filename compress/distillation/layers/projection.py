"""What makes inner values of two models comparable: channels last, equal resolutions, and a learned projection."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .main_path import Layer
from .mapping import Pair


def projection(student: int, teacher: int) -> nn.Module:
    """A learned linear map from the student's channels to the teacher's, equal to a 1x1 convolution; the identity if
    their numbers are equal (Romero et al., 2015, section 2.2)."""
    return nn.Identity() if student == teacher else nn.Linear(student, teacher)


def comparable(pair: Pair, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values ``[N, ..., C]`` of both in float32 with equal resolutions: the finer one is averaged.

    Values of different kinds, such as a feature map and a vector, become vectors.
    """
    ours, theirs = (channels_last(layer, value) for layer, value in zip(pair, (student, teacher)))
    if ours.dim() != theirs.dim():
        return pooled(ours), pooled(theirs)
    sizes = tuple(map(min, ours.shape[1:-1], theirs.shape[1:-1]))
    return resized(ours, sizes), resized(theirs, sizes)


def channels_last(layer: Layer, value: torch.Tensor) -> torch.Tensor:
    """The value of a layer in float32 with its channels on the last axis."""
    return value.float().movedim(layer.channel_axis, -1)


def resized(value: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Means over equal parts of ``[N, ..., C]``, so that the axes between have these sizes."""
    if tuple(value.shape[1:-1]) == sizes:
        return value
    first = value.movedim(-1, 1)
    if len(sizes) == 1:
        return functional.adaptive_avg_pool1d(first, sizes).movedim(1, -1)
    return functional.adaptive_avg_pool2d(first, (sizes[0], sizes[1])).movedim(1, -1)


def pooled(value: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """The mean over positions ``[N, C]``, of those that count.

    Args:
        value: ``[N, ..., C]``.
        kept: which positions count ``[N, ...]``; None for all.
    """
    if value.dim() == 2:
        return value
    rows = value.flatten(1, -2)
    if kept is None:
        return rows.mean(1)
    weights = kept.flatten(1)[..., None].to(rows.dtype)
    return (rows * weights).sum(1) / weights.sum(1).clamp(min=1)
