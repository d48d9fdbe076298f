"""Importance of channels: weight norms over all parameters that a unit couples, comparable across groups."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..program import Program
from .groups import Grouping, trainable

Criterion = Literal["l1", "l2", "random"]
Scores = NDArray[np.float64]


def score(program: Program, grouping: Grouping, criterion: Criterion, seed: int) -> Scores:
    """One score per label class; higher is more important.

    A unit's score is the mean, over every parameter dimension it appears in, of the norm of its slice divided by the
    mean norm along that dimension; then every group is scaled to a mean of 1, so that groups can be ranked together.

    Args:
        criterion: ``l1`` or ``l2`` norm, or ``random`` (seeded).

    Returns:
        An array over labels; only the entries of the groups' units mean anything.
    """
    unions = grouping.coupling.unions
    if criterion == "random":
        return np.random.default_rng(seed).uniform(0.5, 1.5, len(unions))
    total, count = np.zeros(len(unions)), np.zeros(len(unions))
    for name, tensor in trainable(program, grouping.coupling).items():
        for dim, ids in enumerate(grouping.coupling.parameters[name]):
            roots = unions.find(ids.numpy())
            if len(roots) > 1 and not unions.locked(roots).all():
                norms = _norms(tensor, dim, criterion)
                mean = float(norms.mean())
                if mean > 0:
                    np.add.at(total, roots, norms / mean)
                    np.add.at(count, roots, 1.0)
    scores: Scores = total / np.maximum(count, 1.0)
    for group in grouping.free:
        mean = float(scores[group.units].mean())
        scores[group.units] = scores[group.units] / mean if mean > 0 else 1.0
    return scores


def _norms(tensor: torch.Tensor, dim: int, criterion: Criterion) -> Scores:
    """Norm of every slice along ``dim``, ``float64[n]``; values that are not finite count as the largest."""
    flat = tensor.detach().cpu().to(torch.float64).movedim(dim, 0).flatten(1) if tensor.dim() > 1 else None
    rows = flat if flat is not None else tensor.detach().cpu().to(torch.float64)[:, None]
    norms = rows.abs().sum(1) if criterion == "l1" else rows.square().sum(1).sqrt()
    result: Scores = torch.nan_to_num(norms, nan=float(torch.finfo(torch.float32).max)).numpy()
    return result
