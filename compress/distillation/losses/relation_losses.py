"""Losses between the relations of the samples of a batch: pure functions of tensors, in float32."""

from __future__ import annotations

import torch
from torch.nn import functional

_TINY = 1e-12


def similarities(values: torch.Tensor) -> torch.Tensor:
    """Products ``[N, N]`` of flattened samples, each row of length 1 (Tung and Mori, 2019, equation 1)."""
    rows = values.flatten(1)
    return functional.normalize(rows @ rows.T, dim=1, eps=_TINY)


def similarity_preserving(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared Frobenius distance of the similarities of samples, divided by the samples.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", 2019, equation 4. The paper divides by N²; the rows
    have length 1, so that the division by N makes the weight free of the batch size.

    Args:
        student: values ``[N, ...]``.
        teacher: values ``[N, ...]`` of any other shape.
    """
    return (similarities(student) - similarities(teacher)).square().sum() / len(student)


def distances(values: torch.Tensor) -> torch.Tensor:
    """Euclidean distances ``[N, N]`` of samples, divided by the mean distance of two different ones."""
    rows = values.flatten(1)
    squares = (rows[:, None] - rows[None]).square().sum(-1)
    apart = squares > _TINY
    found = torch.where(apart, squares, 1.0).sqrt() * apart  # the root has no gradient at 0
    mean = found.sum() / apart.sum().clamp(min=1)
    return found / mean.clamp(min=_TINY)


def distance_relations(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Huber loss of relative distances of two samples (RKD-D).

    Park et al., "Relational Knowledge Distillation", 2019, equations 6 to 8.

    Args:
        student: values ``[N, ...]``.
        teacher: values ``[N, ...]``.
    """
    return functional.smooth_l1_loss(distances(student), distances(teacher))


def angles(values: torch.Tensor) -> torch.Tensor:
    """Cosines ``[N, N, N]`` of the angle at sample i between samples j and k."""
    rows = values.flatten(1)
    arms = functional.normalize(rows[None] - rows[:, None], dim=2, eps=_TINY)
    return arms @ arms.transpose(1, 2)


def angle_relations(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Huber loss of the angles between three samples (RKD-A).

    Park et al., "Relational Knowledge Distillation", 2019, equations 9 and 10.

    Args:
        student: values ``[N, ...]``.
        teacher: values ``[N, ...]``.
    """
    return functional.smooth_l1_loss(angles(student), angles(teacher))
