"""Losses of embeddings that are compared by their cosine: with classes, with wanted embeddings, and with pairs."""

from __future__ import annotations

import torch
from torch.nn import functional

from ...core.errors import DataError
from .losses import Tensors, first, shaped_like

TEMPERATURE = 0.07
"""Divisor of the cosines, as in Khosla et al., 2020, and Radford et al., 2021."""


class EmbeddingLoss:
    """The loss of embeddings ``[N, D]``, by what their targets are.

    Classes ``[N]``: the supervised contrastive loss (Khosla et al., 2020, equation 2). Embeddings ``[N, D]``: one minus
    the cosine. No targets, and two outputs of the same shape: rows of the same number are pairs, and the loss is the
    symmetric cross entropy over the batch (InfoNCE; Radford et al., 2021).
    """

    def __call__(self, outputs: Tensors, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
        """The mean over the samples of a batch."""
        found = first(outputs).float()
        if targets is None:
            return self._pairs(outputs)
        if targets.is_floating_point():
            wanted = shaped_like(targets, found)
            return (1 - functional.cosine_similarity(found.flatten(1), wanted.flatten(1), dim=1)).mean()
        return contrastive(found.flatten(1), targets)

    def _pairs(self, outputs: Tensors) -> torch.Tensor:
        pair = [value.float().flatten(1) for value in outputs.values() if value.is_floating_point()]
        if len(pair) != 2 or pair[0].shape != pair[1].shape:
            raise DataError(
                "embeddings without targets are trained as pairs, and the model does not have two outputs of one shape",
                "give a class per sample, an embedding per sample, or a model with two outputs",
            )
        one, two = (functional.normalize(value, dim=1) for value in pair)
        scores, places = one @ two.T / TEMPERATURE, torch.arange(len(one), device=one.device)
        return (functional.cross_entropy(scores, places) + functional.cross_entropy(scores.T, places)) / 2


def contrastive(embeddings: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The supervised contrastive loss; samples that are alone in their class do not count, and 0 if all are.

    Args:
        embeddings: ``[N, D]``.
        classes: ``[N]``.
    """
    unit = functional.normalize(embeddings, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    scores = (unit @ unit.T / TEMPERATURE).masked_fill(itself, float("-inf"))
    logarithms = (scores - scores.logsumexp(dim=1, keepdim=True)).masked_fill(itself, 0.0)
    same = (classes[:, None] == classes[None, :]) & ~itself
    count = same.sum(dim=1)
    if not bool(count.any()):
        return embeddings.sum() * 0
    losses = -(logarithms * same).sum(dim=1) / count.clamp(min=1)
    return losses[count > 0].mean()
