"""Losses between embeddings: pure functions of tensors, in float32."""

from __future__ import annotations

import torch
from torch.nn import functional


def cosine_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """``1 - cosine`` of the embeddings, the mean over the samples.

    Reimers and Gurevych, "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation", 2020,
    train a student on its teacher's embeddings; the cosine leaves their length free.

    Args:
        student: embeddings ``[P, D]``.
        teacher: embeddings ``[P, D]``.
    """
    return (1 - functional.cosine_similarity(student, teacher, dim=1)).mean()


def contrastive(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross entropy of finding the teacher's embedding of the same sample among those of the batch (InfoNCE).

    van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, equation 4; between student
    and teacher in Tian et al., "Contrastive Representation Distillation", 2020.

    Args:
        student: embeddings ``[N, D]``.
        teacher: embeddings ``[N, D]``.
    """
    ours, theirs = (functional.normalize(values, dim=1) for values in (student, teacher))
    return functional.cross_entropy(ours @ theirs.T / temperature, torch.arange(len(ours), device=ours.device))
