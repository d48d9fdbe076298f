"""Relations of queries, keys and values of self-attention: pure functions of tensors, in float32."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

MOST_HEADS = 48
LEAST_WIDTH = 8


def relation_heads_of(one: int, other: int) -> int:
    """The largest number of relation heads up to 48 that divides both widths and leaves 8 values per head.

    Wang et al., "MiniLMv2", 2021, section 4.1, use 48 relation heads for a teacher of 12 and 64 for one of 16.
    """
    fitting = [
        heads
        for heads in range(1, MOST_HEADS + 1)
        if one % heads == 0 and other % heads == 0 and min(one, other) // heads >= LEAST_WIDTH
    ]
    return max(fitting, default=1)


def self_relations(values: torch.Tensor, heads: int, kept: torch.Tensor | None = None) -> torch.Tensor:
    """Log of ``softmax(A Aᵀ / √d)`` for every relation head, ``[N, heads, T, T]``.

    Args:
        values: queries, keys or values of all attention heads ``[N, T, width]``.
        heads: number of relation heads, which divides the width.
        kept: tokens that count ``[N, T]``; the others get no weight.
    """
    count, tokens, width = values.shape
    split = values.reshape(count, tokens, heads, width // heads).transpose(1, 2)
    scores = split @ split.transpose(2, 3) / math.sqrt(width // heads)
    if kept is not None:
        scores = scores.masked_fill(~kept[:, None, None, :], torch.finfo(scores.dtype).min)
    return scores.log_softmax(-1)


def relation_loss(
    student: torch.Tensor, teacher: torch.Tensor, heads: int, kept: torch.Tensor | None = None
) -> torch.Tensor:
    """KL divergence of the teacher's self-relation from the student's, the mean over samples, heads and tokens.

    Wang et al., "MiniLMv2: Multi-Head Self-Attention Relation Distillation", 2021, equations 3 to 5. The widths and
    the numbers of attention heads may differ.

    Args:
        student: ``[N, T, width]``.
        teacher: ``[N, T, another width]``.
        heads: number of relation heads.
        kept: tokens that count ``[N, T]``; None for all.
    """
    ours, theirs = (self_relations(values, heads, kept) for values in (student, teacher))
    divergence = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    if kept is None:
        return divergence.mean()
    rows = kept[:, None, :].expand_as(divergence)
    return divergence[rows].mean() if bool(rows.any()) else divergence.sum() * 0
