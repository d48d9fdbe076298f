"""Inputs of other batch sizes, made from given ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def rows(feeds: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """The first ``count`` rows of every input, repeated if there are fewer."""
    return {
        name: tensor[torch.arange(count) % len(tensor)].clone() if tensor.dim() else tensor.clone()
        for name, tensor in feeds.items()
    }
