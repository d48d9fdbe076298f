"""Mixtures of experts of `transformers` as products of fixed shape: every expert computes every token in the trace.

The library's own forms sort tokens by expert, which needs an operator that no other runtime has, or copy an expert's
matrices for each token, which moves much data. Here the experts are a batch of matrices, and their outputs are added
with the router's weights, which are zero for experts that were not chosen. The result is the same, with more
multiplications.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from ..graph.workarounds import experts_computed_by


def dense_experts() -> AbstractContextManager[None]:
    """Make experts compute densely, regardless of their configuration; no effect if `transformers` is not in use."""
    return experts_computed_by(_forward)


def _forward(experts: Any, states: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The combined output of the experts.

    Args:
        experts: module with ``[E, …]`` matrices; its attributes determine their layout.
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
