"""Losses between the outputs of a student and its teacher: pure functions of tensors, in float32.

The classes are on one axis; every other axis counts positions (samples, tokens, pixels) with one distribution each.
"""

from __future__ import annotations

import torch
from torch.nn import functional

_TINY = 1e-8
_LARGE = 1000.0
"""Lowers the logit of the target so far that its probability is 0."""


def soft_targets(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, axis: int = 1, kept: torch.Tensor | None = None
) -> torch.Tensor:
    """``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``, the mean over positions.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Args:
        student: logits with the classes on ``axis``.
        teacher: logits of the same shape.
        kept: which positions count, in the shape without the class axis; None for all.
    """
    log_student = functional.log_softmax(student / temperature, axis)
    log_teacher = functional.log_softmax(teacher / temperature, axis)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(axis)
    return mean_of(divergence, kept) * temperature**2


def soft_binary_targets(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, kept: torch.Tensor | None = None
) -> torch.Tensor:
    """``T²`` times the divergence of ``sigmoid(teacher / T)`` from ``sigmoid(student / T)``, for labels that do not
    exclude each other, the mean over all of them.

    Yang et al., "Multi-Label Knowledge Distillation", 2023, equation 2.
    """
    soft_student, soft_teacher = student / temperature, teacher / temperature
    chance = soft_teacher.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(soft_student, chance, reduction="none")
    own = functional.binary_cross_entropy_with_logits(soft_teacher, chance, reduction="none")
    return mean_of(cross - own, kept) * temperature**2


def standardized(logits: torch.Tensor, axis: int = 1) -> torch.Tensor:
    """Logits with mean 0 and standard deviation 1 over the classes.

    Sun et al., "Logit Standardization in Knowledge Distillation", 2024, section 4.
    """
    deviation = logits.std(axis, keepdim=True)
    return (logits - logits.mean(axis, keepdim=True)) / (deviation + 1e-7)


def squared_error(student: torch.Tensor, teacher: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared difference of outputs (Ba and Caruana, "Do Deep Nets Really Need to be Deep?", 2014, section 2.2).

    Args:
        kept: which values count, broadcastable to the outputs; None for all.
    """
    return functional.mse_loss(student, teacher) if kept is None else mean_of((student - teacher).square(), kept)


def decoupled(
    student: torch.Tensor,
    teacher: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    weights: tuple[float, float],
) -> torch.Tensor:
    """``T² · (alpha · TCKD + beta · NCKD)``, the mean over positions.

    TCKD is the divergence of the probabilities (target, all others), NCKD that of the distributions over the classes
    without the target. Zhao et al., "Decoupled Knowledge Distillation", 2022, equations 5 to 7.

    Args:
        student: logits ``[P, C]``.
        teacher: logits ``[P, C]``.
        targets: classes ``[P]``.
        weights: alpha and beta.
    """
    alpha, beta = weights
    chosen = functional.one_hot(targets, student.shape[1]).bool()
    log_student, log_teacher = (functional.log_softmax(logits / temperature, 1) for logits in (student, teacher))
    pairs = [_target_and_rest(logs, chosen) for logs in (log_student, log_teacher)]
    about_target = functional.kl_div(pairs[0], pairs[1], reduction="none", log_target=True).sum(1)
    others = [functional.log_softmax(logits / temperature - _LARGE * chosen, 1) for logits in (student, teacher)]
    about_others = functional.kl_div(others[0], others[1], reduction="none", log_target=True).sum(1)
    return (alpha * about_target + beta * about_others).mean() * temperature**2


def _target_and_rest(logs: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Log probabilities ``[P, 2]`` of the target and of all other classes."""
    target = logs[chosen][:, None]
    rest = logs.masked_fill(chosen, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([target, rest], 1)


def correlation_distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``1 - Pearson's correlation`` of the rows of two matrices, the mean over the rows."""
    centred = [rows - rows.mean(1, keepdim=True) for rows in (one, other)]
    return (1 - functional.cosine_similarity(centred[0], centred[1], dim=1, eps=_TINY)).mean()


def correlations(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, weights: tuple[float, float]
) -> torch.Tensor:
    """``T² · (inter · d(rows) + intra · d(columns))`` of the softened predictions, where d is one minus correlation.

    Huang et al., "Knowledge Distillation from A Stronger Teacher" (DIST), 2022, equations 5 to 9.

    Args:
        student: logits ``[P, C]``.
        teacher: logits ``[P, C]``.
        weights: inter (over the classes of a position) and intra (over the positions of a class).
    """
    inter, intra = weights
    ours, theirs = ((logits / temperature).softmax(1) for logits in (student, teacher))
    between = inter * correlation_distance(ours, theirs)
    return (between + intra * correlation_distance(ours.T, theirs.T)) * temperature**2


def mean_of(values: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """The mean of values, or of those that are kept; 0 if none is."""
    if kept is None:
        return values.mean()
    weights = kept.to(values.dtype).expand_as(values)
    return (values * weights).sum() / weights.sum().clamp(min=1)
