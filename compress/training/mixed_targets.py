"""Targets of mixed samples: probabilities of classes, or values between those of two samples."""

from __future__ import annotations

import torch
from torch.nn import functional

from ...core.metrics.tasks.classification import IGNORED
from ..program import Program
from .losses import class_count


def mixed_targets(own: torch.Tensor, others: torch.Tensor, shares: torch.Tensor, program: Program) -> torch.Tensor:
    """Targets of samples that are mixed with another one each.

    Args:
        own: int64 classes ``[N, ...]``, or float values.
        others: those of the other samples.
        shares: ``float32[N]``, the share of each own target.

    Returns:
        Probabilities ``float32[N, classes, ...]`` of classes, as cross entropy takes them; or mixed values and labels,
        of which one that is not known in either sample stays so.
    """
    if not own.is_floating_point():
        count = class_count(program)
        own, others = (_probabilities(classes, count) for classes in (own, others))
    unknown = (own == IGNORED) | (others == IGNORED)
    share = shares.reshape(-1, *[1] * (own.dim() - 1))
    return torch.where(unknown, float(IGNORED), share * own + (1 - share) * others)


def _probabilities(classes: torch.Tensor, count: int) -> torch.Tensor:
    """1 for the class of each place; all 0 where a negative class says that the place does not count."""
    known = (classes >= 0).unsqueeze(1)
    return functional.one_hot(classes.clamp(min=0), count).movedim(-1, 1) * known.float()
