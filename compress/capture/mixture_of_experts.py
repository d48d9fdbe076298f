"""Mixtures of experts of `transformers` as products of fixed shape: every expert sees every token while it is traced.

The library's own forms sort tokens by expert, or gather a copy of an expert's matrices for each token: the first is an
operator of its own that no other runtime has, the second moves more than it computes. Here the experts are a batch of
matrices, and the router's weights, zero where an expert was not chosen, join their outputs: the same sum, with more
products.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from ..graph.workarounds import experts_computed_by


def dense_experts() -> AbstractContextManager[None]:
    """Let experts compute densely, whatever their configuration says; nothing where `transformers` is not in use."""
    return experts_computed_by(_forward)


def _forward(experts: Any, states: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """What the experts give together.

    Args:
        experts: holds ``[E, …]`` matrices; its layout is told by its attributes.
        states: ``[S, H]``.
        chosen: experts of each token, ``int64[S, K]``.
        weights: their shares, ``[S, K]``.

    Returns:
        ``[S, H]``.
    """
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    hidden = _product(experts, states.unsqueeze(0), first)
    hidden = experts._apply_gate(hidden) if experts.has_gate else experts.act_fn(hidden)
    given = _product(experts, hidden, "down_proj")
    if experts.has_post_expert_norm:
        given = experts.post_expert_norm(given)
    numbers = torch.arange(given.shape[0], device=chosen.device)
    shares = torch.where(chosen.unsqueeze(-1) == numbers, weights.unsqueeze(-1), 0.0).sum(1)
    return (given * shares.t().unsqueeze(-1)).sum(0).to(states.dtype)


def _product(experts: Any, value: torch.Tensor, name: str) -> torch.Tensor:
    matrix = getattr(experts, name)
    result: torch.Tensor = value @ (matrix if experts.is_transposed else matrix.transpose(1, 2))
    if experts.has_bias:
        result = result + getattr(experts, f"{name}_bias").unsqueeze(1)
    return result
